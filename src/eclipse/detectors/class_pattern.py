"""Class patterns: statistics of whole images, of color, sharpness and spectrum, tell the class."""

import numpy as np
from numpy.typing import NDArray

from eclipse.detectors.detector import Detector, Finding
from eclipse.detectors.evidence import Evidence
from eclipse.detectors.shortcut import clearest

_BANDS = 8


class ClassPattern(Detector):
    """Whether the spectrum, or the color and the extreme values, of an image tell its class better than its content.

    Class-wise blur (CUDA) shows in the spectrum alone, shifts of color and single pixels in the moments.
    """

    title = "spectrum or color of an image tell the class"
    needs = frozenset({"labels"})

    def examine(self, evidence: Evidence) -> Finding:
        """Compare with the content on held-out rows."""
        read = {
            name: evidence.read(of(evidence.data.images)) for name, of in (("spectrum", spectrum), ("color", color))
        }
        return clearest(evidence, read, "a linear model of spectrum or color", _family)


def _family(evidence: Evidence) -> str:
    """Blur where networks read no more in what purification takes away than in the content: nothing was added."""
    fine = evidence.right(evidence.in_residual).mean() > evidence.right(evidence.in_content).mean()
    return "high-frequency" if fine else "blur"


def spectrum(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The logarithm of the power of each channel in a grid of frequencies, (N, F)."""
    rows = 2 * _BANDS
    out = np.empty((len(images), images.shape[1] * rows * _BANDS), np.float32)
    for i in range(0, len(images), 500):
        power = np.abs(np.fft.rfft2(images[i : i + 500].astype(np.float32) / 255)) ** 2
        power = np.fft.fftshift(power, 2)
        cells = np.add.reduceat(power, _starts(power.shape[2], rows), 2)
        cells = np.add.reduceat(cells, _starts(power.shape[3], _BANDS), 3)
        out[i : i + 500] = np.log(cells + 1e-3).reshape(len(cells), -1)
    return out


def _starts(length: int, parts: int) -> NDArray[np.intp]:
    """Where parts of nearly equal length begin."""
    return np.linspace(0, length, parts, endpoint=False).astype(np.intp)


def color(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean, standard deviation, least and largest value of each channel, (N, 4 C)."""
    x = images.reshape(*images.shape[:2], -1).astype(np.float32)
    found: NDArray[np.float32] = np.concatenate([x.mean(2), x.std(2), x.min(2), x.max(2)], 1)
    return found
