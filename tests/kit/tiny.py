"""Tiny denoisers and sets for tests, and what every message to users must be."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from eclipse.diffusion.denoiser import Denoiser, DenoiserConfig, build_denoiser
from eclipse.diffusion.schedule import NoiseSchedule

CONFIG = DenoiserConfig(
    architecture="compact",
    options={"widths": [8, 12], "blocks": [1, 1]},
    schedule=NoiseSchedule("cosine", 4000),
    learned_variance=False,
    t_max=650,
    image_size=None,
    preset="fast",
)


def random_weights(network: nn.Module) -> nn.Module:
    """Make every weight random: fresh ones are zero where it matters."""
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    return network


def tiny_denoiser(**changes: Any) -> Denoiser:
    """A compact denoiser with random weights, its config changed by name."""
    denoiser = build_denoiser(replace(CONFIG, **changes))
    random_weights(denoiser)
    return denoiser.eval()


def some_images(n: int, height: int = 8, width: int = 8, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (n, 3, height, width), dtype=np.uint8)


def one_sentence(message: object) -> str:
    """Check that a message is one sentence, and return it."""
    text = str(message)
    assert text and "\n" not in text and not re.search(r"[^.]\. ", text), text
    return text
