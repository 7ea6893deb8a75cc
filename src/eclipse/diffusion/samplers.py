"""Samplers: from noised images at an index back to x_0, as plain functions of one signature.

Every sampler takes x at ``indices[0]`` (float32, (B, C, H, W), on [-1, 1]), a strictly descending list of
step indices, and a source of noise; it returns x_0 on [-1, 1]. The estimate of x_0 is clipped at each step,
and the last index leads to x_0 without noise. Callers switch gradients off.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from eclipse.diffusion.denoiser import Prediction, PredictsNoise
from eclipse.diffusion.process import predict_eps, predict_x0, q_sample, reverse_step
from eclipse.diffusion.schedule import NoiseSchedule, successors

Noise = Callable[[int], Tensor]
"""From the index that is left to standard normal noise shaped like x; the randomness is the caller's."""

Sampler = Callable[[PredictsNoise, Tensor, NoiseSchedule, Sequence[int], Noise], Tensor]


def ancestral(
    denoiser: PredictsNoise, x: Tensor, schedule: NoiseSchedule, indices: Sequence[int], noise: Noise
) -> Tensor:
    """Draw x_0 step by step from p(x_s | x_t) (DDPM, Alg. 2), with the learned variance if there is one."""
    for t, s in zip(indices, successors(indices), strict=True):
        step = reverse_step(schedule, denoiser(x, _batch(x, t)), x, [t], [s])
        x = step.mean if s < 0 else step.mean + (0.5 * step.log_variance).exp() * noise(t)
    return x


def ancestral_posterior(
    denoiser: PredictsNoise, x: Tensor, schedule: NoiseSchedule, indices: Sequence[int], noise: Noise
) -> Tensor:
    """Draw x_0 as ``ancestral`` does, with the variance of q(x_s | x_t, x_0) in place of the learned one."""

    def without_variance(x_t: Tensor, t: Tensor) -> Prediction:
        return Prediction(denoiser(x_t, t).eps, None)

    return ancestral(without_variance, x, schedule, indices, noise)


def ddim(denoiser: PredictsNoise, x: Tensor, schedule: NoiseSchedule, indices: Sequence[int], noise: Noise) -> Tensor:
    """Follow the deterministic path to x_0 (DDIM, Eq. 12 with eta = 0); ``noise`` is never asked."""
    for t, s in zip(indices, successors(indices), strict=True):
        x0 = predict_x0(schedule, denoiser(x, _batch(x, t)).eps, x, [t]).clamp(-1.0, 1.0)
        x = x0 if s < 0 else q_sample(schedule, x0, torch.tensor([s]), predict_eps(schedule, x0, x, [t]))
    return x


def one_step(
    denoiser: PredictsNoise, x: Tensor, schedule: NoiseSchedule, indices: Sequence[int], noise: Noise
) -> Tensor:
    """Return the denoiser's estimate of x_0, its posterior mean, at ``indices[0]`` alone."""
    return ddim(denoiser, x, schedule, indices[:1], noise)


SAMPLERS: dict[str, Sampler] = {
    "ancestral": ancestral,
    "ancestral-posterior": ancestral_posterior,
    "ddim": ddim,
    "one-step": one_step,
}


def _batch(x: Tensor, t: int) -> Tensor:
    return torch.full((len(x),), t, dtype=torch.int64, device=x.device)
