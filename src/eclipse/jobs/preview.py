"""``eclipse preview``: a few images of a data set at each of several noise levels, before the whole set is purified."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from eclipse.data.picture import Pixels, middle
from eclipse.data.store import Source
from eclipse.diffusion.denoiser import Denoiser
from eclipse.diffusion.presets import preset_of
from eclipse.errors import EclipseError
from eclipse.jobs.canary import Canary, measure, sample
from eclipse.jobs.cost import purification_cost
from eclipse.jobs.job import Tell
from eclipse.purification.algorithm import Purification, purification
from eclipse.purification.arrays import purify
from eclipse.purification.stream import Treatment
from eclipse.runs.state import StageStep

LEVELS = (6.4, 12.0, 21.6, 32.0)
"""In 8-bit levels: the paper's, what keeps the texture of photographs, and the default of preset ``fast``."""
IMAGES = 24
SIDE = 256  # of the piece from the middle that is purified of a larger image


@dataclass(frozen=True, eq=False)
class Level:
    """What a noise level does.

    Attributes:
        sigma: in 8-bit levels.
        images: purified, in the order of the preview's, each uint8 (3, H, W).
        canary: what it leaves; None where no image is large enough for it.
        cost: what the whole set will take, in words.
    """

    sigma: float
    images: tuple[Pixels, ...]
    canary: Canary | None
    cost: str


@dataclass(frozen=True, eq=False)
class Preview:
    """Images of a data set, as they are and at each level.

    Attributes:
        total: images of the data set.
        ids: of the images.
        images: as they are, each uint8 (3, H, W); a piece from the middle of a large one.
        levels: rising.
        default: the level of the denoiser's preset, in 8-bit levels.
        max_side: that larger images were reduced to; None for images as they are.
    """

    total: int
    ids: tuple[str, ...]
    images: tuple[Pixels, ...]
    levels: tuple[Level, ...]
    default: float
    max_side: int | None = None


def preview(source: Source, denoiser: Denoiser, device: str, tell: Tell = lambda event: None) -> Preview:
    """Purify a few images of a data set at each level, and measure what it leaves and costs.

    Raises:
        EclipseError: none of the images can be read, or the denoiser does not take them or serves none of the levels.
    """
    taken = dict(_images(source, denoiser.config.image_size))
    if not taken:
        raise EclipseError(f"none of {IMAGES} images of {source.spec} can be read; expected some: mend or remove them")
    ids, images = tuple(taken), tuple(taken.values())
    hows = _served(denoiser)
    for_canary, costs, levels = sample(source, denoiser.config.image_size), dict[int, str](), list[Level]()
    for how in hows:
        if how.steps not in costs:
            costs[how.steps] = purification_cost(source, denoiser, Treatment(how, 0, device)) or ""
        canary = None if for_canary is None else measure(denoiser, how, for_canary, device)
        levels.append(
            Level(round(how.sigma * 255, 3), _purified(images, ids, denoiser, how, device), canary, costs[how.steps])
        )
        tell(StageStep("preview", len(levels), len(hows)))
    default = preset_of(denoiser.config).sigma * 255
    return Preview(len(source), ids, images, tuple(levels), round(default, 3), source.longest)


def _images(source: Source, size: int | None) -> Iterator[tuple[str, Pixels]]:
    """Images spread over the set, those left out that cannot be read."""
    for place in np.unique(np.linspace(0, len(source) - 1, IMAGES).round().astype(int)).tolist():
        with suppress(EclipseError):
            row = next(source.rows(place))
            yield row.id, middle(row.picture().rgb, SIDE if size is None else max(size, SIDE))


def _served(denoiser: Denoiser) -> list[Purification]:
    """The purification of each level that a denoiser serves."""
    preset, found = preset_of(denoiser.config), list[Purification]()
    for sigma in LEVELS:
        with suppress(EclipseError):
            found.append(purification(preset, denoiser.config, sigma=sigma / 255))
    return found or [purification(preset, denoiser.config)]


def _purified(
    images: Sequence[Pixels], ids: Sequence[str], denoiser: Denoiser, how: Purification, device: str
) -> tuple[Pixels, ...]:
    """All images, those of one size together."""
    found = dict[int, Pixels]()
    for shape in dict.fromkeys(image.shape for image in images):
        rows = [i for i, image in enumerate(images) if image.shape == shape]
        out = purify(
            np.stack([images[i] for i in rows]),
            denoiser,
            sigma=how.sigma,
            steps=how.steps,
            sampler=how.sampler,
            ids=[ids[i] for i in rows],
            device=device,
        )
        found.update(zip(rows, out, strict=True))
    return tuple(found[i] for i in range(len(images)))
