"""Import of improved-diffusion checkpoints by their key names.

Their tensors are those of ``UNet2DModel`` under other names, except that the three projections of an
attention block are one tensor, stored head by head.
"""

import hashlib
import io
import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from eclipse.diffusion.denoiser import Denoiser, DenoiserConfig, build_denoiser, build_of_shapes
from eclipse.diffusion.schedule import NoiseSchedule
from eclipse.diffusion.unet import UNet
from eclipse.errors import EclipseError

PAPER_SCHEDULE = NoiseSchedule("cosine", 4000)


def import_checkpoint(
    path: Path,
    *,
    heads: int = 4,
    image_size: int | None = None,
    schedule: NoiseSchedule = PAPER_SCHEDULE,
) -> Denoiser:
    """Turn an improved-diffusion checkpoint (a state dict of ``torch.save``) into a denoiser for inference.

    Channels, residual blocks, attention levels and the learned variance are read off the weights. The
    arguments are not in them: a wrong one gives a denoiser that works, but badly.

    Args:
        path: the checkpoint; nothing in it can run code.
        heads: attention heads; 4 in improved-diffusion's settings.
        image_size: height and width; by default such that the first attention is at 16x16, as in
            improved-diffusion's settings for every size.
        schedule: the noise schedule it was trained for; by default the paper's.

    Raises:
        EclipseError: no such file, no checkpoint, code in it, or another architecture.
    """
    path = Path(path)
    tensors, checksum = _read_state_dict(path)
    options = _infer_options(path, tensors, heads)
    attention = options["attention"]
    if image_size is None and not attention:
        raise EclipseError(f"{path} has no attention level that would tell its image size; give the image size")
    config = DenoiserConfig(
        architecture="unet",
        options=options,
        schedule=schedule,
        learned_variance=options["out_channels"] != options["in_channels"],
        t_max=schedule.T,
        image_size=image_size or 16 * 2 ** attention[0],
        preset="imported",
        trained={"checkpoint": path.name, "checkpoint_sha256": checksum},
    )
    # Of their tensors, q, k and v are one.
    planned = build_of_shapes(config, 3 * len(tensors), lambda why: _foreign(path, why))
    weights = _translate(path, tensors, cast(UNet, planned.network).unet.state_dict(), options)
    denoiser = build_denoiser(config)
    cast(UNet, denoiser.network).unet.load_state_dict(weights)
    return denoiser.eval().requires_grad_(False)


def _foreign(path: Path, reason: str) -> EclipseError:
    return EclipseError(
        f"{path} is not an improved-diffusion checkpoint that can be imported: {reason}; expected the state "
        "dict of a U-Net with scale-shift norm, learned resampling and no classes (ema_0.9999_250000.pt)"
    )


