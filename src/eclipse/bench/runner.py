"""Run the missing cells of a grid in processes of their own: stop it at any time, the same command goes on."""

import json
import multiprocessing
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from eclipse.bench.cell import Bench
from eclipse.bench.grid import VERSION, Choice
from eclipse.compute.device import enough_memory
from eclipse.compute.memory import keep_freed_memory
from eclipse.errors import EclipseError, unknown
from eclipse.runs.files import locked, write_json
from eclipse.runs.state import StageStep


@dataclass(frozen=True)
class CellStep:
    """What happened to a cell.

    Attributes:
        cell: which.
        what: ``works``, ``done`` or ``failed``.
        step: how far it is, while it works.
        accuracy: of its victim, when it is done.
        reason: why it failed.
    """

    cell: str
    what: str
    step: StageStep | None = None
    accuracy: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Results:
    """A folder of results: ``grid.json``, and a JSON for each cell, in ``cells`` or, where it broke, in ``failed``.

    Attributes:
        folder: the folder.
    """

    folder: Path

    def finished(self, cell: str) -> Path:
        """Where the result of a cell lies."""
        return self.folder / "cells" / f"{cell}.json"

    def failed(self, cell: str) -> Path:
        """Where the reason lies why a cell broke."""
        return self.folder / "failed" / f"{cell}.json"

    def check(self, bench: Bench) -> None:
        """Refuse a folder that holds something else, or the results of another grid.

        Raises:
            EclipseError: says what it holds.
        """
        path = self.folder / "grid.json"
        if not path.exists():
            others = [] if not self.folder.exists() else [p.name for p in self.folder.iterdir() if p.name[0] != "."]
            cells = (self.folder / "cells").is_dir()  # of a grid.json that was deleted
            if (others and not cells) or (self.folder.exists() and not self.folder.is_dir()):
                raise EclipseError(f"{self.folder} holds no results of a grid; choose another --out")
            return
        try:
            made = json.loads(path.read_text())
            version, name = made["version"], made["name"]
        except (ValueError, KeyError, TypeError) as error:
            raise EclipseError(f"{path} cannot be read ({error}); choose another --out, or delete that file") from error
        if version != VERSION:
            raise EclipseError(
                f"{self.folder} was made by a grid of version {version}, this is {VERSION}; choose another --out"
            )
        if name != bench.grid.name:
            raise EclipseError(
                f"{self.folder} holds the grid {name!r} and this is {bench.grid.name!r}; choose another --out"
            )

    def begin(self, bench: Bench) -> None:
        """Write down what the grid is."""
        grid = bench.grid
        cells = [
            {
                "cell": bench.name(choice),
                "attack": choice.attack,
                "defense": choice.defense,
                "arch": choice.arch,
                "recipe": grid.victims.recipe,
                "seed": choice.seed,
            }
            for choice in grid.cells()
        ]
        about = {"version": VERSION, "name": grid.name, "protocol": grid.protocol, "data": asdict(grid.data)}
        write_json(self.folder / "grid.json", {**about, "cells": cells})


def chosen(bench: Bench, patterns: Sequence[str]) -> list[Choice]:
    """The cells of a grid, or those whose name one of the words picks: a whole cell, or parts of its name.

    Raises:
        EclipseError: a word that picks nothing.
    """
    cells = bench.grid.cells()
    if not patterns:
        return cells
    for pattern in patterns:
        if not any(_picks(bench, pattern, cell) for cell in cells):
            forms = {form for cell in cells for form in (cell.attack, f"{cell.attack}/{cell.defense}", str(cell))}
            raise unknown("cell", pattern, forms)
    return [cell for cell in cells if any(_picks(bench, pattern, cell) for pattern in patterns)]


def _picks(bench: Bench, pattern: str, cell: Choice) -> bool:
    """``em``, ``em/eclipse``, ``em/eclipse/small/0`` or ``*/eclipse``; or the whole name, as files have it or short."""
    if pattern in (str(cell), bench.name(cell)):
        return True
    parts = pattern.split("/")
    names = (cell.attack, cell.defense, cell.arch, str(cell.seed))
    return len(parts) <= len(names) and all(part in ("*", name) for part, name in zip(parts, names, strict=False))


