"""How much accuracy comes back: clean, poisoned, and defended by the parts of ECLIPSE, on a small victim.

    eclipse denoiser train 'train.parquet[48000:50000]' --out DENOISER
    python benchmarks/recovery.py --train 'train.parquet[:10000]' --test 'test.parquet[4000:6000]' --denoiser DENOISER
    python benchmarks/recovery.py --table docs/recovery.md

One JSON file a cell in ``--results``; finished cells are skipped, so an interrupted run goes on. Poison, purification
and victim are drawn anew for each seed; the denoiser is one for all. The last epoch counts. The test images were seen
neither by the denoiser nor when the defaults were chosen.
"""

import argparse
import json
import statistics
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from eclipse.attacks import make_attack
from eclipse.compensate import Compensate
from eclipse.data.imageset import ImageSet
from eclipse.data.sources import load_imageset, open_source
from eclipse.device import describe_device, resolve_device
from eclipse.diffusion.checkpoint import load_denoiser
from eclipse.diffusion.denoiser import Denoiser, describe
from eclipse.diffusion.presets import FAST
from eclipse.purification import purify
from eclipse.runs import versions, write_json
from eclipse.victims.fit import RECIPES, accuracy, fit
from eclipse.victims.small import SmallNet

PARTS = {"none": "", "B+C": "BC", "A": "A", "A+B+C": "ABC"}
POISONS = ("clean", "lsp", "ar")
CELLS = [(poison, part) for poison in POISONS for part in PARTS if poison != "clean" or part in ("none", "A+B+C")]


