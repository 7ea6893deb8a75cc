"""How progress is shown: bars on a terminal, plain lines elsewhere. The only module that prints while work goes on."""

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from eclipse import streaming
    from eclipse.diffusion.training import TrainStep

PLAIN_EVERY_S = 10.0


class Show:
    """Shows training and purification; a context manager, so that bars end cleanly."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, soft_wrap=True)
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._last = 0.0

    def __enter__(self) -> "Show":
        if self._console.is_terminal:
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

    def training(self, event: "TrainStep") -> None:
        """Show a training step: loss, images a second and the time left."""
        facts = f"loss {event.loss:.3f}, {event.images_per_s:.0f} images/s"
        self._show("training the denoiser", event.progress, facts, event.seconds_left)

    def purifying(self, event: "streaming.Progress") -> None:
        """Show the progress of a purification."""
        left = (event.total - event.done) / event.images_per_s if event.images_per_s else 0.0
        facts = f"{event.done} of {event.total}, {event.images_per_s:.0f} images/s, network busy {event.busy:.0%}"
        self._show("purifying", event.done / event.total, facts, left)

    def _show(self, what: str, share: float, facts: str, seconds_left: float) -> None:
        if self._bars is not None:
            if what not in self._tasks:
                self._tasks[what] = self._bars.add_task(what, total=1.0, facts=facts)
            self._bars.update(self._tasks[what], completed=share, facts=facts)
            return
        now = time.monotonic()
        if now - self._last >= PLAIN_EVERY_S or share >= 1.0:
            self._last = now
            print(f"{what}: {share:.0%}, {facts}, {seconds_left:.0f} s left", file=sys.stderr, flush=True)


def facts(title: str, table: Mapping[str, Any]) -> None:
    """Print settings or findings, one a line."""
    print(title)
    for name, value in table.items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)
        print(f"  {name:<18} {text}")
    sys.stdout.flush()
