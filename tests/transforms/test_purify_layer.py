"""Purification as a layer: the bytes of ``eclipse.purify``, in each kind of pipeline, once for each image."""

import copy
import os
import pickle
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit.tiny import one_sentence, some_images, tiny_denoiser
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

import eclipse
from eclipse.diffusion.denoiser import Denoiser
from eclipse.errors import EclipseError
from eclipse.purification import arrays
from eclipse.transforms import Compensate, Purify
from eclipse.transforms import purify as layer

IMAGES = some_images(6, 12, 10)
IDS = list("abcdef")


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    torch.manual_seed(0)
    return tiny_denoiser()


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of images that went through the network."""
    seen: list[str] = []

    def counted(images: Any, ids: Any, *rest: Any) -> Any:
        seen.extend(ids)
        return arrays.purified_parts(images, ids, *rest)

    monkeypatch.setattr(layer, "purified_parts", counted)
    return seen


def purified(denoiser: Denoiser, ids: list[str] | None = None, **options: Any) -> np.ndarray:
    return eclipse.purify(IMAGES, denoiser, ids=ids, device="cpu", **options)


class Rows(Dataset[Any]):
    """A map-style data set of (image, label), at the top of a module, so that a fresh process can have it."""

    def __init__(self, images: np.ndarray = IMAGES) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.from_numpy(self.images[index]), index


# The bytes of eclipse.purify


@pytest.mark.parametrize("options", [{}, {"seed": 7, "sigma": 20 / 255, "steps": 3}])
def test_it_gives_what_purify_gives_for_the_same_seed_and_id(denoiser: Denoiser, options: dict[str, Any]) -> None:
    expected, purify = purified(denoiser, IDS, **options), Purify(denoiser, **options)
    for image, id, new in zip(IMAGES, IDS, expected, strict=True):
        assert np.array_equal(purify(torch.from_numpy(image), id=id), new)
    assert np.array_equal(purify(torch.from_numpy(IMAGES), id=IDS), expected)
    assert not np.array_equal(purify(torch.from_numpy(IMAGES), id=IDS[::-1]), expected)


def test_by_default_it_is_the_general_denoiser() -> None:
    images = some_images(1, 32, 32)
    assert np.array_equal(Purify()(torch.from_numpy(images), id=["0"]), eclipse.purify(images, device="cpu"))


FORMS = {
    "a subclass": (lambda x: x.as_subclass(Kept), lambda y: y.as_subclass(Tensor).numpy()),
    "floats": (lambda x: x / 255, lambda y: (y * 255).round().byte().numpy()),
    "an array": (lambda x: np.asarray(x.movedim(0, -1)), lambda y: y.transpose(2, 0, 1)),
    "a photograph": (lambda x: Image.fromarray(x.movedim(0, -1).numpy()), lambda y: np.asarray(y).transpose(2, 0, 1)),
    "image and label": (lambda x: (x, 7), lambda y: y[0].numpy()),
    "a mapping": (lambda x: {"image": x, "label": 7}, lambda y: y["image"].numpy()),
    "a row of a table": (
        lambda x: {"img": Image.fromarray(x.movedim(0, -1).numpy())},
        lambda y: np.asarray(y["img"]).transpose(2, 0, 1),
    ),
}


class Kept(Tensor):
    """A subclass as torchvision's tv_tensors are: what is computed of it is a plain tensor."""

    __torch_function__ = torch._C._disabled_torch_function_impl


@pytest.mark.parametrize("form", FORMS)
def test_each_form_stays_what_it_is(denoiser: Denoiser, form: str) -> None:
    wrap, pixels = FORMS[form]
    sample = wrap(torch.from_numpy(IMAGES[2]))
    done = Purify(denoiser)(sample, id=2)
    assert type(done) is type(sample) and np.array_equal(pixels(done), purified(denoiser)[2])
    if isinstance(sample, tuple | dict):
        assert list(done)[1:] == list(sample)[1:]


def test_gray_images_stay_gray(denoiser: Denoiser) -> None:
    plane = IMAGES[0, 0]
    expected = eclipse.purify(plane[None, None], denoiser, ids=["x"], device="cpu")[0, 0]
    purify = Purify(denoiser)
    assert np.array_equal(purify(plane, id="x"), expected)
    assert np.array_equal(np.asarray(purify(Image.fromarray(plane), id="x")), expected)


