"""A command in a process of its own, so small and slow that a test can kill it at a moment of its choice."""

import multiprocessing
import random
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from tiny import CONFIG

from eclipse import pipeline, poisoning, shards, streaming
from eclipse.attacks import ATTACKS, crafting
from eclipse.cli import main, show
from eclipse.diffusion import presets, training
from eclipse.diffusion.presets import FAST

PAUSE_S = 0.01
FAKE = {"fake": "fake_attack:Fake"}

# The processes are forked from one that has imported everything, which takes seconds (torch._dynamo, which each
# optimizer imports, most of them), and has computed nothing.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [__name__, pipeline.__name__, poisoning.__name__, show.__name__, "fake_attack", "torch._dynamo"]
)


def slowly(work: Callable[..., Any]) -> Callable[..., Any]:
    def paused(*args: Any, **options: Any) -> Any:
        time.sleep(PAUSE_S)
        return work(*args, **options)

    return paused


def run(arguments: list[str], log: Path) -> None:
    """Be the command ``eclipse`` with these arguments; what it prints goes to a file."""
    torch.set_num_threads(1)
    shards.SHARD_ROWS = 4
    training.CHECKPOINT_EVERY_S = 0.0
    presets.PRESETS["fast"] = replace(FAST, denoiser=CONFIG, training=replace(FAST.training, batch=4))
    ATTACKS.update(FAKE)
    crafting.ROWS = 8
    crafting.Crafting.save = slowly(crafting.Crafting.save)  # type: ignore[method-assign]
    streaming.denoise, training.draw = slowly(streaming.denoise), slowly(training.draw)
    sys.argv = ["eclipse", *arguments]
    with log.open("w") as sys.stdout, log.open("w") as sys.stderr:
        main()


def start(arguments: list[str], log: Path) -> BaseProcess:
    process = CONTEXT.Process(target=run, args=(arguments, log))
    process.start()
    return process


def kill_when(process: BaseProcess, ripe: Callable[[], bool], delay_s: float) -> None:
    """Kill a process (-9) some time after something is seen."""
    while process.is_alive() and not ripe():
        time.sleep(0.001)
    process.join(delay_s * random.random())
    process.kill()
    process.join()
