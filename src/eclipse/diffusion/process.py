"""The diffusion process on tensors: noising, and one step of the learned reverse process.

Coefficients are computed in float64 and applied in float32.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from eclipse.diffusion.denoiser import Prediction
from eclipse.diffusion.schedule import NoiseSchedule, transition


class ReverseStep(NamedTuple):
    """The Gaussian p(x_s | x_t), all (B, C, H, W) or broadcastable to it.

    Attributes:
        mean: its mean.
        variance: its variance.
        log_variance: the logarithm; finite also at the last step, where the posterior variance is zero.
        pred_x0: the estimate of x_0 behind the mean.
    """

    mean: Tensor
    variance: Tensor
    log_variance: Tensor
    pred_x0: Tensor


def q_sample(schedule: NoiseSchedule, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Noise clean images to their step indices: x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps (paper Eq. 5).

    Args:
        schedule: the noise schedule.
        x0: images on [-1, 1], (B, C, H, W).
        t: step indices, int64, (B,), or (1,) for one index for all.
        noise: standard normal, shaped like ``x0``.
    """
    abar = [float(schedule.abar[i]) for i in t.tolist()]
    signal = column([math.sqrt(a) for a in abar], x0)
    return signal * x0 + column([math.sqrt(1.0 - a) for a in abar], x0) * noise


def predict_x0(schedule: NoiseSchedule, eps: Tensor, x: Tensor, t: Sequence[int]) -> Tensor:
    """Solve Eq. 5 for x_0, given the noise ``eps`` in ``x`` at step indices ``t`` (one, or one an image)."""
    abar = [float(schedule.abar[i]) for i in t]
    scale = column([1.0 / math.sqrt(a) for a in abar], x)
    return scale * x - column([math.sqrt(1.0 / a - 1.0) for a in abar], x) * eps


def predict_eps(schedule: NoiseSchedule, x0: Tensor, x: Tensor, t: Sequence[int]) -> Tensor:
    """Solve Eq. 5 for the noise, given the clean images ``x0``; the inverse of ``predict_x0``."""
    abar = [float(schedule.abar[i]) for i in t]
    scale = column([1.0 / math.sqrt(1.0 - a) for a in abar], x)
    return scale * x - column([math.sqrt(a / (1.0 - a)) for a in abar], x) * x0


def posterior_mean(schedule: NoiseSchedule, x0: Tensor, x: Tensor, t: Sequence[int], s: Sequence[int]) -> Tensor:
    """Return the mean of q(x_s | x_t, x_0) for indices s < t (one pair, or one an image)."""
    steps = [transition(schedule, i, j) for i, j in zip(t, s, strict=True)]
    return column([step[0] for step in steps], x) * x0 + column([step[1] for step in steps], x) * x


def posterior_log_variance(schedule: NoiseSchedule, x: Tensor, t: Sequence[int], s: Sequence[int]) -> Tensor:
    """Return the log variance of q(x_s | x_t, x_0), (B, 1, 1, 1).

    At s = -1 the variance is zero, and the logarithm is that of index 1, as in improved DDPM.
    """
    variances = [transition(schedule, i, j)[2] for i, j in zip(t, s, strict=True)]
    floor = float(schedule.posterior_log_variance_clipped[0])
    return column([math.log(v) if v > 0.0 else floor for v in variances], x)


def reverse_step(
    schedule: NoiseSchedule,
    prediction: Prediction,
    x: Tensor,
    t: Sequence[int],
    s: Sequence[int],
    *,
    clip: bool = True,
) -> ReverseStep:
    """Turn a prediction at x_t into p(x_s | x_t) (improved DDPM, Eq. 9 and 15).

    Args:
        schedule: the noise schedule.
        prediction: what the denoiser says of ``x``; without ``v`` the posterior variance is used.
        x: noised images x_t, (B, C, H, W).
        t: step indices, one for all images or one for each.
        s: the indices to go to, -1 for x_0, as many as ``t``.
        clip: clip the estimate of x_0 to [-1, 1].
    """
    pred_x0 = predict_x0(schedule, prediction.eps, x, t)
    pred_x0 = pred_x0.clamp(-1.0, 1.0) if clip else pred_x0
    log_variance = posterior_log_variance(schedule, x, t, s)
    if prediction.v is not None:
        betas = [transition(schedule, i, j)[3] for i, j in zip(t, s, strict=True)]
        upper = column([math.log(beta) for beta in betas], x)
        share = (prediction.v + 1.0) / 2.0
        log_variance = share * upper + (1.0 - share) * log_variance
    return ReverseStep(posterior_mean(schedule, pred_x0, x, t, s), log_variance.exp(), log_variance, pred_x0)


def column(values: Sequence[float], like: Tensor) -> Tensor:
    """Shape one number an image for multiplication with images: float32, (B, 1, 1, 1), on the same device."""
    return torch.tensor(values, dtype=torch.float32, device=like.device).view(-1, 1, 1, 1)
