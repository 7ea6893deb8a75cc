"""What each poison does to a small victim, and what it takes to craft it.

    python benchmarks/poisons.py --train 'train.parquet[:10000]' --test 'test.parquet[4000:6000]'
    python benchmarks/poisons.py --table docs/poisons.md

Each attack is crafted once (``--scale small``, seed 0), into ``--cache``; victims are trained with each seed. One JSON
file a crafting and a cell in ``--results``; finished ones are skipped, and an interrupted crafting goes on, so the same
command continues after a stop. The last epoch counts. Test images had no part in choosing anything.
"""

import argparse
import json
import statistics
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eclipse.attacks import ATTACKS, make_attack
from eclipse.attacks.attack import Attack
from eclipse.classifiers.classifier import make_classifier
from eclipse.classifiers.fit import RECIPES, accuracy, fit
from eclipse.compute.device import describe_device, resolve_device
from eclipse.data.changes import measure
from eclipse.data.imageset import ImageSet
from eclipse.data.source import load_imageset, open_source
from eclipse.runs.files import write_json
from eclipse.runs.manifest import versions
from eclipse.runs.state import StageStep, State, Work

EPOCHS = 20


class Bench:
    """One data set, and the poisoned copies of it that were crafted."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.train = load_imageset(open_source(args.train), "the benchmark")
        self.test = load_imageset(open_source(args.test), "the benchmark")

    def poisoned(self, name: str) -> ImageSet:
        """The poisoned set, crafted now unless it was before."""
        if name == "clean":
            return self.train
        kept = self.args.cache / f"{name}.npz"
        if not kept.exists():
            self._craft(name, make_attack(name, scale="small"), kept)
        with np.load(kept, allow_pickle=False) as file:
            return self.train.with_images(file["images"])

    def _craft(self, name: str, attack: Attack, kept: Path) -> None:
        spent, began = self.args.cache / f"{name}.seconds.json", time.monotonic()
        before = json.loads(spent.read_text())["seconds"] if spent.exists() else 0.0

        def tell(step: StageStep) -> None:  # what an interrupted crafting took counts as well
            write_json(spent, {"seconds": before + time.monotonic() - began})
            if step.done == step.total or step.facts:
                print(f"{name}: {step.stage} {step.done}/{step.total} {dict(step.facts)}", file=sys.stderr, flush=True)

        poisoned = attack.craft(self.train, Work(0, self.args.device, State(self.args.cache / name, tell)))
        seconds = before + time.monotonic() - began
        temporary = kept.with_suffix(".partial.npz")
        np.savez(temporary, images=poisoned.images)
        temporary.replace(kept)
        sizes = measure(self.train.images, poisoned.images, attack.norm)
        result = {
            **self._about(),
            "attack": name,
            "scale": "small",
            "fields": asdict(attack),  # type: ignore[call-overload]
            "passes an image": attack.passes(),
            "norm": attack.norm,
            "measured": {"median": float(np.median(sizes)), "max": float(sizes.max())},
            "seconds": seconds,
        }
        write_json(self.args.results / f"craft-{name}.json", result)

    def cell(self, name: str, seed: int) -> dict[str, Any]:
        """Train a victim on the poisoned set and measure it."""
        began, data = time.monotonic(), self.poisoned(name)
        recipe = replace(RECIPES["fast"], epochs=EPOCHS, **({} if self.args.pad is None else {"pad": self.args.pad}))
        torch.manual_seed(seed)
        victim = make_classifier(self.args.victim, self.test.num_classes)
        epochs = list(fit(victim, data, recipe, seed=seed, device=self.args.device))
        return {
            **self._about(),
            "poison": name,
            "seed": seed,
            "victim": self.args.victim,
            "parameters": sum(p.numel() for p in victim.parameters()),
            "recipe": asdict(recipe),
            "accuracy": accuracy(victim, self.test, device=self.args.device),
            "train accuracy": epochs[-1].train_accuracy,
            "seconds": time.monotonic() - began,
        }

    def _about(self) -> dict[str, Any]:
        return {
            "data": self.args.data_name,
            "train": self.args.train,
            "test": self.args.test,
            "train images": len(self.train),
            "test images": len(self.test),
            "device": describe_device(self.args.device),
            "versions": versions(),
        }


def variant(cell: dict[str, Any]) -> str:
    """The victim of a cell in words."""
    return f"{cell['victim']}, {'no crop' if cell['recipe']['pad'] == 0 else 'crop'}"


def render(results: Path) -> str:
    """Render the tables of all finished craftings and cells."""
    cells = [json.loads(path.read_text()) for path in sorted(results.glob("cell-*.json"))]
    crafted = {c["attack"]: c for c in (json.loads(path.read_text()) for path in sorted(results.glob("craft-*.json")))}
    variants = sorted({variant(cell) for cell in cells}, reverse=True)
    one = cells[0]
    lines = [
        "# Poisons",
        "",
        f"{one['data']}, {one['train images']} training images (`{one['train']}`), {one['test images']} test images "
        f"(`{one['test']}`). Attacks at `--scale small`, crafted once with seed 0; victims trained for "
        f"{one['recipe']['epochs']} epochs with recipe `fast`, last epoch, accuracy in %, mean and standard deviation "
        f"over the seeds in brackets. Device: {one['device']}. Crafting is wall time on a machine with other work "
        "beside it, pauses included: an upper bound.",
        "",
        "| poison | what it is | norm | radius | largest change | passes an image | crafting | "
        + " | ".join(variants)
        + " |",
        "|---|---|---|--:|--:|--:|--:|" + "--:|" * len(variants),
    ]
    for name in ("clean", *ATTACKS.names()):
        found = [[c for c in cells if c["poison"] == name and variant(c) == v] for v in variants]
        if not any(found) and name not in crafted:
            continue
        lines.append(f"| {name} | {_crafted(crafted.get(name))} | " + " | ".join(map(_score, found)) + " |")
    lines += ["", "Why some bite less than they should: [log.md](log.md#poisons-at-the-small-scale)."]
    lines += ["", f"One JSON file a crafting and a cell: `{results}`. Command:", ""]
    lines += [f"    python benchmarks/poisons.py --train '{one['train']}' --test '{one['test']}'", ""]
    return "\n".join(lines)


def _crafted(craft: dict[str, Any] | None) -> str:
    if craft is None:
        return " |  |  |  |  | "
    scale = 255 if craft["norm"] == "Linf" else 1
    unit = "/255" if craft["norm"] == "Linf" else ""
    radius, largest = (f"{scale * x:.3g}{unit}" for x in (craft["fields"]["radius"], craft["measured"]["max"]))
    time_ = f"{craft['seconds'] / 60:.1f} min" if craft["seconds"] >= 60 else f"{craft['seconds']:.0f} s"
    title = ATTACKS.load(craft["attack"]).title
    return f"{title} | {craft['norm']} | {radius} | {largest} | {craft['passes an image']:.0f} | {time_}"


def _score(cells: list[dict[str, Any]]) -> str:
    scores = [100 * cell["accuracy"] for cell in cells]
    if not scores:
        return ""
    spread = f" ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
    return f"{statistics.mean(scores):.1f}{spread} ({len(scores)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", help="labelled training set, any data set form")
    parser.add_argument("--test", help="labelled test set")
    parser.add_argument(
        "--attacks", nargs="+", choices=["clean", *ATTACKS.names()], default=["clean", *ATTACKS.names()]
    )
    parser.add_argument("--victim", default="small", help="a name in classifiers.CLASSIFIERS")
    parser.add_argument("--pad", type=int, help="padding of the random crop; 0 for no crop; the recipe's if not given")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--craft-only", action="store_true", help="craft the poisons, train no victim")
    parser.add_argument("--data-name", default="CIFAR-10 (JPEG copy)")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/poisons"))
    parser.add_argument("--cache", type=Path, default=Path("runs/poisons"), help="where poisoned sets are kept")
    parser.add_argument("--threads", type=int, help="torch threads; run two processes of one thread on two cores")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--table", type=Path, help="render what is finished into this Markdown file and stop")
    args = parser.parse_args()
    if args.table:
        args.table.write_text(render(args.results))
        return
    if args.threads:
        torch.set_num_threads(args.threads)
    args.device = resolve_device(args.device)
    args.cache.mkdir(parents=True, exist_ok=True)
    bench = Bench(args)
    crop = "" if args.pad is None else f"-pad{args.pad}"
    for seed in [] if args.craft_only else args.seeds:  # all poisons of one seed first
        for name in args.attacks:
            path = args.results / f"cell-{name}-{args.victim}{crop}-{seed}.json"
            if path.exists():
                continue
            result = bench.cell(name, seed)
            write_json(path, result)
            print(f"{name:6} seed {seed}: {result['accuracy']:.2%}", file=sys.stderr, flush=True)
    for name in args.attacks if args.craft_only else []:
        bench.poisoned(name)


if __name__ == "__main__":
    main()
