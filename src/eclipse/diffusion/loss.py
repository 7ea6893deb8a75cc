"""The hybrid training loss of improved DDPM (Nichol and Dhariwal 2021, Eq. 16)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from eclipse.diffusion.denoiser import Prediction, PredictsNoise
from eclipse.diffusion.process import ReverseStep, posterior_log_variance, posterior_mean, q_sample, reverse_step
from eclipse.diffusion.schedule import NoiseSchedule


class LossTerms(NamedTuple):
    """Per-image losses, each (B,).

    Attributes:
        mse: mean squared error of the predicted noise (L_simple).
        vb: the variational bound's term at t, in bits a dimension times T / 1000; None where no variance is
            learned.
        loss: what to minimize, their sum.
    """

    mse: Tensor
    vb: Tensor | None
    loss: Tensor


def hybrid_loss(denoiser: PredictsNoise, schedule: NoiseSchedule, x0: Tensor, t: Tensor, noise: Tensor) -> LossTerms:
    """Compute the loss of each image at its own step index.

    Args:
        denoiser: the network to train.
        schedule: its noise schedule.
        x0: clean images on [-1, 1], (B, C, H, W).
        t: step indices, int64, (B,).
        noise: standard normal, shaped like ``x0``.
    """
    x_t = q_sample(schedule, x0, t, noise)
    prediction = denoiser(x_t, t)
    mse = (prediction.eps - noise).square().flatten(1).mean(1)
    if prediction.v is None:
        return LossTerms(mse, None, mse)
    # The bound sees a detached mean: its gradient is far noisier than that of the mse, and is for v alone.
    frozen = Prediction(prediction.eps.detach(), prediction.v)
    vb = _variational_bound(schedule, frozen, x0, x_t, t) * (schedule.T / 1000)
    return LossTerms(mse, vb, mse + vb)


def _variational_bound(schedule: NoiseSchedule, prediction: Prediction, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    indices = t.tolist()
    previous = [i - 1 for i in indices]
    model = reverse_step(schedule, prediction, x_t, indices, previous, clip=False)
    true_mean = posterior_mean(schedule, x0, x_t, indices, previous)
    true_log_variance = posterior_log_variance(schedule, x_t, indices, previous)
    kl = _kl(true_mean, true_log_variance, model).flatten(1).mean(1)
    nll = _discretized_nll(x0, model).flatten(1).mean(1)
    return torch.where(t == 0, nll, kl) / math.log(2.0)


def _kl(mean: Tensor, log_variance: Tensor, model: ReverseStep) -> Tensor:
    """KL(N(mean, exp(log_variance)) || model), elementwise in nats."""
    gap = log_variance - model.log_variance
    return 0.5 * (gap.exp() - gap - 1.0 + (mean - model.mean).square() * (-model.log_variance).exp())


def _discretized_nll(x0: Tensor, model: ReverseStep) -> Tensor:
    """Negative log of the probability that the model gives to the 8-bit level of x0, elementwise in nats.

    A level owns the pixels within 1/255 of it on [-1, 1]; the first and the last also own what lies beyond.
    """
    inverse_std = (-0.5 * model.log_variance).exp()
    below_upper = _normal_cdf((x0 - model.mean + 1 / 255) * inverse_std)
    below_lower = _normal_cdf((x0 - model.mean - 1 / 255) * inverse_std)
    below_upper = torch.where(x0 > 0.999, 1.0, below_upper)
    below_lower = torch.where(x0 < -0.999, 0.0, below_lower)
    return -(below_upper - below_lower).clamp(min=1e-12).log()


def _normal_cdf(x: Tensor) -> Tensor:
    # The tanh approximation, not erf: improved-diffusion's losses are the reference.
    return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
