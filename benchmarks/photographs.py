"""What each noise level leaves of poisons on photographs, and what it costs, by size.

    python benchmarks/photographs.py photos.parquet --sides 64,128,224

Squares from the middles of the photographs that are large enough; perturbations of the published strengths, scaled to
the size; the general denoiser. A killed run goes on from the crafting that --keep has. For each size it prints a
Markdown table: PSNR between images and purified ones in dB, the change of their gradient energy (texture) in percent,
and the share that is left of each perturbation. Another one tells whether the shortcut of EM and TAP still works: which
share of the photographs, clean, poisoned, and purified from each level, the surrogate classifies as the poison wants
(the label for EM, the next one for TAP), and which share a network classifies rightly that was trained on others that
are poisoned. So both tables are of every other photograph, while EM and TAP are crafted on all.

Classes are quarters of the order of the data set: for one image of each ImageNet class, kinds of animals and of things.
--crafted "" leaves out EM and TAP, whose surrogate needs images of each class; then all photographs are measured.
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from eclipse.attacks.attack import Attack
from eclipse.attacks.em import EM
from eclipse.attacks.tap import TAP
from eclipse.classifiers.classifier import Classifier, make_classifier
from eclipse.classifiers.fit import RECIPES, accuracy, fit
from eclipse.compute.device import seeded
from eclipse.data.imageset import ImageSet
from eclipse.data.similarity import psnr
from eclipse.data.source import open_source
from eclipse.jobs.canary import PERTURBATIONS, share_left
from eclipse.purification.arrays import purify
from eclipse.runs.state import State, Work

LEVELS = (8, 12, 16, 24, 32)
CLASSES = 4
RECIPE = replace(RECIPES["fast"], epochs=30, batch=16, pad=0, flip=False)  # small batches: there are few images
CRAFTED: Mapping[str, Attack] = {
    "EM": EM(**{**EM.small, "batch": 16, "max_rounds": 10}),
    "TAP": TAP(**{**TAP.small, "recipe": RECIPE}),
}


def squares(photographs: str, side: int, count: int) -> ImageSet:
    """Up to ``count`` photographs that need not grow, spread over the data set, as squares of ``side`` pixels."""
    large = [row.name for row in open_source(photographs).rows() if min(row.picture().rgb.shape[1:]) >= side]
    if len(large) > count:
        large = [large[i * len(large) // count] for i in range(count)]
    chosen = set(large)
    rows = (row for row in open_source(photographs, side=side).rows() if row.name in chosen)
    pixels = np.stack([row.picture().rgb for row in rows])
    return ImageSet.from_arrays(pixels, np.arange(len(pixels)) * CLASSES // len(pixels))


def energy(images: NDArray[np.uint8]) -> float:
    """The mean square of the differences of neighbors."""
    x = images.astype(np.float64)
    return float((np.diff(x, axis=2) ** 2).mean() + (np.diff(x, axis=3) ** 2).mean())


def mean_psnr(images: NDArray[np.uint8], others: NDArray[np.uint8]) -> float:
    """Over the images, in dB."""
    pairs = zip(torch.from_numpy(images).float(), torch.from_numpy(others).float(), strict=True)
    return float(np.mean([psnr(x, y) for x, y in pairs]))


def surrogate(name: str, images: ImageSet, state: State) -> Classifier:
    """The surrogate of a finished crafting."""
    network = CRAFTED[name].surrogate(images, Work())
    tensors, _ = state.load("surrogate")
    of_network = {key.removeprefix("network."): value for key, value in tensors.items() if key.startswith("network.")}
    network.load_state_dict(of_network)
    return network.eval()


def as_wanted(name: str, images: ImageSet) -> ImageSet:
    """Images with the labels that a poison makes its surrogate see."""
    return replace(images, labels=(images.labels + 1) % CLASSES) if name == "TAP" else images


def fooled(poisoned: ImageSet) -> Classifier:
    """A network that was trained on every other image of a poisoned set, so that it knows the shortcut."""
    with seeded(0, "fooled"):
        network = make_classifier("small", CLASSES, side=poisoned.images.shape[2])
    for _ in fit(network, poisoned[::2], RECIPE, seed=0):
        pass
    return network


def report(images: ImageSet, poisons: Mapping[str, ImageSet], surrogates: Mapping[str, Classifier]) -> None:
    """Print both tables of one size."""
    others = {name: fooled(poisons[name]) for name in surrogates}
    if surrogates:
        images, poisons = images[1::2], {name: poisoned[1::2] for name, poisoned in poisons.items()}
    caught: dict[str, list[tuple[float, float]]] = {name: [] for name in surrogates}

    def look(name: str, shown: ImageSet) -> None:
        caught[name].append((accuracy(surrogates[name], as_wanted(name, shown)), accuracy(others[name], shown)))

    for name in surrogates:
        look(name, images)
        look(name, poisons[name])
    size = f"| {images.images.shape[2]} | {len(images)}"
    print(f"\n| side | images | level | PSNR | texture | {' | '.join(poisons)} |")
    print(f"|--:|--:|--:|--:|--:|{'--:|' * len(poisons)}")
    for level in LEVELS:
        purified = purify(images.images, sigma=level / 255)
        texture = energy(purified) / energy(images.images) - 1
        cells = []
        for name, poisoned in poisons.items():
            kept = purify(poisoned.images, sigma=level / 255)
            cells.append(f"{share_left(images.images, poisoned.images, purified, kept):.2f}")
            if name in surrogates:
                look(name, poisoned.with_images(kept))
        quality = f"{mean_psnr(images.images, purified):.1f} | {texture:+.0%}"
        print(f"{size} | {level} | {quality} | {' | '.join(cells)} |", flush=True)
    if surrogates:
        print(f"\n| side | images | poison | network | clean | poisoned | {' | '.join(map(str, LEVELS))} |")
        print(f"|--:|--:|---|---|--:|--:|{'--:|' * len(LEVELS)}")
    for name, found in caught.items():
        for network, shares in zip(("its surrogate", "another"), zip(*found, strict=True), strict=True):
            print(f"{size} | {name} | {network} | {' | '.join(f'{x:.2f}' for x in shares)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", help="a data set, in any layout")
    parser.add_argument("--count", type=int, default=250, help="of photographs at most, spread over the data set")
    parser.add_argument("--sides", default="64,128,224")
    parser.add_argument("--crafted", default="EM,TAP", help="attacks with a surrogate")
    parser.add_argument(
        "--keep", type=Path, default=Path("photographs.state"), help="folder for the state of the crafting"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    crafted = [name for name in args.crafted.split(",") if name]
    for side in map(int, args.sides.split(",")):
        images = squares(args.photographs, side, args.count)
        poisons = {name: perturb(images) for name, perturb in PERTURBATIONS.items()}
        surrogates = {}
        for name in crafted:
            state = State(args.keep / f"{side}-{len(images)}-{name}")
            poisons[name] = CRAFTED[name].craft(images, Work(state=state))
            surrogates[name] = surrogate(name, images, state)
        report(images, poisons, surrogates)


if __name__ == "__main__":
    main()
