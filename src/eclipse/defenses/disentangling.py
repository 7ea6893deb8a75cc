"""The network of D-VAE: an autoencoder with a second decoder for what only the class of an image tells."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eclipse.classifiers.resnet import BasicBlock


class Parts(NamedTuple):
    """What the network makes of images.

    Attributes:
        image: the images as far as they pass the bottleneck, on [0, 1], (B, C, H, W).
        perturbation: the rest of them that goes with their classes, of the same shape, of either sign.
        kl: mean over images and places of the divergence of the bottleneck from a standard normal, in nats.
    """

    image: Tensor
    perturbation: Tensor
    kl: Tensor


class DisentanglingVAE(nn.Module):
    """A variational autoencoder at half the resolution, and a decoder of class embeddings beside its own.

    Args:
        num_classes: classes, each with an embedding for every place.
        shape: channels, height and width of the images; odd sides are padded by one pixel inside.
        width: channels of the first layers, twice as many behind.
        latent: channels of the bottleneck.
        blocks: residual blocks at full resolution.
    """

    def __init__(self, num_classes: int, shape: tuple[int, int, int], width: int, latent: int, blocks: int) -> None:
        super().__init__()
        channels, height, width_px = shape
        self.places = (2 * width, (height + 1) // 2, (width_px + 1) // 2)
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            *(BasicBlock(width, width, 1) for _ in range(blocks)),
            BasicBlock(width, 2 * width, 2),
        )
        self.mean = nn.Conv2d(2 * width, latent, 1)
        self.log_variance = nn.Conv2d(2 * width, latent, 1)
        self.widen = nn.Conv2d(latent, 2 * width, 1)
        self.image = _decoder(width, channels)
        self.classes = nn.Embedding(num_classes, self.places[0] * self.places[1] * self.places[2])
        self.perturbation = _decoder(width, channels)

    def forward(self, x: Tensor, y: Tensor) -> Parts:
        """Split [0, 1] images (B, C, H, W) with labels (B,) into parts; the bottleneck draws from torch's generator."""
        height, width = x.shape[2:]
        h = self.stem(F.pad(x, (0, width % 2, 0, height % 2), mode="replicate"))
        mean, log_variance = self.mean(h).float(), self.log_variance(h).float()
        z = self.widen(mean + (0.5 * log_variance).exp() * torch.randn_like(mean))
        image = self.image(z).float().sigmoid()
        perturbation = self.perturbation(z + self.classes(y).view(-1, *self.places)).float()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)
        return Parts(image[:, :, :height, :width], perturbation[:, :, :height, :width], divergence.mean())


def _decoder(width: int, channels: int) -> nn.Sequential:
    """From half the resolution to images, without the last nonlinearity."""
    half = width // 2
    return nn.Sequential(
        nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1),
        nn.ConvTranspose2d(width, width, 3, padding=1),
        nn.InstanceNorm2d(width),
        nn.ReLU(),
        nn.ConvTranspose2d(width, half, 3, padding=1),
        nn.InstanceNorm2d(half),
        nn.ReLU(),
        nn.ConvTranspose2d(half, channels, 3, padding=1),
    )
