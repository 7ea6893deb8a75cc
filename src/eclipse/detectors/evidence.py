"""What detectors look at: pieces of the images, what the denoiser makes of them, and what quick victims read in them.

Each is made when the first detector asks, and once. A row is judged by networks alone that have not seen it.
"""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from eclipse.classifiers.classifier import make_classifier
from eclipse.classifiers.fit import RECIPES, Recipe, fit, logits
from eclipse.compute.device import channels_last, seeded
from eclipse.data.imageset import ImageSet
from eclipse.data.pixels import around_gray, gray, to_color
from eclipse.detectors.features import flat, spectrum
from eclipse.diffusion.checkpoint import load_denoiser
from eclipse.errors import EclipseError
from eclipse.purification.arrays import purify
from eclipse.runs.state import Work

Probabilities = NDArray[np.float32]
"""Of each class, (N, classes)."""

EPOCHS, LEAST_STEPS = 12, 300
GAIN = 4  # by which a residual is shown to a network
_ALIKE = 2.0  # mean distance of two reduced copies, in levels, below which images count as near-duplicates
_REDUCED = 8


@dataclass(frozen=True, eq=False)
class Evidence:
    """A set under suspicion, and what is derived from it.

    Attributes:
        data: pieces of its images, of one size and at their own resolution.
        trusted: pieces of clean images of that size; None where there are none.
        work: its seed decides folds and networks; its state keeps what they say.
    """

    data: ImageSet
    trusted: ImageSet | None = None
    work: Work = field(default_factory=Work)

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Of the rows."""
        return self.data.require_labels("an audit")

    @cached_property
    def fold(self) -> NDArray[np.bool_]:
        """Which of two halves each row is in, (N,); near-duplicates are in one half."""
        groups = near_duplicates(self.data)
        rng = np.random.default_rng([self.work.seed, len(self.data)])
        rank = rng.permutation(int(groups.max(initial=0)) + 1)[groups]
        fold: NDArray[np.bool_] = rank % 2 == 0
        if fold.all() or not fold.any():
            raise EclipseError(
                "all images are near-duplicates of each other; expected images that differ: what is learned from one "
                "half of them cannot be tried on the other"
            )
        return fold

    @cached_property
    def purified(self) -> ImageSet:
        """The rows as the general denoiser leaves them, at the preset's noise level."""
        return self._purify("suspicious", self.data)

    @cached_property
    def trusted_purified(self) -> ImageSet | None:
        """The trusted images likewise."""
        return None if self.trusted is None else self._purify("trusted", self.trusted)

    @cached_property
    def residual(self) -> ImageSet:
        """What the denoiser takes away, around middle gray."""
        taken = self.data.images.astype(np.int16) - self.purified.images
        return self.data.with_images(around_gray(taken, GAIN))

    @cached_property
    def gray(self) -> ImageSet:
        """The rows without color."""
        color = self.data.images.shape[1] == 3
        return self.data.with_images(to_color(gray(self.data.images))) if color else self.data

    @cached_property
    def in_gray(self) -> "Reader":
        """A network of the same rows as ``raw``, gray."""
        return self._reader("gray", self.gray, 0)

    @cached_property
    def raw(self) -> "Reader":
        """A victim of one half of the rows as they are."""
        return self._reader("victim", self.data, 0)

    @cached_property
    def raw_again(self) -> "Reader":
        """A second victim of the same rows, of another seed."""
        return self._reader("second victim", self.data, 1)

    @cached_property
    def content(self) -> "Reader":
        """A network of the same rows purified."""
        return self._reader("content", self.purified, 0)

    @cached_property
    def content_again(self) -> "Reader":
        """A second one, of another seed."""
        return self._reader("second content", self.purified, 1)

    @cached_property
    def in_content(self) -> Probabilities:
        """What the label of each row looks like in what purification leaves."""
        return self._both_halves("content", self.purified, self.content)

    @cached_property
    def in_residual(self) -> Probabilities:
        """The same in what purification takes away."""
        return self._both_halves("residual", self.residual, self._reader("residual", self.residual, 0))

    @cached_property
    def in_pixels(self) -> Probabilities:
        """What a linear model reads in the pixels of the rows as they are."""
        return self.read(flat(self.data.images))

    @cached_property
    def in_flat_residual(self) -> Probabilities:
        """What a linear model reads in what purification takes away."""
        return self.read(flat(self.residual.images))

    @cached_property
    def in_spectrum(self) -> Probabilities:
        """What a linear model reads in the power spectra of the rows."""
        return self.read(spectrum(self.data.images))

    def right(self, probabilities: Probabilities) -> NDArray[np.bool_]:
        """Of each row, whether its label was read."""
        found: NDArray[np.bool_] = probabilities.argmax(1) == self.labels
        return found

    def read(self, features: NDArray[np.float32]) -> Probabilities:
        """Read the labels of all rows by ridge regression on features (N, F), each half by that of the other."""
        out = np.empty((len(self.data), self.data.num_classes), np.float32)
        for half in (self.fold, ~self.fold):
            out[~half] = ridge(features[half], self.labels[half], features[~half], self.data.num_classes)
        return out

    def _purify(self, name: str, images: ImageSet) -> ImageSet:
        stage = f"purified {name}"
        if found := self.work.state.load(stage):
            return images.with_images(found[0]["images"].numpy())
        purified = purify(images.images, load_denoiser(), seed=self.work.seed, ids=images.ids, device=self.work.device)
        self.work.state.save(stage, {"images": torch.from_numpy(purified)}, {})
        self.work.state.tell(stage, 1, 1)
        return images.with_images(purified)

    def _reader(self, name: str, images: ImageSet, seed: int, half: NDArray[np.bool_] | None = None) -> "Reader":
        rows = self.fold if half is None else half
        return Reader(name, images[np.flatnonzero(rows)], replace(self.work, seed=2 * self.work.seed + seed))

    def _both_halves(self, name: str, images: ImageSet, reader: "Reader") -> Probabilities:
        other = self._reader(f"{name} of the other half", images, 0, ~self.fold)
        return np.where(self.fold[:, None], other(images), reader(images))


