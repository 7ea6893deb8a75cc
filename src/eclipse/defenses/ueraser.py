"""UEraser: strong augmentation, and of several copies of an image the one that the network finds hardest."""

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor, nn

from eclipse.classifiers.pgd import cross_entropy
from eclipse.compute.device import autocast
from eclipse.data.imageset import ImageSet
from eclipse.data.pixels import quantize, to_unit
from eclipse.defenses.defense import Defense
from eclipse.defenses.iss import ISSJ
from eclipse.errors import EclipseError, require


@dataclass(frozen=True)
class UEraser(Defense):
    """Adversarial augmentation (Qin et al., "Learning the Unlearnable", AROW workshop of ICCV 2023; in tables also AA).

    The policy is kornia's: fractal brightness and contrast, a shuffle of the channels, TrivialAugment. An image is
    trained on as the one of ``copies`` such augmentations that has the largest cross-entropy (the image as it is is
    not among them), later in the training as a single one. ``copies`` of 1 is UEraser-Lite, ``until`` of 1 is
    UEraser-Max. kornia's TrivialAugment draws one operation for a whole call and a magnitude for each image; here a
    call is one copy of a batch, as in the authors' script for LSP. At 32x32, 128 augmentations take about 0.1 s of
    one processor core, most of it for the fractals.

    The copies are compared by passes without gradients, of the network in evaluation mode. The authors' code passes
    all of them in training mode and takes gradients through all, so that BatchNorm learns from the rejected, too, and
    the work is twice as much. Left out of it: JPEG for a whole batch in one picture, which it scales in place, so that
    the caller's images are spoiled, and darkens by half a level.

    Attributes:
        copies: of each image, to choose from.
        until: the share of the training in which there is a choice: the authors' 60 of 200 epochs (their script for
            LSP and APBench have 50).
        p: probability of the brightness, and of the contrast, of each image.
        jpeg: compress the copies at quality 10. The authors do so against TAP and AR alone. Who switches it on for
            these knows which poison it is, as no defender does: report it as an oracle.
    """

    title: ClassVar[str] = "the hardest of several strong augmentations"
    acts: ClassVar[str] = "batches"
    copies: int = 5
    until: float = 0.3
    p: float = 0.5
    jpeg: bool = False

    def __post_init__(self) -> None:
        if not self.copies >= 1:
            raise EclipseError(f"UEraser copies {self.copies}; expected at least 1, such as the published 5")
        for name, share in (("until", self.until), ("p", self.p)):
            if not 0 <= share <= 1:
                raise EclipseError(f"UEraser {name} {share:g}; expected a share from 0 to 1")

    @property
    def package(self) -> tuple[str, str]:
        """Kornia."""
        return "kornia", "defenses"

    @torch.no_grad()
    def adversary(self, network: nn.Module, x: Tensor, y: Tensor, progress: float) -> Tensor:
        """Augment each image, and choose the hardest copy as long as ``progress`` is below ``until``."""
        policy = _policy(self.p, x.shape[1]).to(x.device)
        if progress >= self.until or self.copies == 1:
            return self._augmented(policy, x)
        copies = torch.stack([self._augmented(policy, x) for _ in range(self.copies)])
        with autocast(x.device):
            losses = torch.stack([cross_entropy(network, y)(_laid_out(copy)) for copy in copies])
        return copies[losses.argmax(0), torch.arange(len(x), device=x.device)]

    def cost(self) -> float:
        """A pass without gradients is a third of a step; the augmentation itself is not counted."""
        return 1 + (self.until * self.copies / 3 if self.copies > 1 else 0)

    def _augmented(self, policy: nn.Module, x: Tensor) -> Tensor:
        x = policy(x).clamp(0, 1)  # interpolation may round beyond
        if not self.jpeg:
            return x
        pixels = ImageSet.from_arrays(quantize(x).cpu().numpy())
        return to_unit(torch.from_numpy(ISSJ(quality=10).compressed(pixels).images).to(x.device))


def _laid_out(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


@cache
def _policy(p: float, channels: int) -> nn.Module:
    """The published policy, without the shuffle where there is one channel; it draws from torch's global generators."""
    augmentation = require("kornia.augmentation", "defenses")
    shuffle = [augmentation.RandomChannelShuffle(p=0.5)] if channels > 1 else []
    return nn.Sequential(
        augmentation.RandomPlasmaBrightness(roughness=(0.3, 0.7), intensity=(0.5, 1.0), p=p),
        augmentation.RandomPlasmaContrast(roughness=(0.3, 0.7), p=p),
        *shuffle,
        augmentation.auto.TrivialAugment(),
    )