def test_the_id_is_the_key_of_a_shard_or_else_a_digest(denoiser: Denoiser) -> None:
    purify, image = Purify(denoiser), torch.from_numpy(IMAGES[0])
    named = purify({"__key__": "0/a", "png": image, "cls": 1})
    assert torch.equal(named["png"], purify(image, id="0/a")) and named["__key__"] == "0/a" and named["cls"] == 1
    assert torch.equal(Purify(denoiser, id_key="uid")({"image": image, "uid": 3})["image"], purify(image, id=3))
    batch = purify({"image": [image, torch.from_numpy(IMAGES[1, :, :8])], "__key__": ["a", "b"]})
    assert torch.equal(batch["image"][0], purify(image, id="a")) and batch["image"][1].shape == (3, 8, 10)
    assert torch.equal(purify(image), purify(image.clone()))
    assert not torch.equal(purify(image), purify(image, id="0"))
    assert torch.equal(purify(torch.from_numpy(IMAGES))[0], purify(image))


def test_named_arguments_are_a_sample(denoiser: Denoiser) -> None:
    array, purify = IMAGES[0].transpose(1, 2, 0), Purify(denoiser)
    done = purify(image=array, mask=1, id="a")
    assert np.array_equal(done["image"], purify(array, id="a")) and done["mask"] == 1


# What is kept


@pytest.mark.parametrize("folder", [False, True])
def test_an_image_goes_through_the_network_once(
    denoiser: Denoiser, passes: list[str], tmp_path: Path, folder: bool
) -> None:
    options: dict[str, Any] = {"cache": tmp_path / "kept"} if folder else {}
    purify, images = Purify(denoiser, **options), torch.from_numpy(IMAGES)
    first = purify(images, id=IDS)
    assert torch.equal(purify(images, id=IDS), first) and torch.equal(purify(images[4], id="e"), first[4])
    assert passes == IDS
    again = pickle.loads(pickle.dumps(purify))
    assert torch.equal(again(images, id=IDS), first)
    assert passes == (IDS if folder else IDS * 2), "another process shares the folder, not the memory"
    purify(torch.from_numpy(IMAGES[[0, 0]]), id=["twice", "twice"])
    assert passes.count("twice") == 1


CHANGED: dict[str, dict[str, Any]] = {
    "the seed": {"seed": 1},
    "the level": {"sigma": 20 / 255},
    "the steps": {"steps": 3},
    "the sampler": {"steps": 3, "sampler": "ddim"},
}


def test_whatever_decides_the_bytes_is_looked_at(denoiser: Denoiser, passes: list[str], tmp_path: Path) -> None:
    image, other = torch.from_numpy(IMAGES[0]), copy.deepcopy(denoiser)
    next(other.parameters()).data.mul_(1.01)
    Purify(denoiser, cache=tmp_path)(image, id="a")
    for network, options in [(denoiser, options) for options in CHANGED.values()] + [(other, {})]:
        done = Purify(network, cache=tmp_path, **options)(image, id="a")
        assert np.array_equal(done, eclipse.purify(image[None], network, ids=["a"], device="cpu", **options)[0])
    Purify(denoiser, cache=tmp_path)(image, id="b")
    Purify(denoiser, cache=tmp_path)(image.flip(-1), id="a")
    assert len(passes) == len(CHANGED) + 4


@pytest.mark.parametrize("folder", [False, True])
def test_what_has_no_room_is_purified_each_time(
    denoiser: Denoiser, passes: list[str], tmp_path: Path, folder: bool
) -> None:
    images = torch.from_numpy(some_images(40, 32, 32))
    options: dict[str, Any] = {"cache": tmp_path} if folder else {}
    purify = Purify(denoiser, cache_mib=0.09, **options)
    expected = eclipse.purify(images, denoiser, device="cpu")
    for _ in range(2):
        assert all(torch.equal(purify(image, id=i), expected[i]) for i, image in enumerate(images))
    assert 50 <= len(passes) <= 70, "those that came first have stayed"
    if folder:
        assert (tmp_path / "purified.sqlite").stat().st_size <= 0.09 * 2**20


def test_a_damaged_result_is_made_again(denoiser: Denoiser, passes: list[str], tmp_path: Path) -> None:
    purify, image = Purify(denoiser, cache=tmp_path), torch.from_numpy(IMAGES[0])
    first = purify(image, id="a")
    with sqlite3.connect(tmp_path / "purified.sqlite") as db:
        db.execute("UPDATE images SET png = substr(png, 1, 60)")
    for _ in range(2):
        assert torch.equal(purify(image, id="a"), first)
    assert passes == ["a", "a"]


def test_without_room_nothing_is_kept(denoiser: Denoiser, passes: list[str], tmp_path: Path) -> None:
    purify = Purify(denoiser, cache=tmp_path / "none", cache_mib=0)
    for _ in range(2):
        purify(torch.from_numpy(IMAGES[0]), id="a")
    assert passes == ["a", "a"] and not (tmp_path / "none").exists()


