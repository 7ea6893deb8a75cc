"""Train the denoiser that the package ships, on photographs at many scales.

    python benchmarks/general.py photographs.parquet --out general

Each photograph is reduced to shorter sides of 32 to 288 pixels, by filters in turn, so that small training images and
large photographs are met alike; every copy is there in its mirror image, too. Images of evaluation must not be among
them. A killed training goes on.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from eclipse.compute.device import resolve_device
from eclipse.data.source import open_source
from eclipse.diffusion.presets import FAST
from eclipse.diffusion.training import TrainStep
from eclipse.diffusion.trusted import check_trusted, denoiser_in, plan_denoiser
from eclipse.runs.state import Work

SIDES = (32, 40, 48, 64, 96, 128, 192, 288)
FILTERS = (Image.Resampling.BICUBIC, Image.Resampling.BOX, Image.Resampling.LANCZOS)


def reduced(image: NDArray[np.uint8], side: int, how: Image.Resampling) -> NDArray[np.uint8] | None:
    """The image (3, H, W) with that shorter side, None where it would have to grow."""
    shorter = min(image.shape[1:])
    if shorter < side:
        return None
    height, width = (round(length * side / shorter) for length in image.shape[1:])
    return np.asarray(Image.fromarray(image.transpose(1, 2, 0)).resize((width, height), how)).transpose(2, 0, 1)


def copies(photograph: NDArray[np.uint8], number: int) -> list[NDArray[np.uint8]]:
    """A photograph (3, H, W) at every scale that it has, and the mirror image of each."""
    scales = (reduced(photograph, side, FILTERS[(number + i) % len(FILTERS)]) for i, side in enumerate(SIDES))
    return [copy for small in scales if small is not None for copy in (small, small[:, :, ::-1])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", help="a data set, in any layout")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--iterations", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    images = [
        copy
        for number, row in enumerate(open_source(args.photographs).rows())
        for copy in copies(row.picture().rgb, number)
    ]
    print(f"{len(images)} images", flush=True)
    recipe = replace(FAST, training=replace(FAST.training, batch=32, ema=0.999, copies=0))
    planned = plan_denoiser(recipe, start="nothing", iterations=args.iterations)

    def tell(step: TrainStep) -> None:
        if step.step % 100 == 0:
            print(f"{step.step} {step.figures}, {step.seconds_left / 60:.0f} minutes left", flush=True)

    denoiser_in(args.out, planned, check_trusted(images, planned.config), Work(0, resolve_device("cpu")), on_step=tell)


if __name__ == "__main__":
    main()
