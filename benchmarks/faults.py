"""Kill every long command for real (-9), at random moments and around renames, and compare what comes of it.

    python benchmarks/faults.py --kills 30 --out benchmarks/results/faults.json

Each command runs undisturbed once. Then, in new folders, it is killed up to three times in a row and left to end: every
file must have the bytes of the undisturbed run, but for the times in JSON, and none may be left over. Moments: any
time, and right before or after any rename, those of the cells of a grid included; with half of the grids that are
killed at any time, their cells are. What is small here (a shard of 32 rows, a state every tenth of a second) is so that
small runs have many. A measurement that was interrupted goes on with the commands that are missing in its file.
"""

import argparse
import contextlib
import functools
import io
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from eclipse.bench import runner
from eclipse.cli import main, show
from eclipse.diffusion import training
from eclipse.jobs import denoiser, poison, purify, train
from eclipse.purification import arrays, shards
from eclipse.runs.files import write_json
from eclipse.runs.manifest import command, versions

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [module.__name__ for module in (runner, show, denoiser, poison, purify, train)] + ["torch._dynamo"]
)
IN_A_ROW = 3
TIMES = {"seconds", "date", "started", "finished", "images_per_s", "versions"}  # of a JSON file, differ in any two runs
KILLED, CELLS = "killed", "cells"  # notes of a process, beside its output

GRID = """version = 1
name = "two cells"
[data]
name = "noise"
train = "images.npz"
test = "test.npz"
trusted = "trusted.npz"
[attacks]
names = ["em"]
scale = "small"
[attacks.set]
em = ["max_rounds=2"]
[defenses]
names = ["none", "eclipse"]
scale = "small"
[defenses.set]
eclipse = ["iterations=30"]
[victims]
archs = ["small"]
epochs = 2
"""

TRUST = ["--trusted", "../trusted.npz", "--iterations", "40", "--batch", "32"]
COMMANDS = {
    "purify folder": ["purify", "../folder", *TRUST, "--out", "out"],
    "purify Parquet": ["purify", "../images.parquet", *TRUST, "--out", "out.parquet"],
    "purify WebDataset": ["purify", "../shards", *TRUST, "--out", "out"],
    "denoiser train": ["denoiser", "train", "../trusted.npz", "--iterations", "80", "--out", "out"],
    "poison": [
        *["poison", "../images.npz", "--attack", "em", "--scale", "small", "--set", "max_rounds=3"],
        *["--out", "out.npz"],
    ],
    "train": [
        *["train", "../images.npz", "--test", "../test.npz", "--arch", "small", "--epochs", "4"],
        *["--defense", "eclipse", "--scale", "small", "--set", "iterations=30", "--trusted", "../trusted.npz"],
        *["--out", "out"],
    ],
    "bench": ["bench", "../grid.toml", "--data", "..", "--out", "out"],
}


@dataclass(frozen=True)
class Moment:
    """When a process is killed.

    Attributes:
        after_s: any time after its start; None where it is killed at a rename.
        rename: the number of that rename, counted from 1 in each process.
        before: the rename is not made any more.
        cells: the cells of a grid are killed with it, or, at a rename, instead.
    """

    after_s: float | None = None
    rename: int = 0
    before: bool = False
    cells: bool = False


def write_inputs(root: Path) -> None:
    """Images of two classes in each layout, 240 of 16x16, and what they are trained, purified and tested with."""
    rng = np.random.default_rng(0)
    labels = np.arange(240) % 2
    sets = {"images": 240, "test": 40, "trusted": 60}
    images = {name: rng.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8) for name, count in sets.items()}
    for name, pixels in images.items():
        np.savez(root / f"{name}.npz", images=pixels, labels=labels[: len(pixels)])
    encoded = []
    for pixels in images["images"]:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        encoded.append(buffer.getvalue())
    pq.write_table(pa.table({"image": encoded, "label": labels}), root / "images.parquet", row_group_size=50)
    (root / "shards").mkdir()
    for shard in range(3):
        with tarfile.open(root / "shards" / f"{shard:03d}.tar", "w") as tar:
            for i in range(shard * 80, shard * 80 + 80):
                for name, data in ((f"{i:03d}.png", encoded[i]), (f"{i:03d}.cls", b"%d" % labels[i])):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    for i, data in enumerate(encoded):
        path = root / "folder" / f"class{labels[i]}" / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (root / "grid.toml").write_text(GRID)


# In the process of a command


def kill() -> None:
    Path(KILLED).touch()
    os.kill(os.getpid(), signal.SIGKILL)


def count_renames(moment: Moment | None) -> None:
    """Be killed at a rename of this process."""
    counter = itertools.count(1)

    def counted(rename: Callable[..., None]) -> Callable[..., None]:
        def then_killed(*args: Any, **options: Any) -> None:
            here = moment is not None and next(counter) == moment.rename
            if here and moment.before:
                kill()
            rename(*args, **options)
            if here:
                kill()

        return then_killed

    os.replace, os.rename = counted(os.replace), counted(os.rename)


def cell(moment: Moment | None, where: Path, *args: Any) -> None:
    """Be the process of a cell, in which ``runner`` is as it was."""
    with contextlib.chdir(where):
        with Path(CELLS).open("a") as file:
            print(os.getpid(), file=file)
        if moment is not None and moment.cells:
            count_renames(moment)
        runner._work(*args)


