"""Noise schedules: float64 tables and the map between a step index and a noise level.

Symbols as in DDPM (Ho et al. 2020) and improved DDPM (Nichol and Dhariwal 2021): x_t = sqrt(abar_t) x_0 +
sqrt(1 - abar_t) eps with x_0 in [-1, 1]. Index t runs from 0 (least noise) to T - 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from eclipse.errors import EclipseError, unknown

Table = NDArray[np.float64]
MOST_STEPS = 100_000  # a table has a number for each


@dataclass(frozen=True)
class NoiseSchedule:
    """A discrete diffusion process of T steps, given by its name so that it can be saved as data.

    Attributes:
        name: ``cosine`` (s = 0.008, beta at most 0.999) or ``linear`` (1e-4 to 0.02 at T = 1000, scaled).
        T: number of steps.
    """

    name: str = "cosine"
    T: int = 4000

    def __post_init__(self) -> None:
        if self.name not in _BETAS:
            raise unknown("noise schedule", self.name, _BETAS)
        if type(self.T) is not int or not 2 <= self.T <= MOST_STEPS:
            raise EclipseError(f"a noise schedule of T = {self.T} steps; expected 2 to {MOST_STEPS:,}")

    @cached_property
    def abar(self) -> Table:
        """The cumulative product of 1 - beta, (T,)."""
        abar: Table = np.cumprod(1.0 - _BETAS[self.name](self.T), dtype=np.float64)
        return abar

    @cached_property
    def betas(self) -> Table:
        """beta_t, (T,).

        Recomputed from abar, as improved-diffusion's respacing does: near index 0 the last bit shows in logarithms.
        """
        return 1.0 - self.abar / self._abar_prev

    @cached_property
    def posterior_variance(self) -> Table:
        """The variance of q(x_{t-1} | x_t, x_0), (T,); zero at index 0."""
        return self.betas * (1.0 - self._abar_prev) / (1.0 - self.abar)

    @cached_property
    def posterior_log_variance_clipped(self) -> Table:
        """Log of the posterior variance, with index 0 (where it is zero) given the value of index 1, (T,)."""
        clipped: Table = np.log(np.append(self.posterior_variance[1], self.posterior_variance[1:]))
        return clipped

    @cached_property
    def posterior_mean_coef1(self) -> Table:
        """The factor of x_0 in the mean of q(x_{t-1} | x_t, x_0), (T,)."""
        return self.betas * np.sqrt(self._abar_prev) / (1.0 - self.abar)

    @cached_property
    def posterior_mean_coef2(self) -> Table:
        """The factor of x_t in the mean of q(x_{t-1} | x_t, x_0), (T,)."""
        return (1.0 - self._abar_prev) * np.sqrt(1.0 - self.betas) / (1.0 - self.abar)

    @property
    def _abar_prev(self) -> Table:
        return np.append(1.0, self.abar[:-1])

    def sigma(self, index: int) -> float:
        """The standard deviation of the noise at an index, on the [0, 1] pixel scale.

        The network's scale is [-1, 1], twice as wide, hence the half: sqrt(1 - abar_t) / 2. Index 99 of
        cosine 4000 is 6.4/255, the paper's t* = 100.
        """
        return math.sqrt(1.0 - float(self.abar[index])) / 2.0

    def index(self, sigma: float) -> int:
        """The index whose noise level is nearest to ``sigma`` ([0, 1] pixel scale)."""
        levels = np.sqrt(1.0 - self.abar) / 2.0
        if not levels[0] <= sigma <= levels[-1]:
            raise EclipseError(
                f"noise level sigma {sigma * 255:g}/255 is out of range; expected {levels[0] * 255:.2f} to "
                f"{levels[-1] * 255:.1f} in 8-bit levels (the paper uses 6.4)"
            )
        return int(np.abs(levels - sigma).argmin())

    def spaced(self, start: int, steps: int) -> tuple[int, ...]:
        """``steps`` indices from ``start`` down to 0, evenly spaced; fewer where the indices run out.

        One step is ``(start,)``: the network is asked once, at the level of the noise.
        """
        if steps < 1:
            raise EclipseError(f"{steps} steps; expected at least 1")
        if steps == 1:
            return (start,)
        indices = np.linspace(start, 0, min(steps, start + 1)).round().astype(int)
        return tuple(int(i) for i in dict.fromkeys(indices.tolist()))


def _cosine(T: int) -> Table:
    f = [math.cos((i / T + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(T + 1)]
    return np.array([min(1 - f[i + 1] / f[i], 0.999) for i in range(T)])


def _linear(T: int) -> Table:
    scale = 1000 / T
    return np.linspace(scale * 1e-4, scale * 0.02, T, dtype=np.float64)


_BETAS = {"cosine": _cosine, "linear": _linear}


def transition(schedule: NoiseSchedule, t: int, s: int) -> tuple[float, float, float, float]:
    """The Gaussian q(x_s | x_t, x_0) for any s < t, where s = -1 stands for x_0 itself.

    Returns:
        The factor of x_0, the factor of x_t, the posterior variance, and beta = 1 - abar_t / abar_s (the
        upper end of the learned variance). For s = t - 1 these are the tables of the schedule.
    """
    abar_t, abar_s = float(schedule.abar[t]), float(schedule.abar[s]) if s >= 0 else 1.0
    beta = 1.0 - abar_t / abar_s
    coef_x0 = beta * math.sqrt(abar_s) / (1.0 - abar_t)
    coef_xt = (1.0 - abar_s) * math.sqrt(abar_t / abar_s) / (1.0 - abar_t)
    return coef_x0, coef_xt, beta * (1.0 - abar_s) / (1.0 - abar_t), beta


def successors(indices: Sequence[int]) -> tuple[int, ...]:
    """For each index of a descending list the next one; the last is followed by -1, which is x_0."""
    if not indices or list(indices) != sorted(set(indices), reverse=True) or indices[-1] < 0:
        raise EclipseError(f"step indices {list(indices)!r}; expected a strictly descending list of indices >= 0")
    return (*indices[1:], -1)