class Reader:
    """A quick victim: a small network, trained when it is first asked.

    Args:
        name: of the stage that keeps it.
        train: what it learns from.
        work: its seed decides weights and order.
    """

    def __init__(self, name: str, train: ImageSet, work: Work) -> None:
        self._name, self._train, self._work = name, train, work

    def __call__(self, images: ImageSet) -> Probabilities:
        """Of each image the probabilities of all classes."""
        found: Probabilities = logits(self._network, images, device=self._work.device).softmax(1).numpy()
        return found

    @cached_property
    def _network(self) -> torch.nn.Module:
        data, work = self._train, self._work
        channels, *sides = data.images.shape[1:]
        with seeded(work.seed, f"audit {self._name}"):
            network = make_classifier("small", data.num_classes, channels, min(sides))
        channels_last(network.to(work.device))
        if found := work.state.load(self._name):
            network.load_state_dict(found[0])
            return network.eval()
        recipe = quick(len(data))
        for event in fit(network, data, recipe, seed=work.seed, device=work.device):
            work.state.tell(self._name, event.epoch, recipe.epochs, accuracy=event.train_accuracy)
        work.state.save(self._name, network.state_dict(), {})
        return network.eval()


def quick(rows: int) -> Recipe:
    """The recipe of a quick victim: enough steps to fit few rows as well."""
    batch = min(64, max(2, rows))  # half of a recipe's: as accurate, in little more than half of the time
    epochs = max(EPOCHS, math.ceil(LEAST_STEPS / max(1, rows // batch)))
    return replace(RECIPES["fast"], epochs=epochs, batch=batch, lr=0.1)


def ridge(
    train: NDArray[np.float32], labels: NDArray[np.int64], test: NDArray[np.float32], classes: int
) -> Probabilities:
    """What ridge regression of one-hot labels reads in features, as probabilities.

    Args:
        train: features (N, F).
        labels: of these, (N,).
        test: features to read, (M, F).
        classes: how many there are.
    """
    mean, deviation = train.mean(0), train.std(0).mean() + 1e-6
    x, z = (train - mean) / deviation, (test - mean) / deviation
    y = np.eye(classes, dtype=np.float32)[labels]
    kernel = x @ x.T
    # The least keeps it regular where all features are alike.
    kernel[np.diag_indices_from(kernel)] += max(_RIDGE * kernel.trace() / len(x), 1e-6)
    scores = z @ (x.T @ np.linalg.solve(kernel, y - y.mean(0))) + y.mean(0)
    weights = np.exp(_SHARPNESS * (scores - scores.max(1, keepdims=True)))
    found: Probabilities = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return found


_RIDGE, _SHARPNESS = 0.3, 8.0


def near_duplicates(data: ImageSet) -> NDArray[np.intp]:
    """The number of the group of near-duplicates that each row is in, (N,): those whose reduced copies are alike."""
    from torch.nn.functional import adaptive_avg_pool2d

    x = torch.from_numpy(data.images).float().mean(1, keepdim=True)
    small = adaptive_avg_pool2d(x, _REDUCED).flatten(1)
    group = np.arange(len(small))
    for start in range(0, len(small), 1000):
        distance = torch.cdist(small[start : start + 1000], small) / _REDUCED
        first, second = (distance < _ALIKE).nonzero(as_tuple=True)
        for i, j in zip((first + start).tolist(), second.tolist(), strict=True):
            if j < i:
                a, b = _root(group, i), _root(group, j)
                group[max(a, b)] = min(a, b)
    roots = np.array([_root(group, i) for i in range(len(group))], np.intp)
    return np.unique(roots, return_inverse=True)[1].astype(np.intp)


def _root(group: NDArray[np.intp], i: int) -> int:
    while group[i] != i:
        i = int(group[i])
    return i
