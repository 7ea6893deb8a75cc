"""D-VAE: two-stage purification by a disentangling variational autoencoder."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eclipse.compute.device import autocast, resolve_device, seeded
from eclipse.data.imageset import ImageSet
from eclipse.data.pixels import as_tensor, quantize, to_unit
from eclipse.defenses.defense import Defense
from eclipse.defenses.disentangling import DisentanglingVAE, Parts
from eclipse.errors import EclipseError
from eclipse.runs.state import Work, pack, unpack

_ROWS = 256  # purified at a time; part of what decides the bytes
_GFLOP = 0.84  # of one pass of one 32x32 image at the published width, a multiply-add counted as two


@dataclass(frozen=True)
class DVAE(Defense):
    """D-VAE (Yu et al., "Purify Unlearnable Examples via Rate-Constrained Variational Autoencoders", ICML 2024).

    An autoencoder R whose bottleneck lets little pass, and beside it a decoder P of class embeddings, learn to add up
    to the image: loss = |R - x|^2 + |clamp(R + P) - x|^2 + weight max(KL, target), and later + max(mean P^2, bound).
    What is easy to tell from the class, a poison, ends up in P. First stage: x1 = clamp(x - P). Second stage, with a
    fresh network and a wider bottleneck: x2 = clamp(x1 - P), and R of x2 is what is trained on. Needs labels, and
    nothing clean.

    Left out of the authors' code on purpose: it truncates to 8 bits; it runs the rest of a ResNet-18 behind its
    encoder, and a classifier, in every step, whose outputs only go to the log; its flag ``--use_y`` switches off what
    it names (as in its scripts, P here decodes embedding + z).

    Attributes:
        width: channels of the first layers.
        latent: channels of the bottleneck.
        blocks: residual blocks of the encoder at full resolution.
        epochs: of each stage.
        batch: images a step.
        lr: learning rate of Adam at the start, lowered after each epoch along half a cosine.
        clip: largest norm of the gradient.
        targets: of the KL divergence in both stages, nats a place.
        weight: of the KL divergence, in both stages: the authors' code has 0.5 only for targets below 1.
        free_epochs: at the start, in which the size of P counts for nothing.
        bound: mean square of P, on the [0, 1] scale, below which it counts for nothing.
    """

    title: ClassVar[str] = "two-stage purification by an autoencoder"
    acts: ClassVar[str] = "data"
    small: ClassVar[Mapping[str, Any]] = {
        "width": 16,
        "latent": 64,
        "blocks": 0,
        "epochs": 8,
        "batch": 32,
        "free_epochs": 2,
    }
    width: int = 64
    latent: int = 256
    blocks: int = 2
    epochs: int = 60
    batch: int = 128
    lr: float = 5e-3
    clip: float = 5.0
    targets: tuple[float, float] = (1.0, 3.0)
    weight: float = 0.01
    free_epochs: int = 11
    bound: float = 0.002

    def __post_init__(self) -> None:
        for name, least in (("width", 2), ("latent", 1), ("blocks", 0), ("epochs", 1), ("batch", 1)):
            if getattr(self, name) < least:
                raise EclipseError(f"{name} {getattr(self, name)} of D-VAE; expected at least {least}")
        if not self.lr > 0:
            raise EclipseError(f"learning rate {self.lr:g} of D-VAE; expected more than 0, such as 0.005")

    def prepare(self, data: ImageSet, trusted: ImageSet | None, work: Work) -> ImageSet:
        """Train on the images, take off their perturbations, and do so again."""
        data.require_labels("the defense D-VAE")
        if not len(data):
            raise EclipseError("D-VAE is trained on the images that it purifies, and there are 0; expected more")
        work = replace(work, device=resolve_device(work.device))
        rough = self.train_network(data, 1, work)
        x1 = _mapped(data, lambda x, y: x - rough(x, y).perturbation, "d-vae rough", work)
        fine = self.train_network(x1, 2, work)
        return _mapped(x1, lambda x, y: fine((x - fine(x, y).perturbation).clamp(0, 1), y).image, "d-vae fine", work)

    def train_network(self, data: ImageSet, stage: int, work: Work) -> DisentanglingVAE:
        """Train the network of the first or the second stage, going on after the last epoch that is on record."""
        name, target = f"d-vae stage {stage}", self.targets[stage - 1]
        network = self.network(data, name, work.seed).to(work.device)
        optimizer = torch.optim.Adam(network.parameters(), lr=self.lr)
        done = 0
        if found := work.state.load(name):
            unpack(found[0], network, optimizer)
            done = found[1]["epoch"]
        images = as_tensor(data.images).to(work.device)
        labels = torch.tensor(data.require_labels(name), device=work.device)
        for epoch in range(done, self.epochs):
            optimizer.param_groups[0]["lr"] = self.lr * (1 + math.cos(math.pi * epoch / self.epochs)) / 2
            with seeded(work.seed, name, epoch, work.device):
                loss = self._epoch(network.train(), optimizer, images, labels, target, epoch >= self.free_epochs)
            if not math.isfinite(loss):
                raise EclipseError(f"D-VAE's loss is {loss} after epoch {epoch + 1}; expected a number: lower its lr")
            work.state.save(name, pack(network, optimizer), {"epoch": epoch + 1})
            work.state.tell(name, epoch + 1, self.epochs, loss=loss)
        return network.eval().requires_grad_(False)

    def cost(self) -> float:
        """By operations, for a ResNet-18, 80 epochs and 50,000 32x32 images."""
        return 1.0 + 2 * self.epochs / 80 * _GFLOP * (self.width / 64) ** 2 / 1.11

    def network(self, data: ImageSet, name: str, seed: int) -> DisentanglingVAE:
        """A fresh one for the images of a set."""
        channels, height, width = data.images.shape[1:]
        with seeded(seed, f"{name} weights"):
            return DisentanglingVAE(data.num_classes, (channels, height, width), self.width, self.latent, self.blocks)

    def _epoch(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        images: Tensor,
        labels: Tensor,
        target: float,
        bounded: bool,
    ) -> float:
        """Train for an epoch; return its mean loss."""
        batches, total = max(1, len(images) // self.batch), torch.zeros((), device=images.device)
        order = torch.randperm(len(images), device=images.device)[: batches * self.batch]
        for rows in torch.split(order, self.batch):
            x = to_unit(images[rows])
            with autocast(images.device):
                parts = network(x, labels[rows])
            loss = self.loss(parts, x, target, bounded)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), self.clip)
            optimizer.step()
            total += loss.detach()
        return float(total) / batches

    def loss(self, parts: Parts, x: Tensor, target: float, bounded: bool) -> Tensor:
        """What a step lowers; the perturbation counts only where it is bounded."""
        both = (parts.image + parts.perturbation).clamp(0, 1)
        loss = F.mse_loss(parts.image, x) + F.mse_loss(both, x) + self.weight * parts.kl.clamp(min=target)
        return loss + parts.perturbation.square().mean().clamp(min=self.bound) if bounded else loss


@torch.no_grad()
def _mapped(data: ImageSet, change: Callable[[Tensor, Tensor], Tensor], purpose: str, work: Work) -> ImageSet:
    """Change all images of a set; what is drawn depends on (seed, purpose, first row of the batch) alone."""
    out, labels = np.empty_like(data.images), torch.tensor(data.require_labels(purpose))
    for first in range(0, len(data), _ROWS):
        rows = slice(first, first + _ROWS)
        x = to_unit(as_tensor(data.images[rows]).to(work.device))
        with seeded(work.seed, purpose, first, work.device):
            out[rows] = quantize(change(x, labels[rows].to(work.device))).cpu().numpy()
    return data.with_images(out)
