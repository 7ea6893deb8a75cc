"""Files and folders that are there whole or not at all, and the lock of what one process works on at a time."""

import errno
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from eclipse.errors import EclipseError

LOCK, PARTIAL = "lock", ".partial"
MAX_TEXT, MAX_DEPTH = 2**26, 64  # bytes of a file of JSON or TOML, and how deeply it may be nested
TOO_DEEP = f"it is nested more than {MAX_DEPTH} levels deep"
T = TypeVar("T")
_PATIENCE_S = 0.2  # to see that the process before has just ended
_NO_LOCKS = (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK)  # of file systems that know none


def check_name(out: Path) -> None:
    """Refuse an output without a name of its own, beside which nothing could be named after it."""
    if out.name in ("", ".."):
        raise EclipseError(f"the output {str(out)!r} has no name of its own; expected a path that ends in one")
    check_local(out)


def check_local(place: Path | str) -> None:
    """Refuse a URL, which would be taken for a folder called ``s3:``."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", str(place))
    if found and not os.path.lexists(f"{found[1]}:"):
        raise EclipseError(
            f"{str(place)!r} is a URL; expected a path on this machine: copy the data by the tools of {found[1]}"
        )


def read_json(path: Path) -> Any:
    """Read JSON that may be damaged or hostile.

    Raises:
        ValueError: it is none.
    """
    return parse_json(read_bounded(path))


def read_bounded(path: Path, most: int = MAX_TEXT) -> bytes:
    """Read a file of text; ValueError for one of more bytes than people or this program write."""
    with open(path, "rb", opener=_without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is no file")
        content = file.read(min(status.st_size, most) + 1)
    return _bounded(content, most)


def _without_waiting(path: str, flags: int) -> int:
    """Open a path that may be a pipe, which nobody may ever write to."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _bounded(content: bytes, most: int) -> bytes:
    if len(content) > most:
        raise ValueError(f"it has more than {most >> 20} MiB")
    return content


def parse_json(content: bytes) -> Any:
    """What JSON says, in bounded depth; ValueError where it is none."""
    try:
        return shallow(json.loads(_bounded(content, MAX_TEXT)))
    except RecursionError as error:
        raise ValueError(TOO_DEEP) from error


def shallow(value: T) -> T:
    """The value; ValueError where it is nested too deeply for what goes through it afterwards."""
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for part in level
            if isinstance(part, dict | list)
            for inner in (part.values() if isinstance(part, dict) else part)
        ]
        if not level:
            return value
    raise ValueError(TOO_DEEP)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n"
    write_whole(path, text.encode(errors="backslashreplace"))  # half a surrogate becomes its own escape in JSON


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    with whole(path) as partial, partial.open("xb") as file:  # through no link
        file.write(data)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a hidden path beside the given one; the file or folder made there is flushed and renamed into place.

    The hidden name is always the same, so that what a killed process leaves there goes with the next write. A kill
    while one folder takes the place of another leaves at least one of the two, whole.
    """
    partial = partial_of(path)
    remove(partial)
    try:
        yield partial
        if partial.is_dir():
            os.sync()  # one call for what may be a million files
            _swap(partial, path)
        else:
            _flush(partial)
            partial.replace(path)
    except BaseException:
        with suppress(OSError):
            remove(partial)
        raise


def partial_of(path: Path) -> Path:
    """Where ``whole`` has made what it has not renamed yet."""
    return path.with_name(f".{path.name}{PARTIAL}")


def remove(path: Path) -> None:
    """Remove a file or a folder; nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _swap(partial: Path, folder: Path) -> None:
    """Put a folder in place of what is there."""
    old = partial.with_suffix(".old")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        remove(old)
        folder.rename(old)
    partial.replace(folder)
    remove(old)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def clear(folder: Path) -> None:
    """Remove what is in the folder of a lock, but not the lock."""
    for path in folder.iterdir():
        if path.name != LOCK:
            remove(path)


@contextmanager
def locked(folder: Path, out: Path, wait: bool = False) -> Iterator[None]:
    """Keep all other processes from working on an output; the lock ends with this process, however that ends.

    Args:
        folder: of intermediate files, in which the lock lies; made where it is missing, and removed at the end unless
            something else is in it.
        out: the output, for the refusal.
        wait: until no other process holds the lock, in place of the refusal.

    Raises:
        EclipseError: another process holds the lock, or the folder is something else.
    """
    if _is_no_folder(folder):  # what a link leads to would be cleared
        raise EclipseError(f"{folder}, for unfinished work on {out}, is no folder but a link or file; remove it")
    lock = FileLock(folder / LOCK, timeout=-1 if wait else _PATIENCE_S)
    try:
        _acquire(lock, folder)
    except Timeout as error:
        raise EclipseError(
            f"another process is working on {out}; wait until it has ended, or choose another output"
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):  # while it is held: who waits for it sees that it has gone, and makes a new one
            (folder / LOCK).unlink()
            folder.rmdir()
        lock.release()


def _is_no_folder(path: Path) -> bool:
    """Whether there is something else, or a link; asked once, since others may make and remove a folder there."""
    try:
        return not stat.S_ISDIR(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def _acquire(lock: FileLock, folder: Path) -> None:
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(poll_interval=0.05)
            return
        except (FileNotFoundError, FileExistsError):  # the process before us has just removed the folder
            if _is_no_folder(folder):
                raise
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return
