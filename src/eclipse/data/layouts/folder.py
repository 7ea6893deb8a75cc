"""A folder of images, nested in any way: the first folder is the class, every other file comes along unchanged.

In Tiny-ImageNet's ``val`` a table has the classes.
"""

import os
import posixpath
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from eclipse.data.layouts.references import check_metadata, entries, entry_at, is_metadata, mention, rewrite, samples
from eclipse.data.layouts.tiny_imagenet import ANNOTATIONS, IMAGES, read_annotations
from eclipse.data.layouts.tree import copy, folded, folders, folds_names, place, refuse_splits, walk
from eclipse.data.picture import HEAD_BYTES, MAX_BYTES, begins_as_image
from eclipse.data.store import Replacements, Row, sorted_classes
from eclipse.errors import EclipseError

# Longer than the list of formats that can be read: an image that cannot be read must be refused by name; if it counted
# as some other file, it would be copied into the purified folder as it is.
# fmt: off
IMAGE_SUFFIXES = frozenset((
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".ppm",
    ".pgm", ".pbm", ".pnm", ".pam", ".pfm", ".avif", ".heic", ".heif", ".jp2", ".j2k", ".jpx", ".jpf", ".jxl", ".qoi",
    ".tga", ".ico", ".psd", ".pcx", ".xbm", ".xpm", ".exr", ".hdr", ".dds", ".dng",
))
# fmt: on


_NAMES = 100_000  # of images, looked for in other files


def is_image(path: str) -> bool:
    """Whether a file is named like an image; ``images_in`` looks into those that are not."""
    return PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES


def without_ending(path: str) -> str:
    """The path of an image without the ending of its format, where it has one; that of its new file replaces it."""
    return str(PurePosixPath(path).with_suffix("")) if is_image(path) else path


def images_in(root: Path) -> Iterator[str]:
    """Yield the path below root of every file that is an image by its name or by its first bytes."""
    return (path for path in walk(root) if is_image(path) or _begins_as_image(root / path))


def _begins_as_image(path: Path) -> bool:
    file = os.open(path, os.O_RDONLY)  # three times as fast as open(), for folders with a caption to each image
    try:
        return begins_as_image(os.read(file, HEAD_BYTES))
    finally:
        os.close(file)


def _nesting(root: Path, path: str) -> str:
    first, *_, last, _ = path.split("/")
    return (
        f"{root / path} is of class {first!r}, the first folder, as in torchvision; datasets would take {last!r}, the "
        "last one"
    )