def _read_state_dict(path: Path) -> tuple[dict[str, Tensor], str]:
    """Read the tensors of a checkpoint and the checksum of its file."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise EclipseError(f"cannot read {path}: {error.strerror}; give the path of a checkpoint file") from error
    try:
        # weights_only: a checkpoint is a pickle, and this one may come from anywhere.
        tensors = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        raise _foreign(path, "it holds code, or is no PyTorch file") from error
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in tensors.items()
    ):
        raise _foreign(path, "it holds something else than named tensors")
    if sum(tensor.numel() for tensor in tensors.values()) > len(raw):  # strides of 0 repeat values
        raise _foreign(path, "its tensors have more values than the file")
    return tensors, hashlib.sha256(raw).hexdigest()


def _infer_options(path: Path, tensors: Mapping[str, Tensor], heads: int) -> dict[str, Any]:
    """Read the options of the network off the names and shapes of its weights."""
    for name in ("input_blocks.0.0.weight", "out.2.weight"):
        if name not in tensors or tensors[name].dim() != 4:
            raise _foreign(path, f"it has no convolution {name!r}")
    channels, in_channels = tensors["input_blocks.0.0.weight"].shape[:2]
    if not channels or not in_channels:
        raise _foreign(path, "its first convolution is empty")
    out_channels = len(tensors["out.2.weight"])
    if out_channels not in (in_channels, 2 * in_channels):
        raise _foreign(path, f"it gives {out_channels} channels for {in_channels}")
    levels = _levels(tensors)
    blocks = len(levels[0])
    uniform = all(level and level == blocks * level[:1] and level[0][0] % channels == 0 for level in levels)
    if not uniform:
        raise _foreign(path, f"the blocks of its levels have (channels, attention) {levels}")
    return {
        "channels": channels,
        "multipliers": [level[0][0] // channels for level in levels],
        "blocks": blocks,
        "attention": [depth for depth, level in enumerate(levels) if level[0][1]],
        "heads": heads,
        "in_channels": in_channels,
        "out_channels": out_channels,
    }


def _levels(tensors: Mapping[str, Tensor]) -> list[list[tuple[int, bool]]]:
    """For each resolution level, the output channels of its residual blocks and whether attention follows."""
    levels: list[list[tuple[int, bool]]] = [[]]
    for row in itertools.count(1):
        convolution = tensors.get(f"input_blocks.{row}.0.in_layers.2.weight")
        if convolution is not None and convolution.dim() == 4:
            levels[-1].append((len(convolution), f"input_blocks.{row}.1.qkv.weight" in tensors))
        elif f"input_blocks.{row}.0.op.weight" in tensors:
            levels.append([])
        else:
            break
    return levels


_OUTER = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_MIDDLE = {"resnets.0": "0", "attentions.0": "1", "resnets.1": "2"}
_INNER = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
    "group_norm": "norm",
    "to_q": "qkv",
    "to_k": "qkv",
    "to_v": "qkv",
    "to_out.0": "proj_out",
}


def _their_name(name: str, options: Mapping[str, Any]) -> str:
    """Where improved-diffusion keeps a tensor of ``UNet2DModel``."""
    module, _, kind = name.rpartition(".")
    if module in _OUTER:
        return f"{_OUTER[module]}.{kind}"
    if match := re.fullmatch(r"mid_block\.(\w+\.\d)\.(.+)", module):
        return f"middle_block.{_MIDDLE[match[1]]}.{_INNER[match[2]]}.{kind}"
    match = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", module)
    assert match, f"UNet2DModel has a new kind of tensor: {name}"
    down, level, sort, index = match[1] == "down", int(match[2]), match[3], int(match[4])
    depth = level if down else len(options["multipliers"]) - 1 - level
    # A row is a block or a downsampling; an upsampling is the last column of the last row of its level.
    row = level * (options["blocks"] + 1) + (options["blocks"] if sort.endswith("samplers") else index)
    upsampling = 2 if depth in options["attention"] else 1
    column = {"resnets": 0, "attentions": 1, "downsamplers": 0, "upsamplers": upsampling}[sort]
    inner = {"downsamplers": "op", "upsamplers": "conv"}.get(sort) or _INNER[match[5]]
    return f"{'input' if down else 'output'}_blocks.{row + down}.{column}.{inner}.{kind}"


def _translate(
    path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], options: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Give every tensor its name and shape in ``expected``; refuse missing, unknown and misshapen ones."""
    names = {ours: _their_name(ours, options) for ours in expected}
    if odd := sorted(tensors.keys() ^ set(names.values())):
        state = "an unknown" if odd[0] in tensors else "no"
        raise _foreign(path, f"it has {state} tensor {odd[0]!r}")
    translated = {ours: _convert(ours, tensors[theirs], options["heads"]) for ours, theirs in names.items()}
    for ours, tensor in translated.items():
        if tensor.shape != expected[ours].shape or not tensor.isfinite().all():
            raise _foreign(path, f"{names[ours]!r} has the wrong shape or values that are not finite")
    return translated


def _convert(ours: str, tensor: Tensor, heads: int) -> Tensor:
    """Take a linear layer out of a 1x1 convolution, and one of q, k and v out of their common tensor."""
    part = re.search(r"\.to_([qkv])\.", ours)
    if part and tensor.shape[0] % (3 * heads) == 0:
        # The rows are ordered head, then q, k or v, then channel.
        tensor = tensor.reshape(heads, 3, -1, *tensor.shape[1:])[:, "qkv".index(part[1])].flatten(0, 1)
    return (tensor.squeeze(-1) if ".attentions." in ours and tensor.dim() == 3 else tensor).float()
