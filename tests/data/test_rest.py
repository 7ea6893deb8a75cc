"""What lies beside the images: what names them is written anew, and all else is told, whether it goes along or not."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kit.layouts import LAYOUTS, N, arrow_table, image_of, png_of, put
from kit.streams import assemble
from PIL import Image

from eclipse.data.output import check_output, describe_rest
from eclipse.data.picture import encode_png
from eclipse.data.source import open_source
from eclipse.data.store import Source
from eclipse.errors import EclipseError


def jpeg(i: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image_of(i)).save(buffer, "JPEG")
    return buffer.getvalue()


def written(source: Source, out: Path, skipped: frozenset[str] = frozenset()) -> Path:
    pictures = ((row.id, encode_png(row.picture())) for row in source.rows() if row.id not in skipped)
    assemble(source, pictures, out, None, skipped)
    return out


# ---- names


def test_metadata_lines_get_the_new_names_and_keep_all_else(tmp_path: Path) -> None:
    lines = [
        '{"file_name":  "0.jpg", "text": "0.jpg, \\u00e9", "n": 1.50, "n": 12345678901234567890123}\r\n',
        '{"text": "é", "file_name": "deep/1.JPEG"}\n',
        '{"image_file_name": "2.png", "mask_file_name": "0.jpg"}\n',
        '{"file_names": ["0.jpg", "2.png", "./deep/1.JPEG"], "k": ["0.jpg"]}\n',
        '{"file_name": "missing.jpg"}\n',
        '{"file_name": "../0.jpg"} {"file_name": "/0.jpg"}\n',
        "not json, but 0.jpg",
    ]
    put(tmp_path / "in", {"0.jpg": jpeg(0), "deep/1.JPEG": jpeg(1), "2.png": png_of(2)})
    put(tmp_path / "in", {"metadata.jsonl": "".join(lines).encode()})
    out = written(open_source(tmp_path / "in"), tmp_path / "out")
    assert (out / "metadata.jsonl").read_bytes().decode() == "".join(
        [
            lines[0].replace('"0.jpg"', '"0.png"'),
            lines[1].replace("1.JPEG", "1.png"),
            lines[2].replace("0.jpg", "0.png"),
            '{"file_names": ["0.png", "2.png", "deep/1.png"], "k": ["0.jpg"]}\n',
            *lines[4:],
        ]
    )


def test_a_metadata_table_gets_the_new_names(tmp_path: Path) -> None:
    put(tmp_path / "in", {"a/0.jpg": jpeg(0), "a/1": jpeg(1), "a/2.png": png_of(2)})
    table = b'\xef\xbb\xbffile_name,text\r\n0.jpg,"one, two"\r\n1,"three\r\nlines, ""0.jpg"""\r\n2.png,0.jpg\r\n'
    put(tmp_path / "in", {"a/metadata.csv": table})
    out = written(open_source(tmp_path / "in"), tmp_path / "out")
    assert (out / "a" / "metadata.csv").read_bytes() == table.replace(b"0.jpg,", b"0.png,").replace(
        b"\n1,", b"\n1.png,"
    )


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_metadata_stay_to_the_byte_where_no_name_changes(name: str, tmp_path: Path) -> None:
    content = b'file_name,text\n"0.png","x"\n' if name.endswith("csv") else b'{ "file_name" :"0.png" }\n\n'
    put(tmp_path / "in", {"0.png": png_of(0), name: content})
    assert (written(open_source(tmp_path / "in"), tmp_path / "out") / name).read_bytes() == content


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_metadata_lose_the_images_that_are_left_out(name: str, tmp_path: Path) -> None:
    names = [f"{i}.jpg" for i in range(3)]
    lines = ["file_name", *names] if name.endswith("csv") else [json.dumps({"file_name": name}) for name in names]
    put(tmp_path / "in", {**{n: jpeg(i) for i, n in enumerate(names)}, name: "\n".join(lines).encode() + b"\n"})
    out = written(open_source(f"{tmp_path}/in[1:]"), tmp_path / "out", frozenset({"2.jpg"}))
    text = (out / name).read_text()
    left = (
        [row["file_name"] for row in csv.DictReader(io.StringIO(text))]
        if name.endswith("csv")
        else [json.loads(line)["file_name"] for line in text.splitlines()]
    )
    assert left == ["1.png"]


@pytest.mark.parametrize("content", [b"file_name\n\xff.jpg\n", b"file_name,text\n0.jpg," + b"x" * 200_000])
def test_a_table_that_cannot_be_read_is_refused_before_the_work(content: bytes, tmp_path: Path) -> None:
    put(tmp_path / "in", {"0.jpg": jpeg(0), "metadata.csv": content})
    source = open_source(tmp_path / "in")
    with pytest.raises(EclipseError, match=r"metadata\.csv cannot be read"):
        check_output(source, tmp_path / "out")
    check_output(source, tmp_path / "out.parquet", "parquet")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("annotations/boxes.json", b'{"images": [{"id": 1, "file_name": "my photo.jpg"}]}'),
        ("train.txt", b"./images/0.jpg 0\n"),
        ("voc/0.xml", b"<annotation><filename>0.jpg</filename></annotation>"),
        ("index.tsv", b"0.jpg\tcat"),
        ("list", b"images\\0.jpg"),
    ],
)
def test_other_files_with_names_that_change_are_told(name: str, content: bytes, tmp_path: Path) -> None:
    source = open_source(put(tmp_path / "in", {"images/0.jpg": jpeg(0), "images/my photo.jpg": jpeg(1), name: content}))
    told, notes = describe_rest(source, None)
    assert told["outdated"] == {"count": 1, "names": [name]} and any(name in note and ".png" in note for note in notes)
    same = open_source(put(tmp_path / "same", {"images/0.png": png_of(0), name: content}))
    assert "outdated" not in describe_rest(same, None)[0]


