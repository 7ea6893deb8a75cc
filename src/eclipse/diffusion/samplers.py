"""Samplers: from noised images at an index back to x_0, as plain functions of one signature.

Every sampler takes x at ``indices[0]`` (float32, (B, C, H, W), on [-1, 1]), a strictly descending list of
step indices, and a source of noise; it returns x_0 on [-1, 1]. The estimate of x_0 is clipped at each step,
and the last index leads to x_0 without noise. Callers switch gradients off. A large image goes in tiles and is
overwritten, if the denoiser tells its ``margin``: several copies as float32 would take gigabytes.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from eclipse.diffusion.denoiser import Prediction, PredictsNoise
from eclipse.diffusion.process import predict_eps, predict_x0, q_sample, reverse_step
from eclipse.diffusion.schedule import NoiseSchedule, successors
from eclipse.diffusion.tiling import in_tiles

Noise = Callable[[int], Tensor]
"""From the index that is left to standard normal noise shaped like x; the randomness is the caller's."""

Sampler = Callable[[PredictsNoise, Tensor, NoiseSchedule, Sequence[int], Noise], Tensor]


def ancestral(
    denoiser: PredictsNoise, x: Tensor, schedule: NoiseSchedule, indices: Sequence[int], noise: Noise
) -> Tensor:
    """Draw x_0 step by step from p(x_s | x_t) (DDPM, Alg. 2), with the learned variance if there is one."""
    return _drawn(denoiser, x, schedule, indices, noise, learned=True)


def ancestral_posterior(
    denoiser: PredictsNoise, x: Tensor, schedule: NoiseSchedule, indices: Sequence[int], noise: Noise
) -> Tensor:
    """Draw x_0 as ``ancestral`` does, with the variance of q(x_s | x_t, x_0) in place of the learned one."""
    return _drawn(denoiser, x, schedule, indices, noise, learned=False)


def _drawn(
    denoiser: PredictsNoise,
    x: Tensor,
    schedule: NoiseSchedule,
    indices: Sequence[int],
    noise: Noise,
    learned: bool,
) -> Tensor:
    for t, s in zip(indices, successors(indices), strict=True):

        def draw(x_t: Tensor, *z: Tensor, t: int = t, s: int = s) -> Tensor:
            said = denoiser(x_t, _batch(x_t, t))
            step = reverse_step(schedule, said if learned else Prediction(said.eps, None), x_t, [t], [s])
            return step.mean + (0.5 * step.log_variance).exp() * z[0] if z else step.mean

        x = in_tiles(draw, _margin(denoiser), x, *([] if s < 0 else [noise(t)]))
    return x


def ddim(denoiser: PredictsNoise, x: Tensor, schedule: NoiseSchedule, indices: Sequence[int], noise: Noise) -> Tensor:
    """Follow the deterministic path to x_0 (DDIM, Eq. 12 with eta = 0); ``noise`` is never asked."""
    for t, s in zip(indices, successors(indices), strict=True):

        def follow(x_t: Tensor, t: int = t, s: int = s) -> Tensor:
            x0 = predict_x0(schedule, denoiser(x_t, _batch(x_t, t)).eps, x_t, [t]).clamp(-1.0, 1.0)
            return x0 if s < 0 else q_sample(schedule, x0, torch.tensor([s]), predict_eps(schedule, x0, x_t, [t]))

        x = in_tiles(follow, _margin(denoiser), x)
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


def _margin(denoiser: PredictsNoise) -> int | None:
    return getattr(denoiser, "margin", None)


def _batch(x: Tensor, t: int) -> Tensor:
    return torch.full((len(x),), t, dtype=torch.int64, device=x.device)