# Data sets and their loaders


def test_a_data_set_is_purified_by_row_numbers(denoiser: Denoiser, passes: list[str]) -> None:
    data = Purify(denoiser).dataset(Rows())
    expected = purified(denoiser)
    assert len(data) == 6 and [label for _, label in data] == list(range(6))
    assert np.array_equal(data[-1][0], expected[5]) and np.array_equal(data[np.int64(1)][0], expected[1])
    part = next(iter(DataLoader(Subset(data, [3, 1]), batch_size=2)))
    assert np.array_equal(part[0], expected[[3, 1]]) and part[1].tolist() == [3, 1]
    assert passes == ["0", "1", "2", "3", "4", "5"]
    named = Purify(denoiser).dataset(Rows(), ids=IDS)
    assert np.array_equal(named[2][0], purified(denoiser, IDS)[2])


def test_what_is_random_comes_after_the_purification(denoiser: Denoiser, passes: list[str]) -> None:
    data = Purify(denoiser).dataset(Rows(), transform=Compensate(p=1, noise=0.05, q=1))
    (first, label), (second, _) = data[1], data[1]
    assert label == 1 and first.dtype == torch.uint8 and not torch.equal(first, second) and passes == ["1"]


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_of_a_loader_give_the_same_and_share_a_folder(
    denoiser: Denoiser, passes: list[str], tmp_path: Path, context: str
) -> None:
    expected = purified(denoiser)
    data = Purify(denoiser, cache=tmp_path).dataset(Rows())
    loader = DataLoader(data, batch_size=2, num_workers=2, multiprocessing_context=context, persistent_workers=True)
    for _ in range(2):
        images, labels = zip(*loader, strict=True)
        assert np.array_equal(torch.cat(images), expected) and torch.cat(labels).tolist() == list(range(6))
    with sqlite3.connect(tmp_path / "purified.sqlite") as db:
        assert db.execute("SELECT count(*) FROM images").fetchone() == (6,)
    assert np.array_equal(torch.stack([image for image, _ in data]), expected)
    assert passes == [], "this process found all of it in the folder"


# Mistakes


MISTAKES: dict[str, tuple[Any, str]] = {
    "a path for a denoiser": (lambda d, place: Purify("denoiser"), "the denoiser is a str; expected"),
    "a level too high": (lambda d, place: Purify(d, sigma=0.9), "expected"),
    "less than nothing": (lambda d, place: Purify(d, cache_mib=-1), "cache_mib -1; expected 0 or more"),
    "a file for a folder": (lambda d, place: Purify(d, cache=place), "expected a folder on a disk of this machine"),
    "a foreign file": (lambda d, place: Purify(d, cache=place.parent), "expected a folder on a disk of this machine"),
    "a URL": (lambda d, place: Purify(d, cache="s3://kept"), "'s3://kept' is a URL"),
    "no image": (lambda d, place: Purify(d)("photo.png"), "images are a str; expected"),
    "bytes of a shard": (lambda d, place: Purify(d)({"png": b"x"}), "images are a bytes; expected"),
    "normalized": (lambda d, place: Purify(d)(torch.randn(3, 8, 8) * 3), "before normalizing"),
    "ids of another number": (lambda d, place: Purify(d)(torch.from_numpy(IMAGES), id=["a"]), "1 ids for 6 images"),
    "one id for a batch": (lambda d, place: Purify(d)(torch.from_numpy(IMAGES), id="abcdef"), "1 ids for 6 images"),
    "an id that is none": (lambda d, place: Purify(d)(torch.from_numpy(IMAGES[0]), id=0.5), "the id 0.5 of a float"),
    "a stream": (lambda d, place: Purify(d).dataset(iter([])), "use data.map"),
    "too few ids": (lambda d, place: Purify(d).dataset(Rows(), ids=["a"]), "1 ids for 6 samples"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_sentence(denoiser: Denoiser, tmp_path: Path, mistake: str) -> None:
    use, words = MISTAKES[mistake]
    place = tmp_path / "purified.sqlite"
    place.write_text("no data base, and longer than the head of one" * 9)
    with pytest.raises(EclipseError) as caught:
        use(denoiser, place)
    assert words in one_sentence(caught.value)


def test_a_cache_that_was_removed_meanwhile_is_told(denoiser: Denoiser, tmp_path: Path) -> None:
    purify = Purify(denoiser, cache=tmp_path)
    os.unlink(tmp_path / "purified.sqlite")
    with pytest.raises(EclipseError) as caught:
        purify(torch.from_numpy(IMAGES[0]), id="a")
    assert "cannot be used" in one_sentence(caught.value)
