"""A command in a process of its own, so small and slow that a test can kill it at a moment of its choice."""

import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from kit.tiny import CONFIG

from eclipse.attacks.crafting import surrogate
from eclipse.bench import result, runner
from eclipse.cli import main, show
from eclipse.diffusion import presets, training
from eclipse.diffusion.presets import FAST
from eclipse.jobs import poison, purify, train
from eclipse.purification import shards, stream
from eclipse.runs import state

PAUSE_S = 0.01

# The processes are forked from one that has imported everything, which takes seconds (torch._dynamo, which each
# optimizer imports, most of them), and has computed nothing.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [__name__, purify.__name__, poison.__name__, train.__name__, show.__name__, "torch._dynamo"]
)


def slowly(work: Callable[..., Any]) -> Callable[..., Any]:
    def paused(*args: Any, **options: Any) -> Any:
        time.sleep(PAUSE_S)
        return work(*args, **options)

    return paused


@dataclass(frozen=True)
class Kill:
    """Ends a process (-9) by what it does and not by the clock, so that a busy machine is killed at the same moments.

    Attributes:
        what: a name in ``MOMENTS``.
        times: how often that was done.
        delay_s: how much later it ends, wherever it is by then.
        by: the signal; SIGSTOP halts it instead.
    """

    what: str
    times: int
    delay_s: float = 0.0
    by: int = signal.SIGKILL


MOMENTS: dict[str, tuple[Any, str]] = {
    "training step": (training, "draw"),
    "denoised batch": (stream, "denoise"),
    "shard": (shards.Shards, "add"),
    "saved state": (state.State, "save"),
    "word of a cell": (runner._Running, "heard"),
    "kept cell": (result.Folder, "keep"),
    "synced output": (os, "sync"),  # it is there but for its name
}


def killing(work: Callable[..., Any], kill: Kill) -> Callable[..., Any]:
    """Work, and be killed when that was done often enough."""
    done = itertools.count(1)

    def then_killed(*args: Any, **options: Any) -> Any:
        result = work(*args, **options)
        if next(done) == kill.times:
            end = (os.getpid(), kill.by)
            threading.Timer(kill.delay_s, os.kill, end).start() if kill.delay_s else os.kill(*end)
        return result

    return then_killed


def run(arguments: list[str], log: Path, kill: Kill | None) -> None:
    """Be the command ``eclipse`` with these arguments; what it prints goes to a file."""
    torch.set_num_threads(1)
    shards.SHARD_ROWS = 4
    training.CHECKPOINT_EVERY_S = 0.0
    presets.PRESETS["fast"] = replace(FAST, denoiser=CONFIG, training=replace(FAST.training, batch=4))
    surrogate.ROWS = 8
    # The processes of cells are forked from this one, which has imported everything.
    runner.multiprocessing = SimpleNamespace(get_context=lambda _: multiprocessing.get_context("fork"))  # type: ignore[assignment]
    state.State.save = slowly(state.State.save)  # type: ignore[method-assign]
    stream.denoise, training.draw = slowly(stream.denoise), slowly(training.draw)
    if kill:
        owner, name = MOMENTS[kill.what]
        setattr(owner, name, killing(getattr(owner, name), kill))
    sys.argv = ["eclipse", *arguments]
    with log.open("w") as sys.stdout, log.open("w") as sys.stderr:
        main()


def start(arguments: list[str], log: Path, kill: Kill | None = None) -> BaseProcess:
    """Run the command in a process of its own."""
    process = CONTEXT.Process(target=run, args=(arguments, log, kill))
    process.start()
    return process


def ended(arguments: list[str], log: Path, kill: Kill | None = None) -> int:
    """The exit code of the command, -9 where it was killed."""
    process = start(arguments, log, kill)
    process.join()
    assert process.exitcode is not None
    return process.exitcode
