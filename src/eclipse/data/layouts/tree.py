"""The files of a data set that is a folder: walked without ever leaving the folder."""

import os
import re
import shutil
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from eclipse.errors import EclipseError, is_utf8

_COPIED_BYTES = 2**20
_MOST_PARTS = 100  # of a path in a data set; functions of the standard library recurse for each

_SPLITS = {"train": "train|training", "validation": "val|valid|validation|dev", "test": "test|testing|eval|evaluation"}
_WORD = "|".join(f"(?P<{split}>{words})" for split, words in _SPLITS.items())
_SPLIT_FOLDER = re.compile(
    f"(?:images?[-_. ]?)?(?:{_WORD})(?:[-_. ]?(?:[0-9]+|set|data|images?|split))*", re.IGNORECASE
)
_SPLIT_FILE = re.compile(f"(?:.*[^a-z])?(?:{_WORD})(?:[^a-z].*)?", re.IGNORECASE | re.DOTALL)


def refuse_splits(root: Path, places: Iterable[str]) -> None:
    """Refuse folders (POSIX paths below root) of which two beside each other are splits, such as train and val."""
    found: dict[str, dict[str | None, str]] = {}
    for place in places:
        below = ""
        for name in place.split("/"):
            if match := _SPLIT_FOLDER.fullmatch(name):
                found.setdefault(below, {}).setdefault(match.lastgroup, below + name)
            below += name + "/"
    for splits in found.values():
        if len(splits) > 1:
            raise EclipseError(
                f"{root} holds several splits ({', '.join(sorted(splits.values()))}); expected one of them: add its "
                "name to the path"
            )


def refuse_split_files(root: Path, paths: Iterable[Path]) -> None:
    """Refuse files whose names tell of several splits, such as train-0.parquet beside test-0.parquet."""
    matches = ((_SPLIT_FILE.fullmatch(path.stem), path.name) for path in paths)
    splits = {match.lastgroup: name for match, name in matches if match}
    if len(splits) > 1:
        raise EclipseError(
            f"{root} holds files of several splits ({', '.join(sorted(splits.values()))}); expected one of them: name "
            "the file, give a range of tar files (NAME-{000..004}.tar), or move each split to a folder of its own"
        )


def folders(root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield (path below root with a final slash, files, subfolders) of root and each folder in it.

    Depth first, names in sorted order, hidden ones left out. Holds the names of one folder at a time.

    Raises:
        EclipseError: for a link that leads to a folder or out of root, a name that is not UTF-8, and what is
            neither a file nor a folder.
    """
    waiting = [""]
    while waiting:
        below = waiting.pop()
        if below.count("/") >= _MOST_PARTS:
            raise EclipseError(
                f"{root} has folders in one another more than {_MOST_PARTS} deep; expected fewer: move them up"
            )
        files, subfolders = _list(root, below)
        yield below, files, subfolders
        waiting.extend(f"{below}{name}/" for name in reversed(subfolders))


def walk(root: Path) -> Iterator[str]:
    """Yield the POSIX path below root of every file: a folder's own files, then its subfolders."""
    for below, files, _ in folders(root):
        for name in files:
            yield below + name


def top_files(root: Path, ending: str = "") -> list[Path]:
    """Return the sorted paths of the files directly in root whose names end so, with the same refusals."""
    return [root / name for name in _list(root, "")[0] if name.endswith(ending)]


def carry(root: Path, target: Path, wanted: Callable[[str], bool]) -> None:
    """Copy the files of root whose paths are wanted to the same places below target."""
    for path in walk(root):
        if wanted(path):
            copy(root / path, place(target, path))


def copy(old: Path, new: Path) -> None:
    """Copy the content of a file to a place where there is none."""
    with open(old, "rb") as source, open(new, "xb") as target:
        shutil.copyfileobj(source, target, _COPIED_BYTES)


def folded(name: str) -> str:
    """What two names share that some file system takes for one: without case, and in one normal form."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def folds_names(path: Path) -> bool:
    """Whether the file system of a path, which need not exist, takes names for one that differ in case alone."""
    for known in (parent for parent in path.absolute().parents if parent.exists()):
        other = known.with_name(known.name.swapcase()) if known.name else known
        if other != known:
            return other.exists() and known.samefile(other)
    return False


def fault_of(path: str) -> str | None:
    """What is wrong with a POSIX path below the root of a data set, in words; None where nothing is."""
    parts = path.split("/")
    if path.startswith("/") or ".." in parts:
        return "leads out of it"
    if len(parts) > _MOST_PARTS:
        return f"lies more than {_MOST_PARTS} folders deep"
    if "\0" in path:
        return "has a zero byte"
    return None if is_utf8(path) else "is not UTF-8"


def place(target: Path, path: str) -> Path:
    """Make the folders for a file at ``path`` below target and return its full path."""
    full = target / path
    full.parent.mkdir(parents=True, exist_ok=True)
    return full


def _list(root: Path, below: str) -> tuple[list[str], list[str]]:
    files: list[str] = []
    subfolders: list[str] = []
    with os.scandir(root / below) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                (subfolders if _is_folder(entry, root) else files).append(entry.name)
    return sorted(files), sorted(subfolders)


def _is_folder(entry: os.DirEntry[str], root: Path) -> bool:
    """Tell folders from files, and refuse what is neither."""
    if not is_utf8(entry.name):
        raise EclipseError(
            f"the name of {os.fsencode(entry.path)!r} is not UTF-8; expected one that is: rename the file"
        )
    if entry.is_dir(follow_symlinks=False):
        return True
    if not entry.is_file():
        raise EclipseError(f"{entry.path} is neither a file nor a real folder; expected one of them: remove or copy it")
    if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(root.resolve()):
        raise EclipseError(f"{entry.path} is a link that leads out of {root}; expected a file: copy it into the folder")
    return False
