"""What rows tell beside image and label goes along to other layouts, where these can hold it; what cannot is told."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kit.layouts import LAYOUTS, N, image_of, pack, png_of, put
from kit.streams import assemble

from eclipse.data.fields import scan
from eclipse.data.output import describe_rest
from eclipse.data.picture import encode_png
from eclipse.data.source import open_source
from eclipse.data.store import Source
from eclipse.errors import EclipseError

FORMATS = ("folder", "parquet", "npz", "webdataset")


def converted(source: Source, out: Path, format: str) -> Source:
    pictures = ((row.id, encode_png(row.picture())) for row in source.rows())
    assemble(source, pictures, out, format, frozenset())
    return open_source(out)


def told(source: Source) -> list[Mapping[str, Any]]:
    return list(source.store.others(source.span.start, source.span.stop))


def left(source: Source, format: str) -> list[str]:
    found = describe_rest(source, format)[0].get("left behind", {"names": []})["names"]
    return sorted(name for name in found if name != "names of the images")


def fields_of(layout: str) -> list[dict[str, Any]]:
    """What the rows of the generated sets tell."""
    text = [f"no {i}" for i in range(N)]
    boxes = [[i, i + 1] for i in range(N)]
    columns: dict[str, dict[str, list[Any]]] = {
        "npz": {"index": list(range(N))},
        "cifar": {"filenames": [f"img_{i}.png" for i in range(N)]},
        "arrow": {"caption": text},
    }
    for names, found in {
        ("parquet", "parquet_folder"): {"caption": text, "boxes": boxes},
        ("shards", "one_shard", "shard_range"): {"txt": text},
        ("new_cifar", "old_protocol_cifar", "fortran_cifar"): {"coarse": ["x"] * N},
    }.items():
        columns |= {name: found for name in names}
    return [{name: values[i] for name, values in columns.get(layout, {}).items()} for i in range(N)]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_fields_of_every_layout_go_along_to_every_other(layout: str, format: str, tmp_path: Path) -> None:
    source = open_source(LAYOUTS[layout](tmp_path / "in"))
    if format == source.layout or (format == "npz" and "parquet" in layout):  # lists are refused for it
        pytest.skip("no conversion")
    assert told(source) == fields_of(layout)
    made = converted(source, tmp_path / f"out.{ {'npz': 'npz', 'parquet': 'parquet'}.get(format, 'd') }", format)
    by_label = sorted if format == "folder" else list
    assert by_label(map(str, told(made))) == by_label(map(str, fields_of(layout)))
    assert len(list(made.labelled())) == N and made.has_labels


def test_metadata_of_folders_are_fields_of_their_images(tmp_path: Path) -> None:
    lines = '{"file_name": "x/1.png", "score": 1.5, "tags": ["a"]}\n\n{"file_name": "./0.png", "text": "zero"}\n'
    table = b'\xef\xbb\xbffile_name,text,label\r\n3.png,"three\r\nlines",y\r\n"2.png",two,other\r\n\r\n'
    put(tmp_path / "in", {f"{'xy'[i // 2]}/{i}.png": png_of(i) for i in range(4)})
    put(tmp_path / "in", {"metadata.jsonl": lines.replace("./0", "x/0").encode(), "y/metadata.csv": table})
    source = open_source(tmp_path / "in")
    expected = [
        {"text": "zero"},
        {"score": 1.5, "tags": ["a"]},
        {"text": "two", "label": "other"},
        {"text": "three\r\nlines"},
    ]
    assert told(source) == expected and told(open_source(f"{tmp_path}/in[1:3]")) == expected[1:3]
    assert left(source, "parquet") == ["field 'label'"] and left(source, "webdataset") == []
    made = pq.read_table(converted(source, tmp_path / "out.parquet", "parquet").root)
    assert made["text"].to_pylist() == ["zero", None, "two", "three\r\nlines"]
    assert made["score"].to_pylist() == [None, 1.5, None, None] and made["tags"].to_pylist()[1] == ["a"]


@pytest.mark.parametrize(
    "content",
    [
        b'{"file_name": "missing.png", "a": 1}\n',
        b'{"file_name": "0.png"}\n{"file_name": "0.png"}\n',
        b'{"file_name": "../in/0.png"}',
        b'{"file_name": ["0.png"]}',
        b'{"file_name": "0\\u0000.png"}',
        b"[]",
        b"{",
        b"\xff",
    ],
)
def test_metadata_that_are_not_all_of_images_are_told(content: bytes, tmp_path: Path) -> None:
    source = open_source(put(tmp_path / "in", {"0.png": png_of(0), "metadata.jsonl": content}))
    assert left(source, "parquet") == ["metadata.jsonl"]


@pytest.mark.parametrize(
    "content", [b"file_name,a\nmissing.png,1\n", b"file_name,a\n0.png\n", b"name\n0.png\n", b"file_name\n\xff\n"]
)
def test_a_table_that_is_not_all_of_images_is_told(content: bytes, tmp_path: Path) -> None:
    source = open_source(put(tmp_path / "in", {"0.png": png_of(0), "metadata.csv": content}))
    assert left(source, "parquet") == ["metadata.csv"]


def shard(path: Path, *samples: Mapping[str, bytes]) -> Source:
    members = {f"{i}.{end}": data for i, sample in enumerate(samples) for end, data in sample.items()}
    images = {f"{i}.png": png_of(i) for i in range(len(samples))}
    return open_source(pack(path, dict(sorted({**members, **images}.items()))))


@pytest.mark.parametrize(
    ("name", "content", "field"),
    [
        ("cls.txt", b"0", ("cls.txt", "0")),
        ("json", b'{"label": 0}', ("label", 0)),
        ("json", b"[1, 2]", ("json", [1, 2])),
        ("meta.json", b'{"a": {"b": null}}', ("meta.json", {"a": {"b": None}})),
        ("txt", "é\n".encode(), ("txt", "é\n")),
        ("v1.cls", b"0", ("v1.cls", "0")),
    ],
)
def test_text_and_json_of_a_sample_are_fields(
    name: str, content: bytes, field: tuple[str, Any], tmp_path: Path
) -> None:
    source = shard(tmp_path / "in.tar", {name: content}, {})
    assert told(source) == [dict([field]), {}] and left(source, "parquet") == []
    assert pq.read_table(converted(source, tmp_path / "out.parquet", "parquet").root)[field[0]][0].as_py() == field[1]
    assert left(source, "npz") == [f"field {field[0]!r}"]


@pytest.mark.parametrize(
    ("name", "content"),
    [("json", b"{"), ("json", b"[" * 1000), ("txt", b"\xff"), ("txt", b"x" * 2**21), ("npy", b"1"), ("seg", b"1")],
)
def test_members_that_are_no_fields_are_told(name: str, content: bytes, tmp_path: Path) -> None:
    source = shard(tmp_path / "in.tar", {name: content})
    assert told(source) == [{}] and left(source, "parquet") == [f"KEY.{name} (1)"]


def test_a_field_of_two_members_is_taken_once_and_told(tmp_path: Path) -> None:
    source = shard(tmp_path / "in.tar", {"json": b'{"txt": "a"}', "txt": b"b"})
    assert told(source) == [{"txt": "a"}] and left(source, "parquet") == ["KEY.txt (1)"]


@pytest.mark.parametrize(
    "values",
    [(1, "one"), (True, 1), (2**64, 1), ({}, {}), ("\ud800", "a"), ([1], ["a"]), ({"a": 1}, {"a": "b"})],
)
def test_what_has_no_type_goes_to_json_alone(values: tuple[Any, Any], tmp_path: Path) -> None:
    source = shard(tmp_path / "in.tar", *({"json": json.dumps({"odd": value}).encode()} for value in values))
    assert left(source, "parquet") == ["field 'odd'"] and left(source, "folder") == []
    assert pq.read_schema(converted(source, tmp_path / "out.parquet", "parquet").root).names == ["image"]
    made = converted(source, tmp_path / "out", "folder")
    assert [row["odd"] for row in told(made)] == list(values)


@pytest.mark.parametrize(
    ("format", "name"),
    [("folder", "file_name"), ("folder", "label"), ("parquet", "label"), ("parquet", "image"), ("npz", "images")],
)
def test_a_name_that_a_format_has_itself_is_told(format: str, name: str, tmp_path: Path) -> None:
    source = shard(tmp_path / "in.tar", {"json": json.dumps({name: 7}).encode(), "cls": b"0"})
    assert left(source, format) == [f"field {name!r}"]
    out = tmp_path / (f"out.{format}" if format != "folder" else "out")
    (row,) = converted(source, out, format).labelled()
    assert row.label == 0 and (row.picture().rgb.transpose(1, 2, 0) == image_of(0)).all()


def test_labels_that_are_fields_become_classes_of_a_table(tmp_path: Path) -> None:
    source = shard(tmp_path / "in.tar", {"json": b'{"label": 1}'}, {"json": b'{"label": 0}'})
    assert not source.has_labels
    assert [row.label for row in converted(source, tmp_path / "out.parquet", "parquet").labelled()] == [1, 0]


def test_an_archive_takes_fields_that_every_row_has(tmp_path: Path) -> None:
    rows = [{"a": 1, "b": "x", "c": 1}, {"a": 2, "b": "y"}, {"a": 3, "b": "z", "c": None}]
    source = shard(tmp_path / "in.tar", *({"json": json.dumps(row).encode()} for row in rows))
    assert left(source, "npz") == ["field 'c'"]
    with np.load(converted(source, tmp_path / "out.npz", "npz").root) as made:
        assert made["a"].tolist() == [1, 2, 3] and made["b"].tolist() == ["x", "y", "z"] and "c" not in made


def test_arrays_of_rows_go_along_and_others_are_told(tmp_path: Path) -> None:
    arrays = {
        "vector": np.arange(6, dtype=np.float32).reshape(3, 2),
        "flag": np.array([True, False, True]),
        "name": np.array(["a", "é", "c"]),
        "when": np.zeros(3, "datetime64[s]"),
        "complex": np.zeros(3, complex),
        "wide": np.zeros((3, 2**18)),
        "few": np.zeros(2),
        "one": np.zeros(()),
    }
    np.savez_compressed(tmp_path / "in.npz", images=np.stack([image_of(i) for i in range(3)]), **arrays)
    source = open_source(f"{tmp_path}/in.npz[1:]")
    assert told(source) == [
        {"vector": [2, 3], "flag": False, "name": "é"},
        {"vector": [4, 5], "flag": True, "name": "c"},
    ]
    assert left(source, "parquet") == sorted(f"array {name!r}" for name in ("when", "complex", "wide", "few", "one"))


def test_fields_without_end_are_refused() -> None:
    with pytest.raises(EclipseError, match="the rows of x have more than 1000 different fields"):
        scan(({f"a{i}": 1} for i in range(10**9)), "x")


def test_types_are_joined_over_all_rows() -> None:
    rows = [{"a": None, "b": 1, "s": {"x": 1}}] * 100 + [{"a": "text", "b": 2.5, "s": {"y": "z"}, "late": 1}]
    found = scan(rows, "x")
    assert found["a"].kind == pa.string() and found["b"].kind == pa.float64() and found["late"].kind == pa.int64()
    assert found["s"].kind == pa.struct([("x", pa.int64()), ("y", pa.string())])
    assert [name for name, field in found.items() if field.is_complete] == ["b", "s"]