def run(arguments: list[str], where: Path, moment: Moment | None) -> None:
    """Be the command ``eclipse``."""
    os.chdir(where)
    torch.set_num_threads(1)
    shards.SHARD_ROWS, training.CHECKPOINT_EVERY_S, arrays.SAVE_EVERY_S = 32, 0.1, 0.05
    if moment is not None and not moment.cells:
        count_renames(moment)
    runner._work = functools.partial(cell, moment, where)
    sys.argv = ["eclipse", *arguments]
    sys.stdout = sys.stderr = Path("log").open("a", buffering=1)  # noqa: SIM115, open until the end
    main()


# Around it


def go(arguments: list[str], where: Path, moment: Moment | None = None) -> bool:
    """Run a command; return whether it, or a cell of it, was killed."""
    for note in (KILLED, CELLS):
        (where / note).unlink(missing_ok=True)
    process = CONTEXT.Process(target=run, args=(arguments, where, moment))
    process.start()
    process.join(moment and moment.after_s)
    if moment is not None and moment.after_s is not None and process.is_alive():
        process.kill()
        if moment.cells and (where / CELLS).exists():
            for pid in (where / CELLS).read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
    process.join()
    killed = process.exitcode == -signal.SIGKILL or (where / KILLED).exists()
    if process.exitcode and not killed:
        raise SystemExit(f"{arguments} ended with {process.exitcode}:\n{(where / 'log').read_text()}")
    return killed


def made(where: Path) -> dict[str, Any]:
    """Every file that a command has made: its bytes, or what is in it, without times."""
    found: dict[str, Any] = {}
    for path in sorted(where.rglob("*")):
        name = str(path.relative_to(where))
        if path.is_dir() or name in ("log", KILLED, CELLS, "out/failed.jsonl"):
            continue
        if path.suffix in (".json", ".jsonl"):
            lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            found[name] = sorted(json.dumps(timeless(json.loads(line)), sort_keys=True) for line in lines)
        elif path.suffix == ".safetensors" and ".cache" in name:
            found[name] = "kept"  # the cache notes seconds in some of its files
        else:
            found[name] = path.read_bytes()
    return found


def is_time(name: str, value: Any) -> bool:
    return name == "denoiser" and isinstance(value, float)  # the seconds of its training, in the cache of a grid


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {name: part for name, part in value.items() if name not in TIMES and not is_time(name, part)}
        return {name: timeless(part) for name, part in kept.items()}
    return [timeless(part) for part in value] if isinstance(value, list) else value


def drawn(rng: random.Random, seconds: float, is_grid: bool) -> Moment:
    if rng.random() < 0.5:
        return Moment(after_s=rng.uniform(0, seconds), cells=is_grid and rng.random() < 0.5)
    return Moment(rename=rng.randint(1, 12), before=rng.random() < 0.5, cells=is_grid and rng.random() < 0.7)


def measure(name: str, root: Path, kills: int, seed: int) -> dict[str, Any]:
    """Kill a command that often."""
    rng, arguments = random.Random(f"{seed} {name}"), COMMANDS[name]
    (root / "whole").mkdir()
    began = time.monotonic()
    go(arguments, root / "whole")
    seconds, whole = time.monotonic() - began, made(root / "whole")
    count = {"any time": 0, "before a rename": 0, "after a rename": 0}
    resumed, wrong = 0, list[str]()
    while sum(count.values()) < kills:
        where = root / f"run {resumed}"
        where.mkdir()
        for _ in range(IN_A_ROW):
            moment = drawn(rng, seconds, name == "bench")
            if not go(arguments, where, moment):
                break
            place = "before a rename" if moment.before else "after a rename"
            count["any time" if moment.after_s is not None else place] += 1
        go(arguments, where)
        resumed += 1
        now = made(where)
        wrong += [f"run {resumed}: {file}" for file in {*whole, *now} if whole.get(file) != now.get(file)]
        shutil.rmtree(where)
    shutil.rmtree(root / "whole")
    return {
        "kills": sum(count.values()),
        **count,
        "undisturbed s": round(seconds, 2),
        "resumed": resumed,
        "files": len(whole),
        "wrong": wrong,
    }


def render(found: dict[str, dict[str, Any]]) -> str:
    head = ("command", "kills", "any time", "before a rename", "after a rename", "resumed", "wrong")
    lines = [head, *((name, *(row[word] for word in head[1:-1]), len(row["wrong"])) for name, row in found.items())]
    return "\n".join("  ".join(f"{part!s:<17}" for part in line).rstrip() for line in lines)


def main_() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, help="of each command")
    parser.add_argument("--seed", type=int, default=0, help="decides the moments")
    parser.add_argument("--only", action="append", choices=list(COMMANDS), help="this command; repeatable")
    parser.add_argument("--out", type=Path, help="the file to keep the figures in")
    args = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    if args.out and args.out.exists():
        found = json.loads(args.out.read_text())["commands"]
    for name in args.only or COMMANDS:
        if found.get(name, {}).get("kills", 0) >= args.kills:
            continue
        with tempfile.TemporaryDirectory() as folder:
            write_inputs(Path(folder))
            found[name] = measure(name, Path(folder), args.kills, args.seed)
        if args.out:
            write_json(args.out, {"command": command(), "seed": args.seed, "commands": found, "versions": versions()})
        print(name, found[name], flush=True)
    print(render(found))
    sys.exit(any(row["wrong"] for row in found.values()))


if __name__ == "__main__":
    main_()
