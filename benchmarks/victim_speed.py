"""Images a second of the training loop against a plain PyTorch one, with the same network, in one run.

    python benchmarks/victim_speed.py --train 'train.parquet[:10000]' --test 'test.parquet[4000:6000]'

The plain loop is what tutorials teach: a Dataset of PIL images, random crop and flip image by image with PIL, a
DataLoader with workers, SGD. Same network, recipe, batch, crop, flip and number of steps. Both loops run in turns,
each time in a new process, which is set up as the command line sets up its own for the one, and left as Python starts
it for the other; the median is reported. With --accuracy both train for the whole recipe and are measured on the test
images, three seeds each. Results: benchmarks/results/victim_speed.json and docs/victim_speed.md.
"""

import argparse
import multiprocessing
import random
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from eclipse.classifiers.classifier import make_classifier
from eclipse.classifiers.fit import RECIPES, Recipe, accuracy, fit
from eclipse.compute.device import describe_device, resolve_device
from eclipse.compute.memory import keep_freed_memory
from eclipse.data.imageset import ImageSet
from eclipse.data.source import load_imageset, open_source
from eclipse.runs.files import write_json
from eclipse.runs.manifest import versions


class Pictures(Dataset[tuple[Tensor, int]]):
    """PIL images with the usual random crop and flip."""

    def __init__(self, data: ImageSet, pad: int) -> None:
        self._images = [Image.fromarray(image.transpose(1, 2, 0)) for image in data.images]
        self._labels = data.require_labels("training").tolist()
        self._pad = pad

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        image = self._images[row]
        width, height = image.size
        left, top = (random.randint(0, 2 * self._pad) for _ in range(2))
        image = ImageOps.expand(image, self._pad).crop((left, top, left + width, top + height))
        if random.random() < 0.5:
            image = ImageOps.mirror(image)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255, self._labels[row]


def plain(network: nn.Module, data: ImageSet, recipe: Recipe, workers: int, seed: int, device: str) -> list[float]:
    """The plain loop; return images a second of each epoch."""
    torch.manual_seed(seed)
    random.seed(seed)
    network.to(device)
    loader = DataLoader(
        Pictures(data, recipe.pad), recipe.batch, shuffle=True, drop_last=True, num_workers=workers,
        persistent_workers=workers > 0,
    )  # fmt: skip
    optimizer = torch.optim.SGD(
        network.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=recipe.nesterov
    )
    speeds, step, steps = [], 0, recipe.epochs * len(loader)
    for _ in range(recipe.epochs):
        network.train()
        began = time.perf_counter()
        for x, y in loader:
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(step / steps)
            optimizer.zero_grad()
            F.cross_entropy(network(x.to(device)), y.to(device)).backward()
            optimizer.step()
            step += 1
        speeds.append(len(loader) * recipe.batch / (time.perf_counter() - began))
    network.eval()
    return speeds


def ours(network: nn.Module, data: ImageSet, recipe: Recipe, seed: int, device: str) -> list[float]:
    """The loop of this project; return images a second of each epoch."""
    return [epoch.images_per_s for epoch in fit(network, data, recipe, seed=seed, device=device)]


def run(args: argparse.Namespace, loop: str, epochs: int, seed: int) -> tuple[list[float], float]:
    """Train with one loop; return images a second of each epoch, and the accuracy on the test images."""
    if loop == "ours":
        keep_freed_memory()
    data, test = load(args.train), load(args.test)
    recipe = replace(RECIPES["fast"], epochs=epochs)
    torch.manual_seed(seed)
    network = make_classifier(args.arch, data.num_classes)
    if loop == "ours":
        speeds = ours(network, data, recipe, seed, args.device)
    else:
        speeds = plain(network, data, recipe, args.workers, seed, args.device)
    return speeds, accuracy(network, test, device=args.device)


def run_alone(args: argparse.Namespace, loop: str, epochs: int, seed: int = 0) -> tuple[list[float], float]:
    """``run`` in a new process, so that nothing that one loop does to its process reaches the other."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(run, args, loop, epochs, seed).result()


def load(spec: str) -> ImageSet:
    return load_imageset(open_source(spec), "the benchmark")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Both loops in turns, two epochs each time, of which the second counts: in the first, workers are started."""
    found: dict[str, list[float]] = {"ours": [], "plain": []}
    for _ in range(args.turns):
        for loop, speeds in found.items():
            (_, speed), _ = run_alone(args, loop, epochs=2)
            speeds.append(speed)
    medians = {name: statistics.median(speeds) for name, speeds in found.items()}
    return {"images_per_s": found, "median": medians, "ratio": medians["ours"] / medians["plain"]}


def accuracies(args: argparse.Namespace) -> dict[str, list[float]]:
    """Test accuracy of both loops after the whole recipe."""
    loops, epochs = ("ours", "plain"), RECIPES["fast"].epochs
    return {loop: [run_alone(args, loop, epochs, seed)[1] for seed in range(3)] for loop in loops}


def render(result: dict[str, Any]) -> str:
    lines = [
        "# Speed of victim training",
        "",
        f"{result['data']}, {result['train images']} images; victim `{result['arch']}`; recipe `fast`; "
        f"{result['device']}. Plain loop: PIL crop and flip, DataLoader with {result['workers']} workers. Median of "
        f"{result['turns']} epochs each, in turns.",
        "",
        "| loop | images/s | accuracy, % |",
        "|---|--:|--:|",
    ]
    for name, speed in result["median"].items():
        scores = [100 * score for score in result["accuracy"].get(name, [])]
        spread = f"{statistics.mean(scores):.1f} ± {statistics.stdev(scores):.1f} ({len(scores)})" if scores else ""
        lines.append(f"| {'`fit.py`' if name == 'ours' else 'plain'} | {speed:.0f} | {spread} |")
    lines += ["", f"Ratio: {result['ratio']:.2f}. Command: `{result['command']}`.", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--arch", default="small")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--accuracy", action="store_true", help="train both for the whole recipe, three seeds")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--data-name", default="CIFAR-10 (JPEG copy)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/victim_speed.json"))
    parser.add_argument("--table", type=Path, default=Path("docs/victim_speed.md"))
    args = parser.parse_args()
    args.device = resolve_device(args.device)
    result = {
        "data": args.data_name,
        "train images": len(load(args.train)),
        "arch": args.arch,
        "workers": args.workers,
        "turns": args.turns,
        "device": describe_device(args.device),
        "versions": versions(),
        "command": f"python benchmarks/victim_speed.py --train '{args.train}' --test '{args.test}'"
        + (" --accuracy" if args.accuracy else ""),
        **measure(args),
        "accuracy": accuracies(args) if args.accuracy else {},
    }
    write_json(args.out, result)
    args.table.write_text(render(result))
    print(render(result))


if __name__ == "__main__":
    main()
