import pytest
import torch
from kit.tiny import random_weights, tiny_denoiser
from torch import Tensor, nn

from eclipse.diffusion import tiling
from eclipse.diffusion.compact import CompactUNet
from eclipse.diffusion.tiling import in_tiles

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


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling, "TILE", 8)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("size", [(83, 61), (16, 200), (64, 64)])
def test_tiles_make_no_difference(size: tuple[int, int]) -> None:
    unet, x = CompactUNet([4, 4], [1, 1]), torch.randn(2, 3, *size)
    random_weights(unet)
    whole = unet(x, TIME)
    network = Counted(unet, unet.margin)
    torch.testing.assert_close(in_tiles(network, x, TIME), whole, rtol=0, atol=1e-5)
    assert len(network.seen) == -(-size[0] // 8) * -(-size[1] // 8)
    assert max(max(pair) for pair in network.seen) <= 8 + 2 * unet.margin
    assert (in_tiles(Counted(unet, 0), x, TIME) - whole).abs().max() > 1e-3, "the comparison can fail"


@pytest.mark.usefixtures("small_tiles")
def test_a_network_without_a_margin_sees_the_whole_image() -> None:
    network = Counted(CompactUNet([4, 4], [1, 1]), None)
    in_tiles(network, torch.randn(2, 3, 40, 30), TIME)
    assert network.seen == [(40, 30)]


@pytest.mark.usefixtures("small_tiles")
def test_a_denoiser_runs_its_network_in_tiles() -> None:
    denoiser, x = tiny_denoiser(), torch.randn(1, 3, 40, 30)
    margin = denoiser.network.margin
    assert isinstance(margin, int)
    network = Counted(denoiser.network, margin)
    denoiser.network = network
    denoiser(x, torch.tensor([100]))
    assert len(network.seen) == 5 * 4


def test_tiles_are_of_about_a_megapixel() -> None:
    network = Counted(CompactUNet([1, 1], [0, 0], channels=1), 4)
    in_tiles(network, torch.zeros(1, 1, 1000, 1000), TIME[:1])
    assert network.seen == [(1000, 1000)]
    in_tiles(network, torch.zeros(1, 1, 1500, 1100), TIME[:1])
    assert len(network.seen) == 1 + 4
    assert max(height * width for height, width in network.seen) < 1.2e6
