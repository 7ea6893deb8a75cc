"""From a sparse set of trusted images to a denoiser: in memory, in a folder, in a cache that several works share."""

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import torch

from eclipse.compute.device import compute_dtype, describe_device, resolve_device, seeded
from eclipse.data.pixels import check_array, to_color
from eclipse.diffusion.checkpoint import GENERAL, fingerprint_denoiser, load_denoiser, read_config, save_denoiser
from eclipse.diffusion.denoiser import Denoiser, DenoiserConfig, build_denoiser
from eclipse.diffusion.presets import Preset, Training, get_preset
from eclipse.diffusion.training import Images, TrainStep, train
from eclipse.errors import EclipseError
from eclipse.runs.files import clear, locked, write_json
from eclipse.runs.manifest import check_same_settings, flat, read_kept, versions
from eclipse.runs.state import DENOISER, TELL_EVERY_S, State, Work

MIN_IMAGES = 50
TUNING_VISITS = 25  # of each image, where the number of steps is not asked for: 60 images lose by more (docs/log)
STARTS = ("general", "nothing")
SETTINGS = "settings.json"  # of an unfinished training, beside its state

OnStep: TypeAlias = Callable[[TrainStep], None]


@dataclass(frozen=True)
class Planned:
    """A denoiser that is to be trained: what decides its weights, but for the trusted images and the seed.

    How many images there will be is not known to all that plan one: ``on`` resolves the training for them.

    Attributes:
        preset: which its numbers are of.
        start: ``general``, from the denoiser that comes with the package, or ``nothing``, as in the paper.
        config: of the denoiser; its levels reach up to the one that it must serve.
        training: with as many iterations as asked for, or as ``on`` has found.
        minutes: a time budget in place of the iterations.
        visits: how often the training may visit an image; None for any number.
    """

    preset: Preset
    start: str
    config: DenoiserConfig
    training: Training
    minutes: float | None
    visits: int | None

    def on(self, images: int) -> "Planned":
        """The same for that many trusted images: few get fewer iterations."""
        if self.visits is None:
            return self
        enough = math.ceil(self.visits * images / self.training.batch)
        return replace(self, training=replace(self.training, iterations=min(self.training.iterations, enough)))

    def settings(self) -> dict[str, Any]:
        """All of it, as options name it."""
        return {
            "preset": self.config.preset,
            "start": self.start,
            "iterations": None if self.minutes is not None else self.training.iterations,
            "minutes": self.minutes,
            "noise levels": self.config.t_max,
        }

    def in_words(self) -> dict[str, Any]:
        """The same for people, noise levels in 8-bit levels."""
        highest = self.config.schedule.sigma(self.config.t_max - 1) * 255
        given = {name: value for name, value in self.settings().items() if value is not None}
        return {**given, "noise levels": f"up to {highest:.1f}/255"}

    def numbers(self) -> dict[str, Any]:
        """Every number of network and training, the preset's spelled out: a preset may be changed one day."""
        general = {"general": general_fingerprint()} if self.start == "general" else {}
        return {"network": asdict(self.config), "training": asdict(self.training), **general}

    def built(self) -> Denoiser:
        """The network before its training, with fresh weights or those of the general denoiser."""
        denoiser = build_denoiser(self.config)
        if self.start == "general":
            denoiser.load_state_dict(load_denoiser().state_dict())
        return denoiser


def plan_denoiser(
    preset: Preset,
    *,
    start: str | None = None,
    iterations: int | None = None,
    minutes: float | None = None,
    sigma: float | None = None,
) -> Planned:
    """Resolve a denoiser that is to be trained.

    Args:
        preset: ``fast`` or ``paper``.
        start: ``general`` or ``nothing``; by default the general denoiser where the preset and the level allow it.
        iterations: optimizer steps instead of the preset's.
        minutes: a time budget instead of a number of iterations.
        sigma: the highest noise level it must serve, on the [0, 1] scale, where that is above the preset's.

    Raises:
        EclipseError: numbers that cannot be, a start that does not fit.
    """
    highest = 0 if sigma is None else preset.denoiser.schedule.index(sigma)
    for name, value in (("iterations", iterations), ("minutes", minutes)):
        if value is not None and not value > 0:
            raise EclipseError(f"--{name} {value:g}; expected more than 0")
    if iterations is not None and minutes is not None:
        raise EclipseError(f"--iterations {iterations} and --minutes {minutes:g}; expected one of them, not both")
    config = replace(preset.denoiser, t_max=max(preset.denoiser.t_max, highest + 1))
    start = _start(preset, config, start)
    tuning = preset.tuning if start == "general" else None
    training = tuning or preset.training
    if iterations is not None:
        training = replace(training, iterations=iterations)
    visits = TUNING_VISITS if tuning and iterations is None else None
    return Planned(preset, start, config, training, minutes, visits)