class FolderStore:
    """A folder of image files (see `Store`); ids are the paths below it."""

    layout = "folder"
    is_folder = True

    def __init__(self, root: Path) -> None:
        self.root = root
        self._count = 0
        self._odd: set[str] = set()  # images by content alone: what counts as one stays so
        places: set[str] = set()
        nested = top = ""
        for path in images_in(root):
            self._count += 1
            if not is_image(path):
                self._odd.add(path)
            places.add(path.rpartition("/")[0])
            nested = nested or (path if path.count("/") > 1 else "")
            top = top or (path if "/" not in path else "")
        refuse_splits(root, places)
        first_parts = {place.partition("/")[0] for place in places}
        self.unlabelled = f"{root / top} lies in no folder of a class; expected each image in one"
        self.notes = [_nesting(root, nested)] if nested and not top else []
        self.has_labels = bool(first_parts) and "" not in first_parts
        self.class_names = sorted_classes(first_parts) if self.has_labels else None
        self.unusable_labels = ""
        self._annotated: dict[str, str] | None = None  # from an image to its class
        if first_parts == {IMAGES} and (root / ANNOTATIONS).is_file():
            self._annotate()

    def _annotate(self) -> None:
        """Take the classes from the table; where it is not fit for that, there are none."""
        self.has_labels, self.class_names, self._annotated = False, None, {}
        try:
            found = read_annotations(self.root / ANNOTATIONS)
        except EclipseError as error:
            self.unlabelled = self.unusable_labels = str(error)
            return
        if missing := next((path for path in self.images() if path not in found), None):
            self.unlabelled = self.unusable_labels = (
                f"{self.root / missing} has no line in {self.root / ANNOTATIONS}; expected its name and class there"
            )
            return
        self.has_labels, self.class_names, self._annotated = True, sorted_classes(set(found.values())), found

    def __len__(self) -> int:
        return self._count

    def _is_image(self, path: str) -> bool:
        return is_image(path) or path in self._odd

    def images(self) -> Iterator[str]:
        """The ids of all rows."""
        return filter(self._is_image, walk(self.root))

    @cached_property
    def _labels(self) -> dict[str, int]:
        return {name: label for label, name in enumerate(self.class_names or ())}

    def _label(self, path: str) -> int | None:
        known = self._annotated
        return self._labels.get(path.partition("/")[0] if known is None else known.get(path, ""))

    def read(self, start: int, stop: int) -> Iterator[Row]:
        """Stream the images of the folder in the order of `tree.walk`."""
        return map(self.read_one, islice(self.images(), start, stop))

    def read_one(self, id: str) -> Row:
        """The row with an id."""
        with open(self.root / id, "rb") as file:
            data = file.read(min(os.fstat(file.fileno()).st_size, MAX_BYTES + 1))
        return Row(id, str(self.root / id), self._label(id), data)

    def outline(self, start: int, stop: int) -> Iterator[Row]:
        """The rows without their data."""
        for path in islice(self.images(), start, stop):
            yield Row(path, str(self.root / path), self._label(path), b"")

    def others(self, start: int, stop: int) -> Iterator[Mapping[str, Any]]:
        """What metadata files tell of the images; a class is no field, which the folder tells."""
        for id in islice(self.images(), start, stop):
            file, offset = self._metadata[0].get(id, ("", 0))
            told = entry_at(self.root / file, offset) if file else {}
            label = self._label(id)
            known = {
                "file_name": told.get("file_name"),
                "label": label if label is None else (self.class_names or ())[label],
            }
            yield {name: value for name, value in told.items() if name not in known or value != known[name]}

    @cached_property
    def _metadata(self) -> tuple[Mapping[str, tuple[str, int]], frozenset[str]]:
        """The file and the place in it of what is told of an image, by its id; the files whose entries are all used."""
        places: dict[str, tuple[str, int]] = {}
        used = set[str]()
        for path in filter(is_metadata, walk(self.root)):
            used.add(path)
            for offset, entry in entries(self.root / path):
                id = self._named(path.rpartition("/")[0], (entry or {}).get("file_name"))
                if id is None or id in places:
                    used.discard(path)
                else:
                    places[id] = path, offset
        return places, frozenset(used)

    def _named(self, folder: str, name: object) -> str | None:
        """The id of an image that is named in a folder of the set; None where there is no such image."""
        path = posixpath.normpath(posixpath.join(folder, name)) if isinstance(name, str) and "\0" not in name else ""
        inside = path and not path.startswith(("/", ".."))
        return path if inside and self._is_image(path) and os.path.isfile(self.root / path) else None

    def left_behind(self) -> Iterator[str]:
        """The files that are no images and no metadata that are all of images."""
        return (path for path in self.beside() if path not in self._metadata[1])

    def beside(self) -> Iterator[str]:
        """The files that are no images."""
        return (path for path in walk(self.root) if not self._is_image(path))

    def files(self) -> Iterator[tuple[str, Path]]:
        """Name every file, since the other files are part of the output too."""
        return ((path, self.root / path) for path in walk(self.root))

    def write(self, target: Path, span: range, new: Replacements) -> None:
        """Write the new images beside copies of all other files; metadata files get the new names."""
        row = 0
        metadata: list[str] = []
        for path in walk(self.root):
            if not self._is_image(path):
                if is_metadata(path):
                    metadata.append(path)
                else:
                    copy(self.root / path, place(target, path))
                continue
            image = new.take(path) if row in span else None
            if image is not None:
                with open(place(target, without_ending(path) + new.suffix), "xb") as file:
                    file.write(image)
            row += 1
        for path in metadata:  # when it is clear which images are left out
            new_name = partial(self._new_name, target, new.suffix, path.rpartition("/")[0])
            rewrite(self.root / path, place(target, path), new_name)

    def _new_name(self, target: Path, suffix: str, folder: str, name: str) -> str | None:
        """What an image that is named in a folder of the set is called now; see `references.NewName`."""
        path = self._named(folder, name)
        if path is None:
            return name
        return without_ending(name) + suffix if (target / (without_ending(path) + suffix)).is_file() else None

    def outdated(self, suffix: str) -> Iterator[str]:
        """The other files that name images by names that change to this ending, as far as they are looked into."""
        changed = (path.rpartition("/")[2] for path in self.images() if without_ending(path) + suffix != path)
        names = frozenset(name.encode() for name in islice(changed, _NAMES))
        others = (path for path in self.beside() if not is_metadata(path))
        return (path for path in samples(others) if names and mention(self.root / path, names))

    def check_metadata(self) -> None:
        """Refuse a metadata file whose names cannot be written anew."""
        for path in filter(is_metadata, self.beside()):
            check_metadata(self.root / path)

    def check_names(self, out: Path, suffix: str) -> None:
        """Refuse two files that would become one in ``out``: images of one stem, names that its file system folds.

        Args:
            out: the output.
            suffix: of the new images.
        """
        same = folded if folds_names(out) else str
        for below, files, subfolders in folders(self.root):
            taken: dict[str, str] = {}
            for name in (*subfolders, *files):
                is_image_file = self._is_image(below + name) and name not in subfolders
                new = without_ending(name) + suffix if is_image_file else name
                other = taken.setdefault(same(new), name)
                if other != name:
                    raise EclipseError(
                        f"{below}{other} and {below}{name} in {self.root} would both become {below}{new}; expected one "
                        "file of each name: rename one of them"
                    )
