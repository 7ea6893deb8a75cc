"""A ``datasets.Dataset`` goes in and one comes out: the bytes of the command line, and all else as it was."""

import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from kit.tiny import one_sentence, some_images, tiny_denoiser
from PIL import Image
from typer.testing import CliRunner

import eclipse
from eclipse.cli import app
from eclipse.diffusion.denoiser import Denoiser
from eclipse.errors import EclipseError
from eclipse.purification import table

FEATURES = datasets.Features(
    photo=datasets.Image(),
    label=datasets.ClassLabel(names=["cat", "dog"]),
    caption=datasets.Value("string"),
    boxes=datasets.List(datasets.Value("float32")),
)
SIZES = [(16, 16), (9, 21), (16, 16), (30, 12), (16, 16)]
MODES = ["RGB", "RGB", "L", "RGBA", "RGB"]


def encoded(i: int) -> bytes:
    file = io.BytesIO()
    pixels = some_images(1, *SIZES[i], seed=i)[0].transpose(1, 2, 0)
    Image.fromarray(pixels).convert(MODES[i]).save(file, "WEBP" if i in (0, 4) else "PNG", lossless=True)
    return file.getvalue()


def a_dataset(folder: Path) -> datasets.Dataset:
    """Rows in memory, one of which has the path of its image alone."""
    photos: list[dict[str, Any]] = [{"bytes": encoded(i), "path": f"{i}.webp"} for i in range(5)]
    (folder / "4.webp").write_bytes(encoded(4))
    photos[4] = {"bytes": None, "path": str(folder / "4.webp")}
    columns = {"photo": photos, "label": [0, 1, 0, 1, 1], "caption": [*"abcd", None], "boxes": [[0.5]] * 5}
    return datasets.Dataset.from_dict(columns, features=FEATURES)


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    torch.manual_seed(0)
    return tiny_denoiser()


@pytest.fixture(autouse=True)
def quiet() -> None:
    datasets.disable_progress_bars()


def stored(data: datasets.Dataset) -> dict[str, list[Any]]:
    """All columns as they lie in the table."""
    return data.with_format("arrow")[:].to_pydict()  # type: ignore[no-any-return]


def test_it_has_the_bytes_of_the_command_line_and_all_else_as_it_was(tmp_path: Path) -> None:
    data = a_dataset(tmp_path)
    embedded = data.with_format("arrow").map(
        datasets.table.embed_table_storage, batched=True
    )  # as on the way to the Hub
    embedded.to_parquet(tmp_path / "rows.parquet")
    command = [
        "purify",
        f"{tmp_path}/rows.parquet",
        "--out",
        f"{tmp_path}/out.parquet",
        "--seed",
        "3",
        "--device",
        "cpu",
    ]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    new, expected = eclipse.purify(data, seed=3, device="cpu"), pq.read_table(tmp_path / "out.parquet").to_pydict()
    assert stored(new) == expected
    assert new.features == FEATURES and new[0]["photo"].size == (16, 16)
    before = stored(data)
    assert all(expected[name] == before[name] for name in ("label", "caption", "boxes"))
    assert [photo["path"] for photo in stored(new)["photo"]] == ["0.png", "1.png", "2.png", "3.png", "4.png"]
    assert [image.mode for image in new["photo"]] == MODES and stored(a_dataset(tmp_path)) == before


def test_the_rows_are_those_of_the_view_and_its_format_stays(tmp_path: Path, denoiser: Denoiser) -> None:
    data = a_dataset(tmp_path).select([2, 0, 4]).with_format("numpy", columns=["photo"])
    new = eclipse.purify(data, denoiser, device="cpu")
    assert new.format == data.format and len(new) == 3
    image = data[1]["photo"].transpose(2, 0, 1)[None]
    assert np.array_equal(new[1]["photo"].transpose(2, 0, 1)[None], eclipse.purify(image, denoiser, ids=["1"]))
    named = eclipse.purify(data, denoiser, ids=["x", "0", "y"], device="cpu")
    assert np.array_equal(named[1]["photo"].transpose(2, 0, 1)[None], eclipse.purify(image, denoiser, ids=["0"]))
    transformed = eclipse.purify(
        a_dataset(tmp_path).with_transform(lambda batch: {"n": [1] * len(batch["label"])}), denoiser
    )
    assert transformed[0] == {"n": 1}


def test_the_result_lies_on_disk_and_is_found_again(
    tmp_path: Path, denoiser: Denoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_dataset(tmp_path).save_to_disk(tmp_path / "saved")
    data = datasets.load_from_disk(tmp_path / "saved")
    for some in (data, a_dataset(tmp_path)):
        new = eclipse.purify(some, denoiser)
        assert new.cache_files
        with monkeypatch.context() as patch:
            patch.setattr(table, "encode_png", None)
            assert stored(eclipse.purify(some, denoiser)) == stored(new)
        other = eclipse.purify(some, denoiser, seed=1)
        assert stored(other)["photo"] != stored(new)["photo"]


def test_a_column_of_bytes_is_one_of_images(tmp_path: Path, denoiser: Denoiser) -> None:
    data = datasets.Dataset.from_dict({"a": [encoded(0)], "b": [encoded(1)]})
    new = eclipse.purify(data, denoiser, image_column="b")
    assert new["a"][0] == encoded(0) and new["b"][0].startswith(b"\x89PNG") and new.features == data.features


MISTAKES: dict[str, tuple[Any, str]] = {
    "several splits": (lambda data: datasets.DatasetDict(train=data), "name one split"),
    "a stream": (lambda data: data.to_iterable_dataset(), "Purify in the map"),
    "no images": (lambda data: data.remove_columns("photo"), "no image column"),
    "no file": (
        lambda data: datasets.Dataset.from_dict({"photo": ["/none.png"]}, datasets.Features(photo=datasets.Image())),
        "row 0 holds the path '/none.png', where no file is",
    ),
    "no photograph": (lambda data: datasets.Dataset.from_dict({"x": [b"text"]}), "row 0 is not an image"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_sentence(mistake: str, tmp_path: Path, denoiser: Denoiser) -> None:
    make, words = MISTAKES[mistake]
    with pytest.raises(EclipseError) as caught:
        eclipse.purify(make(a_dataset(tmp_path)), denoiser)
    assert words in one_sentence(caught.value)


def test_each_row_has_one_id(tmp_path: Path, denoiser: Denoiser) -> None:
    with pytest.raises(EclipseError, match="2 ids for 5 images"):
        eclipse.purify(a_dataset(tmp_path), denoiser, ids=["a", "b"])
