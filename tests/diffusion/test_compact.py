import pytest
import torch
from kit.tiny import random_weights, tiny_denoiser
from torch import Tensor, nn

from eclipse.diffusion.compact import CompactUNet
from eclipse.diffusion.denoiser import build_denoiser
from eclipse.diffusion.presets import FAST

TIME = torch.tensor([24.75])


def network(levels: int = 2, width: int = 4) -> CompactUNet:
    unet = CompactUNet([width] * levels, [1] * levels)
    random_weights(unet)
    return unet.eval().requires_grad_(False)


def sizes_seen(unet: CompactUNet) -> list[tuple[int, int]]:
    """The sizes of the images that reach the first layer, as they come."""
    seen: list[tuple[int, int]] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append((inputs[0].shape[2], inputs[0].shape[3]))

    unet.stem.register_forward_pre_hook(note)
    return seen


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 3), (5, 4), (8, 8), (31, 33)])
@pytest.mark.parametrize("levels", [1, 3])
def test_any_size_gives_its_own_shape(size: tuple[int, int], levels: int) -> None:
    noise = network(levels)(torch.randn(2, 3, *size), TIME.repeat(2))
    assert noise.shape == (2, 3, *size)
    assert noise.isfinite().all() and noise.std() > 0


def test_untrained_network_predicts_no_noise() -> None:
    assert not CompactUNet([8, 12, 16], [1, 2, 1])(torch.randn(2, 3, 9, 9), TIME.repeat(2)).any()


def test_sizes_between_are_filled_up_with_the_edge() -> None:
    unet, x = network(levels=3), torch.randn(1, 3, 6, 9)
    filled = torch.cat([x, x[..., -1:].expand(-1, -1, -1, 3)], 3)
    filled = torch.cat([filled, filled[:, :, -1:].expand(-1, -1, 2, -1)], 2)
    torch.testing.assert_close(unet(x, TIME), unet(filled, TIME)[:, :, :6, :9], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("widths", "blocks"), [([4], [2]), ([4, 4], [1, 1]), ([4, 4, 4], [1, 2, 1])])
@pytest.mark.parametrize("column", [200, 201, 202, 203])
def test_answer_depends_on_no_pixel_beyond_the_margin(widths: list[int], blocks: list[int], column: int) -> None:
    unet = CompactUNet(widths, blocks)
    random_weights(unet)
    unet.double()
    x = torch.randn(1, 3, 4, 400, dtype=torch.float64)
    other = x.clone()
    other[..., column] += 100.0
    changed = (unet(other, TIME) - unet(x, TIME)).abs().amax((0, 1, 2)) > 1e-9
    reach = (torch.nonzero(changed).flatten() - column).abs().max()
    # Not farther, and not much nearer either: tiles pay for the margin.
    assert unet.margin - 3 * unet.multiple < reach <= unet.margin
    assert unet.margin % unet.multiple == 0


def test_each_image_has_its_own_noise_level() -> None:
    unet, x = network(), torch.randn(1, 3, 8, 8)
    times = torch.tensor([1.0, 100.0])
    both = unet(x.repeat(2, 1, 1, 1), times)
    assert (both[0] - both[1]).abs().max() > 1e-3
    for i in range(2):
        torch.testing.assert_close(both[i : i + 1], unet(x, times[i : i + 1]), rtol=0, atol=1e-5)


def test_half_precision_weights_give_nearly_the_same_noise() -> None:
    denoiser, x, t = tiny_denoiser(), torch.randn(2, 3, 7, 5), torch.tensor([0, 400])
    exact = denoiser(x, t).eps
    rounded = denoiser.bfloat16()(x, t).eps
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.1 * exact.std().item())


def test_memory_layout_makes_no_difference() -> None:
    unet, x = network(), torch.randn(2, 3, 9, 9)
    expected = unet(x, TIME.repeat(2))
    unet.to(memory_format=torch.channels_last)
    torch.testing.assert_close(
        unet(x.contiguous(memory_format=torch.channels_last), TIME.repeat(2)), expected, rtol=0, atol=1e-5
    )


def test_fast_preset_is_small_and_takes_any_size() -> None:
    denoiser = build_denoiser(FAST.denoiser)
    assert sum(p.numel() for p in denoiser.parameters()) <= 1_200_000
    assert denoiser(torch.randn(1, 3, 13, 6), torch.tensor([7])).eps.shape == (1, 3, 13, 6)
