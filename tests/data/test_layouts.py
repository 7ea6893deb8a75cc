"""Every layout: rows in order, slices, and the way back to the same layout or to another one."""

import json
import pickle
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kit.layouts import (
    LAYOUTS,
    NAMES,
    N,
    arrow_table,
    image_of,
    make_arrow,
    make_cifar,
    make_folder,
    make_npz,
    make_parquet,
    make_parquet_folder,
    make_shards,
    old_batch,
    png_of,
    tree_bytes,
)
from kit.streams import assemble
from PIL import Image
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from eclipse.data.layouts.columns import Columns
from eclipse.data.layouts.table import TableStore
from eclipse.data.layouts.table_files import parquet_on
from eclipse.data.output import check_output
from eclipse.data.picture import Picture, encode_png
from eclipse.data.source import load_imageset, load_pictures, open_source
from eclipse.data.store import Source
from eclipse.errors import EclipseError

every_layout = pytest.mark.parametrize("layout", LAYOUTS)


@pytest.fixture
def made(tmp_path: Path, layout: str) -> Path:
    return LAYOUTS[layout](tmp_path / "in")


def row_numbers(source: Source) -> list[int]:
    """Which of the generated images the rows hold, in order."""
    known = {image_of(i).tobytes(): i for i in range(N)}
    return [known[picture.transpose(1, 2, 0).tobytes()] for picture in load_pictures(source)]


def brighter(source: Source, skipped: frozenset[str] = frozenset()) -> Iterator[tuple[str, bytes]]:
    """What purification would hand over: here each image made 50 levels brighter."""
    for row in source.rows():
        if row.id not in skipped:
            picture = row.picture()
            yield row.id, encode_png(Picture(picture.rgb + 50, picture.alpha, picture.gray))


# ---- reading


@every_layout
def test_rows_have_labels_ids_and_pixels(made: Path, layout: str) -> None:
    source = open_source(made)
    rows = list(source.rows())
    numbers = row_numbers(source)
    assert sorted(numbers) == list(range(N)) and len(source) == N and source.has_labels
    assert [row.label for row in rows] == [i % 3 for i in numbers]
    assert len({row.id for row in rows}) == N
    if "folder" in layout and "parquet" not in layout:
        assert rows[0].id == "ant/00.x.png" and rows[-1].id == "cow/deep/11.x.png"
    elif "shard" in layout:
        assert rows[0].id == ("in.tar/part/000" if layout == "one_shard" else "s-000.tar/part/000")
    else:
        assert [row.id for row in rows] == [str(i) for i in range(N)] and numbers == list(range(N))
    if layout in ("folder", "parquet", "parquet_folder", "arrow", "npz", "cifar"):
        assert source.class_names == NAMES


@every_layout
@pytest.mark.parametrize(
    ("text", "expected"), [("[4:9]", slice(4, 9)), ("[:-3]", slice(None, -3)), ("[-2:]", slice(-2, None))]
)
def test_a_slice_is_part_of_the_same_rows(made: Path, text: str, expected: slice) -> None:
    whole = list(open_source(made).rows())
    part = open_source(f"{made}{text}")
    assert [row.id for row in part.rows()] == [row.id for row in whole][expected]
    assert [row.label for row in part.rows()] == [row.label for row in whole][expected]
    assert [row.id for row in part.rows(2)] == [row.id for row in whole][expected][2:]
    assert [row.name for row in part.rows(1)] == [row.name for row in whole][expected][1:]
    assert len(part) == len(whole[expected])


@every_layout
def test_the_fingerprint_tells_slices_and_files_apart(made: Path, layout: str) -> None:
    first = open_source(made).fingerprint()
    assert open_source(made).fingerprint() == first == open_source(f"{made}[0:{N}]").fingerprint()
    assert open_source(f"{made}[1:]").fingerprint() != first
    file = next(path for _, path in open_source(made).store.files())
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content)
    assert open_source(made).fingerprint() != first


