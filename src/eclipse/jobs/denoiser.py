"""``eclipse denoiser train``: from trusted images to a denoiser in a folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from eclipse.compute.device import describe_device, resolve_device
from eclipse.data.picture import Pixels
from eclipse.data.source import load_pictures, open_source
from eclipse.data.store import Source
from eclipse.diffusion.checkpoint import fingerprint_denoiser, write_denoiser
from eclipse.diffusion.denoiser import describe
from eclipse.diffusion.presets import get_preset
from eclipse.diffusion.training import check_trusted
from eclipse.diffusion.trusted import settings as training_settings
from eclipse.diffusion.trusted import train_denoiser
from eclipse.errors import EclipseError
from eclipse.jobs.job import Job, Tell
from eclipse.runs.files import check_name
from eclipse.runs.manifest import run_json
from eclipse.runs.state import State


@dataclass(frozen=True, eq=False)
class TrainDenoiser(Job):
    """The training of a denoiser, resolved.

    Attributes:
        source: the trusted images, and
        images: these in memory.
        out: the folder of the denoiser.
        preset: of the training.
        iterations: training steps; None for the preset's, or with
        minutes: a time budget.
        sigma: the highest noise level that it must serve, on the [0, 1] scale; None for the preset's.
        seed: decides weights, order and noise.
        device: where to train.
    """

    source: Source
    images: list[Pixels]
    out: Path
    preset: str
    iterations: int | None
    minutes: float | None
    sigma: float | None
    seed: int
    device: str

    doing: ClassVar[str] = "training"
    free: ClassVar[frozenset[str]] = frozenset({"clean", "device"})

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """What decides the weights."""
        decides = training_settings(self.images, self.preset, self.iterations, self.minutes, self.sigma, self.seed)
        return {
            "clean": self.source.spec,
            "images": len(self.images),
            **decides,
            "device": describe_device(self.device),
        }

    @property
    def inputs(self) -> Mapping[str, str]:
        """None beside the pixels, whose fingerprint is among the settings."""
        return {}

    def check_place(self) -> None:
        """Refuse a place that is taken, or where no folder can be made."""
        if self.out.exists():
            raise EclipseError(f"{self.out} exists; choose another output")
        if not self.out.parent.is_dir():
            raise EclipseError(
                f"no such folder {self.out.parent}; expected an existing one to write {self.out.name} into"
            )

    def work(self, state: State, tell: Tell, place: Path) -> dict[str, Any]:
        """Train."""
        assert state.folder is not None
        denoiser = train_denoiser(
            self.images,
            self.preset,
            iterations=self.iterations,
            minutes=self.minutes,
            sigma=self.sigma,
            seed=self.seed,
            device=self.device,
            state=state.folder / "training.safetensors",
            on_step=tell,
        )
        write_denoiser(denoiser, place)
        return {"denoiser": {"fingerprint": fingerprint_denoiser(denoiser)}, "described": dict(describe(denoiser))}

    def closing(self, outcome: Mapping[str, Any]) -> Mapping[str, Any]:
        """What was made, and what to do with it."""
        return {
            **outcome["described"],
            "manifest": run_json(self.out),
            "use it": f"eclipse purify IMAGES --denoiser {self.out} --out PURIFIED",
        }


def denoiser_job(
    clean: str,
    out: Path,
    *,
    preset: str = "fast",
    iterations: int | None = None,
    minutes: float | None = None,
    sigma: float | None = None,
    seed: int = 0,
    device: str = "auto",
    image_column: str | None = None,
) -> TrainDenoiser:
    """Resolve a training as its user asks for it, ``sigma`` in 8-bit levels, and refuse what cannot work."""
    check_name(out)
    where, config = resolve_device(device), get_preset(preset).denoiser
    source = open_source(clean, image_column=image_column)
    images = load_pictures(source)
    check_trusted(images, config)
    level = None if sigma is None else sigma / 255
    return TrainDenoiser(source, images, out, preset, iterations, minutes, level, seed, where)
