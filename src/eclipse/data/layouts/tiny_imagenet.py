"""What is special about the folders of Tiny-ImageNet: a table with the classes of ``val/images``, and tables of boxes.

``train/n01443537/images/n01443537_0.JPEG`` lies in the folder of its class like any other image, with its box in
``train/n01443537/n01443537_boxes.txt``. The class of ``val/images/val_0.JPEG`` is in ``val/val_annotations.txt``. Both
tables have a line for each image: its name, then (in the second one) its class, and its box, with tabs between them.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from eclipse.errors import EclipseError, reading
from eclipse.runs.files import read_bounded

ANNOTATIONS, IMAGES = "val_annotations.txt", "images"
_TABLE = re.compile(r"val_annotations\.txt|n[0-9]{8}_boxes\.txt")
_LINE_BYTES = 2**20


def is_table(path: str) -> bool:
    """Whether a file is named like one of the tables."""
    return _TABLE.fullmatch(PurePosixPath(path).name) is not None


def read_annotations(path: Path) -> dict[str, str]:
    """The class of each image, by its path below the folder with the table.

    Raises:
        EclipseError: it is no such table, or an image is of two classes.
    """
    with reading(path, "lines of a name, a tab and a class"):
        lines = read_bounded(path).decode().split("\n")
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        name, _, rest = line.partition("\t")
        label = rest.partition("\t")[0].strip()
        if not line.strip():
            continue
        if not name or not label or found.setdefault(f"{IMAGES}/{name}", label) != label:
            what = "another class than before" if name and label else "no name and class"
            raise EclipseError(f"{path}, line {number} has {what}; expected one of both, with a tab between them")
    return found


def rewrite_table(path: Path, target: Path, new_name: Callable[[str], str | None]) -> None:
    """Copy a table with the new names of the images, without the lines of those that are left out; all else stays."""
    with open(path, "rb") as file, open(target, "wb") as out:
        while line := file.readline(_LINE_BYTES):
            name, tab, rest = line.partition(b"\t")
            old = f"{IMAGES}/{os.fsdecode(name)}"
            new = new_name(old) if tab else old
            if new is not None:
                out.write(line if new == old else new.removeprefix(f"{IMAGES}/").encode() + tab + rest)
