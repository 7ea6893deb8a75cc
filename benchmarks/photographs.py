"""What each noise level leaves of known perturbations on photographs, and what it costs, by size.

    python benchmarks/photographs.py photos.parquet --count 40 --sides 64,128,224

Squares from the middles of the photographs; perturbations of the published strengths, scaled to the size; the general
denoiser. Prints a Markdown table: PSNR between images and purified ones in dB, the change of their gradient energy
(texture) in percent, and the share that is left of each perturbation.
"""

import argparse

import numpy as np
import torch
from numpy.typing import NDArray

from eclipse.data.imageset import ImageSet
from eclipse.data.source import open_source
from eclipse.diffusion.checkpoint import load_denoiser
from eclipse.diffusion.presets import FAST
from eclipse.jobs.canary import CLASSES, PERTURBATIONS, measure
from eclipse.purification.algorithm import purification
from eclipse.purification.arrays import purify

LEVELS = (6.4, 12.0, 21.6, 32.0)


def energy(images: NDArray[np.uint8]) -> float:
    """The mean square of the differences of neighbors."""
    x = images.astype(np.float64)
    return float((np.diff(x, axis=2) ** 2).mean() + (np.diff(x, axis=3) ** 2).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", help="a data set, in any layout")
    parser.add_argument("--count", type=int, default=40, help="of photographs that are large enough")
    parser.add_argument("--sides", default="64,128,224")
    args = parser.parse_args()
    torch.set_num_threads(1)
    denoiser, names = load_denoiser(), list(PERTURBATIONS)
    print(f"| side | images | level | PSNR | texture | {' | '.join(names)} |")
    print(f"|--:|--:|--:|--:|--:|{'--:|' * len(names)}")
    for side in map(int, args.sides.split(",")):
        large = (row for row in open_source(args.photographs).rows() if min(row.picture().rgb.shape[1:]) >= side)
        found = [row.name for row, _ in zip(large, range(args.count), strict=False)]
        squares = (row for row in open_source(args.photographs, side=side).rows() if row.name in found)
        pixels = np.stack([row.picture().rgb for row in squares])
        images = ImageSet.from_arrays(pixels, np.arange(len(pixels)) % CLASSES)
        for level in LEVELS:
            how = purification(FAST, denoiser.config, sigma=level / 255)
            canary = measure(denoiser, how, images, "cpu")
            texture = energy(purify(pixels, denoiser, sigma=level / 255)) / energy(pixels) - 1
            left = " | ".join(f"{canary.left[name]:.2f}" for name in names)
            print(f"| {side} | {len(pixels)} | {level:g} | {canary.psnr:.1f} | {texture:+.0%} | {left} |", flush=True)


if __name__ == "__main__":
    main()
