"""Large images in tiles: what a tile's activations take bounds the memory for an image of any size."""

from typing import cast

import torch
from torch import Tensor, nn

TILE = 1024  # pixels a side; a multiple of what networks pad images to


def in_tiles(network: nn.Module, x: Tensor, time: Tensor) -> Tensor:
    """Run a network on (B, C, H, W), in tiles where that is more than ``TILE`` x ``TILE`` pixels.

    A network says by its ``margin`` that no pixel's answer depends on pixels farther away than this, so that tiles with
    such a margin around them give what the whole image would. It must be a multiple of what the network pads images to.
    One without a margin sees the whole image.
    """
    margin = cast(int | None, getattr(network, "margin", None))
    height, width = x.shape[2:]
    if margin is None or height * width <= TILE**2:
        return cast(Tensor, network(x, time))

    def tile(top: int, left: int) -> Tensor:
        above, before = min(top, margin), min(left, margin)
        bottom, right = top + TILE + margin, left + TILE + margin
        answer = network(x[:, :, top - above : bottom, left - before : right], time)
        return cast(Tensor, answer[:, :, above : above + TILE, before : before + TILE])

    tops, lefts = range(0, height, TILE), range(0, width, TILE)
    return torch.cat([torch.cat([tile(top, left) for left in lefts], 3) for top in tops], 2)
