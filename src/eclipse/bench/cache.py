"""What cells share: the sets of a grid, the poisoned and the prepared ones, denoisers. Each is made once."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from eclipse.data.imageset import ImageSet
from eclipse.errors import EclipseError
from eclipse.runs.files import locked, write_json
from eclipse.runs.state import DENOISER, StageStep, State


@dataclass(frozen=True)
class Kept:
    """A set from the cache.

    Attributes:
        images: the set.
        fingerprint: of the set.
        seconds: that its making took, interruptions not counted, and without its denoiser.
        denoiser: seconds that the training of its denoiser took, which several sets share.
        shared: it was there already.
    """

    images: ImageSet
    fingerprint: str
    seconds: float
    shared: bool
    denoiser: float = 0.0


class Cache:
    """A folder of sets by the fingerprint of all that decides them.

    A killed making goes on where it was; where another process is at it, wait.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def holds(self, kind: str, decides: Mapping[str, Any]) -> bool:
        """Whether a set was made; nothing is written."""
        return self._place(kind, key(decides)).exists()

    def fingerprint(self, kind: str, decides: Mapping[str, Any]) -> str:
        """The fingerprint of a set that was made."""
        with _opened(self._place(kind, key(decides))) as file:
            return str(_about(file)["fingerprint"])

    def keep(self, images: ImageSet) -> str:
        """Keep a set and return its fingerprint."""
        fingerprint = images.fingerprint()
        path = self._place("sets", fingerprint)
        if not path.exists():
            self._make_room(path)
            with locked(_work(path), path, wait=True):
                if not path.exists():
                    _write(path, Kept(images, fingerprint, 0.0, False))
        return fingerprint

    def load(self, fingerprint: str) -> ImageSet:
        """A set that was kept."""
        return _read(self._place("sets", fingerprint)).images

    def made(
        self,
        kind: str,
        decides: Mapping[str, Any],
        make: Callable[[State], ImageSet],
        on_step: Callable[[StageStep], None],
    ) -> Kept:
        """A set that is made unless it was before.

        Args:
            kind: of set, for its place.
            decides: everything that decides it.
            make: makes it, with its state in the given one.
            on_step: is told the progress.
        """
        path = self._place(kind, key(decides))
        if path.exists():
            return _read(path)
        self._make_room(path)
        work = _work(path)
        with locked(work, path, wait=True):
            if path.exists():
                return _read(path)
            write_json(work / "decides.json", decides)
            told = _Timed(work / "seconds.json", on_step)
            images = make(State(work / "stages", told, self.folder / "denoisers"))
            kept = Kept(images, images.fingerprint(), round(told.seconds(), 2), False, round(told.denoiser, 2))
            _write(path, kept)
            shutil.rmtree(work / "stages", ignore_errors=True)
            for name in ("decides.json", "seconds.json"):
                (work / name).unlink(missing_ok=True)
        return kept

    def _place(self, kind: str, name: str) -> Path:
        return self.folder / kind / f"{name[:32]}.npz"

    def _make_room(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(OSError), (self.folder / ".gitignore").open("x") as file:  # not meant for version control
            file.write("*\n")


def key(decides: Mapping[str, Any]) -> str:
    """A name for what decides something."""
    return hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()


def _work(path: Path) -> Path:
    """Where a set is made: one process at a time."""
    return path.with_name(f".{path.stem}.making")


class _Timed:
    """Counts the seconds of a making over its interruptions; those that a denoiser takes are not its own."""

    def __init__(self, path: Path, on_step: Callable[[StageStep], None]) -> None:
        self._path, self._on_step, self._last = path, on_step, time.monotonic()
        self._sum, self.denoiser = 0.0, 0.0
        with suppress(OSError, ValueError, KeyError, TypeError):  # damaged, it costs the count of what was before
            self._sum = float(json.loads(path.read_text())["seconds"])

    def __call__(self, step: StageStep) -> None:
        own = self.seconds()
        if step.stage == DENOISER:
            self.denoiser = step.facts.get("seconds", 0.0)
        else:
            self._sum = own
            write_json(self._path, {"seconds": own})
        self._last = time.monotonic()
        self._on_step(step)

    def seconds(self) -> float:
        """Up to now."""
        return self._sum + time.monotonic() - self._last


def _write(path: Path, kept: Kept) -> None:
    images = kept.images
    about = {
        "ids": images.ids,
        "class names": images.class_names,
        "fingerprint": kept.fingerprint,
        "seconds": kept.seconds,
        "denoiser": kept.denoiser,
    }
    arrays: dict[str, NDArray[Any]] = {
        "images": images.images,
        "about": np.frombuffer(json.dumps(about).encode(), np.uint8),
    }
    if images.labels is not None:
        arrays["labels"] = images.labels
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _about(file: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """What an archive says of its set; its images, which are large, are not read for it."""
    return cast(dict[str, Any], json.loads(file["about"].tobytes()))


def _read(path: Path) -> Kept:
    with _opened(path) as file:
        about = _about(file)
        labels = file.get("labels")
        names = None if about["class names"] is None else tuple(about["class names"])
        images = ImageSet(file["images"], tuple(about["ids"]), labels, names)
        denoiser = float(about.get("denoiser", 0.0))
        return Kept(images, str(about["fingerprint"]), float(about["seconds"]), True, denoiser)


@contextmanager
def _opened(path: Path) -> Iterator[Mapping[str, NDArray[Any]]]:
    """An archive to read from; what goes wrong inside is worded."""
    try:
        with np.load(path, allow_pickle=False) as file:
            yield file
    except FileNotFoundError as error:
        raise EclipseError(f"{path} has vanished from the cache; run the same command again") from error
    except Exception as error:  # a damaged archive raises one of many kinds
        raise EclipseError(f"{path} cannot be read ({error}); delete it, and it is made anew") from error
