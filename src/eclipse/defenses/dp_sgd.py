"""DP-SGD: the gradient of each image is clipped, and noise is added to their sum."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from torch import Tensor, nn
from torch.optim import Optimizer

from eclipse.classifiers.classifier import Classifier
from eclipse.classifiers.fit import Recipe, make_optimizer
from eclipse.defenses.defense import Defense
from eclipse.errors import EclipseError, require


@dataclass(frozen=True)
class GroupNormOnly(Defense):
    """The control of DP-SGD: its network and nothing else, to tell what is due to clipping and noise.

    BatchNorm mixes the images of a batch, so that none has a gradient of its own. DP-SGD trains with GroupNorm instead,
    which alone changes the accuracy.
    """

    title: ClassVar[str] = "GroupNorm instead of BatchNorm"
    acts: ClassVar[str] = "training"

    def adapt(self, network: Classifier) -> nn.Module:
        """Replace every BatchNorm, in place."""
        replace_batch_norm(network)
        return network


@dataclass(frozen=True)
class DPSGD(Defense):
    """Gradient shaping (Hong et al., "... Mitigating Data Poisoning Attacks with Gradient Shaping", 2020), with opacus.

    The gradient of each image is shortened to at most ``max_grad_norm`` = C, their sum gets normal noise of standard
    deviation ``noise_multiplier`` * C, and all is divided by the size of the batch. Batches are those of the usual
    training and not Poisson samples, and no privacy is accounted for: what is asked is whether it weakens a poison.
    A bound on the norm of the whole gradient (``Recipe.clip``) has no effect beside this one.

    The paper of ECLIPSE gives neither C nor noise. Its results are those of no defense within a few points, which
    noise of a private training would not allow; so the defaults are the weakest noise of the usual sweep (C in {1, 4,
    10}, noise in {0.01, 0.05, 0.1, 1}) and its middle C.

    Takes the memory of one copy of the gradients for each image of a batch: 5.7 GB for 128 and a ResNet-18.

    Attributes:
        max_grad_norm: C, the L2 norm over all weights to which the gradient of an image is shortened.
        noise_multiplier: standard deviation of the noise as a multiple of C, before the division by the batch.
    """

    title: ClassVar[str] = "clipped and noisy gradients"
    acts: ClassVar[str] = "training"
    max_grad_norm: float = 4.0
    noise_multiplier: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.max_grad_norm < math.inf:
            raise EclipseError(f"DP-SGD max_grad_norm {self.max_grad_norm:g}; expected more than 0, such as 4")
        if not 0 <= self.noise_multiplier < math.inf:
            raise EclipseError(f"DP-SGD noise_multiplier {self.noise_multiplier:g}; expected 0 or more, such as 0.01")

    @property
    def package(self) -> tuple[str, str]:
        """Opacus."""
        return "opacus", "defenses"

    def adapt(self, network: Classifier) -> nn.Module:
        """Replace every BatchNorm, in place, and wrap the network so that each image has gradients of its own."""
        opacus = require("opacus", "defenses")
        replace_batch_norm(network)
        for module in network.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False  # it would overwrite what opacus keeps to work out the gradients
            if isinstance(module, nn.Conv2d):
                module.register_forward_pre_hook(_in_rows)
        wrapped = cast(nn.Module, opacus.GradSampleModule(network))
        wrapped.register_forward_pre_hook(_with_gradient)
        return wrapped

    def optimizer(self, network: nn.Module, recipe: Recipe) -> Optimizer:
        """SGD that clips and adds noise, drawn from torch's global generator."""
        optimizers = require("opacus.optimizers", "defenses")

        class ByBatch(optimizers.DPOptimizer):  # type: ignore[name-defined, misc]
            """Divide by the size of the batch at hand; a small set makes smaller ones than the recipe says."""

            def scale_grad(self) -> None:
                self.expected_batch_size = len(self.grad_samples[0])
                super().scale_grad()

        bounds: dict[str, Any] = {"noise_multiplier": self.noise_multiplier, "max_grad_norm": self.max_grad_norm}
        sgd = make_optimizer(network, recipe)
        return cast(Optimizer, ByBatch(sgd, expected_batch_size=recipe.batch, **bounds))

    def cost(self) -> float:
        """As measured for 128 images on the small network."""
        return 4.0


def replace_batch_norm(network: nn.Module) -> None:
    """Replace every BatchNorm, in place, by GroupNorm with gcd(32, channels) groups, as opacus' ``ModuleValidator``."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                groups, device = math.gcd(32, child.num_features), child.weight.device
                setattr(parent, name, nn.GroupNorm(groups, child.num_features, device=device))


def _in_rows(convolution: nn.Module, images: tuple[Tensor]) -> Tensor:
    """The input in the usual memory layout; in channels-last opacus 1.6 gets the gradients of a convolution wrong."""
    return images[0].contiguous()


def _with_gradient(network: nn.Module, images: tuple[Tensor]) -> Tensor:
    """The images as an input that wants a gradient: without one the hooks of opacus on the first layer warn."""
    (x,) = images
    return x if x.requires_grad else x.detach().requires_grad_()
