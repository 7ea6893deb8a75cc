"""Images of one size in memory, with everything that tells them apart."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eclipse.data.pixels import check_array
from eclipse.errors import EclipseError
from eclipse.runs.files import whole

_MOST_CLASSES = 1 << 16  # a larger label is no class: networks get as many outputs as the largest label tells


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A labelled or unlabelled set of equally sized images, held in memory.

    Attributes:
        images: uint8, (N, C, H, W).
        ids: one stable identity per row; all per-image randomness is derived from it.
        labels: int64, (N,), or None.
        class_names: the name of each label, or None.
        unlabelled: why there are no labels, where it is known, and what to do.
    """

    images: NDArray[np.uint8]
    ids: tuple[str, ...]
    labels: NDArray[np.int64] | None = None
    class_names: tuple[str, ...] | None = None
    unlabelled: str = "this data set has none; expected one class per image"

    def __post_init__(self) -> None:
        check_array(self.images)
        if self.images.dtype != np.uint8 or self.images.ndim != 4:
            raise EclipseError(
                f"images are {self.images.dtype} of shape {self.images.shape}; expected uint8 (N, C, H, W)"
            )
        if len(self.ids) != len(self.images):
            raise EclipseError(f"{len(self.ids)} ids for {len(self.images)} images; expected one id per image")
        if self.labels is not None and (self.labels.dtype != np.int64 or self.labels.shape != (len(self.images),)):
            raise EclipseError(
                f"labels are {self.labels.dtype} of shape {self.labels.shape}; expected whole numbers of shape "
                f"({len(self.images)},), one label per image"
            )
        if self.labels is not None and len(self.labels):
            self._check_range(int(self.labels.min()), int(self.labels.max()))

    def _check_range(self, lowest: int, highest: int) -> None:
        if lowest < 0:
            raise EclipseError(
                f"label {lowest}; expected 0 or more: -1 often marks rows without a label, leave them out"
            )
        if self.class_names is not None and highest >= len(self.class_names):
            raise EclipseError(
                f"label {highest}; expected less than {len(self.class_names)}, the number of class names"
            )

    @classmethod
    def from_arrays(
        cls,
        images: NDArray[np.uint8],
        labels: NDArray[np.integer] | Sequence[int] | None = None,
        class_names: Sequence[str] | None = None,
    ) -> "ImageSet":
        """Wrap arrays; row i gets the id ``str(i)``.

        Raises:
            EclipseError: a list in place of an array, channels last, labels that are no whole numbers.
        """
        check_array(images)
        return cls(
            images=images,
            ids=tuple(str(i) for i in range(len(images))),
            labels=None if labels is None else _whole_numbers(labels),
            class_names=None if class_names is None else tuple(class_names),
        )

    def save(self, path: Path) -> None:
        """Write an ``.npz`` whole or not at all; every command reads it, ``load`` with the ids as well."""
        arrays: dict[str, NDArray[Any]] = {"images": self.images, "ids": np.array(self.ids, np.str_)}
        if self.labels is not None:
            arrays["labels"] = self.labels
        if self.class_names is not None:
            arrays["class_names"] = np.array(self.class_names, np.str_)
        with whole(path) as partial, partial.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> "ImageSet":
        """Read a set that was saved.

        Raises:
            EclipseError: it is damaged, or not there.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                names = file["class_names"].tolist() if "class_names" in file else None
                return cls(file["images"], tuple(file["ids"].tolist()), file.get("labels"), names and tuple(names))
        except Exception as error:  # a damaged archive raises one of many kinds
            raise EclipseError(f"{path} cannot be read ({error}); expected a set of images that was saved") from error

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice | NDArray[np.intp]) -> "ImageSet":
        index = np.arange(len(self))[rows]
        return ImageSet(
            images=self.images[rows],
            ids=tuple(self.ids[i] for i in index),
            labels=None if self.labels is None else self.labels[rows],
            class_names=self.class_names,
            unlabelled=self.unlabelled,
        )

    def with_images(self, images: NDArray[np.uint8]) -> "ImageSet":
        """The same rows with other pixels."""
        return replace(self, images=images)

    def require_labels(self, purpose: str) -> NDArray[np.int64]:
        """Return the labels, or say what they are needed for."""
        if self.labels is None:
            raise EclipseError(f"{purpose} needs labels, and {self.unlabelled}")
        if self.class_names is None and (highest := int(self.labels.max(initial=0))) >= _MOST_CLASSES:
            raise EclipseError(
                f"label {highest}; expected less than {_MOST_CLASSES:,} where classes have no names: number them from 0"
            )
        return self.labels

    @property
    def num_classes(self) -> int:
        """The number of classes: named ones, or else the largest label plus one."""
        if self.class_names is not None:
            return len(self.class_names)
        return int(self.require_labels("counting the classes").max(initial=-1)) + 1

    def fingerprint(self) -> str:
        """SHA-256 over pixels, labels and ids in order, and the class names."""
        digest = hashlib.sha256(json.dumps([self.images.shape, self.ids, self.class_names]).encode())
        digest.update(np.ascontiguousarray(self.images).data)
        if self.labels is not None:
            digest.update(np.ascontiguousarray(self.labels).data)
        return digest.hexdigest()


def _whole_numbers(labels: Any) -> NDArray[np.int64]:
    """Labels of any integer type as int64; others as they are, for the constructor to refuse: 1.5 is no class."""
    try:
        array = np.asarray(labels)
    except ValueError as error:
        raise EclipseError("labels are lists of several lengths; expected one whole number for each image") from error
    return array.astype(np.int64) if array.dtype.kind in "iu" or not array.size else array
