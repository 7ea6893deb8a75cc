"""The one life cycle of a job: resolved, checked, locked, compared, worked, published, tidied.

A job is a frozen dataclass of resolved values: what its user named is opened, chosen and checked once, when the job is
made, and what works on it is handed these values and never the words that they came from. ``check`` tells how far a
job is, ``carry_out`` carries it out; a killed one goes on, with the same settings alone, and ends with the same bytes.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

from eclipse.errors import EclipseError
from eclipse.runs.files import LOCK, PARTIAL, clear, locked, partial_of, whole, write_json, write_whole
from eclipse.runs.manifest import TIMES, check_same_settings, flat, read_kept, read_manifest, recorded, run_json
from eclipse.runs.state import Event, State

Status: TypeAlias = Literal["new", "resumable", "finished"]
Tell: TypeAlias = Callable[[Event], None]

_SETTINGS, _OUTCOME = "settings.json", "outcome.json"


class Job(ABC):
    """What a command is to do, resolved.

    Attributes:
        out: the path that its output will have.
        doing: names the hidden folder of its unfinished work, ``.OUT.DOING`` beside the output.
        free: flat names of the settings that may differ on a finished output: other words for the same thing, which
            fingerprints tell, or another machine.
        mendable: flat names of what may also differ on unfinished work, since the work itself sees to it.
    """

    out: Path
    doing: ClassVar[str]
    free: ClassVar[frozenset[str]] = frozenset()
    mendable: ClassVar[frozenset[str]] = frozenset()

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """All that decides the bytes of the output, for the manifest; may be nested."""

    @property
    @abstractmethod
    def inputs(self) -> Mapping[str, str]:
        """The fingerprints of what goes in, by their names in the manifest."""

    def check_place(self) -> None:
        """Refuse, before any work and before the output appears, a place where it could not: one that is taken."""
        if self.out.exists() or self.out.is_symlink():
            raise EclipseError(f"{self.out} exists; choose another output")
        if not self.out.parent.is_dir():
            raise EclipseError(
                f"no such folder {self.out.parent}; expected an existing one to write {self.out.name} into"
            )

    @abstractmethod
    def work(self, state: State, tell: Tell, place: Path) -> dict[str, Any]:
        """Make the output at ``place``, a hidden path that is renamed afterwards, going on where ``state`` is.

        Returns:
            What the manifest tells of it at the end.

        Raises:
            EclipseError: what could not be seen before the work.
        """

    @abstractmethod
    def closing(self, outcome: Mapping[str, Any]) -> Mapping[str, Any]:
        """What to tell the user at the end: what was made, and what to do with it."""

    def in_words(self) -> Mapping[str, Any]:
        """The settings for people."""
        return self.settings

    def estimate(self) -> Mapping[str, Any] | None:
        """What the work will take, measured; None where nobody needs to know."""
        return None

    def notes(self) -> list[str]:
        """What the user should know before the work starts."""
        return []

    @property
    def levels(self) -> Collection[str]:
        """Flat names of the settings on the [0, 1] scale that people know in 8-bit levels."""
        return ()

    @property
    def tied(self) -> Mapping[str, Any]:
        """What unfinished work must share to be gone on with."""
        return _without(self.free | self.mendable, {**self.settings, **self.inputs})

    @property
    def folder(self) -> Path:
        """Where unfinished work is kept: hidden, beside the output."""
        return self.out.with_name(f".{self.out.name}.{self.doing}")


def check(job: Job) -> Status:
    """Tell how far a job is, and refuse one whose output, or unfinished work, was made with other settings.

    Raises:
        EclipseError: the output cannot be, is there and not by this job, or was begun otherwise; names what differs.
    """
    path = run_json(job.out)
    if path.exists() and not path.is_file():  # a pipe, say, which would be waited for
        raise EclipseError(f"{path}, where the manifest of {job.out} goes, is no file; remove it")
    if is_made(job.out) and path.exists():
        manifest = read_manifest(job.out)
        made = {**manifest["settings"], **{name: manifest.get(name) for name in job.inputs}}
        _compare(job, _without(job.free, made), _without(job.free, {**job.settings, **job.inputs}), job.out)
        if manifest["status"] == "complete":
            return "finished"
    if not _is_published(job):
        job.check_place()
    if not _has_work(job.folder):
        return "new"
    _compare(job, read_kept(job.folder / _SETTINGS), job.tied, job.folder)
    return "resumable"


def carry_out(job: Job, tell: Tell = lambda event: None) -> Mapping[str, Any]:
    """Carry a job out, and return what the manifest tells of it.

    The manifest, ``OUT.run.json``, says ``started``, and at the end ``complete``, or ``failed`` and why. The output
    appears whole, before the manifest says so. Where the work is refused at once, all is as it was before.

    Raises:
        EclipseError: as ``check``; another process is at the same output; or the work cannot be done.
    """
    with locked(job.folder, job.out):
        if check(job) == "finished":  # by another process, since
            return read_manifest(job.out)
        telling = _Telling(tell)
        with _as_before_if_refused(job, telling), recorded(job.out, job.settings, **job.inputs) as found:
            _begin(job)
            found |= _worked(job, telling)
        clear(job.folder)
    return found


def _begin(job: Job) -> None:
    """Keep what the work is tied to; times are those of work with the same settings."""
    with suppress(EclipseError):
        _compare(job, read_kept(job.folder / _SETTINGS), job.tied, job.folder)
        return
    (job.folder / TIMES).unlink(missing_ok=True)
    write_json(job.folder / _SETTINGS, job.tied)


def tidy(job: Job) -> None:
    """Delete what a kill at the very end left of the work on a finished output; another process may be at it."""
    if job.folder.exists():
        with suppress(EclipseError), locked(job.folder, job.out):
            clear(job.folder)


def is_made(out: Path) -> bool:
    """Whether there is anything at the place of an output; an empty folder is nothing."""
    return out.exists() and not (out.is_dir() and not any(out.iterdir()))


def _is_published(job: Job) -> bool:
    """Whether a kill came between the output, whose outcome is on record before it appears, and its manifest.

    Where the output was not renamed into place, what is there is somebody else's.
    """
    return is_made(job.out) and (job.folder / _OUTCOME).exists() and not partial_of(job.out).exists()


def _worked(job: Job, tell: Tell) -> dict[str, Any]:
    outcome = job.folder / _OUTCOME
    if _is_published(job):
        return read_kept(outcome)
    outcome.unlink(missing_ok=True)  # of an output that did not appear
    try:
        with whole(job.out) as place:
            found = job.work(State(job.folder, tell), tell, place)
            job.check_place()  # the work may have taken days
            write_json(outcome, found)
    except BaseException:
        outcome.unlink(missing_ok=True)
        raise
    return found


def _without(names: frozenset[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without their nesting, but for those of some flat names."""
    return {name: value for name, value in flat(settings).items() if name not in names}


def _compare(job: Job, made: Mapping[str, Any], asked: Mapping[str, Any], where: Path) -> None:
    check_same_settings(made, json.loads(json.dumps(asked, default=str)), where, job.levels)


def _has_work(folder: Path) -> bool:
    """Whether anything that was worked for lies in a folder, whole."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != PARTIAL)
    return any(path.name not in (LOCK, _SETTINGS, TIMES) for path in files)


class _Telling:
    """Hands events on, and knows whether there were any."""

    def __init__(self, tell: Tell) -> None:
        self._tell, self.begun = tell, False

    def __call__(self, event: Event) -> None:
        self.begun = True
        self._tell(event)


@contextmanager
def _as_before_if_refused(job: Job, telling: _Telling) -> Iterator[None]:
    """Leave nothing behind where the work is refused before any part of it was done."""
    path = run_json(job.out)
    before = path.read_bytes() if path.exists() else None
    try:
        yield
    except EclipseError:
        if not telling.begun and not _has_work(job.folder):
            clear(job.folder)
            if before is None:
                path.unlink(missing_ok=True)
            else:
                write_whole(path, before)
        raise
