"""The denoiser that comes with the package, and trainings that start from it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from kit.commands import write_images
from kit.tiny import CONFIG

import eclipse
from eclipse.diffusion.checkpoint import GENERAL, WEIGHTS, load_denoiser
from eclipse.diffusion.presets import FAST, PAPER, PRESETS
from eclipse.diffusion.trusted import general_fingerprint, plan_denoiser, train_denoiser
from eclipse.errors import EclipseError
from eclipse.jobs.denoiser import denoiser_job
from eclipse.jobs.purify import purify_job


def smooth(count: int, side: int, seed: int = 0) -> np.ndarray:
    """Images (count, 3, side, side) of soft shapes, as photographs have them, of no data set."""
    coarse = torch.from_numpy(np.random.default_rng(seed).uniform(40, 215, (count, 3, 5, 5)).astype(np.float32))
    return torch.nn.functional.interpolate(coarse, side, mode="bicubic").clamp(0, 255).byte().numpy()


def test_it_is_small_and_fits_the_preset() -> None:
    assert (GENERAL / WEIGHTS).stat().st_size < 5_000_000
    assert (GENERAL / "README.md").is_file()
    assert replace(load_denoiser().config, trained={}) == FAST.denoiser


@pytest.mark.parametrize("side", [32, 96])
def test_it_takes_most_of_the_noise_away_at_any_size(side: int) -> None:
    clean = smooth(4, side)
    left = eclipse.purify(clean).astype(float) - clean
    assert np.sqrt((left**2).mean()) < FAST.sigma * 255 / 2


def test_what_a_training_starts_from_is_told_and_changes_the_weights() -> None:
    images = smooth(50, 16)
    general, nothing = (train_denoiser(images, start=start, iterations=1) for start in ("general", "nothing"))
    assert general.config.trained["start"] == "general"
    assert nothing.config.trained["start"] == "nothing"
    before, after, fresh = (x.state_dict() for x in (load_denoiser(), general, nothing))
    assert all(torch.allclose(after[name], before[name], atol=1e-3) for name in before)
    assert not all(torch.allclose(fresh[name], before[name], atol=1e-2) for name in before)


def test_general_is_the_default_where_it_fits() -> None:
    tuned, cold = plan_denoiser(FAST), plan_denoiser(FAST, start="nothing")
    assert (tuned.start, tuned.training) == ("general", FAST.tuning)
    assert (cold.start, cold.training) == ("nothing", FAST.training)
    assert [tuned.on(images).training.iterations for images in (64, 10_000)] == [100, FAST.tuning.iterations]
    assert cold.on(64) == cold
    assert plan_denoiser(FAST, iterations=7).on(50).training.iterations == 7
    assert tuned.numbers()["general"] == general_fingerprint()
    assert plan_denoiser(FAST, iterations=7).training == replace(tuned.training, iterations=7)
    assert plan_denoiser(PAPER).start == plan_denoiser(FAST, sigma=60 / 255).start == "nothing"
    assert plan_denoiser(replace(FAST, denoiser=CONFIG)).start == "nothing"


def test_a_job_tells_how_many_steps_few_trusted_images_get(tmp_path: Path) -> None:
    images, trusted = (str(write_images(tmp_path / name, count)) for name, count in (("images", 4), ("trusted", 64)))
    for given, iterations in ((None, 100), (7, 7)):
        purification = purify_job(images, tmp_path / "out", trusted=trusted, iterations=given)
        training = denoiser_job(trusted, tmp_path / "denoiser", iterations=given)
        for told in (purification.settings["training"], purification.in_words()["training"]):
            assert told["iterations"] == iterations
        assert training.settings["iterations"] == training.in_words()["iterations"] == iterations


@pytest.mark.parametrize(
    ("preset", "start", "sigma"), [("paper", "general", None), ("fast", "general", 60 / 255), ("fast", "cold", None)]
)
def test_a_start_that_cannot_be_is_refused(preset: str, start: str, sigma: float | None) -> None:
    with pytest.raises(EclipseError, match=r"--start.*nothing"):
        plan_denoiser(PRESETS[preset], start=start, sigma=sigma)
