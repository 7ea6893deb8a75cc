"""What the defenses that purify by diffusion share: a denoiser, of trusted images or the general one, and its work."""

from dataclasses import dataclass, replace
from typing import Any, Protocol

from eclipse.compute.device import resolve_device
from eclipse.data.imageset import ImageSet
from eclipse.diffusion.checkpoint import GENERAL, load_denoiser, read_config
from eclipse.diffusion.denoiser import PACKAGES
from eclipse.diffusion.presets import get_preset
from eclipse.diffusion.trusted import Planned, check_trusted, general_fingerprint, plan_denoiser, shared_denoiser
from eclipse.errors import EclipseError
from eclipse.purification.algorithm import Purification, purification
from eclipse.purification.arrays import check_images, purify_set
from eclipse.runs.state import Work

_GFLOP = {"unet": 16.3, "compact": 0.21}  # of one pass of one 32x32 image, a multiply-add counted as two
_VICTIM_GFLOP = 3 * 1.11 * 80 * 50_000  # ResNet-18, 80 epochs of 50,000 such images, forward and backward


class Purifies(Protocol):
    """A denoiser, and how to purify with it."""

    def purify(self, data: ImageSet, trusted: ImageSet | None, work: Work) -> ImageSet:
        """Purify; images that the denoiser does not take are refused before any training."""
        ...

    def settings(self) -> dict[str, Any]:
        """All that decides the result."""
        ...

    @property
    def package(self) -> tuple[str, str] | None:
        """What the network stands on beside torch, and the extra that installs it."""
        ...

    def cost(self) -> float:
        """Operations of training and of purifying 50,000 images, per those of training a ResNet-18 for 80 epochs."""
        ...


@dataclass(frozen=True)
class GeneralPurification:
    """The general denoiser as it comes with the package.

    Attributes:
        how: noise level, steps and sampler.
    """

    how: Purification
    package = None

    def purify(self, data: ImageSet, trusted: ImageSet | None, work: Work) -> ImageSet:
        """Purify; trusted images have no part in it."""
        return purify_set(data, load_denoiser(), self.how, replace(work, device=resolve_device(work.device)))

    def settings(self) -> dict[str, Any]:
        """The numbers of the purification, and which denoiser it is."""
        return {**self.how.numbers(), "general": general_fingerprint()}

    def cost(self) -> float:
        """Of the purification alone."""
        return _GFLOP["compact"] * 50_000 * self.how.steps / _VICTIM_GFLOP


@dataclass(frozen=True)
class TrainedPurification:
    """A denoiser to be trained on trusted images, and how to purify with it.

    Attributes:
        planned: the denoiser.
        how: noise level, steps and sampler.
    """

    planned: Planned
    how: Purification

    def purify(self, data: ImageSet, trusted: ImageSet | None, work: Work) -> ImageSet:
        """Train the denoiser, or load it, and purify; images that it does not take are refused before its training."""
        assert trusted is not None  # which the defense has asked for under its name
        check_images(data, self.planned.config)
        work = replace(work, device=resolve_device(work.device))
        denoiser = shared_denoiser(self.planned, check_trusted(trusted.images, self.planned.config), work)
        return purify_set(data, denoiser, self.how, work)

    def settings(self) -> dict[str, Any]:
        """Every number of training and purification."""
        return {**self.how.numbers(), **self.planned.numbers()}

    @property
    def package(self) -> tuple[str, str] | None:
        """What the network stands on beside torch, and the extra that installs it."""
        return PACKAGES.get(self.planned.config.architecture)

    def cost(self) -> float:
        """Operations of training and of purifying 50,000 images, per those of training a ResNet-18 for 80 epochs."""
        visits = 3 * self.planned.training.batch * self.planned.training.iterations
        return _GFLOP[self.planned.config.architecture] * (visits + 50_000 * self.how.steps) / _VICTIM_GFLOP


def trained_purification(
    preset: str,
    iterations: int | None,
    *,
    start: str = "nothing",
    sigma: float | None = None,
    steps: int | None = None,
    sampler: str | None = None,
) -> TrainedPurification:
    """Resolve the purification of a preset with a denoiser of its own, with some of its numbers replaced.

    Raises:
        EclipseError: a preset, noise level, or number that cannot be.
    """
    chosen = get_preset(preset)
    planned = plan_denoiser(chosen, start=start, iterations=iterations, sigma=sigma)
    return TrainedPurification(planned, purification(chosen, planned.config, sigma=sigma, steps=steps, sampler=sampler))


def general_purification(preset: str, **numbers: Any) -> GeneralPurification:
    """Resolve the purification of a preset with the general denoiser, ``numbers`` as for ``trained_purification``.

    Raises:
        EclipseError: a preset that is not the denoiser's, or a noise level or number that cannot be.
    """
    config, chosen = read_config(GENERAL), get_preset(preset)
    if chosen.denoiser.preset != config.preset:
        raise EclipseError(f"preset {preset!r}; expected {config.preset!r}, of which the general denoiser is")
    return GeneralPurification(purification(chosen, config, **numbers))
