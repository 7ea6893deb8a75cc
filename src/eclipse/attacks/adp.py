"""ADP: the adaptive attack, by someone who knows ECLIPSE."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from eclipse.attacks.attack import Attack, check_classes, check_radius
from eclipse.attacks.crafting.alternating import Alternation, Rounds, min_min
from eclipse.attacks.crafting.perturbation import add_noise
from eclipse.classifiers.fit import Recipe
from eclipse.classifiers.pgd import PGD, Transform
from eclipse.compute.device import seeded
from eclipse.data.imageset import ImageSet
from eclipse.diffusion.compact import CompactUNet
from eclipse.diffusion.presets import PAPER
from eclipse.diffusion.unet import UNet
from eclipse.errors import EclipseError, unknown
from eclipse.parameters import levels
from eclipse.purification.compensation import NOISE, P, Q, check_parameters, corrupt
from eclipse.runs.state import Work

WIDTHS = (8, 24, 48)  # of ``compact``, a tenth of the cost of preset ``fast``: 800 passes/s on one core


@dataclass(frozen=True)
class ADP(Attack):
    """The adaptive attack on ECLIPSE (its paper, section 4.4), of which no code was released.

    min over the surrogate and, within the radius, over the noise of CE(U(C(x + noise)), y), in turns: EM through the
    compensation module C, drawn anew each time, with the denoiser's U-Net as the surrogate, its last layer replaced by
    a convolution to the classes and global average pooling. The diffusion is not part of it.

    The paper does not say, and here is taken: the schedule of EM; Adam with the rate below; fresh weights, the
    last convolution among them; time 0 as the U-Net's constant time; a gradient that passes the clamp of C as if
    it were not there.

    Attributes:
        radius: Linf, on the [0, 1] scale.
        step: of the noise's descent along the sign of the gradient.
        steps: steps an image and round.
        draws: corruptions C that a gradient is averaged over.
        p: probability of grayscale in C.
        noise: standard deviation of the noise in C, on the [0, 1] scale.
        q: probability of that noise. All three are the paper's; against another preset, give its numbers.
        train_steps: training steps of the surrogate a round.
        batch: images a training step.
        lr: the learning rate of Adam.
        target: accuracy of the surrogate on C of the poisoned images at which to stop.
        max_rounds: rounds at most.
        arch: the surrogate: ``unet`` is that of preset ``paper``, ``compact`` that of ``fast``, but narrower.
    """

    title: ClassVar[str] = "adaptive: error-minimizing noise through the compensation"
    family: ClassVar[str] = "error-minimizing"
    norm: ClassVar[str] = "Linf"
    # The narrow network has no normalization layers and learns little in ten steps, which cost next to nothing.
    small: ClassVar[Mapping[str, Any]] = {
        "arch": "compact",
        "step": 1.6 / 255,
        "steps": 5,
        "train_steps": 40,
        "batch": 128,
        "lr": 2e-3,
        "max_rounds": 15,
    }
    radius: float = levels(8)
    step: float = levels(0.8)
    steps: int = 20
    draws: int = 1
    p: float = P
    noise: float = NOISE
    q: float = Q
    train_steps: int = 10
    batch: int = 512
    lr: float = 1e-3
    target: float = 0.99
    max_rounds: int = 20
    arch: str = "unet"

    def __post_init__(self) -> None:
        check_radius("ADP", self.radius)
        check_parameters(self.p, self.noise, self.q)
        if not self.lr > 0:
            raise EclipseError(f"lr {self.lr:g}; expected more than 0, such as the default 0.001")
        if self.arch not in U_NETS:
            raise unknown("U-Net", self.arch, U_NETS)
        self._pgd()
        self._rounds()

    def craft(self, clean: ImageSet, work: Work) -> ImageSet:
        """Craft the noise and add it: about 10 rounds of ``steps`` passes for each image."""
        check_classes("ADP", clean)
        network = self.surrogate(clean, work)
        noise = Alternation(
            network,
            torch.optim.Adam(network.parameters(), lr=self.lr),
            clean,
            self._rounds(),
            min_min(network, self._pgd(), compensated(self.p, self.noise, self.q)),
            work,
        ).craft()
        return add_noise(clean, noise)

    def surrogate(self, clean: ImageSet, work: Work) -> nn.Module:
        """The untrained surrogate."""
        with seeded(work.seed, f"surrogate {self.arch}"):
            return U_NETS[self.arch](clean.images.shape, clean.num_classes).to(work.device)

    def passes(self) -> float:
        """Passes for each image in ``max_rounds``: noise, accuracy, and a training of up to one visit a round."""
        return self.max_rounds * (self.steps * self.draws + 1 / 3 + 1)

    def _pgd(self) -> PGD:
        return PGD(self.radius, self.step, self.steps, draws=self.draws)

    def _rounds(self) -> Rounds:
        recipe = Recipe(epochs=self.max_rounds, batch=self.batch, lr=self.lr, clip=5.0)
        return Rounds(recipe, self.train_steps, self.target)


def compensated(p: float, noise: float, q: float = Q) -> Transform:
    """C(x; p, noise, q), drawn anew at each call; the gradient passes its clamp."""

    def view(x: Tensor) -> Tensor:
        gray, noisy = torch.rand(2, len(x), 1, 1, 1, device=x.device)
        free = corrupt(x, gray.flatten() < p, torch.zeros_like(x))
        drawn = noise * (noisy < q) * torch.randn_like(x)
        return free + (corrupt(x, gray.flatten() < p, drawn) - free).detach()

    return view


class UNetClassifier(nn.Module):
    """A U-Net whose last layer gives classes, averaged over the image: from [0, 1] images to logits."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of (B, C, H, W), (B, classes)."""
        maps: Tensor = self.unet(2 * x - 1, x.new_zeros(len(x)))
        return maps.mean(dim=(2, 3))


def _paper(shape: Sequence[int], classes: int) -> UNetClassifier:
    options: dict[str, Any] = dict(PAPER.denoiser.options)
    unet = UNet(**options, in_channels=shape[1])
    if shape[2] % unet.multiple or shape[3] % unet.multiple:
        raise EclipseError(
            f"images of {shape[2]}x{shape[3]}; ADP with the paper's U-Net takes multiples of {unet.multiple}: "
            "resize them, or use the small scale, which takes any size"
        )
    unet.unet.conv_out = nn.Conv2d(options["channels"], classes, 3, padding=1)
    return UNetClassifier(unet)


def _narrow(shape: Sequence[int], classes: int) -> UNetClassifier:
    unet = CompactUNet(WIDTHS, [1] * len(WIDTHS), channels=shape[1])
    unet.head = nn.Conv2d(WIDTHS[0], classes, 3, padding=1)
    return UNetClassifier(unet)


U_NETS: dict[str, Callable[[Sequence[int], int], UNetClassifier]] = {"unet": _paper, "compact": _narrow}
"""From a surrogate's name to how it is built for image sets of a shape, (N, C, H, W), and a number of classes."""
