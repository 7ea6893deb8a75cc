"""ECLIPSE: sparse diffusion purification, grayscale and noise."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from eclipse.data.imageset import ImageSet
from eclipse.defenses.defense import Defense, need
from eclipse.defenses.dilution import Dilution
from eclipse.defenses.purifying import Purifies, general_purification, trained_purification
from eclipse.diffusion.presets import get_preset
from eclipse.errors import EclipseError
from eclipse.parameters import LEVELS, all_fields
from eclipse.purification.compensation import Compensate, check_parameters, once
from eclipse.runs.state import Work

_PARTS = ("A", "B", "C", "AB", "AC", "BC", "ABC")


@dataclass(frozen=True)
class ECLIPSE(Defense):
    """ECLIPSE (Wang et al., "Expunging Clean-label Indiscriminate Poisons via Sparse Diffusion Purification", 2024).

    ESORICS 2024, Algorithm 1. Part A noises the images to a level where poison and image are hard to tell apart, and
    denoises them with a network that was trained on a few trusted images; part B turns images gray, part C adds noise.

    Left out of the authors' code on purpose: it trains the denoiser on test images; it truncates to 8 bits, which
    darkens by half a level each time; its purified images are in another order; each training step runs the victim
    twice, which updates the statistics of BatchNorm twice.

    Attributes:
        preset: ``paper`` for every number as published, ``fast`` for a network that is trained in minutes; None in any
            of the numbers below stands for the preset's.
        parts: which of the parts A, B and C act.
        sigma: noise level of part A, as a standard deviation on the [0, 1] scale.
        steps: network evaluations an image.
        sampler: a name in ``samplers.SAMPLERS``.
        p: probability of grayscale, part B.
        noise: standard deviation of the noise of part C, on the [0, 1] scale.
        q: probability of that noise.
        iterations: training steps of the denoiser.
        compensation: ``online`` draws parts B and C anew for every batch, as the authors' code does; ``once`` writes
            them into the data, as Algorithm 1 words it.
    """

    title: ClassVar[str] = "diffusion purification, grayscale, noise"
    acts: ClassVar[str] = "data, batches"
    trusted: ClassVar[str] = "images"
    start: ClassVar[str] = "nothing"
    preset: str = "fast"
    parts: str = "ABC"
    sigma: float | None = field(default=None, metadata=LEVELS)
    steps: int | None = None
    sampler: str | None = None
    p: float | None = None
    noise: float | None = None
    q: float | None = None
    iterations: int | None = None
    compensation: str = "online"

    def __post_init__(self) -> None:
        if self.parts not in _PARTS:
            raise EclipseError(f"parts {self.parts!r} of ECLIPSE; expected some of the letters A, B, C, such as 'ABC'")
        if self.compensation not in ("online", "once"):
            raise EclipseError(f"compensation {self.compensation!r} of ECLIPSE; expected online or once")
        self._purification()
        check_parameters(*self._corruption())

    def needs(self) -> str:
        """Trusted images for part A alone."""
        return self.trusted if "A" in self.parts else "nothing"

    @property
    def package(self) -> tuple[str, str] | None:
        """What the network of part A stands on."""
        return self._purification().package if "A" in self.parts else None

    def prepare(self, data: ImageSet, trusted: ImageSet | None, work: Work) -> ImageSet:
        """Purify (part A), and write parts B and C into the data where they are to be drawn once."""
        purified = self._purified(data, trusted, work)
        if self.compensation == "online" or self.parts == "A":
            return purified
        p, noise, q = self._corruption()
        return once(purified, p=p, noise=noise, q=q, seed=work.seed)

    def settings(self) -> dict[str, Any]:
        """All fields, with the preset's numbers in place of None."""
        purifies = self._purification().settings() if "A" in self.parts else {}
        return {**all_fields(self), **purifies, **dict(zip(("p", "noise", "q"), self._corruption(), strict=True))}

    def preparation(self) -> Mapping[str, Any] | None:
        """The numbers of part A, and of the others where they are written into the data."""
        written = self.compensation == "once" and self.parts != "A"
        if not written and "A" not in self.parts:
            return None
        purifies = self._purification().settings() if "A" in self.parts else None
        return {"defense": "ECLIPSE", "purification": purifies, "once": self._corruption() if written else None}

    def augment(self, x: Tensor, y: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """Parts B and C of a batch, where they are to be drawn anew each time."""
        if self.compensation == "once" or self.parts == "A":
            return x, y
        compensate = Compensate(*self._corruption())
        return compensate(x), y

    def cost(self) -> float:
        """With the training of the denoiser, by operations, for a ResNet-18, 80 epochs and 50,000 32x32 images."""
        return 1.0 + (self._purification().cost() if "A" in self.parts else 0.0)

    def _purified(self, data: ImageSet, trusted: ImageSet | None, work: Work) -> ImageSet:
        if "A" not in self.parts:
            return data
        if self.needs() != "nothing":
            need(trusted, "ECLIPSE", "a few images")
        return self._purification().purify(data, trusted, work)

    def _purification(self) -> Purifies:
        return trained_purification(self.preset, self.iterations, start=self.start, **self._numbers())

    def _numbers(self) -> dict[str, Any]:
        return {"sigma": self.sigma, "steps": self.steps, "sampler": self.sampler}

    def _corruption(self) -> tuple[float, float, float]:
        """Probability of grayscale, noise and its probability, for ``Compensate``; 0 for what is switched off."""
        given = {name: value for name in ("p", "noise", "q") if (value := getattr(self, name)) is not None}
        chosen = replace(get_preset(self.preset), **given)
        return chosen.p if "B" in self.parts else 0.0, chosen.noise if "C" in self.parts else 0.0, chosen.q


@dataclass(frozen=True)
class ECLIPSETuned(ECLIPSE):
    """ECLIPSE with the general denoiser of this package, fine-tuned on the trusted images.

    What ``eclipse purify IMAGES --trusted CLEAN`` does. Not in the paper, whose denoiser has seen the trusted images
    alone.
    """

    title: ClassVar[str] = "ECLIPSE, a general denoiser fine-tuned"
    start: ClassVar[str] = "general"


@dataclass(frozen=True)
class ECLIPSEGeneral(ECLIPSE):
    """ECLIPSE with the general denoiser of this package, and no clean data at all.

    What ``eclipse purify IMAGES`` does. Not in the paper.
    """

    title: ClassVar[str] = "ECLIPSE, a general denoiser, no trusted images"
    trusted: ClassVar[str] = "nothing"

    def _purification(self) -> Purifies:
        return general_purification(self.preset, **self._numbers())


@dataclass(frozen=True)
class ECLIPSEWithTrusted(ECLIPSE):
    """ECLIPSE, and the trusted images, which need labels here, are trained on, too.

    Not in the paper: whoever holds labelled clean images can train on them (``dilution`` does only that), so that
    ECLIPSE has to be worth more than they are.
    """

    title: ClassVar[str] = "ECLIPSE, trusted images added, so more steps"
    trusted: ClassVar[str] = "labelled images"

    def needs(self) -> str:
        """Labelled images, whatever the parts."""
        return self.trusted

    def preparation(self) -> Mapping[str, Any] | None:
        """What decides the images that the trusted ones are appended to."""
        return {"defense": "ECLIPSEWithTrusted", "before": super().preparation()}

    def _purified(self, data: ImageSet, trusted: ImageSet | None, work: Work) -> ImageSet:
        both = Dilution().prepare(
            data, trusted, work
        )  # first, since it refuses trusted images that do not fit the others
        purified = super()._purified(data, trusted, work)
        return both.with_images(np.concatenate([purified.images, both.images[len(data) :]]))
