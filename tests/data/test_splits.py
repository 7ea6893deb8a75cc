"""Training and test images are not taken for one set, in whatever form they lie beside each other."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kit.layouts import pack, png_of, put

from eclipse.data.source import open_source
from eclipse.errors import EclipseError


def folder(root: Path, *places: str) -> Path:
    return put(root, {f"{place}/{i}.png": png_of(i) for i, place in enumerate(places)})


def parquet(root: Path, *names: str) -> Path:
    root.mkdir()
    for name in names:
        pq.write_table(pa.table({"image": [png_of(0)]}), root / f"{name}.parquet")
    return root


def shards(root: Path, *names: str) -> Path:
    root.mkdir()
    for name in names:
        pack(root / f"{name}.tar", {"0.png": png_of(0)})
    return root


@pytest.mark.parametrize(
    "places",
    [
        ("train/cat", "val/cat"),
        ("train", "test", "extra"),
        ("Training", "Testing"),
        ("train2017", "val2017"),
        ("images/train", "images/val"),
        ("cat/train", "cat/test", "dog/train"),
        ("ILSVRC/Data/CLS-LOC/train/a", "ILSVRC/Data/CLS-LOC/test"),
        ("train_images", "dev-set"),
    ],
)
def test_folders_of_several_splits_are_refused_with_a_way_out(places: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(EclipseError, match=r"several splits .* expected one of them: add its name to the path"):
        open_source(folder(tmp_path / "in", *places))
    assert len(open_source(tmp_path / "in" / places[0])) >= 1


@pytest.mark.parametrize(
    "places", [("train", "bus", "car"), ("bullet_train", "test_tube"), ("train/a", "train/b"), ("valley", "testament")]
)
def test_classes_are_no_splits(places: tuple[str, ...], tmp_path: Path) -> None:
    assert len(open_source(folder(tmp_path / "in", *places))) == len(places)


def test_splits_of_other_files_do_not_matter(tmp_path: Path) -> None:
    root = put(folder(tmp_path / "in", "images/a", "images/b"), {"boxes/train/0.txt": b"0", "boxes/test/1.txt": b"1"})
    assert len(open_source(root)) == 2


@pytest.mark.parametrize("make", [parquet, shards])
@pytest.mark.parametrize(
    "names",
    [
        ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"),
        ("train", "validation"),
        ("cifar10_train_0", "cifar10_val_0"),
        ("0000.train", "0000.dev"),
    ],
)
def test_files_of_several_splits_are_refused(make, names: tuple[str, ...], tmp_path: Path) -> None:
    root = make(tmp_path / "in", *names)
    with pytest.raises(EclipseError, match=r"files of several splits .* name the file"):
        open_source(root)
    assert len(open_source(next(root.iterdir()))) == 1


@pytest.mark.parametrize("make", [parquet, shards])
@pytest.mark.parametrize(
    "names", [("train-0", "train-1"), ("test-0", "test-1"), ("train-0", "more-0"), ("contest", "training")]
)
def test_files_of_one_split_are_one_set(make, names: tuple[str, ...], tmp_path: Path) -> None:
    assert len(open_source(make(tmp_path / "in", *names))) == 2


def test_a_range_names_its_files(tmp_path: Path) -> None:
    root = shards(tmp_path / "in", "train-0", "train-1", "test-0")
    assert len(open_source(f"{root}/train-{{0..1}}.tar")) == 2
