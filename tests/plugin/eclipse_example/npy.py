"""A layout: one .npy file of RGB images, uint8 (N, H, W, 3), without labels."""

from itertools import repeat
from pathlib import Path

import numpy as np

from eclipse.data import EclipseError, Replacements, Row, decode


class ArrayFile:
    layout, is_folder, has_labels, class_names = "npy", False, False, None

    @staticmethod
    def recognizes(path: Path) -> bool:
        return path.suffix == ".npy"

    def __init__(self, root: Path) -> None:
        self.root, self.images = root, np.load(root, mmap_mode="r")
        if self.images.dtype != np.uint8 or self.images.ndim != 4:
            raise EclipseError(f"{root} holds {self.images.dtype} of {self.images.ndim} axes; expected uint8, 4 axes")

    def __len__(self) -> int:
        return len(self.images)

    def read(self, start: int, stop: int):
        for i in range(start, stop):
            yield Row(str(i), f"image {i} of {self.root}", None, self.images[i].transpose(2, 0, 1))

    def others(self, start: int, stop: int):  # further columns of a table
        return repeat({}, stop - start)

    def beside(self):  # what else there is, in words
        return iter(())

    def files(self):
        return iter([(self.root.name, self.root)])

    def write(self, target: Path, span: range, new: Replacements) -> None:
        pngs = [(str(i), new.take(str(i))) for i in span]
        images = [decode(png, id).rgb.transpose(1, 2, 0) for id, png in pngs if png is not None]
        with open(target, "wb") as file:
            np.save(file, np.stack(images))
