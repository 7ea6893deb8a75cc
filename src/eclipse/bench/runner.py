"""Run the missing cells of a grid, each in a process of its own: stop it at any time, the same command goes on."""

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import torch

from eclipse.bench.cell import Bench
from eclipse.bench.grid import Choice
from eclipse.bench.result import Failure, Folder, Result
from eclipse.compute.device import enough_memory
from eclipse.compute.memory import keep_freed_memory
from eclipse.errors import EclipseError, unknown
from eclipse.runs.state import StageStep


@dataclass(frozen=True)
class CellStep:
    """What happened to a cell: it goes on, is done, or broke.

    Attributes:
        cell: its name.
        step: how far it is, while it works.
        result: when it is done.
        reason: why it broke.
    """

    cell: str
    step: StageStep | None = None
    result: Result | None = None
    reason: str = ""


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
    bench: Bench, folder: Folder, cells: Sequence[Choice], jobs: int, on_step: Callable[[CellStep], None]
) -> int:
    """Run cells, as many at a time as there are jobs, and return how many of them broke.

    Each result is kept as soon as it is there. A cell that breaks, or whose process is killed, leaves a reason and the
    rest goes on. An interrupted run loses the cells that were running, and nothing else.
    """
    waiting, running, broken = list(reversed(cells)), list[_Running](), 0
    threads = max(1, len(os.sched_getaffinity(0)) // max(1, min(jobs, len(cells))))
    with folder.writing(bench.asked()):
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    running.append(_Running(bench, waiting.pop(), threads))
                ready = wait([cell.events for cell in running])
                for cell in [cell for cell in running if cell.events in ready]:
                    step = cell.heard()
                    if step.step is None:
                        running.remove(cell)
                    if step.result is not None:
                        folder.keep(step.result)
                    elif step.step is None:
                        folder.fail(Failure(step.cell, step.reason, bench.command(cell.choice)))
                        broken += 1
                    on_step(step)
        finally:
            for cell in running:
                cell.process.terminate()
                cell.process.join()
    return broken


class _Running:
    """A cell in a process of its own."""

    def __init__(self, bench: Bench, choice: Choice, threads: int) -> None:
        # Forked from a process that has imported everything, which takes seconds, and has used no GPU.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["eclipse.bench.runner", "torch._dynamo"])
        self.choice, self._name = choice, bench.name(choice)
        self.events, theirs = context.Pipe(duplex=False)
        self.process: BaseProcess = context.Process(target=_work, args=(theirs, bench, choice, threads), daemon=True)
        self.process.start()
        theirs.close()

    def heard(self) -> CellStep:
        """What it says next; where it has ended without a last word, how."""
        try:
            step: CellStep = self.events.recv()
        except (EOFError, OSError):
            self.process.join()
            return CellStep(self._name, reason=f"its process ended with {_ended(self.process.exitcode or 0)}")
        if step.step is None:
            self.process.join()
        return step


def _ended(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    return f"signal {-code}" + (" (out of memory?)" if code == -signal.SIGKILL else "")


def _work(events: Connection, bench: Bench, choice: Choice, threads: int) -> None:
    """Run a cell and say how it goes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the main process, which ends this one
    torch.set_num_threads(threads)
    keep_freed_memory()
    cell = bench.name(choice)

    def say(step: CellStep) -> None:
        try:
            events.send(step)
        except OSError:
            sys.exit()  # the main process was killed

    try:
        with enough_memory(bench.device, "for this cell"):
            result = bench.run(choice, lambda step: say(CellStep(cell, step)))
    except EclipseError as error:
        say(CellStep(cell, reason=str(error)))
    except Exception as error:
        say(CellStep(cell, reason="".join(traceback.format_exception(error))))
    else:
        say(CellStep(cell, result=result))
