"""What a run writes about itself: run.json beside its output, and the settings that a resumed run must share."""

import json
import platform
import shlex
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from eclipse.errors import EclipseError
from eclipse.runs.files import read_json, write_json

_EXTRAS = ("diffusers", "kornia", "opacus", "datasets")
TIMES = "times.json"
_KEEP_EVERY_S = 5.0
OURS = "eclipse-purify"
PACKAGES = (OURS, "torch", "numpy", "pillow", "pyarrow", *_EXTRAS)


def versions() -> dict[str, str]:
    """The versions that results depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def run_json(out: Path) -> Path:
    """Where the manifest of an output lies: ``OUT.run.json`` beside it."""
    return out.with_name(out.name + ".run.json")


def command() -> str:
    """The command that started this process, for manifests."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def to_copy(*words: object) -> str:
    """A command to copy into a shell, whatever is in the names of files; words in capitals stand for others."""
    return shlex.join(map(str, words))


def duration(minutes: float) -> str:
    """How long something will take, in words."""
    if minutes < 1:
        return "less than a minute"
    if minutes < 1.5:
        return "about a minute"
    return f"about {minutes:.0f} minutes" if minutes < 120 else f"about {minutes / 60:,.0f} hours"


def date(seconds: float) -> str:
    """A time in words, for manifests."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(seconds))


@contextmanager
def recorded(out: Path, settings: Mapping[str, Any], **facts: Any) -> Iterator[dict[str, Any]]:
    """Write the manifest of a run before its work, and again when the work ends.

    Yields a dict to put into it what is known at the end, for the status ``complete``; when the work fails, the
    manifest tells the reason. Work that goes on after a stop keeps the time of its first start.
    """
    path, found = run_json(out), dict[str, Any]()
    manifest = {
        "status": "started",
        "command": command(),
        "settings": settings,
        "versions": versions(),
        "started": date(time.time()),
        **facts,
    }
    manifest["started"] = _first_start(path, {"settings": settings, **facts}) or manifest["started"]
    write_json(path, manifest)
    try:
        yield found
    except Exception as error:
        with suppress(OSError):  # of a full disk, say: the first error is the one to hear of
            write_json(path, {**manifest, "status": "failed", "reason": str(error), "finished": date(time.time())})
        raise
    write_json(path, {**manifest, "status": "complete", "finished": date(time.time()), **found})


def _first_start(path: Path, asked: Mapping[str, Any]) -> str | None:
    """When work that has not ended was started first, if it is the same."""
    with suppress(OSError, ValueError, AttributeError):  # of what is no manifest
        before = read_json(path)
        same = {name: before.get(name) for name in asked} == json.loads(json.dumps(asked, default=str))
        if same and before.get("status") in ("started", "failed"):
            return str(before.get("started"))
    return None


class Times:
    """Seconds that the parts of a work take, over all its runs; a kill loses some seconds of them.

    Args:
        folder: of the unfinished work, where they are kept.
    """

    def __init__(self, folder: Path) -> None:
        self._path, self.seconds = folder / TIMES, dict[str, float]()
        with suppress(OSError, ValueError, TypeError, AttributeError):  # none are kept, or they are damaged
            self.seconds = {name: float(value) for name, value in read_json(self._path).items()}
        self._part, self._before, self._began, self._kept = "", 0.0, 0.0, 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time that this takes to a part."""
        self._part, self._before = name, self.seconds.get(name, 0.0)
        self._began = self._kept = time.monotonic()
        try:
            yield
        finally:
            self._keep()

    def telling(self, tell: Callable[[Any], None]) -> Callable[[Any], None]:
        """Tell events, and keep the times now and then."""

        def told(event: Any) -> None:
            if time.monotonic() - self._kept >= _KEEP_EVERY_S:
                self._keep()
            tell(event)

        return told

    def _keep(self) -> None:
        self._kept = time.monotonic()
        self.seconds[self._part] = round(self._before + self._kept - self._began, 2)
        with suppress(OSError):  # of a full disk: the work tells
            write_json(self._path, self.seconds)


def read_manifest(out: Path) -> dict[str, Any]:
    """The manifest of an output that exists.

    Raises:
        EclipseError: it is damaged, or that of something else.
    """
    path = run_json(out)
    try:
        manifest = read_json(path)
        flat(manifest["settings"])
        str(manifest["status"])
        return dict(manifest)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise EclipseError(f"{out} exists, and {path} is not a manifest of it; choose another output") from error


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without their nesting, so that a difference can be named."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        inner = flat(value) if isinstance(value, dict) else {"": value}
        found.update({f"{name} {part}".strip(): value for part, value in inner.items()})
    return found


def read_kept(path: Path) -> dict[str, Any]:
    """What unfinished work has kept of itself as JSON."""
    try:
        return dict(read_json(path))
    except (OSError, ValueError, TypeError) as error:
        raise EclipseError(f"{path} is damaged ({error}); delete {path.parent} to begin anew") from error


def check_same_settings(
    made: Mapping[str, Any], asked: Mapping[str, Any], path: Path, levels: Collection[str] = ()
) -> None:
    """Refuse to go on from a state made with other settings, naming the first that differs.

    Args:
        made: by their flat names.
        asked: likewise.
        path: of the state.
        levels: names of those on the [0, 1] scale that people know in 8-bit levels.
    """
    for name in dict.fromkeys((*made, *asked)):
        if made.get(name) != asked.get(name):
            before, now = (_short(values.get(name), name in levels) for values in (made, asked))
            raise EclipseError(
                f"{path} was made with {name} = {before} and this run asks for {now}; resume with the same settings, "
                "choose another output, or delete it"
            )


def _short(value: Any, is_level: bool) -> str:
    if is_level and isinstance(value, int | float):
        return f"{value * 255:.6g}/255"
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else text[:37] + "..."
