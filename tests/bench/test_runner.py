"""Cells are run in processes of their own, and nothing that is finished is lost."""

import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit.commands import Command, refusal
from kit.grids import BENCHMARKS, GRID, bench_of, grid_of, save
from kit.tiny import one_sentence

from eclipse.bench.grid import Choice
from eclipse.bench.result import Folder, Result, read_results
from eclipse.bench.runner import CellStep, chosen, run_cells
from eclipse.errors import EclipseError
from eclipse.runs.files import locked

COMMAND = str(Path(sys.executable).with_name("eclipse"))


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread a cell: on small images a second one does nothing but wait for the first."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})


def lines(out: Path) -> list[bytes]:
    """Of the finished cells."""
    path = Folder(out).cells
    return path.read_bytes().splitlines(keepends=True) if path.exists() else []


def test_cells_are_picked_by_their_parts_or_their_name(data: Path) -> None:
    bench = bench_of(data)

    def picked(*words: str) -> list[str]:
        return list(map(str, chosen(bench, words)))

    assert picked() == list(map(str, bench.grid.cells()))
    assert picked("em/none") == ["em-none-small-0", "em-none-small-1"]
    assert picked("*/iss-g", "ops/none/small/1") == [
        *(f"{a}-iss-g-small-0" for a in ("clean", "ops", "em")),
        "ops-none-small-1",
    ]
    name = bench.name(Choice("clean", "trusted-only", "small", 0))
    assert picked("clean-trusted-only-small-0") == picked(name) == ["clean-trusted-only-small-0"]
    with pytest.raises(EclipseError, match=r"unknown cell 'em-none-smal-0'; did you mean 'em-none-small-0'"):
        picked("em-none-smal-0")
    with pytest.raises(EclipseError, match=r"unknown cell 'esm/none'; did you mean 'em/none'"):
        picked("esm/none")


def test_what_is_missing_is_run_and_a_broken_cell_does_not_stop_the_rest(data: Path, command: Command) -> None:
    changes = [('"ops", "em"]', '"ops"]'), ('em = ["max_rounds=1", "batch=16"]\n', ""), ("[attacks.set]\n", "")]
    few = ('"trusted-only"]\nscale = "small"', '"one-step"]\nscale = "small"\nset.one-step = ["iterations=2"]')
    grid_of(data, *changes, few)
    out = data / "results"
    options = ("bench", data / "grid.toml", "--data", data, "--out", out)
    assert command(*options, "--cell", "*/none/small/0").code == 0
    done = lines(out)
    assert len(done) == 2
    save(data / "trusted.npz", 40, seed=2)  # too few for a denoiser
    said = command(*options, "--cell", "clean/none", "--cell", "clean/one-step", "--jobs", "2")
    assert said.code == 1 and "1 cells broke" in said.err, said
    (broken,) = Folder(out).failures().values()
    assert "at least 50" in one_sentence(broken.error)
    assert broken.command.endswith("--cell clean-one-step-small-0")
    assert lines(out)[:2] == done and len(lines(out)) == 3, "finished cells were left alone"
    save(data / "trusted.npz", 50, seed=2)
    assert command(*options, "--cell", "clean/one-step").code == 0
    assert not Folder(out).failed.exists()
    assert len(read_results(out).cells) == len(lines(out)) == 4


def test_a_report_shows_the_grid_that_was_asked_for_last_and_a_lost_grid_file_costs_no_cell(
    data: Path, command: Command
) -> None:
    out = data / "results"
    options = ("bench", data / "grid.toml", "--data", data, "--out", out, "--cell", "clean/none")
    assert command(*options).code == 0
    (data / "grid.toml").write_text(GRID.replace("none = [0, 1]", "none = [0]"))
    assert command(*options).code == 0, "nothing is missing"
    assert "clean-none-small-1" not in (out / "grid.json").read_text()
    done = lines(out)
    (out / "grid.json").unlink()  # the advice of a report that finds it damaged
    assert command(*options).code == 0
    assert lines(out) == done and (out / "grid.json").exists()
    with locked(out / ".running", out):
        assert "another process is working on" in refusal(command(*options)), "it may be writing there"


