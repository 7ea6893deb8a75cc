"""How progress is shown: bars on a terminal, plain lines elsewhere. The only module that prints while work goes on."""

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from eclipse.errors import escaped

if TYPE_CHECKING:
    from eclipse.bench.runner import CellStep
    from eclipse.runs.state import Event

PLAIN_EVERY_S, JSON_EVERY_S = 10.0, 1.0
_WRAPPED = ("title", "passes an image", "what was seen", "treatment")
WIDTH = 100  # columns of a table, where the output is no terminal


class Show:
    """Shows training, purification and crafting; a context manager, so that bars end cleanly.

    Args:
        clock: tells seconds.
        as_json: one JSON object a line, at most one a second but for the ends of parts.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, as_json: bool = False) -> None:
        self._as_json, self._clock = as_json, clock
        self._console = Console(stderr=True, soft_wrap=True)
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._last = 0.0
        # Of each part: when its share was first told, and how large it was.
        self._begun: dict[str, tuple[float, float]] = {}

    def __enter__(self) -> "Show":
        if self._console.is_terminal and not self._as_json:
            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TextColumn("{task.fields[facts]}"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def tell(self, event: "Event", prefix: str = "") -> None:
        """Show how far long work is; where nothing says how long the rest takes, at the speed so far.

        There may be many such parts, so the bar of a finished one goes.
        """
        what, now = prefix + event.what, self._clock()
        began, before = self._begun.setdefault(what, (now, event.share))
        left = event.seconds_left
        if left is None and event.share > before:
            left = (1 - event.share) * (now - began) / (event.share - before)
        self._show(what, event.share, event.figures, left, now, keep=event.seconds_left is not None)

    def cell(self, event: "CellStep", number: int, total: int) -> None:
        """Show what happened to a cell of a grid: its progress, or its end as a line that stays."""
        if event.step is not None:
            self.tell(event.step, f"{event.cell}: ")
            return
        end = f"{event.result.accuracy:.2%}" if event.result else f"failed: {event.reason.splitlines()[-1]}"
        text = escaped(f"[{number}/{total}] {event.cell}: {end}")
        if self._as_json:
            accuracy = event.result.accuracy if event.result else None
            reason = {} if event.result else {"reason": event.reason}
            _line({"cell": event.cell, "number": number, "total": total, "accuracy": accuracy, **reason})
        elif self._bars is not None:
            self._bars.console.print(Text(text))
        else:
            print(text, file=sys.stderr, flush=True)

    def _show(self, what: str, share: float, facts: str, seconds_left: float | None, now: float, keep: bool) -> None:
        what, facts = escaped(what), escaped(facts)
        if self._bars is not None:
            if what not in self._tasks:
                self._tasks[what] = self._bars.add_task(what, total=1.0, facts=facts)
            self._bars.update(self._tasks[what], completed=share, facts=facts, visible=keep or share < 1.0)
            return
        if now - self._last >= (JSON_EVERY_S if self._as_json else PLAIN_EVERY_S) or share >= 1.0:
            self._last = now
            if self._as_json:
                _line({"what": what, "share": round(share, 4), "figures": facts, "seconds_left": seconds_left})
                return
            left = "" if seconds_left is None else f", {seconds_left:.0f} s left"
            print(f"{what}: {share:.0%}, {facts}{left}", file=sys.stderr, flush=True)


def say(*lines: str) -> None:
    """Print lines that may have names of a data set in them, which cannot steer the terminal."""
    for line in lines:
        print(escaped(line), flush=True)


def _line(content: Mapping[str, Any]) -> None:
    print(json.dumps(content), file=sys.stderr, flush=True)


def facts(title: str, table: Mapping[str, Any]) -> None:
    """Print settings or findings, one a line."""
    say(title)
    for name, value in table.items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)
        say(f"  {name:<18} {text}")
    sys.stdout.flush()


def columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in head:
        table.add_column(title, no_wrap=title not in _WRAPPED)
    for row in rows:
        table.add_row(*(Text(escaped(cell)) for cell in row))
    console = Console()
    (console if console.is_terminal else Console(width=WIDTH)).print(table)


def pair(values: Iterable[str]) -> str:
    """What the scales have, once where they agree."""
    return "/".join(dict.fromkeys(values))


def described(head: str, both: Sequence[Any], cost: tuple[str, Sequence[str]]) -> None:
    """Print an attack or a defense, given at each scale, with its parameters and, last, a line of its cost."""
    import inspect

    from eclipse.parameters import parameters
    from eclipse.registry import SCALES

    print(head, end="\n\n")
    print(inspect.getdoc(type(both[0])), end="\n\n")
    paper, small = map(parameters, both)
    rows = [(key, str(paper[key]), str(small[key]), "8-bit levels" if paper[key].levels else "") for key in paper]
    title, costs = cost
    columns(("parameter", *(f"scale {scale}" for scale in SCALES), ""), [*rows, (title, *costs, "")])
