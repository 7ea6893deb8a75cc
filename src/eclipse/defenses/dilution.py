"""Dilution: labelled trusted images among, or instead of, the suspicious ones."""

from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import ClassVar

import numpy as np

from eclipse.data.imageset import ImageSet
from eclipse.defenses.defense import Defense, need
from eclipse.errors import EclipseError
from eclipse.runs.state import Work

_PREFIX = "trusted/"


@dataclass(frozen=True)
class Dilution(Defense):
    """Labelled trusted images added to the training set: what whoever has some would try first.

    A baseline of Wang et al., "BridgePure: Limited Protection Leakage Can Break Black-Box Data Protection" (NeurIPS
    2025). Unlike ECLIPSE it needs labels of the trusted images.
    """

    title: ClassVar[str] = "trusted images added, so more steps"
    acts: ClassVar[str] = "data"
    trusted: ClassVar[str] = "labelled images"

    def prepare(self, data: ImageSet, trusted: ImageSet | None, work: Work) -> ImageSet:
        """Append the trusted images; their ids get a prefix that makes them unlike those of the others."""
        trusted = fitting(data, trusted, "dilution")
        prefix = _PREFIX
        while any(id.startswith(prefix) for id in data.ids):
            prefix += "/"
        return ImageSet(
            images=np.concatenate([data.images, trusted.images]),
            ids=(*data.ids, *(prefix + id for id in trusted.ids)),
            labels=np.concatenate([data.require_labels("dilution"), trusted.require_labels("dilution")]),
            class_names=trusted.class_names,
        )


@dataclass(frozen=True)
class TrustedOnly(Defense):
    """The labelled trusted images alone, without any suspicious one: what every defense has to beat.

    Attributes:
        equal_steps: repeat them until they are as many as the suspicious ones, so that the training takes as many steps
            as any other; without it few images get few steps, and the baseline is weaker than it need be.
    """

    title: ClassVar[str] = "the trusted images alone"
    acts: ClassVar[str] = "data"
    trusted: ClassVar[str] = "labelled images"
    ignores_data: ClassVar[bool] = True
    equal_steps: bool = True

    def prepare(self, data: ImageSet, trusted: ImageSet | None, work: Work) -> ImageSet:
        """Return the trusted images in place of the others; the ids of repeated ones get the number of the copy."""
        trusted = fitting(data, trusted, "trusted-only")
        if not self.equal_steps:
            return trusted
        copies, rows = np.divmod(np.arange(max(len(data), len(trusted))), len(trusted))
        repeated = trusted[rows]
        return replace(repeated, ids=tuple(f"{copy}/{id}" for copy, id in zip(copies, repeated.ids, strict=True)))


def fitting(data: ImageSet, trusted: ImageSet | None, defense: str) -> ImageSet:
    """The trusted images with the class names of the others, or an error that says how they do not fit them."""
    trusted = need(trusted, defense, "labelled images")
    if not len(trusted) or trusted.labels is None:
        lack = "labels" if len(trusted) else "images"
        raise EclipseError(f"the trusted images for {defense} have no {lack}; expected images, each with its class")
    if trusted.images.shape[1:] != data.images.shape[1:]:
        sizes = ["x".join(map(str, images.shape[1:])) for images in (trusted.images, data.images)]
        raise EclipseError(f"trusted images of {sizes[0]}; expected {sizes[1]}, as the others: resize them")
    return replace(trusted, class_names=_common_names(data, trusted, defense))


def _common_names(data: ImageSet, trusted: ImageSet, defense: str) -> tuple[str, ...] | None:
    """The class names of both sets, checked to be those of the labels of both."""
    labels = [images.require_labels(f"the defense {defense}") for images in (data, trusted)]
    names = data.class_names or trusted.class_names
    for i, pair in enumerate(zip_longest(trusted.class_names or names or (), names or ())):
        if pair[0] != pair[1]:
            raise EclipseError(
                f"class {i} is {pair[0]!r} among the trusted images and {pair[1]!r} among the others; "
                f"expected the same classes in the same order for {defense}"
            )
    classes = data.num_classes if names is None else len(names)
    highest = max(int(some.max(initial=-1)) for some in labels)
    if highest >= classes:
        raise EclipseError(
            f"label {highest} in a set of {classes} classes; expected trusted images of the same classes as the others"
        )
    return names