@pytest.mark.parametrize("text", ["[5:5]", "[9:4]", "[14:]", "[:14]", "[-14:]", "[13:]"])
def test_an_empty_or_overlong_slice_is_refused_with_the_length(text: str, tmp_path: Path) -> None:
    with pytest.raises(EclipseError, match=r"slice .* has 13"):
        open_source(f"{make_npz(tmp_path / 'in')}{text}")


@pytest.mark.parametrize("text", ["[5]", "[::2]", "[a:b]", "[:-]", "[]"])
def test_a_slice_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(EclipseError, match=r"cannot be read; expected \[start:stop\]"):
        open_source(f"{make_npz(tmp_path / 'in')}{text}")


def test_a_path_that_ends_like_a_slice_is_a_path(tmp_path: Path) -> None:
    make_folder(tmp_path / "images[1:3]")
    assert len(open_source(tmp_path / "images[1:3]")) == N
    assert len(open_source(f"{tmp_path}/images[1:3][2:5]")) == 3


def test_cifar_100_is_its_training_batch_with_fine_labels(tmp_path: Path) -> None:
    root = tmp_path / "cifar-100-python"
    root.mkdir()
    (root / "train").write_bytes(old_batch(range(N), b"fine_labels"))
    (root / "test").write_bytes(old_batch(range(3), b"fine_labels"))
    (root / "meta").write_bytes(pickle.dumps({"coarse_label_names": ["animal"], "fine_label_names": list(NAMES)}, 2))
    source = open_source(root)
    assert len(source) == N and source.class_names == NAMES and row_numbers(open_source(root / "test")) == [0, 1, 2]
    assemble(source, brighter(source), tmp_path / "out", None, frozenset())
    assert sorted(tree_bytes(tmp_path / "out")) == ["meta", "test", "train"]
    assert row_numbers_of_brighter(tmp_path / "out") == list(range(N))


def test_images_without_class_folders_have_no_labels(tmp_path: Path) -> None:
    make_folder(tmp_path / "in")
    (tmp_path / "in" / "top.png").write_bytes(png_of(0))
    source = open_source(tmp_path / "in")
    assert not source.has_labels and source.class_names is None
    assert load_imageset(source, "a test").labels is None


def test_string_labels_are_numbered_in_sorted_order_whatever_the_slice(tmp_path: Path) -> None:
    table = arrow_table(names=False).set_column(2, "label", pa.array([NAMES[::-1][i % 3] for i in range(N)]))
    pq.write_table(table, tmp_path / "t.parquet")
    source = open_source(f"{tmp_path}/t.parquet[1:2]")
    assert source.class_names == NAMES and next(source.rows()).label == 1


def test_columns_can_be_named(tmp_path: Path) -> None:
    table = arrow_table().append_column("other", arrow_table()["image"]).append_column("kind", pa.array([7] * N))
    pq.write_table(table.rename_columns(["caption", "a", "label", "boxes", "b", "kind"]), tmp_path / "t.parquet")
    with pytest.raises(EclipseError, match="image columns a, b; expected one"):
        open_source(tmp_path / "t.parquet")
    source = open_source(tmp_path / "t.parquet", image_column="b", label_column="kind")
    assert row_numbers(source) == list(range(N)) and next(source.rows()).label == 7
    assert open_source(tmp_path / "t.parquet", image_column="a").fingerprint() != source.fingerprint()
    with pytest.raises(EclipseError, match=r"'caption' .* expected encoded images"):
        open_source(tmp_path / "t.parquet", image_column="caption")
    with pytest.raises(EclipseError, match="did you mean 'kind'"):
        open_source(tmp_path / "t.parquet", image_column="a", label_column="kinds")


def test_images_may_be_a_plain_binary_column_and_stay_one(tmp_path: Path) -> None:
    pq.write_table(pa.table({"png": [png_of(i) for i in range(N)], "n": range(N)}), tmp_path / "t.parquet")
    source = open_source(tmp_path / "t.parquet")
    assemble(source, brighter(source), tmp_path / "out.parquet", None, frozenset())
    assert pq.read_schema(tmp_path / "out.parquet").field("png").type == pa.binary()
    assert row_numbers_of_brighter(tmp_path / "out.parquet") == list(range(N))


