"""Files that are read and written whole, and the lock of what one process works on at a time."""

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
from eclipse.runs.files import clear, locked, read_json, write_json


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
    with pytest.raises(EclipseError, match="no folder but a link or file"), locked(tmp_path / ".out", tmp_path / "out"):
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


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize("text", [DEEP, '{"a":' * 70 + "1" + "}" * 70, '{"a": ' + "9" * 5000 + "}", "\xff", "", "[1"])
def test_hostile_json_is_one_kind_of_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"."):
        read_json(tmp_path / "x.json")


def test_a_file_of_text_is_bounded_before_it_is_read(tmp_path: Path) -> None:
    with open(tmp_path / "x.json", "wb") as file:
        file.truncate(2**36)
    with pytest.raises(ValueError, match="more than 64 MiB"):
        read_json(tmp_path / "x.json")


def test_names_that_are_not_utf8_survive_json(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"name": "in\udcff"})
    assert (tmp_path / "x.json").read_bytes().isascii()
    assert read_json(tmp_path / "x.json") == {"name": "in\udcff"}


@pytest.mark.parametrize("leads_to", ["file", "folder", "nothing"])
def test_a_planted_link_is_not_followed(leads_to: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    if leads_to == "folder":
        outside.mkdir()
        (outside / "precious").write_text("precious")
    elif leads_to == "file":
        outside.write_text("precious")
    (tmp_path / ".x.json.partial").symlink_to(outside)
    write_json(tmp_path / "x.json", {"a": 1})
    assert not (tmp_path / "x.json").is_symlink() and read_json(tmp_path / "x.json") == {"a": 1}
    kept = {"file": outside, "folder": outside / "precious"}.get(leads_to)
    assert kept.read_text() == "precious" if kept else not outside.exists()
