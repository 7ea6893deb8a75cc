import math
from pathlib import Path

import pytest
import torch
from kit import golden
from kit.ideal import IdealDenoiser
from torch import Tensor

from eclipse.diffusion.denoiser import Prediction
from eclipse.diffusion.improved_diffusion import import_checkpoint
from eclipse.diffusion.loss import hybrid_loss
from eclipse.diffusion.process import q_sample
from eclipse.diffusion.schedule import NoiseSchedule

COSINE = NoiseSchedule("cosine", 4000)


@torch.inference_mode()
def test_training_losses_equal_improved_diffusion(checkpoint: Path) -> None:
    reference, denoiser = golden.results(), import_checkpoint(checkpoint, image_size=16)
    terms = hybrid_loss(denoiser, COSINE, golden.images(), golden.STEPS, golden.noise("reverse step"))
    assert terms.vb is not None
    torch.testing.assert_close(terms.mse, reference["mse"], rtol=0, atol=1e-4)
    torch.testing.assert_close(terms.vb, reference["vb"], rtol=0, atol=1e-4)
    torch.testing.assert_close(terms.loss, reference["loss"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("t", [1, 99, 2000])
def test_a_perfect_denoiser_has_no_loss(t: int) -> None:
    only = torch.rand(1, 3, 4, 4) * 2 - 1
    ideal = IdealDenoiser(only, COSINE, v=-1.0)
    terms = hybrid_loss(ideal, COSINE, only, torch.tensor([t]), torch.randn_like(only))
    assert terms.loss.item() == pytest.approx(0.0, abs=1e-4)


def test_too_wide_a_variance_costs_its_divergence_in_bits() -> None:
    only, t = torch.rand(1, 3, 4, 4) * 2 - 1, 99
    terms = hybrid_loss(IdealDenoiser(only, COSINE, v=1.0), COSINE, only, torch.tensor([t]), torch.randn_like(only))
    assert terms.vb is not None
    ratio = COSINE.posterior_variance[t] / COSINE.betas[t]
    bits = 0.5 * (ratio - 1 - math.log(ratio)) / math.log(2)
    assert terms.vb.item() == pytest.approx(4.0 * bits, rel=1e-3)  # T / 1000 = 4


def test_the_bound_at_index_0_is_the_code_length_of_the_pixels() -> None:
    # Probabilities of the 256 levels of a pixel, given one x_1, add up to one.
    levels = (torch.arange(256) / 127.5 - 1).view(256, 1, 1, 1)
    x_t, eps = 0.1, 0.2
    abar = float(COSINE.abar[0])
    noise = (x_t - math.sqrt(abar) * levels) / math.sqrt(1 - abar)
    stub = lambda x, t: Prediction(torch.full_like(x, eps), torch.full_like(x, 1.0))  # noqa: E731
    terms = hybrid_loss(stub, COSINE, levels, torch.zeros(256, dtype=torch.int64), noise)
    assert terms.vb is not None
    assert torch.pow(2.0, -terms.vb / 4.0).sum().item() == pytest.approx(1.0, abs=1e-3)


def test_without_a_learned_variance_the_loss_is_the_squared_error() -> None:
    x0, noise = torch.rand(4, 3, 4, 4), torch.randn(4, 3, 4, 4)
    stub = lambda x, t: Prediction(torch.zeros_like(x), None)  # noqa: E731
    terms = hybrid_loss(stub, COSINE, x0, torch.tensor([0, 1, 99, 3999]), noise)
    assert terms.vb is None
    assert torch.equal(terms.loss, terms.mse)
    torch.testing.assert_close(terms.mse, noise.square().mean((1, 2, 3)))


def test_the_bound_trains_the_variance_alone() -> None:
    eps, v = torch.zeros(2, 3, 4, 4, requires_grad=True), torch.zeros(2, 3, 4, 4, requires_grad=True)
    terms = hybrid_loss(
        lambda x, t: Prediction(eps, v), COSINE, torch.rand(2, 3, 4, 4), torch.tensor([0, 99]), torch.randn(2, 3, 4, 4)
    )
    assert terms.vb is not None
    of_eps, of_v = torch.autograd.grad(terms.vb.sum(), [eps, v], allow_unused=True, retain_graph=True)
    assert of_eps is None
    assert of_v.abs().amin() > 0
    assert torch.autograd.grad(terms.mse.sum(), eps)[0].abs().amin() > 0


def test_each_image_has_its_own_loss() -> None:
    x0, noise = torch.rand(3, 3, 4, 4) * 2 - 1, torch.randn(3, 3, 4, 4)
    t = torch.tensor([0, 5, 99])
    ideal = IdealDenoiser(x0, COSINE, v=0.5)

    def losses(rows: Tensor) -> Tensor:
        return hybrid_loss(ideal, COSINE, x0[rows], t[rows], noise[rows]).loss

    together = losses(torch.arange(3))
    for i in range(3):
        torch.testing.assert_close(losses(torch.tensor([i])), together[i : i + 1])


def test_the_network_sees_the_noised_images_and_their_indices() -> None:
    x0, noise, t = torch.rand(2, 3, 4, 4), torch.randn(2, 3, 4, 4), torch.tensor([0, 99])
    seen = {}

    def stub(x_t: Tensor, t: Tensor) -> Prediction:
        seen.update(x_t=x_t, t=t)
        return Prediction(noise, None)

    assert hybrid_loss(stub, COSINE, x0, t, noise).loss.abs().max() == 0
    assert torch.equal(seen["x_t"], q_sample(COSINE, x0, t, noise))
    assert torch.equal(seen["t"], t)
