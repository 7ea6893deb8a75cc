"""Trusted images that do not fit the suspicious ones are told before the work, and fitting ones are not."""

import io
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from kit.commands import Command
from kit.tiny import one_sentence
from PIL import Image

from eclipse.data.imageset import ImageSet
from eclipse.data.picture import Pixels, middle
from eclipse.data.source import open_source
from eclipse.data.store import Source
from eclipse.jobs.canary import PERTURBATIONS, spread
from eclipse.jobs.demo import digits
from eclipse.jobs.match import mismatch

COUNT = 48


@cache
def of(spec: str) -> list[Pixels]:
    """Images from all over a set."""
    return [row.picture().rgb for row in spread(open_source(spec), COUNT // 4)]


def written(images: Sequence[Pixels], place: Path) -> Source:
    place.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image.transpose(1, 2, 0)).save(place / f"{i:03d}.png")
    return open_source(place)


def changed(images: Sequence[Pixels], change: Callable[[Image.Image], Image.Image]) -> list[Pixels]:
    return [np.asarray(change(Image.fromarray(image.transpose(1, 2, 0)))).transpose(2, 0, 1) for image in images]


def sixth(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 6, image.height // 6))


def compressed(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=20)
    return Image.open(file).convert("RGB")


@cache
def numbers(seed: int) -> list[Pixels]:
    return list(digits(seed).train.images[:COUNT])


CIFAR = "data/cifar10/train.parquet[:10000]", "data/cifar10/train.parquet[40000:]"
LOSSLESS = "data/cifar10/train-lossless-5k.parquet[:2500]", "data/cifar10/train-lossless-5k.parquet[2500:]"
PHOTOS = "data/photos/photos.parquet", "data/photos/train.parquet"
FITTING = [(CIFAR[0], CIFAR[1]), (LOSSLESS[0], LOSSLESS[1]), (CIFAR[0], LOSSLESS[1]), (LOSSLESS[0], CIFAR[1]), PHOTOS]


@pytest.mark.parametrize("attack", [None, *PERTURBATIONS])
@pytest.mark.parametrize(("suspicious", "trusted"), FITTING)
def test_fitting_images_are_no_reason_for_a_warning_poisoned_or_not(
    shared: Path, tmp_path: Path, suspicious: str, trusted: str, attack: str | None
) -> None:
    """Photographs are poisoned as squares of 96 pixels, of both sets."""
    ours, theirs = (of(f"{shared}/{spec}") for spec in (suspicious, trusted))
    if attack is not None:
        ours, theirs = ([middle(image, 96) for image in some] for some in (ours, theirs))
        ours = list(PERTURBATIONS[attack](ImageSet.from_arrays(np.stack(ours), np.arange(COUNT) % 8)).images)
    assert mismatch(written(ours, tmp_path / "ours"), written(theirs, tmp_path / "theirs")) is None


@pytest.mark.parametrize(
    ("suspicious", "trusted", "change", "words"),
    [
        (PHOTOS[0], PHOTOS[1], sixth, r"shorter sides have 4\d and 200 pixels"),
        (PHOTOS[0], PHOTOS[1], compressed, r"JPEG's blocks are 1\.[6-8] and 1\.[01] times those within"),
        (CIFAR[0], CIFAR[1], compressed, r"JPEG's blocks are 1\.[5-8] and 1\.[12] times"),
        (LOSSLESS[0], LOSSLESS[1], compressed, r"JPEG's blocks are 1\.[5-8] and 1\.[01] times"),
        (
            PHOTOS[0],
            None,
            None,
            r"shorter sides have 32 and 200 pixels, their fine detail has 0\.1\d and 0\.6\d of the",
        ),
        (CIFAR[0], None, None, r"fine detail has 0\.1\d and 0\.3\d of the power of the coarse"),
    ],
)
def test_others_are(
    shared: Path,
    tmp_path: Path,
    suspicious: str,
    trusted: str | None,
    change: Callable[[Image.Image], Image.Image] | None,
    words: str,
) -> None:
    """A sixth of the size, JPEG of quality 20, and digits."""
    theirs = numbers(0) if trusted is None else of(f"{shared}/{trusted}")
    theirs = theirs if change is None else changed(theirs, change)
    said = mismatch(written(of(f"{shared}/{suspicious}"), tmp_path / "ours"), written(theirs, tmp_path / "theirs"))
    assert said is not None and re.search(words, said), said
    assert "leave --trusted out" in one_sentence(said)


def test_images_that_tell_nothing_are_no_reason(tmp_path: Path) -> None:
    flat = written([np.full((3, 40, 40), 90, np.uint8)] * 3, tmp_path / "flat")
    assert mismatch(flat, flat) is None
    tiny = written([image[:, :8, :8] for image in numbers(0)], tmp_path / "tiny")
    assert mismatch(tiny, tiny) is None
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"no image")
    assert mismatch(flat, open_source(tmp_path / "bad")) is None


@pytest.mark.usefixtures("tiny_fast")
@pytest.mark.parametrize("fits", [True, False])
def test_the_command_tells_it_before_the_work(tmp_path: Path, command: Command, fits: bool) -> None:
    written(numbers(0), tmp_path / "suspicious")
    trusted = list(digits(1).train.images[:60])
    written(trusted if fits else changed(trusted, compressed), tmp_path / "trusted")
    words = ("--trusted", tmp_path / "trusted", "--out", tmp_path / "out", "--dry-run")
    said = command("purify", tmp_path / "suspicious", *words)
    assert said.code == 0 and ("note: trusted and suspicious images differ" in said.out) == (not fits), said
