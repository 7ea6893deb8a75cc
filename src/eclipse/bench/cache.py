"""What cells share: the sets of a grid, the poisoned and the prepared ones, denoisers. Each is made once."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eclipse.data.imageset import ImageSet
from eclipse.errors import EclipseError
from eclipse.runs.files import clear, locked, read_json, write_json
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

    Args:
        folder: made where it is missing.
        clock: tells seconds.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder, self._clock = folder, clock

    def holds(self, kind: str, decides: Mapping[str, Any]) -> bool:
        """Whether a set was made; nothing is written."""
        return _is_there(self._place(kind, key(decides)))

    def fingerprint(self, kind: str, decides: Mapping[str, Any]) -> str:
        """The fingerprint of a set that was made."""
        return _facts(self._place(kind, key(decides)))[0]

    def keeps(self, fingerprint: str) -> bool:
        """Whether a set with this fingerprint was kept."""
        return self._place("sets", fingerprint).exists()

    def keep(self, images: ImageSet) -> str:
        """Keep a set and return its fingerprint."""
        fingerprint = images.fingerprint()
        path = self._place("sets", fingerprint)
        if not path.exists():
            self._make_room(path)
            with locked(_work(path), path, wait=True):
                if not path.exists():
                    images.save(path)
        return fingerprint

    def load(self, fingerprint: str) -> ImageSet:
        """A set that was kept."""
        return _images(self._place("sets", fingerprint))

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
        work = _work(path)
        if _is_there(path) and not work.exists():
            return _read(path)
        self._make_room(path)
        with locked(work, path, wait=True):
            if _is_there(path):  # made by another process, or before a kill that left its work
                clear(work)
                return _read(path)
            write_json(work / "decides.json", decides)
            told = _Timed(work / "seconds.json", on_step, self._clock)
            images = make(State(work / "state", told, self.folder / "denoisers"))
            kept = Kept(images, images.fingerprint(), round(told.seconds(), 2), False, round(told.denoiser, 2))
            facts = {"fingerprint": kept.fingerprint, "seconds": kept.seconds, "denoiser": kept.denoiser}
            write_json(path.with_suffix(".json"), facts)
            images.save(path)
            clear(work)
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

    def __init__(self, path: Path, on_step: Callable[[StageStep], None], clock: Callable[[], float]) -> None:
        self._path, self._on_step, self._clock, self._last = path, on_step, clock, clock()
        self._sum, self.denoiser = 0.0, 0.0
        with suppress(OSError, ValueError, KeyError, TypeError):  # damaged, it costs the count of what was before
            self._sum = float(read_json(path)["seconds"])

    def __call__(self, step: StageStep) -> None:
        own = self.seconds()
        if step.stage == DENOISER:
            self.denoiser = step.facts.get("seconds", 0.0)
        else:
            self._sum = own
            write_json(self._path, {"seconds": own})
        self._last = self._clock()
        self._on_step(step)

    def seconds(self) -> float:
        """Up to now."""
        return self._sum + self._clock() - self._last


def _is_there(path: Path) -> bool:
    """Whether a set that was made is there, with the facts beside it."""
    return path.exists() and path.with_suffix(".json").exists()


def _read(path: Path) -> Kept:
    fingerprint, seconds, denoiser = _facts(path)
    return Kept(_images(path), fingerprint, seconds, True, denoiser)


def _images(path: Path) -> ImageSet:
    try:
        return ImageSet.load(path)
    except EclipseError as error:
        raise EclipseError(f"{error}; delete it, and it is made anew") from error


def _facts(path: Path) -> tuple[str, float, float]:
    """The fingerprint of a set that was made, the seconds that it took and those of its denoiser."""
    path = path.with_suffix(".json")
    try:
        facts = read_json(path)
        return str(facts["fingerprint"]), float(facts["seconds"]), float(facts["denoiser"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EclipseError(f"{path} cannot be read ({error}); delete it, and the set is made anew") from error