class Bench:
    """One data set, one denoiser, and the purified sets that cells share."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.train = load_imageset(open_source(args.train), "the benchmark")
        self.test = load_imageset(open_source(args.test), "the benchmark")
        self.denoiser: Denoiser | None = load_denoiser(args.denoiser) if args.denoiser else None
        self._kept: tuple[tuple[str, int], ImageSet, float] | None = None

    def run(self, poison: str, part: str, seed: int) -> dict[str, object]:
        began = time.monotonic()
        data = self.train if poison == "clean" else make_attack(poison).poison(self.train, seed=seed)
        purification_s = 0.0
        if "A" in PARTS[part]:
            data, purification_s = self._purified(data, poison, seed)
        compensate = Compensate(FAST.p, FAST.noise, FAST.q) if "BC" in PARTS[part] else None

        def augment(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return (x if compensate is None else compensate(x)), y

        torch.manual_seed(seed)
        victim = SmallNet(self.test.num_classes)
        recipe = RECIPES["fast"]
        epochs = list(fit(victim, data, recipe, seed=seed, device=self.args.device, augment=augment))
        return {
            "data": self.args.data_name,
            "train images": len(self.train),
            "test images": len(self.test),
            "train": self.args.train,
            "test": self.args.test,
            "poison": poison,
            "parts": part,
            "seed": seed,
            "victim": "small",
            "parameters": sum(p.numel() for p in victim.parameters()),
            "recipe": asdict(recipe),
            "purification": {"sigma": FAST.sigma * 255, "steps": FAST.steps, "sampler": FAST.sampler},
            "compensation": {"p": FAST.p, "sigma": FAST.noise, "q": FAST.q} if "BC" in PARTS[part] else None,
            "denoiser": describe(self.denoiser) if self.denoiser and "A" in PARTS[part] else None,
            "accuracy": accuracy(victim, self.test, device=self.args.device),
            "train accuracy": epochs[-1].train_accuracy,
            "seconds": {"purification": purification_s, "cell": time.monotonic() - began},
            "device": describe_device(self.args.device),
            "versions": versions(),
        }

    def _purified(self, data: ImageSet, poison: str, seed: int) -> tuple[ImageSet, float]:
        """Purify, or take the set that the cell before this one made."""
        assert self.denoiser is not None, "cells with part A need --denoiser"
        if self._kept is None or self._kept[0] != (poison, seed):
            began = time.monotonic()
            images = purify(data.images, self.denoiser, seed=seed, ids=data.ids, device=self.args.device)
            self._kept = (poison, seed), data.with_images(images), time.monotonic() - began
        return self._kept[1], self._kept[2]


def render(results: Path) -> str:
    """Render the table of all finished cells."""
    cells = [json.loads(path.read_text()) for path in sorted(results.glob("*.json"))]
    scores: dict[tuple[str, str], list[float]] = {}
    for cell in cells:
        scores.setdefault((cell["poison"], cell["parts"]), []).append(100 * cell["accuracy"])
    one = next(cell for cell in cells if cell["denoiser"] and cell["parts"] == "A+B+C")
    clean = statistics.mean(scores["clean", "none"])
    lines = [
        "# Recovery",
        "",
        f"{one['data']}, {one['train images']} training images, {one['test images']} test images that neither the "
        f"denoiser nor the choice of the defaults saw. Victim: `small` ({one['parameters']} parameters), "
        f"{one['recipe']['epochs']} epochs, last epoch. Preset `fast`: noise level "
        f"{one['purification']['sigma']:.1f}/255, "
        f"{one['purification']['steps']} step(s), `{one['purification']['sampler']}`; compensation p = "
        f"{one['compensation']['p']}, sigma = {one['compensation']['sigma']}, q = {one['compensation']['q']}, online. "
        f"Denoiser: {one['denoiser']['parameters']} parameters, trained on "
        f"{one['denoiser']['trusted images']} images in "
        f"{one['denoiser']['seconds']:.0f} s. Device: {one['device']}.",
        "",
        "Accuracy in %, mean and standard deviation over seeds; recovery = (defended - poisoned) / (clean - poisoned), "
        "of the means.",
        "",
        "| poison | parts | accuracy | seeds | recovery |",
        "|---|---|--:|--:|--:|",
    ]
    for poison, part in CELLS:
        found = scores.get((poison, part), [])
        if not found:
            continue
        spread = statistics.stdev(found) if len(found) > 1 else float("nan")
        base = statistics.mean(scores[poison, "none"])
        mean = statistics.mean(found)
        recovery = f"{(mean - base) / (clean - base):.3f}" if poison != "clean" and part != "none" else ""
        lines.append(f"| {poison} | {part} | {mean:.1f} ± {spread:.1f} | {len(found)} | {recovery} |")
    purified = [c for c in cells if c["seconds"]["purification"]]
    if purified:
        speed = statistics.median(c["train images"] / c["seconds"]["purification"] for c in purified)
        lines += ["", f"Purification took a median of {speed:.0f} images/s while another cell ran beside it."]
    lines += ["", f"One JSON file a cell: `{results}`. Command: `{one_command(results)}`.", ""]
    return "\n".join(lines)


def one_command(results: Path) -> str:
    """The command that makes the cells, as a reader would give it."""
    return (
        "python benchmarks/recovery.py --train 'train.parquet[:10000]' --test 'test.parquet[4000:6000]' "
        f"--denoiser DENOISER --results {results}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", help="labelled training set, any data set form")
    parser.add_argument("--test", help="labelled test set")
    parser.add_argument("--denoiser", type=Path, help="folder from 'eclipse denoiser train'; needed for part A")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="only these, to share the work")
    parser.add_argument("--data-name", default="CIFAR-10 (JPEG copy)")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/recovery"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, help="torch threads; run two processes of one thread on two cores")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--table", type=Path, help="render the finished cells into this Markdown file and stop")
    args = parser.parse_args()
    if args.table:
        args.table.write_text(render(args.results))
        return
    if args.threads:
        torch.set_num_threads(args.threads)
    args.device = resolve_device(args.device)
    bench = Bench(args)
    for seed in args.seeds:  # all parts of one seed first: an unfinished run is a table of fewer seeds
        for poison, part in CELLS:
            if part not in args.parts:
                continue
            path = args.results / f"{poison}-{part.replace('+', '')}-{seed}.json"
            if path.exists():
                continue
            result = bench.run(poison, part, seed)
            write_json(path, result)
            print(f"{poison:6} {part:6} seed {seed}: {result['accuracy']:.2%}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