@pytest.mark.parametrize("layout", ["parquet", "arrow"])
def test_tables_with_their_class_names_are_read_without_datasets(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    source = open_source(made)
    assert source.class_names == NAMES and row_numbers(source) == list(range(N))


def test_parquet_is_read_from_any_filesystem(tmp_path: Path) -> None:
    make_parquet_folder(tmp_path / "bucket")
    bucket = SubTreeFileSystem(str(tmp_path / "bucket"), LocalFileSystem())
    store = TableStore("parquet", parquet_on(bucket), [Path("train-0.parquet"), Path("train-1.parquet")], Columns())
    assert len(store) == N and store.class_names == NAMES
    assert [row.data for row in store.read(4, 9)] == [png_of(i) for i in range(4, 9)]
    with pytest.raises(FileNotFoundError):
        TableStore("parquet", parquet_on(bucket), [Path("missing.parquet")], Columns())


def test_the_hub_is_read_through_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_arrow(tmp_path / "saved")
    loaded = datasets.DatasetDict(train=datasets.load_from_disk(str(root)), test=datasets.load_from_disk(str(root)))
    asked = []

    def load_dataset(name: str, split: str | None) -> object:
        asked.append((name, split))
        return loaded if split is None else loaded[split]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = open_source("hf:owner/name[2:5]")
    assert source.layout == "hub" and row_numbers(source) == [2, 3, 4] and source.class_names == NAMES
    assert len(open_source("hf:owner/name@test")) == N
    assert asked == [("owner/name", None), ("owner/name", "test")]
    assemble(source, brighter(source), tmp_path / "out.parquet", None, frozenset())
    assert pq.read_table(tmp_path / "out.parquet")["caption"].to_pylist() == ["no 2", "no 3", "no 4"]


def test_images_that_the_hub_keeps_as_files_are_read_from_its_cache_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("cache", "secret"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_bytes(png_of(3))
    cells = [
        {"bytes": None, "path": str(tmp_path / place)} for place in ("cache/a.png", "secret/a.png", "cache/no.png")
    ]
    table = pa.table({"image": pa.array(cells, pa.struct({"bytes": pa.binary(), "path": pa.string()}))})
    with pa.OSFile(str(tmp_path / "x.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    loaded = datasets.Dataset.from_file(str(tmp_path / "x.arrow"))
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: loaded)
    monkeypatch.setattr(datasets.config, "HF_CACHE_HOME", str(tmp_path / "cache"))
    rows = list(open_source("hf:owner/name").rows())
    assert [len(row.data) for row in rows] == [len(png_of(3)), 0, 0]
    source = open_source("hf:owner/name[:1]")
    assemble(source, brighter(source), tmp_path / "out.parquet", None, frozenset())
    assert pq.read_table(tmp_path / "out.parquet")["image"][0]["path"].as_py() == "a.png"


def test_a_failing_hub_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(name: str, split: str | None) -> None:
        raise ConnectionError("no route to host\nand many more lines")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(EclipseError, match=r"^cannot load hf:a/b \(no route to host\); expected .*$"):
        open_source("hf:a/b")


def test_an_imageset_holds_all_rows_and_names_an_image_of_another_size(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "in")
    images = load_imageset(open_source(f"{root}[2:6]"), "training")
    assert images.images.shape == (4, 3, 32, 32) and images.class_names == NAMES
    assert images.ids == tuple(row.id for row in open_source(f"{root}[2:6]").rows())
    assert images.labels is not None and images.labels.tolist() == [0, 0, 0, 1]
    Image.new("RGB", (9, 4)).save(root / "cow" / "odd.png")
    with pytest.raises(
        EclipseError, match=r"cow/odd\.png is 9x4 and .*ant/00\.x\.png is 32x32; expected one size for training"
    ):
        load_imageset(open_source(root), "training")
    assert {picture.shape for picture in load_pictures(open_source(root))} == {(3, 32, 32), (3, 4, 9)}


# ---- writing


def row_numbers_of_brighter(out: Path) -> list[int]:
    known = {(image_of(i) + 50).tobytes(): i for i in range(N)}
    return [known[picture.transpose(1, 2, 0).tobytes()] for picture in load_pictures(open_source(out))]


def output_for(made: Path, source: Source) -> Path:
    """A name for the output that fits the layout."""
    return made.parent.parent / "out" / ("out" if source.store.is_folder else "out" + made.suffix)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@every_layout
def test_the_way_there_and_back_keeps_order_labels_and_ids(made: Path, out: Path, layout: str) -> None:
    source = open_source(made)
    target = out / ("in" + made.suffix if "range" not in layout else "in")
    assemble(source, brighter(source), target, None, frozenset())
    again = open_source(target)
    assert again.layout == source.layout and again.class_names == source.class_names
    assert row_numbers_of_brighter(target) == row_numbers(source)
    assert [row.label for row in again.rows()] == [row.label for row in source.rows()]
    assert [row.id for row in again.rows()] == [row.id for row in source.rows()]
    assert [path.name for path in out.iterdir()] == [target.name]


@every_layout
def test_the_same_images_give_the_same_bytes(made: Path, out: Path, layout: str) -> None:
    source = open_source(made)
    for name in ("a", "b"):
        assemble(
            source, brighter(source), out / (name + made.suffix if "range" not in layout else name), None, frozenset()
        )
    first, second = sorted(out.iterdir())
    assert tree_bytes(first) == tree_bytes(second)


@every_layout
def test_slices_and_skipped_rows_are_left_out_with_their_labels(made: Path, out: Path, layout: str) -> None:
    whole = list(open_source(made).rows())
    source = open_source(f"{made}[2:12]")
    skipped = frozenset({whole[2].id, whole[8].id})
    target = out / ("in" + made.suffix if "range" not in layout else "in")
    assemble(source, brighter(source, skipped), target, None, skipped)
    kept = [i for i in range(2, 12) if i not in (2, 8)]
    assert [row.label for row in open_source(target).rows()] == [whole[i].label for i in kept]
    numbers = row_numbers(open_source(made))
    assert row_numbers_of_brighter(target) == [numbers[i] for i in kept]


@every_layout
@pytest.mark.parametrize("format", ["folder", "parquet", "npz", "webdataset"])
def test_every_layout_converts_to_every_format(made: Path, out: Path, format: str) -> None:
    source = open_source(f"{made}[1:]")
    if format in ("folder", "webdataset", "npz") and source.layout == "parquet":
        table = arrow_table().drop_columns(["boxes"])
        made = made.with_name("flat.parquet")
        pq.write_table(table, made)
        source = open_source(f"{made}[1:]")
    ending = {"parquet": ".parquet", "npz": ".npz"}.get(format, "") if format != source.layout else made.suffix
    target = out / f"converted{'' if '{' in made.name and not ending else ending}"
    if source.store.is_folder and format == source.layout:
        target = out / "converted"
    assemble(source, brighter(source), target, format, frozenset())
    again = open_source(target)
    assert again.layout == format and len(again) == N - 1
    expected = {number: row.label for number, row in zip(row_numbers(source), source.rows(), strict=True)}
    got = dict(zip(row_numbers_of_brighter(target), (row.label for row in again.rows()), strict=True))
    assert got == expected
    if format != "folder":
        assert list(got) == list(expected)
    if source.class_names is not None:
        assert again.class_names == source.class_names


def test_a_folder_keeps_paths_and_other_files(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "in")
    (root / "ant" / "00.x.png").rename(root / "ant" / "photo.JPG")
    source = open_source(root)
    assemble(source, brighter(source), tmp_path / "out", None, frozenset())
    before, after = tree_bytes(root), tree_bytes(tmp_path / "out")
    assert set(after) == {("ant/photo.png" if "JPG" in path else path) for path in before} - {".hidden.png"}
    assert after["metadata.jsonl"] == before["metadata.jsonl"] and after["bee/00.txt"] == before["bee/00.txt"]


@pytest.mark.parametrize("layout", ["parquet", "parquet_folder"])
def test_a_table_keeps_columns_metadata_and_types(made: Path, out: Path) -> None:
    source = open_source(made)
    assemble(source, brighter(source), out / made.name, None, frozenset())
    before, after = (pq.read_table(sorted(p.rglob("*.parquet")) or p) for p in (made, out / made.name))
    assert after.schema.equals(before.schema, check_metadata=True)
    for column in ("caption", "label", "boxes"):
        assert after[column].to_pylist() == before[column].to_pylist()
    assert [cell["path"] for cell in after["image"].to_pylist()] == [f"photos.d/{i}.png" for i in range(N)]
    if made.is_dir():
        assert set(tree_bytes(out / made.name)) == {"train-0.parquet", "train-1.parquet", "README.md"}


def test_a_saved_dataset_loads_with_datasets_under_a_new_fingerprint(tmp_path: Path) -> None:
    root = make_arrow(tmp_path / "in")
    source = open_source(f"{root}[3:]")
    assemble(source, brighter(source), tmp_path / "out", None, frozenset())
    before, after = datasets.load_from_disk(str(root)), datasets.load_from_disk(str(tmp_path / "out"))
    assert after.features == before.features and after["caption"] == before["caption"][3:]
    assert np.array_equal(np.asarray(after[0]["image"]), image_of(3) + 50)
    states = [json.loads((folder / "state.json").read_text()) for folder in (root, tmp_path / "out")]
    assert states[0]["_fingerprint"] != states[1]["_fingerprint"]


def test_shards_keep_their_members(tmp_path: Path) -> None:
    root = make_shards(tmp_path / "in")
    source = open_source(root)
    assemble(source, brighter(source), tmp_path / "out", None, frozenset())
    with tarfile.open(root / "s-001.tar") as old, tarfile.open(tmp_path / "out" / "s-001.tar") as new:
        assert [m.name for m in new] == [m.name.replace(".jpg", ".png") for m in old]
        assert [m.mtime for m in new] == [m.mtime for m in old]
        for member in old:
            if not member.name.endswith("jpg"):
                assert new.extractfile(member.name).read() == old.extractfile(member).read()


def test_an_archive_keeps_its_other_arrays_row_by_row(tmp_path: Path) -> None:
    source = open_source(f"{make_npz(tmp_path / 'in')}[4:]")
    assemble(source, brighter(source, frozenset({"6"})), tmp_path / "out.npz", None, frozenset({"6"}))
    with np.load(tmp_path / "out.npz") as arrays:
        assert set(arrays) == {"labels", "images", "index", "class_names"}
        assert arrays["index"].tolist() == [i for i in range(4, N) if i != 6] and arrays["images"].shape == (
            8,
            32,
            32,
            3,
        )
        assert arrays["class_names"].tolist() == list(NAMES)


@pytest.mark.parametrize(
    "shape", [(N, 6, 5), (N, 6, 5, 1), (N, 1, 6, 5), (N, 6, 5, 4), (N, 4, 6, 5), (N, 1, 1, 3), (N, 1, 1)]
)
def test_arrays_of_every_shape_come_back_in_their_shape(shape: tuple[int, ...], tmp_path: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    np.savez(tmp_path / "in.npz", images=images)
    source = open_source(tmp_path / "in.npz")
    same = ((row.id, encode_png(row.picture())) for row in source.rows())
    assemble(source, same, tmp_path / "out.npz", None, frozenset())
    with np.load(tmp_path / "out.npz") as arrays:
        assert np.array_equal(arrays["images"], images)


@pytest.mark.parametrize("encoding", ["latin1", "bytes"])
def test_an_old_batch_stays_readable_as_python_2_wrote_it(encoding: str, tmp_path: Path) -> None:
    root = make_cifar(tmp_path / "in")
    source = open_source(root)
    assemble(source, brighter(source), tmp_path / "out", None, frozenset())
    before = pickle.loads((root / "data_batch_2").read_bytes(), encoding=encoding)
    after = pickle.loads((tmp_path / "out" / "data_batch_2").read_bytes(), encoding=encoding)
    data = "data" if encoding == "latin1" else b"data"
    assert list(after) == list(before) and after[data].dtype == np.uint8 and after[data].flags.c_contiguous
    assert np.array_equal(after.pop(data), before.pop(data) + 50)
    assert after == before
    assert (tmp_path / "out" / "test_batch").read_bytes() == (root / "test_batch").read_bytes()


@pytest.mark.parametrize("layout", ["new_cifar", "fortran_cifar", "old_protocol_cifar", "eclipse", "old_eclipse"])
def test_a_new_pickle_stays_the_same_structure(made: Path, tmp_path: Path) -> None:
    source = open_source(made)
    assemble(source, brighter(source), tmp_path / "out", None, frozenset())
    before, after = pickle.loads(made.read_bytes()), pickle.loads((tmp_path / "out").read_bytes())
    if isinstance(before, list):
        assert after == [((np.frombuffer(image, np.uint8) + 50).tobytes(), label) for image, label in before]
    else:
        assert list(after) == list(before)
        assert np.array_equal(after.pop(b"data"), before.pop(b"data") + 50)
        assert after == before


def test_a_converted_table_loads_with_datasets(tmp_path: Path) -> None:
    source = open_source(make_folder(tmp_path / "in"))
    assemble(source, brighter(source), tmp_path / "out.parquet", "parquet", frozenset())
    loaded = datasets.Dataset.from_parquet(str(tmp_path / "out.parquet"), cache_dir=str(tmp_path / "cache"))
    assert loaded.features["label"].names == list(NAMES)
    assert np.array_equal(np.asarray(loaded[0]["image"]), image_of(0) + 50)
    assert loaded.cast_column("image", datasets.Image(decode=False))[0]["image"]["path"] == "ant/00.x.png"


def test_a_table_as_folder_keeps_its_other_columns_in_lines(tmp_path: Path) -> None:
    source = open_source(make_parquet(tmp_path / "in"))
    assemble(source, brighter(source), tmp_path / "out", "folder", frozenset())
    lines = [json.loads(line) for line in (tmp_path / "out" / "metadata.jsonl").read_text().splitlines()]
    assert lines[4] == {"file_name": "bee/4.png", "label": "bee", "caption": "no 4", "boxes": [4, 5]}
    assert (tmp_path / "out" / "bee" / "4.png").is_file()


def test_class_names_that_are_no_folder_names_are_mended_or_refused(tmp_path: Path) -> None:
    images = np.zeros((2, 4, 4, 3), np.uint8)
    np.savez(tmp_path / "in.npz", images=images, labels=[0, 1], class_names=np.array(["../a/b", ".."]))
    source = open_source(tmp_path / "in.npz")
    assemble(source, brighter(source), tmp_path / "out", "folder", frozenset())
    assert set(tree_bytes(tmp_path / "out")) == {"_._a_b/0.png", "_./1.png"}
    np.savez(tmp_path / "in2.npz", images=images, labels=[0, 1], class_names=np.array(["a/b", "a_b"]))
    with pytest.raises(EclipseError, match="would share a folder"):
        check_output(open_source(tmp_path / "in2.npz"), tmp_path / "out2", "folder")


def test_gray_and_transparent_images_come_back_as_they_were(tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    modes = ("L", "LA", "RGB", "RGBA", "1")
    for mode in modes:
        Image.fromarray(image_of(1)).convert(mode).save(root / f"{mode}.png")
    source = open_source(root)
    assemble(
        source, ((row.id, encode_png(row.picture())) for row in source.rows()), tmp_path / "out", None, frozenset()
    )
    for mode in modes:
        with Image.open(tmp_path / "out" / f"{mode}.png") as image, Image.open(root / f"{mode}.png") as old:
            assert image.mode == ("L" if mode == "1" else mode)
            assert np.array_equal(np.asarray(image), np.asarray(old.convert(image.mode)))


def test_the_development_data_open_fast_and_right(shared: Path) -> None:
    trusted = load_imageset(open_source(f"{shared}/data/cifar10/train.parquet[48000:50000]"), "training")
    assert trusted.images.shape == (2000, 3, 32, 32) and trusted.ids[0] == "48000" and trusted.num_classes == 10
    photos = open_source(shared / "data" / "photos" / "photos.parquet")
    assert len(photos) == 250 and not photos.has_labels
    assert len({picture.shape for picture in load_pictures(open_source(f"{photos.spec}[:20]"))}) > 5
