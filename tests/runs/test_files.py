"""The lock of what one process works on at a time."""

import errno
import fcntl
import os
import shutil
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from kit.kills import names

from eclipse.errors import EclipseError
from eclipse.runs.files import clear, locked


def test_a_lock_is_gone_when_it_is_given_back(tmp_path: Path) -> None:
    folder = tmp_path / "new" / ".out.poisoning"
    with locked(folder, tmp_path / "out"):
        assert names(folder) == ["lock"]
        with pytest.raises(EclipseError, match="another process"), locked(folder, tmp_path / "out"):
            pass
        assert names(folder) == ["lock"], "the loser leaves the lock alone"
    assert not folder.exists()
    with locked(folder, tmp_path / "out"):
        (folder / "state").write_text("kept")
        clear(folder)
        assert names(folder) == ["lock"]
        (folder / "state").write_text("kept")
    assert names(folder) == ["state"]


def test_a_lock_that_was_removed_while_it_was_waited_for_does_not_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, flock, tries = tmp_path / ".out.poisoning", fcntl.flock, []

    def removing(descriptor: int, how: int) -> None:
        if not tries:
            shutil.rmtree(folder)  # the process before has just ended
        tries.append(descriptor)
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", removing)
    with locked(folder, tmp_path / "out"):
        assert len(tries) == 2 and (folder / "lock").exists()


def test_a_folder_that_others_make_and_remove_all_the_time_can_be_waited_for(tmp_path: Path) -> None:
    held, errors, end = [], [], time.monotonic() + 1

    def hold() -> None:
        try:
            while time.monotonic() < end:
                with locked(tmp_path / ".out", tmp_path / "out", wait=True):
                    held.append(names(tmp_path / ".out"))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=hold) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and held and names(tmp_path) == []


def test_a_file_in_the_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / ".out").write_bytes(b"")
    with pytest.raises(FileExistsError), locked(tmp_path / ".out", tmp_path / "out"):
        pass


@pytest.mark.parametrize(("code", "works"), [(errno.ENOTSUP, True), (errno.ENOLCK, True), (errno.EIO, False)])
def test_a_file_system_without_locks_is_no_hindrance(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int, works: bool
) -> None:
    def fail(descriptor: int, how: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", fail)
    with nullcontext() if works else pytest.raises(OSError), locked(tmp_path / ".out", tmp_path / "out"):
        pass
