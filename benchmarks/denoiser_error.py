"""Compare denoisers on images that none of them has seen: what is left of the noise, by level and by image size.

    python benchmarks/denoiser_error.py general=GENERAL cold=COLD --images cifar=test.parquet[:200] \
        --images photographs=photos.parquet[:60] --sides 64,128,256

Prints a Markdown table of root mean square errors, in 8-bit levels, of one step of denoising: all images of a set, at
their own size or with shorter sides of --sides, in the order given.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from general import reduced
from numpy.typing import NDArray
from PIL import Image

from eclipse.data.pixels import to_unit
from eclipse.data.source import open_source
from eclipse.diffusion.checkpoint import load_denoiser
from eclipse.diffusion.denoiser import Denoiser
from eclipse.diffusion.process import q_sample

BICUBIC = Image.Resampling.BICUBIC
LEVELS = (6.4, 12.0, 21.6, 32.0)


@torch.inference_mode()
def error(denoiser: Denoiser, images: list[NDArray[np.uint8]], level: float) -> float:
    """The root mean square error in 8-bit levels of the estimated images; the noise is the same for all denoisers."""
    schedule, noise = denoiser.config.schedule, torch.Generator().manual_seed(0)
    t = torch.tensor([schedule.index(level / 255)])
    abar = float(schedule.abar[t.item()])
    squares = pixels = 0.0
    for image in images:
        x0 = 2 * to_unit(torch.from_numpy(image.copy()))[None] - 1
        x_t = q_sample(schedule, x0, t, torch.randn(x0.shape, generator=noise))
        estimate = (x_t - (1 - abar) ** 0.5 * denoiser(x_t, t).eps) / abar**0.5
        squares += float(((estimate.clamp(-1, 1) - x0) * 127.5).square().sum())
        pixels += x0.numel()
    return float(np.sqrt(squares / pixels))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("denoisers", nargs="+", help="NAME=FOLDER")
    parser.add_argument("--images", action="append", required=True, help="NAME=DATA; repeatable")
    parser.add_argument("--sides", default="", help="of the last --images, separated by commas")
    args = parser.parse_args()
    torch.set_num_threads(1)
    denoisers = {name: load_denoiser(Path(folder)) for name, folder in (x.split("=", 1) for x in args.denoisers)}
    print(f"| images | level | {' | '.join(denoisers)} |\n|---|--:|{'--:|' * len(denoisers)}")
    for place, (name, spec) in enumerate(x.split("=", 1) for x in args.images):
        sides = (
            [int(side) for side in args.sides.split(",")] if args.sides and place == len(args.images) - 1 else [None]
        )
        every = [row.picture().rgb for row in open_source(spec).rows()]
        for side in sides:
            images = (
                every if side is None else [x for whole in every if (x := reduced(whole, side, BICUBIC)) is not None]
            )
            for level in LEVELS:
                errors = " | ".join(f"{error(denoiser, images, level):.2f}" for denoiser in denoisers.values())
                print(
                    f"| {len(images)} {name}{f', {side} pixels' if side else ''} | {level:g} | {errors} |", flush=True
                )


if __name__ == "__main__":
    main()