def run_cells(
    bench: Bench, results: Results, cells: Sequence[Choice], jobs: int, on_step: Callable[[CellStep], None]
) -> int:
    """Run cells in as many processes as there are jobs, and return how many of them broke.

    Each result is written as soon as it is there. A cell that breaks, or whose process is killed, leaves a reason and
    the rest goes on. An interrupted run loses the victims that were being trained, and nothing else.
    """
    waiting, broken = list(reversed(cells)), 0
    results.folder.mkdir(parents=True, exist_ok=True)
    with locked(results.folder / ".running", results.folder), _workers(bench, results, min(jobs, len(cells))) as crew:
        results.begin(bench)
        for worker in crew:
            worker.give(waiting)
        while busy := [worker for worker in crew if worker.cell is not None]:
            ready = wait([handle for worker in busy for handle in (worker.events, worker.process.sentinel)])
            for worker in busy:
                for step in worker.heard(ready):
                    broken += step.what == "failed"
                    on_step(step)
                worker.give(waiting)
    return broken


class _Worker:
    """A process that runs one cell after the other."""

    def __init__(self, bench: Bench, results: Results, threads: int) -> None:
        self._arguments = (bench, results, threads)
        self.cell: Choice | None = None
        self._start()

    def _start(self) -> None:
        # Forked from a process that has imported everything, which takes seconds, and has used no GPU.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["eclipse.bench.runner", "torch._dynamo"])
        self.events, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_work, args=(theirs, *self._arguments), daemon=True)
        self.process.start()
        theirs.close()

    def give(self, waiting: list[Choice]) -> None:
        """Give the next cell to an idle process."""
        if self.cell is not None or not waiting:
            return
        if not self.process.is_alive():
            self._start()
        self.cell = waiting.pop()
        try:
            self.events.send(self.cell)
        except OSError:  # it was killed this moment
            self._start()
            self.events.send(self.cell)

    def heard(self, ready: Sequence[object]) -> Iterator[CellStep]:
        """What a busy process has said, or its end."""
        assert self.cell is not None
        bench, results, _ = self._arguments
        ended = self.process.sentinel in ready
        try:
            while self.cell is not None and self.events.poll():
                step: CellStep = self.events.recv()
                if step.what != "works":
                    self.cell = None
                yield step
        except (EOFError, OSError):
            ended = True
        if self.cell is not None and ended:
            self.process.join()
            cell = bench.name(self.cell)
            reason = f"its process ended with {_ended(self.process.exitcode or 0)}"
            fail(results, cell, self.cell, bench, reason)
            self.cell = None
            yield CellStep(cell, "failed", reason=reason)


def _ended(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    return f"signal {-code}" + (" (out of memory?)" if code == -signal.SIGKILL else "")


@contextmanager
def _workers(bench: Bench, results: Results, count: int) -> Iterator[list[_Worker]]:
    threads = max(1, len(os.sched_getaffinity(0)) // max(1, count))
    crew = [_Worker(bench, results, threads) for _ in range(count)]
    try:
        yield crew
    finally:
        for worker in crew:
            worker.process.terminate()
        for worker in crew:
            worker.process.join()


def _work(events: Connection, bench: Bench, results: Results, threads: int) -> None:
    """Be a worker: run the cells that come, until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the main process, which ends this one
    torch.set_num_threads(threads)
    keep_freed_memory()

    def say(step: CellStep) -> None:
        try:
            events.send(step)
        except OSError:
            sys.exit()  # the main process was killed: that is no fault of the cell

    while True:
        try:
            choice: Choice = events.recv()
        except EOFError:
            return
        cell = bench.name(choice)
        try:
            with enough_memory(bench.device, "for this cell"):
                result = bench.run(choice, lambda step, cell=cell: say(CellStep(cell, "works", step)))  # type: ignore[misc]
            write_json(results.finished(cell), {**result, "command": command(bench, choice)})
        except Exception as error:
            reason = _reason(error)
            fail(results, cell, choice, bench, reason)
            say(CellStep(cell, "failed", reason=reason))
        else:
            results.failed(cell).unlink(missing_ok=True)
            say(CellStep(cell, "done", accuracy=result["accuracy"]))


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, EclipseError) else "".join(traceback.format_exception(error))


def fail(results: Results, cell: str, choice: Choice, bench: Bench, reason: str) -> None:
    """Keep the reason why a cell broke."""
    about = {"cell": cell, "settings": asdict(choice), "error": reason, "command": command(bench, choice)}
    write_json(results.failed(cell), about)


def command(bench: Bench, choice: Choice) -> str:
    """The command that runs one cell."""
    return f"eclipse bench {shlex.quote(str(bench.grid.path))} --data DATA --out RESULTS --cell {choice}"
