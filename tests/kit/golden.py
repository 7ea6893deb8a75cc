"""What improved-diffusion computes with a small network: the weights and inputs drawn again, its results on disk.

``tests/golden/compute.py`` made the results, by the authors' code; it draws the same.
"""

import zlib
from pathlib import Path

import numpy as np
import torch
from kit.reference_unet import Weights, improved_unet
from torch import Tensor

RESULTS = Path(__file__).parents[1] / "golden" / "improved_diffusion.npz"
NAME = "ema_0.9999_000100.pt"  # as they name their checkpoints
OPTIONS = {
    "channels": 32,
    "multipliers": [1, 2, 2, 2],
    "blocks": 1,
    "attention": [1, 2],
    "heads": 4,
    "in_channels": 3,
    "out_channels": 6,
}
STEPS = torch.tensor([99, 57, 1, 0])  # one for each of four images
SHAPE = (4, 3, 16, 16)


def weights() -> Weights:
    """A checkpoint, in improved-diffusion's own names; each tensor is drawn from its name."""
    found = Weights()
    improved_unet(found, torch.zeros(1, *SHAPE[1:]), torch.zeros(1), **OPTIONS)
    return found


def write_checkpoint(path: Path) -> Path:
    torch.save(dict(weights()), path)
    return path


def images() -> Tensor:
    """Four images on [-1, 1], in the layout of memory that they had where the results were made."""
    pixels = np.random.RandomState(0).randint(0, 256, SHAPE)
    return (torch.from_numpy(pixels).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def noise(name: str) -> Tensor:
    """Noise for the four images: another one for each name, the same everywhere and always."""
    generator = np.random.RandomState(zlib.crc32(name.encode()))
    return torch.from_numpy(generator.standard_normal(SHAPE)).float()


def results() -> dict[str, Tensor]:
    return {key: torch.from_numpy(value) for key, value in np.load(RESULTS).items()}