def _start(preset: Preset, config: DenoiserConfig, asked: str | None) -> str:
    """Where a training starts."""
    fits = preset.tuning is not None and config == replace(read_config(GENERAL), trained={})
    if asked not in (None, *STARTS):
        raise EclipseError(f"--start {asked!r}; expected {' or '.join(STARTS)}")
    if asked == "general" and not fits:
        raise EclipseError(
            "--start general does not fit: it is of preset fast and knows no higher noise levels; use --start nothing"
        )
    return asked or ("general" if fits else "nothing")


@lru_cache(maxsize=1)
def general_fingerprint() -> str:
    """That of the denoiser that comes with the package."""
    return fingerprint_denoiser(load_denoiser())


@dataclass(frozen=True, eq=False)
class Trusted:
    """Images that were found fit to train a denoiser on: see ``check_trusted``.

    Attributes:
        images: uint8, (3, H, W) each.
        fingerprint: SHA-256 over their shapes and pixels in order.
    """

    images: Images
    fingerprint: str


def check_trusted(images: Images, config: DenoiserConfig) -> Trusted:
    """Refuse a trusted set that is too small, has other channels, or a size the denoiser does not take.

    Gray images, (1, H, W), become three equal planes. A denoiser whose package is missing takes none.
    """
    config.check_package()
    of_any_sizes = isinstance(images, list | tuple) and all(isinstance(image, np.ndarray) for image in images)
    if not of_any_sizes:
        check_array(images)
    if len(images) < MIN_IMAGES:
        raise EclipseError(
            f"{len(images)} trusted images; a denoiser needs at least {MIN_IMAGES}, "
            "and the paper uses 4% of the training set: give more images that you trust"
        )
    for i, image in enumerate(images):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[0] not in (1, 3) or 0 in image.shape:
            raise EclipseError(
                f"trusted image {i} is {image.dtype} of shape {image.shape}; expected uint8 (3, H, W), or (1, H, W)"
            )
        size = config.image_size
        if size is not None and image.shape[1:] != (size, size):
            raise EclipseError(
                f"trusted image {i} is {image.shape[1]}x{image.shape[2]}; this denoiser takes {size}x{size} "
                "only: resize the images, or use --preset fast, which takes any size"
            )
    color = to_color(images) if isinstance(images, np.ndarray) else [to_color(image) for image in images]
    return Trusted(color, fingerprint_images(color))


def fingerprint_images(images: Images) -> str:
    """SHA-256 over the shapes and pixels of images in order."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(repr(image.shape).encode())
        digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def train_denoiser(
    images: Images,
    preset: str = "fast",
    *,
    start: str | None = None,
    iterations: int | None = None,
    minutes: float | None = None,
    sigma: float | None = None,
    seed: int = 0,
    device: str = "auto",
    on_step: OnStep = lambda step: None,
) -> Denoiser:
    """Train a denoiser on trusted images, in memory; no labels are needed.

    Args:
        images: uint8, (N, 3, H, W), or a sequence of (3, H, W) of any sizes; of one plane where they are gray; at
            least 50.
        preset: ``fast`` (any size; minutes on a CPU) or ``paper`` (32x32; days on a GPU).
        start: ``general``, from the denoiser that comes with the package (the default of ``fast``), or ``nothing``.
        iterations: optimizer steps instead of the preset's.
        minutes: a time budget instead of a number of iterations; the result then depends on the machine's speed.
        sigma: the highest noise level it must serve, on the [0, 1] scale, where that is above the preset's.
        seed: decides weights, order, noise.
        device: ``auto``, ``cpu`` or ``cuda``.
        on_step: called after every optimizer step.

    Raises:
        EclipseError: too few images, wrong sizes, an unknown preset, numbers that cannot be.
    """
    planned = plan_denoiser(get_preset(preset), start=start, iterations=iterations, minutes=minutes, sigma=sigma)
    trusted = check_trusted(images, planned.config)
    return trained(planned.on(len(images)), trusted, Work(seed, resolve_device(device)), on_step)


def trained(planned: Planned, trusted: Trusted, work: Work, on_step: OnStep) -> Denoiser:
    """Train a denoiser, planned for as many images; the work's state keeps what is done."""
    training, dtype = planned.training, compute_dtype(work.device)[0]
    with seeded(work.seed, "weights"):
        denoiser = planned.built()
    for last in train(denoiser, trusted.images, training, work, dtype=dtype, minutes=planned.minutes):
        on_step(last)
    facts: dict[str, Any] = {
        **decided(planned, trusted, work.seed),
        "trusted images": len(trusted.images),
        "iterations done": last.step,
        "batch": training.batch,
        "learning rate": training.lr,
        "ema": training.ema,
        "copies": training.copies,
        "seconds": round(last.seconds, 1),
        "device": describe_device(work.device),
        "precision": str(dtype).removeprefix("torch."),
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
        "versions": versions(),
    }
    denoiser.config = replace(denoiser.config, trained=facts)
    return denoiser


