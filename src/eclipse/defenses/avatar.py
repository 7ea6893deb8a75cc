"""AVATAR: diffusion purification at a high noise level."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from eclipse.data.imageset import ImageSet
from eclipse.defenses.defense import Defense, need
from eclipse.defenses.purifying import TrainedPurification, trained_purification
from eclipse.diffusion.checkpoint import fingerprint_denoiser, load_denoiser
from eclipse.diffusion.presets import preset_of
from eclipse.diffusion.schedule import NoiseSchedule
from eclipse.parameters import LEVELS, all_fields
from eclipse.purification.algorithm import purification
from eclipse.purification.arrays import purify_set
from eclipse.runs.state import Work


@dataclass(frozen=True)
class AVATAR(Defense):
    """AVATAR (Dolatabadi et al., SaTML 2024).

    "The Devil's Advocate: Shattering the Illusion of Unexploitable Data using Diffusion Models".

    Images are noised to step 100 of 1,000 of the linear schedule, where the noise is 40.9/255, and brought back in 100
    steps by a diffusion model of the full clean distribution. The authors integrate the reverse SDE of a continuous
    model of 105 million parameters by Euler's method; here the same noise level is reached and left in the discrete
    form, ancestral sampling, by one of our denoisers.

    Left out of the authors' code on purpose: it does not clip before it casts to 8 bits, so that what is brighter than
    white wraps around to black, and it truncates; ours clips and rounds. Its default is step 400, while the paper and
    the released data have 100.

    Attributes:
        sigma: noise level, as a standard deviation on the [0, 1] scale.
        steps: network evaluations an image.
        sampler: a name in ``samplers.SAMPLERS``.
        denoiser: a folder with a denoiser of clean images; None to train one on the trusted images.
        preset: of a denoiser to be trained, ``fast`` or ``paper``.
        iterations: its training steps; None for the preset's.
    """

    title: ClassVar[str] = "diffusion purification with a model of clean data"
    acts: ClassVar[str] = "data"
    trusted: ClassVar[str] = "a clean set"
    small: ClassVar[Mapping[str, Any]] = {"preset": "fast", "steps": 10}
    sigma: float = field(default=NoiseSchedule("linear", 1000).sigma(99), metadata=LEVELS)
    steps: int = 100
    sampler: str = "ancestral"
    denoiser: str | None = None
    preset: str = "paper"
    iterations: int | None = None

    def __post_init__(self) -> None:
        self._trained()

    def needs(self) -> str:
        """A clean set, to train a denoiser where none is given."""
        return self.trusted if self.denoiser is None else "nothing"

    @property
    def package(self) -> tuple[str, str] | None:
        """What the network to be trained stands on."""
        return self._trained().package if self.denoiser is None else None

    def prepare(self, data: ImageSet, trusted: ImageSet | None, work: Work) -> ImageSet:
        """Purify the images with the given denoiser, or with one of the trusted images."""
        if self.denoiser is None:
            clean = need(trusted, "AVATAR", "a clean set")
            return self._trained().purify(data, clean, work)
        given = load_denoiser(Path(self.denoiser))
        how = purification(preset_of(given.config), given.config, **self._numbers())
        return purify_set(data, given, how, work)

    def settings(self) -> dict[str, Any]:
        """All fields, with the preset's numbers where a denoiser is trained, or the fingerprint of the given one."""
        if self.denoiser is not None:
            given = load_denoiser(Path(self.denoiser))
            return {**all_fields(self), "denoiser": fingerprint_denoiser(given)}
        return {**all_fields(self), **self._trained().settings()}

    def cost(self) -> float:
        """With the training of the denoiser, by operations, for a ResNet-18, 80 epochs and 50,000 32x32 images."""
        return 1.0 + self._trained().cost()

    def _trained(self) -> TrainedPurification:
        return trained_purification(self.preset, self.iterations, **self._numbers())

    def _numbers(self) -> dict[str, Any]:
        return {"sigma": self.sigma, "steps": self.steps, "sampler": self.sampler}
