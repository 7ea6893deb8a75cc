"""The U-Net of improved-diffusion as plain functions over its own tensor names, for comparison."""

import math
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


class Weights(dict[str, Tensor]):
    """A state dict; an open one draws a tensor from its name where it has none, and so draws up a checkpoint."""

    def __init__(self, tensors: dict[str, Tensor] | None = None) -> None:
        super().__init__(tensors or {})
        self.open = tensors is None

    def take(self, name: str, *shape: int) -> Tensor:
        if self.open and name not in self:
            drawn = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
            scale = 1 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.1
            is_gain = len(shape) == 1 and name.endswith("weight")
            self[name] = torch.from_numpy(drawn * scale + is_gain).float()
        assert self[name].shape == shape, name
        return self[name]

    def pair(self, name: str, *shape: int) -> tuple[Tensor, Tensor]:
        return self.take(f"{name}.weight", *shape), self.take(f"{name}.bias", shape[0])


def improved_unet(
    weights: Weights,
    x: Tensor,
    time: Tensor,
    *,
    channels: int,
    multipliers: Sequence[int],
    blocks: int,
    attention: Sequence[int],
    heads: int,
    in_channels: int,
    out_channels: int,
) -> Tensor:
    assert x.shape[1] == in_channels

    def conv(name: str, h: Tensor, width: int, size: int = 3, stride: int = 1) -> Tensor:
        kernel, bias = weights.pair(name, width, h.shape[1], size, size)
        return F.conv2d(h, kernel, bias, stride=stride, padding=size // 2)

    def norm(name: str, h: Tensor) -> Tensor:
        return F.group_norm(h, 32, *weights.pair(name, h.shape[1]))

    def linear(name: str, h: Tensor, width: int) -> Tensor:
        return F.linear(h, *weights.pair(name, width, h.shape[1]))

    def residual(name: str, h: Tensor, width: int) -> Tensor:
        out = conv(f"{name}.in_layers.2", F.silu(norm(f"{name}.in_layers.0", h)), width)
        scale, shift = linear(f"{name}.emb_layers.1", F.silu(emb), 2 * width)[:, :, None, None].chunk(2, 1)
        out = norm(f"{name}.out_layers.0", out) * (1 + scale) + shift
        out = conv(f"{name}.out_layers.3", F.silu(out), width)
        return out + (h if h.shape[1] == width else conv(f"{name}.skip_connection", h, width, 1))

    def attend(name: str, h: Tensor) -> Tensor:
        batch, width, pixels = len(h), h.shape[1], h.shape[2] * h.shape[3]
        flat = h.reshape(batch, width, pixels)
        qkv = F.conv1d(norm(f"{name}.norm", flat), *weights.pair(f"{name}.qkv", 3 * width, width, 1))
        q, k, v = qkv.reshape(batch * heads, 3 * width // heads, pixels).split(width // heads, dim=1)
        shares = (torch.einsum("bct,bcs->bts", q, k) / math.sqrt(width // heads)).softmax(-1)
        mixed = torch.einsum("bts,bcs->bct", shares, v).reshape(batch, width, pixels)
        return h + F.conv1d(mixed, *weights.pair(f"{name}.proj_out", width, width, 1)).reshape(h.shape)

    half = channels // 2
    angles = time[:, None] * torch.exp(-math.log(10000) * torch.arange(half) / half)
    emb = linear("time_embed.0", torch.cat([angles.cos(), angles.sin()], 1), 4 * channels)
    emb = linear("time_embed.2", F.silu(emb), 4 * channels)

    h = conv("input_blocks.0.0", x, channels)
    skips, row = [h], 1
    for level, multiplier in enumerate(multipliers):
        for _ in range(blocks):
            h = residual(f"input_blocks.{row}.0", h, multiplier * channels)
            h = attend(f"input_blocks.{row}.1", h) if level in attention else h
            skips.append(h)
            row += 1
        if level < len(multipliers) - 1:
            h = conv(f"input_blocks.{row}.0.op", h, h.shape[1], stride=2)
            skips.append(h)
            row += 1
    h = residual("middle_block.0", h, h.shape[1])
    h = residual("middle_block.2", attend("middle_block.1", h), h.shape[1])
    row = 0
    for level, multiplier in reversed([*enumerate(multipliers)]):
        for block in range(blocks + 1):
            h = residual(f"output_blocks.{row}.0", torch.cat([h, skips.pop()], 1), multiplier * channels)
            h = attend(f"output_blocks.{row}.1", h) if level in attention else h
            if level and block == blocks:
                column = 2 if level in attention else 1
                h = F.interpolate(h, scale_factor=2, mode="nearest")
                h = conv(f"output_blocks.{row}.{column}.conv", h, h.shape[1])
            row += 1
    return conv("out.2", F.silu(norm("out.0", h)), out_channels)
