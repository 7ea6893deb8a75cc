"""Columns of tables: types of any writer are read, or refused by name before the work; files may differ a little."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kit.commands import Command, refusal
from kit.layouts import png_of
from kit.streams import assemble
from kit.tiny import one_sentence

from eclipse.data.output import check_output
from eclipse.data.picture import encode_png
from eclipse.data.source import load_imageset, open_source
from eclipse.data.store import Source
from eclipse.errors import EclipseError

ENCODED = pa.struct({"bytes": pa.binary(), "path": pa.string()})
PNGS = [png_of(i) for i in range(4)]


def write(path: Path, **columns: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({"image": PNGS, "label": [0, 1, 0, 1]} | columns), path)
    return path


def copied(source: Source, out: Path, skipped: frozenset[str] = frozenset()) -> pa.Table:
    """What is written when the images stay as they are."""
    same = ((row.id, encode_png(row.picture())) for row in source.rows() if row.id not in skipped)
    assemble(source, same, out, None, skipped)
    return pq.read_table(out)


@pytest.mark.parametrize(
    "column",
    [
        pa.array(list("wxyz"), pa.string_view()),
        pa.array([b"w", b"x", None, b"z"], pa.binary_view()),
        pa.array([["w"], [], ["y", "z"], None], pa.list_(pa.string_view())),
        pa.array([{"a": "w"}] * 4, pa.struct({"a": pa.string_view()})),
        pa.array(list("wxyz"), pa.large_string()),
        pa.array(list("wxyx")).dictionary_encode(),
        pa.nulls(4),
        pa.array([1.5] * 4, pa.float16()),
        pa.array([1] * 4, pa.duration("s")),
        pa.array([[1, 2]] * 4, pa.list_(pa.int32(), 2)),
    ],
    ids=lambda column: str(column.type),
)
def test_other_columns_are_copied_whatever_wrote_them(column: Any, tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "in.parquet", other=column))
    found = copied(source, tmp_path / "out.parquet", frozenset({"1"}))["other"].to_pylist()
    values = column.to_pylist()
    assert found == [values[0], *values[2:]]


@pytest.mark.parametrize("kind", [pa.month_day_nano_interval(), pa.run_end_encoded(pa.int32(), pa.string())], ids=str)
def test_a_column_that_cannot_be_written_is_refused_by_name_before_the_work(kind: Any, tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    table = pa.table({"image": PNGS, "label": [0, 1, 0, 1], "span": pa.nulls(4, kind)})
    with pa.OSFile(str(root / "a.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    (root / "dataset_info.json").write_text("{}")
    (root / "state.json").write_text('{"_data_files": [{"filename": "a.arrow"}]}')
    source = open_source(root)
    with pytest.raises(EclipseError, match=r"the column 'span' of .*a\.arrow is .*, which cannot be written") as caught:
        check_output(source, tmp_path / "out")
    one_sentence(caught.value)


@pytest.mark.parametrize("encoded", [False, True])
def test_images_and_classes_of_view_types_are_read(encoded: bool, tmp_path: Path) -> None:
    kind = pa.struct({"bytes": pa.binary_view(), "path": pa.string_view()}) if encoded else pa.binary_view()
    images = pa.array([{"bytes": png, "path": "a.png"} for png in PNGS] if encoded else PNGS, kind)
    source = open_source(write(tmp_path / "in.parquet", image=images, label=pa.array(list("baba"), pa.string_view())))
    assert [row.data for row in source.rows()] == PNGS and source.class_names == ("a", "b")
    assert load_imageset(source, "a test").require_labels("a test").tolist() == [1, 0, 1, 0]
    assert copied(source, tmp_path / "out.parquet")["label"].to_pylist() == list("baba")


# ---- one set of several files


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (pa.array(list("abcd")), pa.nulls(4)),
        (pa.nulls(4), pa.array(list("abcd"))),
        (pa.array(list("abcd")), pa.array(list("abcd"), pa.large_string())),
        (pa.array(list("abcd"), pa.string_view()), pa.array(list("abcd"), pa.large_string())),
        (pa.array([["a"]] * 4), pa.array([[None]] * 4)),
    ],
    ids=lambda column: str(column.type),
)
@pytest.mark.parametrize("name", ["caption", "label"])
def test_a_column_may_be_empty_or_wide_in_one_file(name: str, first: Any, second: Any, tmp_path: Path) -> None:
    write(tmp_path / "in" / "0.parquet", **{name: first})
    write(tmp_path / "in" / "1.parquet", **{name: second})
    source = open_source(f"{tmp_path}/in[1:]")
    found = copied(source, tmp_path / "out")
    assert found[name].to_pylist() == (first.to_pylist() + second.to_pylist())[1:]


def test_paths_that_are_all_empty_in_one_file_fit_those_of_another(tmp_path: Path) -> None:
    write(tmp_path / "in" / "0.parquet", image=pa.array([{"bytes": png, "path": None} for png in PNGS]))
    write(tmp_path / "in" / "1.parquet", image=pa.array([{"bytes": png, "path": "a.jpg"} for png in PNGS], ENCODED))
    paths = [cell["path"] for cell in copied(open_source(tmp_path / "in"), tmp_path / "out")["image"].to_pylist()]
    assert paths == [None] * 4 + ["a.png"] * 4


@pytest.mark.parametrize("name", ["caption", "label"])
def test_a_column_of_two_types_is_named_with_its_file(name: str, tmp_path: Path) -> None:
    write(tmp_path / "in" / "0.parquet", **{name: list("abcd")})
    write(tmp_path / "in" / "1.parquet", **{name: [1, 2, 3, 4]})
    with pytest.raises(EclipseError, match=rf"'{name}' is int64 in .*1\.parquet and string in .*0\.parquet") as caught:
        open_source(tmp_path / "in")
    one_sentence(caught.value)


# ---- what is not there


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"target": [0, 1, 0, 1]}, r"in\.parquet has no column .*--label-column, .* among target \(int64\)"),
        ({"label": [0.0, 1.0, 0.0, 1.0]}, r"'label' of .*in\.parquet is double; expected integers or strings"),
        ({"labels": [[0], [1], [0], [1]]}, r"'labels' of .*in\.parquet is list<.*>; expected integers or strings"),
        ({"label": [True, False] * 2}, r"'label' of .*in\.parquet is bool; expected"),
        ({}, r"in\.parquet has no column .*integers or strings, of which there are none"),
    ],
)
def test_why_there_are_no_labels_is_told_with_file_and_remedy(
    columns: Any, words: str, tmp_path: Path, command: Command
) -> None:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"image": PNGS} | columns), path)
    with pytest.raises(EclipseError, match=f"^EM needs labels, and .*{words}") as caught:
        load_imageset(open_source(path), "a test")[:2].require_labels("EM")
    one_sentence(caught.value)
    assert "in.parquet" in refusal(command("poison", path, "--attack", "urp", "--out", tmp_path / "out.parquet"))


@pytest.mark.parametrize("path", ["/data/0.png", "img/0.png", "x" * 4_000])
def test_an_image_of_which_the_table_has_the_path_alone_is_named_with_it(path: str, tmp_path: Path) -> None:
    images = pa.array([{"bytes": PNGS[0], "path": "a.png"}, {"bytes": None, "path": path}] * 2, ENCODED)
    row = list(open_source(write(tmp_path / "in.parquet", image=images)).rows())[1]
    with pytest.raises(
        EclipseError, match=f"^in.parquet row 1 holds the path '{path[:20]}.* embed the images"
    ) as caught:
        row.picture()
    assert len(one_sentence(caught.value)) < 500


def test_empty_cells_are_refused_for_an_archive_before_the_work(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "in.parquet", score=[1, None, 3, 4]))
    with pytest.raises(EclipseError, match="the column 'score' has empty cells"):
        check_output(source, tmp_path / "out.npz", "npz")
    check_output(open_source(f"{tmp_path}/in.parquet[2:]"), tmp_path / "out.npz", "npz")
