"""AT: adversarial training."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from eclipse.classifiers.pgd import PGD, adversary, scaled_radius
from eclipse.compute.device import autocast
from eclipse.defenses.defense import Defense
from eclipse.errors import EclipseError, unknown
from eclipse.parameters import LEVELS, all_fields

USUAL = {
    "L2": PGD(0.5, 0.1, steps=7, norm="L2", start="normal", ascend=True),
    "Linf": PGD(8 / 255, 2 / 255, steps=10, norm="Linf", start="uniform", ascend=True),
}
"""By norm: that of Tao et al., for which ``normal`` is a point of the sphere; that of most others, such as APBench."""


@dataclass(frozen=True)
class AT(Defense):
    """Adversarial training (Tao et al., "Better Safe Than Sorry: Preventing Delusive Adversaries", NeurIPS 2021).

    Each batch is trained on as PGD in a ball around its images, from a random start and with the network in evaluation
    mode, makes it hardest. A poison that lies within the ball is only one more such change. The defaults are the
    authors' L2; with ``norm="Linf"`` they are the usual 8/255, which protects more and costs more clean accuracy. The
    paper of ECLIPSE does not say which it has; its clean accuracy is that of L2 0.5 or of Linf 4/255.

    Left out: the authors keep the epoch of the best accuracy under attack on 1,000 poisoned images that they hold out;
    here, as for all defenses, the last one counts.

    Attributes:
        norm: ``L2`` or ``Linf``.
        radius: of the ball, on the [0, 1] scale; None for the usual one of the norm. People give that of Linf in 8-bit
            levels. An L2 radius is stated for 3x32x32 images and grows with sqrt(C*H*W), as that of L2 poisons does, so
            that these stay as deep in the ball.
        step_share: length of a step as a share of the radius; None for the usual one.
        steps: for each batch; None for the usual number. The small scale has 3, each of half a radius, which together
            reach through the ball as the published ones do.
    """

    title: ClassVar[str] = "adversarial training"
    acts: ClassVar[str] = "training"
    small: ClassVar[Mapping[str, Any]] = {"steps": 3, "step_share": 0.5}
    norm: str = field(default="L2", metadata={"variant": True})
    radius: float | None = field(default=None, metadata=LEVELS)
    step_share: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        if self.norm not in USUAL:
            raise unknown("norm of AT", self.norm, USUAL)
        if self.norm == "Linf" and self.radius is not None and self.radius > 1:
            raise EclipseError(f"AT radius of {self.radius * 255:g} levels; expected at most 255, such as 8")
        self.how((3, 32, 32))

    def adversary(self, network: nn.Module, x: Tensor, y: Tensor, progress: float) -> Tensor:
        """Move each image within its ball to where its loss is high."""
        with autocast(x.device):
            return adversary(self.how(tuple(x.shape[1:])))(network, x, y)

    def how(self, shape: tuple[int, ...]) -> PGD:
        """What PGD is asked for, for images of shape (C, H, W)."""
        usual = USUAL[self.norm]
        radius = scaled_radius(self.norm, usual.radius if self.radius is None else self.radius, shape)
        share = usual.step / usual.radius if self.step_share is None else self.step_share
        steps = usual.steps if self.steps is None else self.steps
        return PGD(radius, share * radius, steps, self.norm, usual.start, ascend=True)

    def settings(self) -> dict[str, Any]:
        """All fields, with the numbers of the norm in place of None."""
        how = self.how((3, 32, 32))
        return {**all_fields(self), "radius": how.radius, "step_share": how.step / how.radius, "steps": how.steps}

    def cost(self) -> float:
        """A step of PGD, which needs no gradients of the weights, takes 0.8 of a step of training."""
        return 1 + 0.8 * self.how((3, 32, 32)).steps