def test_a_process_that_is_killed_breaks_its_cell_only(data: Path) -> None:
    steps = list[CellStep]()

    def kill_the_first(step: CellStep) -> None:
        if not steps:
            for child in multiprocessing.active_children():
                child.kill()
        steps.append(step)

    slow = bench_of(data, grid_of(data, ("epochs = 1", "epochs = 30")))
    assert run_cells(slow, Folder(data / "results"), chosen(slow, ["clean/none"]), 1, kill_the_first) == 1
    broken, done = (step for step in steps if step.step is None)
    assert "signal 9" in broken.reason and done.result is not None


@pytest.fixture
def heard() -> Iterator[None]:
    """Hear Ctrl-C also where a shell has started the tests in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_term_end_the_workers_and_the_same_command_goes_on(
    data: Path, command: Command, monkeypatch: pytest.MonkeyPatch, heard: None, number: int, code: int
) -> None:
    keep, out = Folder.keep, data / "results"

    def interrupted(folder: Folder, result: Result) -> None:
        keep(folder, result)
        os.kill(os.getpid(), number)

    options = ("bench", data / "grid.toml", "--data", data, "--out", out, "--cell", "*/none/small/0", "--jobs", "2")
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "keep", interrupted)
        assert command(*options).code == code
    assert not multiprocessing.active_children()
    done = lines(out)
    assert len(done) == 1 and not Folder(out).failed.exists()
    assert command(*options).code == 0
    assert lines(out)[:1] == done and len(lines(out)) == 3


def test_a_worker_does_not_hear_ctrl_c(data: Path) -> None:
    def interrupt(step: CellStep) -> None:
        for child in multiprocessing.active_children():
            os.kill(child.pid or 0, signal.SIGINT)

    bench = bench_of(data)
    assert run_cells(bench, Folder(data / "results"), chosen(bench, ["clean/none/small/0"]), 1, interrupt) == 0


def test_a_kill_loses_no_finished_cell_and_the_same_command_goes_on(data: Path, command: Command) -> None:
    out = data / "results"
    arguments = [
        "bench",
        str(data / "grid.toml"),
        "--data",
        str(data),
        "--out",
        str(out),
        "--cell",
        "*/none",
        "--jobs",
        "2",
    ]
    process = subprocess.Popen([COMMAND, *arguments], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    while process.poll() is None and not lines(out):
        time.sleep(0.01)
    process.kill()
    said = process.communicate(timeout=60)[1]  # returns when no worker holds the pipe any more
    done = lines(out)
    assert done, said
    assert command(*arguments).code == 0
    assert lines(out)[: len(done)] == done and len(lines(out)) == 6
    assert not Folder(out).failed.exists(), "a process whose main process was killed is no broken cell"


@pytest.mark.slow
def test_the_smoke_grid_goes_through_every_part(tmp_path: Path, command: Command) -> None:
    sys.path.insert(0, str(BENCHMARKS))
    embedded = importlib.import_module("embedded")
    embedded.write(tmp_path / "data")
    out = tmp_path / "results"
    said = command("bench", BENCHMARKS / "smoke.toml", "--data", tmp_path / "data", "--out", out, "--jobs", "2")
    assert said.code == 0, said.err
    results = read_results(out).cells.values()
    assert len(results) == 12 and {len(result.epochs) for result in results} == {2}
    prepared = {result.defense.name for result in results if result.seconds.prepare > 0}
    assert prepared == {"iss-j", "eclipse"}
    assert command("report", out).code == 0
    page = (out / "report.html").read_text()
    assert "digits on photographs" in page and all(result.command.split()[-1] in page for result in results)
