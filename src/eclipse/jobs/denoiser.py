"""``eclipse denoiser train``: from trusted images to a denoiser in a folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from eclipse.compute.device import describe_device, resolve_device
from eclipse.data.source import load_pictures, open_source
from eclipse.data.store import Source
from eclipse.diffusion.checkpoint import fingerprint_denoiser, load_denoiser, write_denoiser
from eclipse.diffusion.denoiser import describe
from eclipse.diffusion.presets import get_preset
from eclipse.diffusion.trusted import Planned, Trusted, check_trusted, decided, plan_denoiser, trained
from eclipse.jobs.cost import training_cost
from eclipse.jobs.job import Job, Tell
from eclipse.runs.files import check_name
from eclipse.runs.manifest import run_json, to_copy
from eclipse.runs.state import State, Work


@dataclass(frozen=True, eq=False)
class TrainDenoiser(Job):
    """The training of a denoiser, resolved.

    Attributes:
        source: the trusted images, and
        trusted: these in memory, checked.
        out: the folder of the denoiser.
        planned: the denoiser.
        seed: decides weights, order and noise.
        device: where to train.
    """

    source: Source
    trusted: Trusted
    out: Path
    planned: Planned
    seed: int
    device: str

    doing: ClassVar[str] = "training"
    free: ClassVar[frozenset[str]] = frozenset({"clean", "device"})

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """What decides the weights."""
        return {
            "clean": self.source.spec,
            "images": len(self.trusted.images),
            **decided(self.planned, self.trusted, self.seed),
            "device": describe_device(self.device),
        }

    def in_words(self) -> Mapping[str, Any]:
        """What to tell the user before work starts."""
        return {
            "trusted images": f"{self.source.spec}, {len(self.trusted.images):,} images",
            **self.planned.in_words(),
            "seed": self.seed,
            "device": describe_device(self.device),
        }

    @property
    def inputs(self) -> Mapping[str, str]:
        """None beside the pixels, whose fingerprint is among the settings."""
        return {}

    def estimate(self) -> Mapping[str, Any]:
        """The minutes of the training."""
        return {"training": training_cost(self.planned, self.trusted.images, self.device)}

    def work(self, state: State, tell: Tell, place: Path) -> dict[str, Any]:
        """Train."""
        denoiser = trained(self.planned, self.trusted, Work(self.seed, self.device, state), tell)
        write_denoiser(denoiser, place)
        return {"denoiser": {"fingerprint": fingerprint_denoiser(denoiser), "trained": dict(denoiser.config.trained)}}

    def closing(self, outcome: Mapping[str, Any]) -> Mapping[str, Any]:
        """What was made, and what to do with it."""
        return {
            **describe(load_denoiser(self.out)),
            "manifest": run_json(self.out),
            "next": to_copy("eclipse", "purify", "IMAGES", "--denoiser", self.out, "--out", "PURIFIED"),
        }


def denoiser_job(
    clean: str,
    out: Path,
    *,
    preset: str = "fast",
    start: str | None = None,
    iterations: int | None = None,
    minutes: float | None = None,
    sigma: float | None = None,
    seed: int = 0,
    device: str = "auto",
    image_column: str | None = None,
    max_side: int | None = None,
) -> TrainDenoiser:
    """Resolve a training as its user asks for it, ``sigma`` in 8-bit levels, and refuse what cannot work."""
    check_name(out)
    where, level = resolve_device(device), None if sigma is None else sigma / 255
    planned = plan_denoiser(get_preset(preset), start=start, iterations=iterations, minutes=minutes, sigma=level)
    source = open_source(clean, image_column=image_column, longest=max_side)
    trusted = check_trusted(load_pictures(source), planned.config)
    return TrainDenoiser(source, trusted, out, planned.on(len(source)), seed, where)
