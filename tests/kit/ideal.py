"""The exact denoiser of a tiny data set: the right answer of every sampler and loss is a formula."""

import math

import torch
from torch import Tensor

from eclipse.diffusion.denoiser import Prediction
from eclipse.diffusion.schedule import NoiseSchedule


class IdealDenoiser:
    """E[eps | x_t] where x_0 is one of a few known images, each as likely as the others.

    The posterior mean of x_0 is the average of the images with softmax(-|x_t - sqrt(abar) x_0|^2 / (2 (1 - abar))).
    """

    def __init__(self, images: Tensor, schedule: NoiseSchedule, v: float | None = None) -> None:
        self.images, self.schedule, self.v = images, schedule, v

    def weights(self, x_t: Tensor, t: int) -> Tensor:
        """The posterior probability of each image, (B, N)."""
        abar = float(self.schedule.abar[t])
        gaps = x_t.flatten(1).double()[:, None] - math.sqrt(abar) * self.images.flatten(1).double()
        return (-gaps.square().sum(2) / (2 * (1 - abar))).softmax(1)

    def mean(self, x_t: Tensor, t: int) -> Tensor:
        """The posterior mean of x_0."""
        return torch.einsum("bn,nchw->bchw", self.weights(x_t, t), self.images.double()).float()

    def __call__(self, x_t: Tensor, t: Tensor) -> Prediction:
        means = torch.cat([self.mean(x_t[i : i + 1], int(t[i])) for i in range(len(x_t))])
        abar = torch.from_numpy(self.schedule.abar)[t].view(-1, 1, 1, 1)
        eps = ((x_t.double() - abar.sqrt() * means.double()) / (1 - abar).sqrt()).float()
        return Prediction(eps, None if self.v is None else torch.full_like(eps, self.v))