# ---- what goes along, and what does not


def names_in(told: Mapping[str, Any], kind: str) -> list[str]:
    return sorted(told[kind]["names"]) if kind in told else []


def rest_of(layout: str) -> list[str]:
    """What the generated sets have beside images, labels and columns."""
    members = ["KEY.mask.png (13)", "KEY.txt (13)"]
    return {
        "folder": ["bee/00.txt"],
        "parquet_folder": ["README.md"],
        "cifar": ["entry 'batch_label'", "entry 'filenames'", "test_batch"],
        "new_cifar": ["entry 'coarse'"],
        "old_protocol_cifar": ["entry 'coarse'"],
        "fortran_cifar": ["entry 'coarse'"],
        "npz": ["array 'index'"],
        "shards": members,
        "one_shard": members,
        "shard_range": members,
    }.get(layout, [])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_goes_along_is_told(layout: str, tmp_path: Path) -> None:
    source = open_source(LAYOUTS[layout](tmp_path / "in"))
    told, notes = describe_rest(source, None)
    assert names_in(told, "copied along") == rest_of(layout)
    assert "left behind" not in told and len(notes) == bool(rest_of(layout))
    assert all(name in notes[0] for name in rest_of(layout))


@pytest.mark.parametrize("format", ["folder", "parquet", "npz", "webdataset"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_a_conversion_leaves_behind_is_told(layout: str, format: str, tmp_path: Path) -> None:
    source = open_source(LAYOUTS[layout](tmp_path / "in"))
    if format == source.layout:
        pytest.skip("no conversion")
    told, notes = describe_rest(source, format)
    fields = ("KEY.txt (13)", "array 'index'", "entry 'filenames'", "entry 'coarse'")
    expected = [name for name in rest_of(layout) if name not in fields]
    expected += ["metadata.jsonl"] if layout == "folder" else []
    if "parquet" in layout and format != "parquet":
        expected.append("schema metadata 'mine'")
    if format == "npz" and source.layout in ("folder", "webdataset"):
        expected.append("names of the images")
    assert names_in(told, "left behind") == sorted(expected)
    assert "copied along" not in told and len(notes) == bool(expected)
    assert all(name in notes[0] and format in notes[0] for name in expected)


def test_a_long_list_is_cut_and_names_are_shown_safely(tmp_path: Path) -> None:
    files = {f"{i:03d}.txt": b"" for i in range(300)}
    source = open_source(put(tmp_path / "in", {"0.png": png_of(0), "\x1b[31mred.txt": b"", **files}))
    told, (note,) = describe_rest(source, None)
    rest = told["copied along"]
    assert (
        rest["count"] == 301
        and len(rest["names"]) == 100
        and "293 more" in note
        and len(note) < 500
        and note.isprintable()
    )


# ---- labels of an archive


@pytest.mark.parametrize("name", ["label", "fine_labels", "targets", "y"])
def test_an_archive_may_call_its_labels_otherwise(name: str, tmp_path: Path) -> None:
    images = np.stack([image_of(i) for i in range(N)])
    np.savez(tmp_path / "in.npz", **{"images": images, name: np.arange(N) % 3})
    source = open_source(tmp_path / "in.npz")
    assert [row.label for row in source.rows()] == [i % 3 for i in range(N)]
    pictures = [(row.id, encode_png(row.picture())) for row in source.rows()]
    assemble(source, iter(pictures), tmp_path / "out.parquet", "parquet", frozenset())
    assert pq.read_table(tmp_path / "out.parquet")["label"].to_pylist() == [i % 3 for i in range(N)]
    assert name in np.load(written(source, tmp_path / "out.npz"))


def test_other_arrays_are_no_labels(tmp_path: Path) -> None:
    images = np.stack([image_of(i) for i in range(N)])
    np.savez(tmp_path / "in.npz", images=images, y=np.ones((N, 4), int), target=np.ones(N))
    source = open_source(tmp_path / "in.npz")
    assert not source.has_labels and source.fields.keys() == {"y", "target"}


# ---- tables


@pytest.mark.parametrize("format", [None, "parquet"])
@pytest.mark.parametrize("name", ["thumbnail", "views", "raw"])
def test_further_images_of_a_table_are_told(name: str, format: str | None, tmp_path: Path) -> None:
    images = arrow_table()["image"].combine_chunks()
    values = {"thumbnail": images, "views": pa.array([[png_of(i)] for i in range(N)]), "raw": images.field("bytes")}
    pq.write_table(arrow_table().append_column(name, values[name]), tmp_path / "in.parquet")
    told, (note,) = describe_rest(open_source(tmp_path / "in.parquet"), format)
    assert told["copied along"]["names"] == [f"column {name!r}"] and "not purified" in note


@pytest.mark.parametrize("name", ["file_name", "label"])
def test_a_column_whose_name_a_folder_needs_is_refused_before_the_work(name: str, tmp_path: Path) -> None:
    table = arrow_table().rename_columns([name, "image", "labels", "boxes"])
    pq.write_table(table, tmp_path / "in.parquet")
    source = open_source(tmp_path / "in.parquet", label_column="labels")
    with pytest.raises(EclipseError, match=rf"the column '{name}' .* has no place in the format folder"):
        check_output(source, tmp_path / "out", "folder")


def test_empty_cells_are_refused_before_the_work(tmp_path: Path) -> None:
    table = arrow_table().drop_columns(["boxes", "caption"]).append_column("n", pa.array([None, *range(N - 1)]))
    pq.write_table(table, tmp_path / "in.parquet")
    with pytest.raises(EclipseError, match="'n' has empty cells"):
        check_output(open_source(tmp_path / "in.parquet"), tmp_path / "out.npz", "npz")
