"""The page of a preview: images on a ladder of noise levels, and what each level leaves and costs."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from eclipse.data.picture import Pixels, middle
from eclipse.data.similarity import psnr, ssim
from eclipse.jobs.preview import Preview
from eclipse.report import page
from eclipse.runs.files import write_whole
from eclipse.runs.manifest import to_copy

_PICTURES = 3_400_000  # bytes of all pictures, of the 5 MB that a page may have
_CROP = 128  # pixels of the piece that is shown of a large image


@dataclass(frozen=True)
class Ladder:
    """An image at all levels, as addresses of pictures, with its size on the page."""

    name: str
    steps: tuple[str, ...]
    width: int
    height: int
    small: bool


@dataclass(frozen=True)
class Row:
    """A level in the table; what is left by the name of a perturbation."""

    name: str
    left: tuple[tuple[str, str], ...]
    psnr: str
    ssim: str
    cost: str
    command: str
    default: bool


def write_page(found: Preview, spec: str, denoiser: Path | None, out: Path) -> None:
    """Write the page of a preview.

    Args:
        found: the preview.
        spec: the data set, as it was named.
        denoiser: its folder; None for the general one.
        out: the file to write.
    """
    names = ("as it is", *(f"{level.sigma:g}/255" for level in found.levels))
    ladders, left = list[Ladder](), _PICTURES
    for number, id in enumerate(found.ids):
        ladder = _ladder(id, [found.images[number], *(level.images[number] for level in found.levels)])
        left -= sum(map(len, ladder.steps))
        ladders += [ladder] if left > 0 else []
    text = page.render(
        "preview/preview.html.jinja",
        live=True,
        spec=spec,
        found=found,
        denoiser="the general one, which comes with eclipse" if denoiser is None else str(denoiser),
        names=names,
        ladders=ladders,
        rows=_rows(found, spec, denoiser),
        warnings={level.sigma: level.canary.warning() for level in found.levels if level.canary is not None},
        piece=any(not ladder.small for ladder in ladders),
    )
    write_whole(out, text.encode())


def _ladder(id: str, steps: list[Pixels]) -> Ladder:
    height, width = steps[0].shape[1:]
    name = page.named(id)
    if size := page.enlarged(height, width):
        return Ladder(name, tuple(map(page.picture, steps)), *size, True)
    pictures = tuple(page.picture(middle(image, _CROP), "WEBP", lossless=True) for image in steps)
    return Ladder(name, pictures, min(width, _CROP), min(height, _CROP), False)


def _rows(found: Preview, spec: str, denoiser: Path | None) -> list[Row]:
    options: list[object] = [] if denoiser is None else ["--denoiser", denoiser]
    options += [] if found.max_side is None else ["--max-side", found.max_side]
    rows = list[Row]()
    for level in found.levels:
        pairs = [tuple(map(_tensor, pair)) for pair in zip(found.images, level.images, strict=True)]
        rows.append(
            Row(
                f"{level.sigma:g}/255",
                tuple((name, f"{share:.2f}") for name, share in level.canary.left.items()) if level.canary else (),
                f"{np.median([psnr(x, y) for x, y in pairs]):.1f}",
                f"{np.median([ssim(x, y) for x, y in pairs]):.2f}",
                level.cost.partition(":")[0],
                to_copy(
                    *("eclipse", "purify", spec, *options, "--sigma", f"{level.sigma:g}", "--out", "PURIFIED"),
                    "--report",
                ),
                level.sigma == found.default,
            )
        )
    return rows


def _tensor(image: Pixels) -> torch.Tensor:
    return torch.from_numpy(image.astype(np.float32))
