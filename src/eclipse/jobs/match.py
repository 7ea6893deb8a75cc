"""Whether trusted images are of the size and quality of the suspicious ones, measured on a few dozen of each.

What is measured must not be what a poison changes: the images are suspicious.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eclipse.data.picture import Pixels
from eclipse.data.pixels import gray
from eclipse.data.store import Source
from eclipse.errors import EclipseError
from eclipse.jobs.canary import SIDE, spread

_EACH = 12  # images of a place: 48 in all
_GRID = 8  # pixels of a block of JPEG
_SMALLEST = 2 * _GRID  # side of a crop that tells anything
_COARSE, _FINE = (1 / 16, 1 / 8), (1 / 4, 1 / 2)  # cycles a pixel
_PERTURBED = 64.0  # levels squared: the power of a perturbation of 8/255, beside which less makes no difference
# How far apart the sets may be: a factor of the side (trusted photographs at a third of their size cost 0.05 dB, at a
# sixth 0.10); beyond twice the standard error, a factor of the texture, and of the steps.
_SIZES, _TEXTURES, _GRIDS = 4.0, 1.35, 0.16


@dataclass(frozen=True)
class Quality:
    """What was measured of images.

    Attributes:
        side: median of the shorter sides, in pixels.
        texture: of each image the natural logarithm of the power of its fine detail, as a share of its coarse detail.
        grid: of each image how much stronger the steps at the borders of JPEG's blocks are than those within.
    """

    side: float
    texture: NDArray[np.float64]
    grid: NDArray[np.float64]


def mismatch(suspicious: Source, trusted: Source) -> str | None:
    """A sentence on how trusted images differ from those to purify, and what to do; None where they are alike.

    Of 3,600 pairs of 48 images each of CIFAR-10, its JPEG copy, one against the other, and photographs, none gave a
    warning; with trusted ones of CIFAR-10 at JPEG quality 20, all of 2,400 did.
    """
    ours, theirs = _crops(suspicious), _crops(trusted)
    if not ours or not theirs:
        return None
    side = min(SIDE, *(min(crop.shape[1:]) for _, crop in (*ours, *theirs)))
    one, other = _quality(theirs, side), _quality(ours, side)
    found = list(_differences(one, other))
    if not found:
        return None
    return (
        f"trusted and suspicious images differ, and a denoiser of the former may not fit the latter: {', '.join(found)}"
        "; trust images of the same kind, size and quality (--max-side N reduces both), or leave --trusted out"
    )


def _differences(trusted: Quality, suspicious: Quality) -> Iterator[str]:
    sides = trusted.side, suspicious.side
    if max(sides) >= _SIZES * min(sides):
        yield f"their shorter sides have {sides[0]:.0f} and {sides[1]:.0f} pixels"
    if _apart(trusted.texture, suspicious.texture) > math.log(_TEXTURES):
        shares = (math.exp(quality.texture.mean()) for quality in (trusted, suspicious))
        yield "their fine detail has {:.2f} and {:.2f} of the power of the coarse".format(*shares)
    if _apart(trusted.grid, suspicious.grid) > _GRIDS:
        steps = (1 + quality.grid.mean() for quality in (trusted, suspicious))
        yield "steps at the borders of JPEG's blocks are {:.1f} and {:.1f} times those within".format(*steps)


def _apart(some: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """The distance of two means, less twice its standard error; 0 where there is nothing to tell."""
    if min(len(some), len(others)) < 2:
        return 0.0
    error = math.sqrt(some.var(ddof=1) / len(some) + others.var(ddof=1) / len(others))
    return abs(float(some.mean() - others.mean())) - 2 * error


def _crops(source: Source) -> list[tuple[int, Pixels]]:
    """Of images spread over a set the shorter side, and a piece from the middle that begins with a block of JPEG."""
    found = []
    for row in spread(source, _EACH):
        with suppress(EclipseError):  # an image that cannot be read is the work's to tell
            image = row.picture().rgb
            top, left = ((length - min(length, SIDE)) // 2 // _GRID * _GRID for length in image.shape[1:])
            found.append((min(image.shape[1:]), image[:, top : top + SIDE, left : left + SIDE].copy()))
    return found


def _quality(crops: Sequence[tuple[int, Pixels]], side: int) -> Quality:
    pieces = [gray(crop[:, :side, :side])[0].astype(np.float64) for _, crop in crops] if side >= _SMALLEST else []
    return Quality(
        float(np.median([shorter for shorter, _ in crops])),
        np.array([_texture(piece) for piece in pieces]),
        np.array([_grid(piece) for piece in pieces]),
    )


def _texture(piece: NDArray[np.float64]) -> float:
    """The logarithm of the power of fine detail as a share of that of coarse detail, of a square."""
    window = np.outer(*[np.hanning(len(piece) + 2)[1:-1]] * 2)
    power = np.abs(np.fft.fft2((piece - piece.mean()) * window)) ** 2 / (window**2).sum() / piece.size
    frequency = np.fft.fftfreq(len(piece))
    radius = np.hypot(frequency[:, None], frequency[None])

    def within(band: tuple[float, float]) -> float:
        inside = (radius >= band[0]) & (radius < band[1])
        return float(power[inside].sum()) + _PERTURBED * float(inside.mean())

    return math.log(within(_FINE) / within(_COARSE))


def _grid(piece: NDArray[np.float64]) -> float:
    """How much stronger steps between neighbors are at the borders of blocks than within them; 0 for as strong."""
    steps = np.abs(np.diff(piece, axis=1)).mean(0) + np.abs(np.diff(piece, axis=0)).mean(1)
    at_border = np.arange(len(steps)) % _GRID == _GRID - 1
    return float((steps[at_border].mean() + 1) / (steps[~at_border].mean() + 1)) - 1
