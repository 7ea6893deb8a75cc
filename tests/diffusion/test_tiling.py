from collections.abc import Callable
from functools import partial

import pytest
import torch
from kit.tiny import random_weights, tiny_denoiser
from torch import Tensor, nn

from eclipse.diffusion import tiling
from eclipse.diffusion.compact import CompactUNet
from eclipse.diffusion.samplers import SAMPLERS
from eclipse.diffusion.tiling import in_tiles, pixels_seen

TIME = torch.tensor([3.0, 90.0])


class Counted(nn.Module):
    """A network that notes the sizes of what it sees."""

    def __init__(self, network: nn.Module, margin: int | None) -> None:
        super().__init__()
        self.network, self.margin, self.seen = network, margin, list[tuple[int, int]]()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        self.seen.append((x.shape[2], x.shape[3]))
        y: Tensor = self.network(x, time)
        return y


def tiled(network: Counted, x: Tensor) -> Tensor:
    return in_tiles(partial(network, time=TIME[: len(x)]), network.margin, x.clone())


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    return lambda side: monkeypatch.setattr(tiling, "TILE", side)


@pytest.mark.parametrize("tile", [8, 32])
@pytest.mark.parametrize("size", [(83, 61), (16, 200), (64, 64)])
def test_tiles_make_no_difference(small_tiles: Callable[[int], None], size: tuple[int, int], tile: int) -> None:
    unet, x = CompactUNet([4, 4], [1, 1]), torch.randn(2, 3, *size)
    random_weights(unet)
    small_tiles(tile)
    whole = unet(x, TIME)
    network = Counted(unet, unet.margin)
    torch.testing.assert_close(tiled(network, x), whole, rtol=0, atol=1e-5)
    assert len(network.seen) == -(-size[0] // tile) * -(-size[1] // tile)
    assert max(max(pair) for pair in network.seen) <= tile + 2 * unet.margin
    assert (tiled(Counted(unet, 0), x) - whole).abs().max() > 1e-3, "the comparison can fail"


def test_a_network_without_a_margin_sees_the_whole_image(small_tiles: Callable[[int], None]) -> None:
    small_tiles(8)
    network = Counted(CompactUNet([4, 4], [1, 1]), None)
    tiled(network, torch.randn(2, 3, 40, 30))
    assert network.seen == [(40, 30)]


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_take_large_images_in_tiles_to_the_same_result(small_tiles: Callable[[int], None], name: str) -> None:
    denoiser, x, z = tiny_denoiser(), torch.randn(1, 3, 40, 30), torch.randn(1, 3, 40, 30)
    sampler, indices = SAMPLERS[name], (100, 50, 0)
    with torch.inference_mode():
        whole = sampler(denoiser, x, denoiser.config.schedule, indices, lambda t: z)
        denoiser.network = network = Counted(denoiser.network, denoiser.margin)
        small_tiles(8)
        found = sampler(denoiser, x.clone(), denoiser.config.schedule, indices, lambda t: z)
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-5)
    assert len(network.seen) == 5 * 4 * (1 if name == "one-step" else 3)


def test_tiles_are_of_about_a_megapixel() -> None:
    network = Counted(CompactUNet([1, 1], [0, 0], channels=1), 4)
    tiled(network, torch.zeros(1, 1, 1000, 1000))
    assert network.seen == [(1000, 1000)]
    tiled(network, torch.zeros(1, 1, 1500, 1100))
    assert len(network.seen) == 1 + 4
    assert max(height * width for height, width in network.seen) < 1.2e6


@pytest.mark.parametrize("margin", [None, 16])
@pytest.mark.parametrize("size", [(83, 61), (16, 200), (8, 8)])
def test_the_pixels_that_are_seen_are_known_before(
    small_tiles: Callable[[int], None], size: tuple[int, int], margin: int | None
) -> None:
    small_tiles(32)
    network = Counted(CompactUNet([1, 1], [0, 0], channels=1), margin)
    tiled(network, torch.zeros(2, 1, *size))
    assert pixels_seen(*size, margin) == sum(height * width for height, width in network.seen)
