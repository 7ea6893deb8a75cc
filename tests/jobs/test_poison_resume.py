"""A crafting that is killed goes on and ends with the same bytes; other settings and a second process are refused."""

import errno
import re
import signal
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from kit.commands import Command, refusal, write_images
from kit.kills import Killed, killed_at_the_end, manifest, names, refused
from kit.layouts import tree_bytes
from kit.small_run import Kill, ended, start
from kit.streams import craft_folder, shard_folder

from eclipse.attacks.crafting import surrogate
from eclipse.runs import state
from eclipse.runs.state import State


@pytest.fixture(autouse=True)
def small_groups(plugin: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surrogate, "ROWS", 8)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", 40, side=16)


@pytest.fixture
def poison(data: Path, tmp_path: Path, command: Command) -> Command:
    """Give the same command, with more options."""
    return lambda *more: command("poison", data, "--attack", "fake", "--out", tmp_path / "out", *more)


@pytest.fixture
def saves(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stages whose state was saved, one entry each time."""
    done: list[str] = []
    save = State.save

    def counted(self: State, stage: str, *state: Any) -> None:
        save(self, stage, *state)
        done.append(stage)

    monkeypatch.setattr(State, "save", counted)
    return done


def killed_after(
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    name: str,
    poison: Command,
    times: int = 1,
    more: tuple[str, ...] = (),
) -> None:
    """Give the command and kill it after something was done some times."""
    work, left = getattr(owner, name), [times]

    def counted(*args: Any, **options: Any) -> Any:
        result = work(*args, **options)
        left[0] -= 1
        if not left[0]:
            raise Killed
        return result

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(owner, name, counted)
        poison()


# Real processes


@pytest.mark.parametrize(
    "options",
    [["--attack", "fake"], ["--attack", "em", "--scale", "small", "--set", "max_rounds=8", "--set", "batch=16"]],
    ids=["fake", "em"],
)
def test_killed_at_any_moment_it_ends_with_the_same_bytes(tmp_path: Path, options: list[str]) -> None:
    data = write_images(tmp_path / "images", 40, side=16)

    def go(folder: Path, kill: Kill | None = None) -> int:
        folder.mkdir(exist_ok=True)
        return ended(["poison", str(data), "--out", f"{folder}/out", *options], folder / "log", kill)

    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert go(undisturbed) == 0, (undisturbed / "log").read_text()
    for times, delay_s in ((1, 0.0), (1, 0.007), (2, 0.0), (1, 0.003), (1, 0.0)):
        assert go(killed, Kill("saved state", times, delay_s)) == -signal.SIGKILL, (killed / "log").read_text()
        assert list(craft_folder(killed / "out").glob("*.safetensors"))
    assert go(killed) == 0, (killed / "log").read_text()
    for folder in (killed, undisturbed):
        assert names(folder) == ["log", "out", "out.run.json"]
    assert tree_bytes(killed / "out") == tree_bytes(undisturbed / "out")
    wholes = [manifest(folder / "out") for folder in (killed, undisturbed)]
    for name in ("status", "radius", "counts", "surrogate", "output fingerprint"):
        assert wholes[0][name] == wholes[1][name], name


# The last moments, and settings, in this process


def test_what_is_done_is_not_done_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, poison: Command, saves: list[str]
) -> None:
    assert poison().code == 0
    whole = list(saves)
    assert [stage for stage in whole if stage.startswith("noise")] == [f"noise {row}" for row in range(0, 40, 8)]
    saves.clear()
    again = ("--seed", 1, "--out", tmp_path / "again")
    killed_after(monkeypatch, State, "save", lambda: poison(*again), times=7)
    before = list(saves)
    assert poison(*again).code == 0
    assert saves == whole and before == whole[:7], "each part is done once"


def test_a_kill_between_the_output_and_its_manifest_is_made_good(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, poison: Command, saves: list[str]
) -> None:
    with killed_at_the_end(monkeypatch, told=False):
        poison()
    before = tree_bytes(tmp_path / "out")
    assert manifest(tmp_path / "out")["status"] == "started" and len(before) == 40
    saves.clear()
    assert poison().code == 0
    done = manifest(tmp_path / "out")
    assert done["status"] == "complete" and done["counts"] == {"input": 40, "poisoned": 40, "changed": 40}
    assert tree_bytes(tmp_path / "out") == before and saves == []
    assert names(tmp_path) == ["images", "out", "out.run.json"]
    assert poison("--out", tmp_path / "undisturbed").code == 0
    assert manifest(tmp_path / "undisturbed")["output fingerprint"] == done["output fingerprint"]


def test_a_kill_between_the_manifest_and_the_state_is_made_good(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, poison: Command
) -> None:
    with killed_at_the_end(monkeypatch, told=True):
        poison()
    assert manifest(tmp_path / "out")["status"] == "complete" and craft_folder(tmp_path / "out").exists()
    assert poison("--dry-run").code == 0 and craft_folder(tmp_path / "out").exists()
    assert "complete already" in poison().out
    assert names(tmp_path) == ["images", "out", "out.run.json"]


def test_a_complete_output_is_said_to_be_so_wherever_the_command_is_given(
    monkeypatch: pytest.MonkeyPatch, data: Path, tmp_path: Path, poison: Command, command: Command
) -> None:
    assert poison().code == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    monkeypatch.chdir(data)
    for said in (poison(), command("poison", ".", "--attack", "fake", "--scale", "paper", "--out", tmp_path / "out")):
        assert (said.code, said.err) == (0, "")
        assert said.out == f"{tmp_path / 'out'} is complete already, with the same settings\n"
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


OTHER: dict[str, list[object]] = {
    "seed": ["--seed", 1],
    "attack radius": ["--set", "eps=4"],
    "attack fields steps": ["--set", "steps=1"],
    "attack fields recipe lr": ["--set", "recipe.lr=0.1"],
    "attack scale": ["--scale", "small"],
}


def test_other_settings_on_a_complete_output_are_refused_by_name(poison: Command, tmp_path: Path) -> None:
    assert poison().code == 0
    before = tree_bytes(tmp_path)
    for setting, changes in {**OTHER, "output format": ["--format", "webdataset"]}.items():
        refused(poison(*changes), setting)
    assert tree_bytes(tmp_path) == before


def test_other_settings_on_an_unfinished_crafting_are_refused_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, poison: Command, command: Command, data: Path, tmp_path: Path
) -> None:
    killed_after(monkeypatch, State, "save", poison, times=2)
    before = tree_bytes(tmp_path)
    for setting, changes in OTHER.items():
        refused(poison(*changes), setting)
        refused(poison(*changes, "--dry-run"), setting)
    refused(command("poison", data, "--attack", "urp", "--out", tmp_path / "out"), "attack name")
    assert tree_bytes(tmp_path) == before
    assert poison("--format", "npz", "--out", tmp_path / "out").code == 0, "the format does not decide the poison"


def test_an_image_that_changed_is_found_out_and_one_that_was_touched_is_not(
    monkeypatch: pytest.MonkeyPatch, poison: Command, data: Path, tmp_path: Path
) -> None:
    killed_after(monkeypatch, State, "save", poison, times=2)
    image = data / "class0" / "000.png"
    content = image.read_bytes()
    image.write_bytes((data / "class0" / "002.png").read_bytes())
    refused(poison(), "input fingerprint")
    image.write_bytes(content)
    assert poison().code == 0
    image.touch()
    refused(poison(), "input fingerprint")  # a finished one is recognized by names, sizes and times


def test_an_image_that_changes_while_the_poison_is_crafted_is_found_out(
    monkeypatch: pytest.MonkeyPatch, poison: Command, data: Path, tmp_path: Path
) -> None:
    image, other = data / "class1" / "001.png", data / "class0" / "000.png"
    content, save = image.read_bytes(), State.save

    def changing(self: State, stage: str, *state: Any) -> None:
        save(self, stage, *state)
        image.write_bytes(other.read_bytes())

    with monkeypatch.context() as patch:
        patch.setattr(State, "save", changing)
        assert "001.png has changed in the meantime; put the old one back and" in refusal(poison())
    assert not (tmp_path / "out").exists() and manifest(tmp_path / "out")["status"] == "failed"
    refused(poison(), "input fingerprint")
    image.write_bytes(content)
    assert poison().code == 0


def test_a_failed_run_says_why_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, poison: Command, saves: list[str]
) -> None:
    write, left = state.write_whole, [3]

    def full(path: Path, data: bytes) -> None:
        left[0] -= 1
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(state, "write_whole", full)
        said = poison()
    assert said.code == 2 and "the disk is full: free some space and run the same command again" in said.err
    failed = manifest(tmp_path / "out")
    assert failed["status"] == "failed" and "No space left" in failed["reason"] and not (tmp_path / "out").exists()
    done = list(saves)
    saves.clear()
    assert poison().code == 0 and manifest(tmp_path / "out")["status"] == "complete"
    assert done and not set(done) & {stage for stage in saves if stage != "surrogate"}


def test_what_is_refused_before_any_work_leaves_what_was_there(tmp_path: Path, command: Command) -> None:
    few = write_images(tmp_path / "few", 4, side=16)
    before = tree_bytes(tmp_path)
    for kept in ({}, {"out.run.json": b"of an older run"}):
        for name, content in kept.items():
            (tmp_path / name).write_bytes(content)
        said = command("poison", few, "--attack", "fake", "--out", tmp_path / "out")
        assert "class class0 has 2 images; Fake needs at least 3" in refusal(said)
        assert tree_bytes(tmp_path) == {**before, **kept}
        assert names(tmp_path) == sorted(["few", *kept])


# One process at a time


def halted(arguments: list[str], log: Path, what: str) -> BaseProcess:
    """A process in the middle of a command, which holds the lock of its output and does not get on."""
    process = start(arguments, log, Kill(what, 1, by=signal.SIGSTOP))
    while process.is_alive():
        with suppress(FileNotFoundError):  # it has ended this moment
            if Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2].startswith("T"):
                return process
    raise AssertionError(log.read_text())


def test_a_second_process_on_one_output_is_refused_and_a_killed_one_is_in_nobodys_way(
    data: Path, tmp_path: Path, denoiser_folder: Path, command: Command
) -> None:
    purify = [
        "purify",
        str(data),
        "--denoiser",
        str(denoiser_folder),
        "--out",
        str(tmp_path / "purified"),
        "--batch",
        "1",
    ]
    poison = ["poison", str(data), "--attack", "fake", "--out", str(tmp_path / "out")]
    commands = {
        craft_folder(tmp_path / "out"): (poison, "saved state"),
        shard_folder(tmp_path / "purified"): (purify, "denoised batch"),
    }
    for folder, (arguments, work) in commands.items():
        first = halted(arguments, tmp_path / "log", work)
        said = command(*arguments)
        first.kill()
        first.join()
        assert re.fullmatch(
            "another process is working on .*; wait until it has ended, or choose another output", refusal(said)
        )
        assert (folder / "lock").exists(), "it was killed"
        assert command(*arguments).code == 0
        assert not folder.exists()
