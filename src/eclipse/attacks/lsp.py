"""LSP: linearly separable perturbations that are constant in patches."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from eclipse.attacks.attack import Attack
from eclipse.attacks.crafting.perturbation import perturb, to_l2
from eclipse.classifiers.pgd import scaled_radius
from eclipse.compute.randomness import normal_like, stream
from eclipse.data.imageset import ImageSet
from eclipse.errors import EclipseError
from eclipse.runs.state import Work

_CLASS_SEP = 10.0  # half the side of the hypercube, as in the authors' code


@dataclass(frozen=True)
class LSP(Attack):
    """Linearly separable perturbations (Yu et al., "Availability Attacks Create Shortcuts", KDD 2022).

    The points are those of scikit-learn's ``make_classification`` as the authors call it: a class is a
    vertex v of the hypercube {-10, 10}^f, a point is v + z A with z ~ N(0, I) and a matrix A of the class,
    uniform in [-1, 1]. The f values of a point fill a grid of constant patches, scaled to the L2 radius.
    Nothing here depends on how many images a class has.

    Rounding can push the L2 norm over the radius: see ``perturbation.bound``.

    Attributes:
        radius: L2 for 3x32x32 images on the [0, 1] scale (6/255 a value); grows with sqrt(C*H*W).
        patch: side of a patch in pixels; None is a quarter of the shorter side (8 at 32x32).
    """

    title: ClassVar[str] = "linearly separable patches"
    family: ClassVar[str] = "synthetic"
    norm: ClassVar[str] = "L2"
    radius: float = 6 / 255 * math.sqrt(3 * 32 * 32)
    patch: int | None = None

    def __post_init__(self) -> None:
        if self.radius <= 0:
            raise EclipseError(f"LSP radius {self.radius:g}; expected more than 0, such as the default 1.3")

    def craft(self, clean: ImageSet, work: Work) -> ImageSet:
        """Perturb every image; its perturbation depends on (seed, class, id) alone; needs no device."""
        channels, height, width = clean.images.shape[1:]
        patch = self._patch(height, width)
        grid = (channels, math.ceil(height / patch), math.ceil(width / patch))
        vertices = _vertices(work.seed, clean.num_classes, math.prod(grid))
        length = scaled_radius(self.norm, self.radius, clean.images.shape[1:])

        def perturbation(ids: Sequence[str], labels: NDArray[np.int64]) -> NDArray[np.floating]:
            points = _points(work.seed, ids, labels, vertices).reshape(-1, *grid)
            patches = points.repeat(patch, axis=2).repeat(patch, axis=3)
            return to_l2(patches[:, :, :height, :width], length)

        return perturb(clean, perturbation, "LSP")

    def _patch(self, height: int, width: int) -> int:
        side = min(height, width)
        if self.patch is None:
            return max(1, side // 4)
        if not 1 <= self.patch <= side:
            raise EclipseError(
                f"an LSP patch of {self.patch} pixels does not fit images of {height}x{width}; expected 1 to {side}"
            )
        return self.patch


def _vertices(seed: int, classes: int, features: int) -> NDArray[np.float64]:
    """Distinct random vertices, (classes, features); the first k do not depend on how many follow."""
    if classes > 2**features:
        raise EclipseError(
            f"LSP on images of {features} patches has {2**features} corners for {classes} classes; "
            "expected smaller patches or larger images"
        )
    rng = stream(seed, "", 0, "lsp vertices")
    chosen: dict[bytes, None] = {}
    while len(chosen) < classes:
        chosen.setdefault(rng.integers(0, 2, features, dtype=np.uint8).tobytes())
    bits = np.frombuffer(b"".join(chosen), dtype=np.uint8).reshape(classes, features)
    return np.where(bits, _CLASS_SEP, -_CLASS_SEP)


def _points(
    seed: int, ids: Sequence[str], labels: NDArray[np.int64], vertices: NDArray[np.float64]
) -> NDArray[np.float64]:
    """One point around the vertex of its class for each image, (N, features)."""
    features = vertices.shape[1]
    points = normal_like(seed, ids, 0, (features,), "lsp").astype(np.float64)
    for label in np.unique(labels).tolist():
        mixing = stream(seed, str(label), 0, "lsp class").uniform(-1, 1, (features, features))
        points[labels == label] = points[labels == label] @ mixing + vertices[label]
    return points
