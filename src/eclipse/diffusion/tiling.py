"""Large images in tiles: what a tile takes on its way bounds the memory for an image of any size."""

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

TILE = 1024  # pixels a side; a multiple of what networks pad images to


def in_tiles(step: Callable[..., Tensor], margin: int | None, x: Tensor, *others: Tensor) -> Tensor:
    """Take (B, C, H, W) a step further, in tiles where that is more than ``TILE`` x ``TILE`` pixels.

    Args:
        step: from x, and what else it needs, to what takes the place of x.
        margin: no pixel's answer depends on pixels farther away than this, so that tiles with such a margin around them
            give what the whole image would. It must be a multiple of what the network pads images to. None for a step
            that sees the whole image.
        x: where tiles are made of it, the result is written into it.
        others: of the shape of x, cut up like it.
    """
    height, width = x.shape[2:]
    if margin is None or height * width <= TILE**2:
        return step(_fast(x), *others)

    def tile(top: int, left: int) -> Tensor:
        above, before = min(top, margin), min(left, margin)
        rows, columns = slice(top - above, top + TILE + margin), slice(left - before, left + TILE + margin)
        answer = step(_fast(x[:, :, rows, columns]), *(other[:, :, rows, columns] for other in others))
        return answer[:, :, above : above + TILE, before : before + TILE]

    done = deque[tuple[int, Tensor]]()  # rows whose place in x is still needed, as the margin of those below

    def put(before: int) -> None:
        while done and done[0][0] + TILE <= before:
            top, rows = done.popleft()
            x[:, :, top : top + TILE] = rows

    for top in range(0, height, TILE):
        done.append((top, torch.cat([tile(top, left) for left in range(0, width, TILE)], 3)))
        put(top + TILE - margin)
    put(height + TILE)
    return x


def pixels_seen(height: int, width: int, margin: int | None) -> int:
    """How many pixels a step looks at in an image, those of the margins of its tiles again with each tile."""
    if margin is None or height * width <= TILE**2:
        return height * width

    def along(length: int) -> int:
        return sum(min(length, start + TILE + margin) - max(0, start - margin) for start in range(0, length, TILE))

    return along(height) * along(width)


def _fast(x: Tensor) -> Tensor:
    """In the memory layout that networks are fastest on."""
    return x.contiguous(memory_format=torch.channels_last)
