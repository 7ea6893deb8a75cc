"""Real processes, killed in the middle of a command, and a poison that is gone on with in parts."""

import signal
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from kit.commands import Command, refusal, write_images
from kit.kills import Killed, manifest, refused
from kit.layouts import tree_bytes
from kit.small_run import Kill, ended, start

from eclipse.attacks.crafting import surrogate
from eclipse.runs.state import State

POISON = "--attack fake"
EM = "--attack em --scale small --set max_rounds=8 --set batch=16"
PURIFY = "--trusted trusted --format parquet --batch 4 --iterations 30"
KILLS = {
    ("poison", POISON): [Kill("saved state", 1), Kill("saved state", 2, 0.007), Kill("saved state", 1, 0.003)],
    ("poison", EM): [Kill("saved state", 1), Kill("saved state", 2, 0.007)],
    ("purify", PURIFY): [
        Kill("training step", 6, 0.017),  # four are of the estimate
        Kill("denoised batch", 1),  # nothing is stored then
        Kill("shard", 1),
        Kill("denoised batch", 3, 0.013),
        Kill("shard", 3),
    ],
}


@pytest.fixture(autouse=True)
def small_groups(plugin: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surrogate, "ROWS", 8)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_images(tmp_path / "images", 40, side=16)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Real processes


@pytest.mark.parametrize(("name", "options"), KILLS, ids=["fake", "em", "purify"])
def test_killed_at_any_moment_it_ends_with_the_same_bytes(place: Path, name: str, options: str) -> None:
    write_images(place / "trusted", 50, seed=2)

    def go(out: str, kill: Kill | None = None) -> int:
        return ended([name, "images", "--out", out, *options.split()], place / "log", kill)

    assert go("whole") == 0, (place / "log").read_text()
    shards = [0]
    for kill in KILLS[name, options]:
        assert go("killed", kill) == -signal.SIGKILL, (place / "log").read_text()
        assert list(place.glob(".killed*/*.safetensors")) or (place / "killed.denoiser").exists(), "it keeps its work"
        shards.append(len(list(place.glob(".killed*/shard-*.arrow"))))
    waited_for = sum(kill.times for kill in KILLS[name, options] if kill.what == "shard")
    assert shards == sorted(shards) and waited_for <= shards[-1] < 10, shards
    assert go("killed") == 0, (place / "log").read_text()
    for made in ("", ".denoiser/model.safetensors") if name == "purify" else ("",):
        assert tree_bytes(place / f"killed{made}") == tree_bytes(place / f"whole{made}")
    wholes = [manifest(place / out) for out in ("killed", "whole")]
    for fact in ("status", "output fingerprint", "counts", "radius", "surrogate"):
        assert wholes[0].get(fact) == wholes[1].get(fact), fact
    assert not list(place.glob(".*"))


def halted(arguments: list[str], log: Path, what: str) -> BaseProcess:
    """A process in the middle of a command, which holds the lock of its output and does not get on."""
    process = start(arguments, log, Kill(what, 1, by=signal.SIGSTOP))
    while process.is_alive():
        with suppress(FileNotFoundError):  # it has ended this moment
            if Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2].startswith("T"):
                return process
    raise AssertionError(log.read_text())


def test_a_second_process_on_one_output_is_refused_and_a_killed_one_is_in_nobodys_way(
    place: Path, command: Command
) -> None:
    arguments = ["poison", "images", "--attack", "fake", "--out", "out"]
    first = halted(arguments, place / "log", "saved state")
    said = command(*arguments)
    first.kill()
    first.join()
    assert "another process is working on out" in refusal(said)
    assert (place / ".out.poisoning" / "lock").exists(), "it was killed"
    assert command(*arguments).code == 0
    assert not (place / ".out.poisoning").exists()


def test_what_takes_the_place_of_an_output_that_a_kill_left_without_its_name_is_not_taken_for_it(
    place: Path, command: Command
) -> None:
    arguments = ["poison", "images", "--attack", "urp", "--out", "out"]
    assert ended(arguments, place / "log", Kill("synced output", 1)) == -signal.SIGKILL
    assert not (place / "out").exists()
    write_images(place / "out", 2)
    before = tree_bytes(place)
    assert "out exists already" in refusal(command(*arguments))
    assert tree_bytes(place) == before


# In this process


@pytest.fixture
def poison(place: Path, command: Command) -> Command:
    """Give the same command, with more options."""
    return lambda *more: command("poison", "images", "--attack", "fake", "--out", "out", *more)


def saving(monkeypatch: pytest.MonkeyPatch, then: Callable[[list[str]], None]) -> list[str]:
    """Do something whenever the state of a stage was saved; the stages so far."""
    done, save = list[str](), State.save

    def save_and(self: State, stage: str, *state: Any) -> None:
        save(self, stage, *state)
        done.append(stage)
        then(done)

    monkeypatch.setattr(State, "save", save_and)
    return done


def killed_after(monkeypatch: pytest.MonkeyPatch, poison: Command, times: int) -> list[str]:
    """Give the command and kill it when that many states are saved."""

    def kill(done: list[str]) -> None:
        if len(done) == times:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        done = saving(patch, kill)
        poison()
    return done


def test_what_is_done_is_not_done_again(monkeypatch: pytest.MonkeyPatch, poison: Command) -> None:
    before = killed_after(monkeypatch, poison, 7)
    saves = saving(monkeypatch, lambda done: None)
    assert poison().code == 0
    rest = list(saves)
    saves.clear()
    assert poison("--out", "undisturbed").code == 0
    assert before + rest == saves and saves[-5:] == [f"noise {row}" for row in range(0, 40, 8)]


def test_an_image_that_changed_is_found_out_and_one_that_was_touched_is_not(
    monkeypatch: pytest.MonkeyPatch, place: Path, poison: Command
) -> None:
    killed_after(monkeypatch, poison, 2)
    image = place / "images" / "class0" / "000.png"
    content = image.read_bytes()
    image.write_bytes((place / "images" / "class0" / "002.png").read_bytes())
    refused(poison(), "input fingerprint")
    image.write_bytes(content)
    assert poison().code == 0, "touched"
    image.touch()
    refused(poison(), "input fingerprint")  # a finished one is recognized by names, sizes and times


def test_an_image_that_changes_while_the_poison_is_crafted_is_found_out(
    monkeypatch: pytest.MonkeyPatch, place: Path, poison: Command
) -> None:
    image = place / "images" / "class1" / "001.png"
    content, other = image.read_bytes(), (place / "images" / "class0" / "000.png").read_bytes()
    with monkeypatch.context() as patch:
        saving(patch, lambda done: (image.write_bytes(other), None)[1])
        assert "001.png has changed in the meantime; put the old one back and" in refusal(poison())
    assert not (place / "out").exists() and manifest(place / "out")["status"] == "failed"
    refused(poison(), "input fingerprint")
    image.write_bytes(content)
    assert poison().code == 0
