"""The canary: what it measures of a denoiser on images, and when it warns."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kit.tiny import some_images

from eclipse.data.imageset import ImageSet
from eclipse.data.source import open_source
from eclipse.diffusion.checkpoint import load_denoiser
from eclipse.diffusion.presets import FAST
from eclipse.diffusion.trusted import train_denoiser
from eclipse.jobs.canary import PERTURBATIONS, SIDE, Canary, measure, sample
from eclipse.jobs.demo import digits
from eclipse.purification.algorithm import purification

HOW = purification(FAST, FAST.denoiser)
SET = "data/cifar10/test.parquet[:400]"


@pytest.mark.parametrize("count", [1, 24])
def test_images_that_are_all_alike_are_measured(count: int) -> None:
    images = ImageSet.from_arrays(np.full((count, 3, 8, 8), 90, np.uint8), np.arange(count) % 8)
    assert all(np.isfinite(share) for share in measure(load_denoiser(), HOW, images, "cpu").left.values())


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_every_perturbation_is_there_and_within_the_published_strength(name: str) -> None:
    images = ImageSet.from_arrays(some_images(8, 32, 32), np.arange(8))
    change = PERTURBATIONS[name](images).images.astype(float) - images.images
    assert (change != 0).any(axis=(1, 2, 3)).all()
    assert np.sqrt((change**2).mean(axis=(1, 2, 3))).max() <= 8.5


def test_the_general_denoiser_takes_most_of_it_away(shared: Path) -> None:
    images = sample(open_source(shared / SET), None)
    assert images is not None
    found = measure(load_denoiser(), HOW, images, "cpu")
    assert found.gain is None and found.warning() is None
    assert 24 < found.psnr < 32 and found.left["AR"] < 0.4 < found.left["LSP"] < 1
    assert found.gray["LSP"] < 0.6 * found.left["LSP"]


def test_a_denoiser_of_one_step_is_warned_of(shared: Path) -> None:
    images = sample(open_source(shared / SET), None)
    assert images is not None
    found = measure(train_denoiser(some_images(50, 32, 32), start="nothing", iterations=1), HOW, images, "cpu")
    assert min(found.left.values()) > 0.9
    assert "dB worse than from the general denoiser" in (found.warning() or "")


@pytest.mark.slow
def test_sixty_trusted_images_are_praised_or_warned_of_as_they_fit(shared: Path) -> None:
    images = sample(open_source(shared / SET), None)
    assert images is not None
    fitting = np.stack([row.picture().rgb for row in open_source(f"{shared}/data/cifar10/train.parquet[:60]").rows()])
    for trusted, fits in ((fitting, True), (digits(0).train.images[:60], False)):
        found = measure(train_denoiser(trusted), HOW, images, "cpu")
        assert found.gain is not None and (found.gain > 0, found.warning() is None) == (fits, fits), found


def test_a_warning_is_certain_and_allows_for_a_training_from_nothing() -> None:
    found = Canary({}, 27.0, gain=-0.2, error=0.05, tuned=True)
    assert found.warning()
    for quiet in (replace(found, error=0.15), replace(found, gain=0.1), replace(found, tuned=False)):
        assert quiet.warning() is None


def test_images_come_from_all_over_the_set_and_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "x.npz", images=np.arange(100, dtype=np.uint8)[:, None, None, None] * np.ones((8, 8, 3), np.uint8)
    )
    images = sample(open_source(tmp_path / "x.npz"), None)
    assert images is not None and images.images.shape == (24, 3, 8, 8)
    assert np.ptp(images.images[:, 0, 0, 0]) > 60


def test_crops_of_photographs_have_one_size(shared: Path) -> None:
    images = sample(open_source(shared / "data" / "photos" / "photos.parquet"), None)
    assert images is not None and images.images.shape == (24, 3, SIDE, SIDE)
    assert sample(open_source(shared / "data" / "photos" / "photos.parquet"), 32).images.shape[2:] == (32, 32)
