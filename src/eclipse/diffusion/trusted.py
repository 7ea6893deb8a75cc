"""From a sparse set of trusted images to a denoiser, in memory or kept in a folder."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from eclipse.compute.device import compute_dtype, describe_device, resolve_device, seeded
from eclipse.diffusion.checkpoint import load_denoiser, save_denoiser
from eclipse.diffusion.denoiser import Denoiser, build_denoiser
from eclipse.diffusion.presets import Preset, Training, get_preset
from eclipse.diffusion.training import Images, TrainStep, check_trusted, fingerprint_images, train
from eclipse.errors import EclipseError
from eclipse.runs.manifest import check_same_settings, versions


def train_denoiser(
    images: Images,
    preset: str = "fast",
    *,
    iterations: int | None = None,
    minutes: float | None = None,
    sigma: float | None = None,
    seed: int = 0,
    device: str = "auto",
    state: Path | None = None,
    on_step: Callable[[TrainStep], None] = lambda step: None,
) -> Denoiser:
    """Train a denoiser on trusted images; no labels are needed.

    Args:
        images: uint8, (N, 3, H, W), or a sequence of (3, H, W) of any sizes; at least 50.
        preset: ``fast`` (any size; minutes on a CPU) or ``paper`` (32x32; days on a GPU).
        iterations: optimizer steps instead of the preset's.
        minutes: a time budget instead of a number of iterations; the result then depends on the machine's speed.
        sigma: the highest noise level it must serve, on the [0, 1] scale, where that is above the preset's.
        seed: decides weights, order, noise.
        device: ``auto``, ``cpu`` or ``cuda``.
        state: a file to resume from and to save to every half minute; delete it when the denoiser is saved.
        on_step: called after every optimizer step.

    Raises:
        EclipseError: too few images, wrong sizes, an unknown preset, a state made with other settings.
    """
    chosen, where = get_preset(preset), resolve_device(device)
    config = replace(chosen.denoiser, t_max=levels(chosen, sigma))
    check_trusted(images, config)
    training = _training(chosen, iterations, minutes)
    with seeded(seed, "weights"):
        denoiser = build_denoiser(config)
    for last in train(denoiser, images, training, seed=seed, device=where, minutes=minutes, state=state):
        on_step(last)
    facts: dict[str, Any] = {
        **settings(images, preset, iterations, minutes, sigma, seed),
        "trusted images": len(images),
        "iterations done": last.step,
        "batch": training.batch,
        "learning rate": training.lr,
        "ema": training.ema,
        "copies": training.copies,
        "seconds": round(last.seconds, 1),
        "device": describe_device(where),
        "precision": str(compute_dtype(where)[0]).removeprefix("torch."),
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
        "versions": versions(),
    }
    denoiser.config = replace(denoiser.config, trained=facts)
    return denoiser


def settings(
    images: Images,
    preset: str,
    iterations: int | None,
    minutes: float | None,
    sigma: float | None,
    seed: int,
) -> dict[str, Any]:
    """What decides the weights of a denoiser, as options name it."""
    training = _training(get_preset(preset), iterations, minutes)
    return {
        "preset": preset,
        "iterations": None if minutes is not None else training.iterations,
        "minutes": minutes,
        "noise levels": levels(get_preset(preset), sigma),
        "seed": seed,
        "trusted": fingerprint_images(images),
    }


def train_into(
    folder: Path,
    images: Images,
    preset: str,
    *,
    iterations: int | None,
    minutes: float | None,
    sigma: float | None,
    seed: int,
    device: str,
    on_step: Callable[[TrainStep], None],
) -> Denoiser:
    """Train a denoiser and keep it in a folder; go on with an interrupted training, re-use a finished one.

    Raises:
        EclipseError: the folder holds a denoiser made with other settings, which are named.
    """
    asked = settings(images, preset, iterations, minutes, sigma, seed)
    if folder.exists():
        kept = load_denoiser(folder)
        check_same_settings({name: kept.config.trained.get(name) for name in asked}, asked, folder)
        return kept
    if not folder.parent.is_dir():
        raise EclipseError(f"no such folder {folder.parent}; expected an existing one to write {folder.name} into")
    state = folder.with_name(f".{folder.name}.training")
    denoiser = train_denoiser(
        images,
        preset,
        iterations=iterations,
        minutes=minutes,
        sigma=sigma,
        seed=seed,
        device=device,
        state=state,
        on_step=on_step,
    )
    save_denoiser(denoiser, folder)
    state.unlink(missing_ok=True)
    return denoiser


def _training(preset: Preset, iterations: int | None, minutes: float | None) -> Training:
    for name, value in (("iterations", iterations), ("minutes", minutes)):
        if value is not None and not value > 0:
            raise EclipseError(f"--{name} {value:g}; expected more than 0")
    if iterations is not None and minutes is not None:
        raise EclipseError(f"--iterations {iterations} and --minutes {minutes:g}; expected one of them, not both")
    return preset.training if iterations is None else replace(preset.training, iterations=iterations)


def levels(preset: Preset, sigma: float | None) -> int:
    """How many indices to train on: the preset's, or more where a higher level is asked for."""
    asked = 0 if sigma is None else preset.denoiser.schedule.index(sigma) + 1
    return max(preset.denoiser.t_max, asked)
