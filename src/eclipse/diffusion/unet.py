"""The U-Net of improved diffusion, on ``diffusers.UNet2DModel``."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn

from eclipse.errors import EclipseError, require


class UNet(nn.Module):
    """The improved-diffusion U-Net; its defaults are those of the paper's network.

    It has no ``margin``: attention and group normalization look at the whole image, which so cannot be cut into tiles.

    Args:
        channels: channels of the first level, a multiple of 32 and of ``heads``.
        multipliers: the channels of each resolution level, in multiples of ``channels``.
        blocks: residual blocks a level.
        attention: the levels with attention, 0 being the full resolution; the middle always has it.
        heads: attention heads.
        dropout: dropout probability inside the residual blocks, in training.
        in_channels: image channels.
        out_channels: the same, or twice as many for a learned variance.
    """

    def __init__(
        self,
        *,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 3,
        attention: Sequence[int] = (1, 2),
        heads: int = 4,
        dropout: float = 0.0,
        in_channels: int = 3,
        out_channels: int = 6,
    ) -> None:
        super().__init__()
        if channels % 32 or channels % heads:
            raise EclipseError(f"a U-Net of {channels} channels; expected a multiple of 32 and of its {heads} heads")
        attends = [level in attention for level in range(len(multipliers))]
        self.multiple = 2 ** (len(multipliers) - 1)
        self.unet = require("diffusers", "paper").UNet2DModel(
            in_channels=in_channels,
            out_channels=out_channels,
            block_out_channels=tuple(channels * m for m in multipliers),
            layers_per_block=blocks,
            down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attends),
            up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
            attention_head_dim=None,  # one head; _split_heads
            attn_norm_num_groups=32,
            resnet_time_scale_shift="scale_shift",
            dropout=dropout,
        )
        self._split_heads(heads)
        self._zero_outputs()

    def _split_heads(self, heads: int) -> None:
        """Set the number of heads: diffusers takes only their width, one for all levels however wide."""
        attention = require("diffusers.models.attention_processor", "paper").Attention
        for module in self.unet.modules():
            if isinstance(module, attention):
                module.heads = heads
                module.scale = (module.inner_dim / heads) ** -0.5

    def _zero_outputs(self) -> None:
        """Start every residual branch and the last convolution at zero, which diffusers does not."""
        for name, parameter in self.unet.named_parameters():
            if name.startswith("conv_out.") or ".conv2." in name or ".to_out.0." in name:
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Predict from x, (B, C, H, W) on [-1, 1], and float times (B,) on the scale of 0 to 1000."""
        height, width = x.shape[-2:]
        if height % self.multiple or width % self.multiple:
            raise EclipseError(
                f"images of {height}x{width}; the U-Net takes multiples of {self.multiple}: "
                "resize the images, or use preset 'fast', which takes any size"
            )
        return cast(Tensor, self.unet(x, time, return_dict=False)[0])


def build(options: Mapping[str, Any]) -> UNet:
    """Build the U-Net from its saved options."""
    return UNet(**options)