def decided(planned: Planned, trusted: Trusted, seed: int) -> dict[str, Any]:
    """All that decides the weights of a denoiser, as options name it."""
    return {**planned.settings(), "seed": seed, "trusted": trusted.fingerprint}


def training_folder(folder: Path) -> Path:
    """Where an unfinished training of a denoiser for a folder keeps its state: hidden, beside it."""
    return folder.with_name(f".{folder.name}.training")


def denoiser_in(
    folder: Path, planned: Planned, trusted: Trusted, work: Work, *, on_step: OnStep, wait: bool = False
) -> Denoiser:
    """The denoiser in a folder, trained on the trusted images unless it was before; a killed training goes on.

    Args:
        folder: of the denoiser.
        planned: the denoiser, for as many images.
        trusted: the images.
        work: seed and device of the training; what is done is kept beside the folder.
        on_step: called after every optimizer step.
        wait: where another process is training it, instead of the refusal.

    Raises:
        EclipseError: a denoiser, or an unfinished training, of other settings, which are named.
    """
    if not folder.parent.is_dir():
        raise EclipseError(f"no such folder {folder.parent}; expected an existing one to write {folder.name} into")
    asked, unfinished = decided(planned, trusted, work.seed), training_folder(folder)
    with locked(unfinished, folder, wait):
        if folder.exists():
            denoiser = load_denoiser(folder)
            check_same_settings({name: denoiser.config.trained.get(name) for name in asked}, asked, folder)
        else:
            settings = flat(json.loads(json.dumps({**asked, **planned.numbers()})))
            if (unfinished / SETTINGS).exists():
                check_same_settings(read_kept(unfinished / SETTINGS), settings, unfinished)
            write_json(unfinished / SETTINGS, settings)
            denoiser = trained(planned, trusted, replace(work, state=State(unfinished)), on_step)
            save_denoiser(denoiser, folder)
        clear(unfinished)
    return denoiser


def shared_denoiser(planned: Planned, trusted: Trusted, work: Work) -> Denoiser:
    """The denoiser of several works, trained once on the trusted images of all of them.

    It lies in the folder ``shared`` of the work's state, or else in its ``folder``, in a folder named by all that
    decides its weights. A killed training goes on; where another process is at it, wait. With neither it stays in
    memory. The state is told the progress.
    """
    planned = planned.on(len(trusted.images))
    state, told = work.state, _Told(work.state, planned.training.iterations)
    place = state.shared or state.folder
    if place is None:
        return trained(planned, trusted, work, told)
    place.mkdir(parents=True, exist_ok=True)
    denoiser = denoiser_in(place / _name(planned, trusted, work), planned, trusted, work, on_step=told, wait=True)
    state.tell(DENOISER, told.total, told.total, seconds=float(cast(float, denoiser.config.trained["seconds"])))
    return denoiser


def _name(planned: Planned, trusted: Trusted, work: Work) -> str:
    """A name for what decides the weights: the images, every number of the training, and the kind of device."""
    decides = {
        **decided(planned, trusted, work.seed),
        **planned.numbers(),
        "device": torch.device(work.device).type,
    }
    text = json.dumps(decides, sort_keys=True)
    return f"{planned.config.preset}-{hashlib.sha256(text.encode()).hexdigest()[:24]}"


class _Told:
    """Tells the steps of a training, about one a second."""

    def __init__(self, state: State, total: int) -> None:
        self.state, self.total, self.last = state, total, -TELL_EVERY_S

    def __call__(self, step: TrainStep) -> None:
        if step.seconds - self.last >= TELL_EVERY_S or step.step == self.total:
            self.last = step.seconds
            self.state.tell(DENOISER, step.step, self.total, loss=step.loss)
