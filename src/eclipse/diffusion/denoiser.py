"""The denoiser: a noise-predicting network together with the schedule that it was trained for."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from eclipse.diffusion.schedule import NoiseSchedule
from eclipse.errors import EclipseError, check_installed, unknown
from eclipse.registry import Registry

JSON: TypeAlias = str | int | float | bool | Sequence["JSON"] | Mapping[str, "JSON"] | None

ARCHITECTURES: Registry[Callable[[Mapping[str, JSON]], nn.Module]] = Registry(
    "architecture",
    "eclipse.networks",
    {"unet": "eclipse.diffusion.unet:build", "compact": "eclipse.diffusion.compact:build"},
)
"""From an architecture's name to the function that builds it from its options; imported when used.

The module it returns maps (x, time), time a float tensor (B,), to as many channels as x has or twice as many.
"""

PACKAGES = {"unet": ("diffusers", "paper")}
"""What an architecture stands on beside torch: a package, and the extra that installs it."""

_MOST_SIDE = 8192  # pixels, that of the largest images that are read


class Prediction(NamedTuple):
    """What a denoiser says of noised images x_t.

    Attributes:
        eps: the predicted noise, (B, C, H, W).
        v: the place of the log variance between the posterior variance (-1) and beta_t (+1), same shape, or
            None for a denoiser that learned no variance.
    """

    eps: Tensor
    v: Tensor | None


class PredictsNoise(Protocol):
    """All that samplers and losses ask of a denoiser; the exact posterior mean of a tiny set fits as well."""

    def __call__(self, x_t: Tensor, t: Tensor) -> Prediction:
        """Predict the noise in x_t (float, (B, C, H, W), on [-1, 1]) at step indices t (int64, (B,))."""
        ...


@dataclass(frozen=True)
class DenoiserConfig:
    """Everything about a denoiser but its weights; plain data, saved as JSON beside them.

    Attributes:
        architecture: a name in ``ARCHITECTURES``.
        options: what the architecture is built from, JSON values.
        schedule: the noise schedule it was trained for.
        learned_variance: the network gives twice as many channels as it takes.
        t_max: it was trained on the indices 0 to t_max - 1 (the paper: all 4000).
        image_size: the one height and width it takes, None for any.
        preset: ``paper``, ``fast`` or ``imported``.
        trained: how it was trained: iterations, seconds, images, fingerprint of the trusted set and so on.
    """

    architecture: str
    options: Mapping[str, JSON]
    schedule: NoiseSchedule
    learned_variance: bool
    t_max: int
    image_size: int | None
    preset: str
    trained: Mapping[str, JSON] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES.names():
            raise unknown("architecture", self.architecture, ARCHITECTURES.names())
        if not 1 <= self.t_max <= self.schedule.T:
            raise EclipseError(f"t_max = {self.t_max}; expected 1 to the schedule's T = {self.schedule.T}")
        if self.image_size is not None and not 1 <= self.image_size <= _MOST_SIDE:
            raise EclipseError(f"image size {self.image_size}; expected 1 to {_MOST_SIDE} pixels, or none for any size")

    def check_package(self) -> None:
        """Refuse a network whose package is missing."""
        if self.architecture in PACKAGES:
            check_installed(*PACKAGES[self.architecture])

    def check_size(self, height: int, width: int) -> None:
        """Refuse images of a size that this denoiser does not take."""
        size = self.image_size
        if size is not None and (height, width) != (size, size):
            raise EclipseError(
                f"images of {height}x{width}; this denoiser takes {size}x{size} only: "
                f"resize the images, or train a denoiser of preset 'fast', which takes any size"
            )

    def check_index(self, index: int) -> None:
        """Refuse a step index above those that this denoiser was trained on."""
        if index >= self.t_max:
            sigma = self.schedule.sigma
            raise EclipseError(
                f"noise level {sigma(index) * 255:.1f}/255; this denoiser was trained on levels up to "
                f"{sigma(self.t_max - 1) * 255:.1f}/255: choose a lower level or train for this one"
            )


class Denoiser(nn.Module):
    """A network and what it was trained for; predicts noise from images and step indices."""

    def __init__(self, config: DenoiserConfig, network: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.network = network

    @property
    def margin(self) -> int | None:
        """How far the answer for a pixel looks around it; None where it sees the whole image."""
        return getattr(self.network, "margin", None)

    def forward(self, x_t: Tensor, t: Tensor) -> Prediction:
        """Predict the noise in x_t ((B, C, H, W), on [-1, 1]) at step indices t (int64, (B,)), in float32."""
        self.config.check_size(*x_t.shape[-2:])
        # A float on improved-diffusion's scale of 1000 steps, never rounded: index 99 of 4000 is 24.75.
        time = t.float() * (1000.0 / self.config.schedule.T)
        dtype = next(self.network.parameters()).dtype
        output = self.network(x_t.to(dtype), time).float()
        outputs = 2 if self.config.learned_variance else 1
        if output.shape[1] != outputs * x_t.shape[1]:
            raise EclipseError(
                f"the denoiser's network gives {output.shape[1]} channels for images of {x_t.shape[1]}; "
                f"expected {outputs * x_t.shape[1]}: its config does not belong to it"
            )
        if outputs == 1:
            return Prediction(output, None)
        eps, v = output.chunk(2, dim=1)
        return Prediction(eps, v)


def check_denoiser(denoiser: object) -> None:
    """Refuse what is no denoiser, such as the path of one."""
    if not isinstance(denoiser, Denoiser):
        raise EclipseError(
            f"the denoiser is a {type(denoiser).__name__}; expected what train_denoiser or load_denoiser(folder) gives"
        )


def build_denoiser(config: DenoiserConfig) -> Denoiser:
    """Build a denoiser with fresh weights."""
    return Denoiser(config, ARCHITECTURES.load(config.architecture)(config.options))


def build_of_shapes(config: DenoiserConfig, most: int, refusal: Callable[[str], EclipseError]) -> Denoiser:
    """Build a denoiser of shapes alone (torch's meta device), which takes no memory, whatever the config asks for.

    Args:
        config: of an unknown origin.
        most: parameters that there are tensors for; the making of more could go on for ever.
        refusal: words a reason, of more parameters or of options that are not of this network.
    """
    made = itertools.count(1)

    def count(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        if next(made) > most:
            raise refusal(f"it has no tensor for each parameter of its {config.architecture!r} network")

    handle = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"):
            return build_denoiser(config)
    except EclipseError:
        raise
    except Exception as error:
        raise refusal(f"its options do not make a {config.architecture!r} network") from error
    finally:
        handle.remove()


def check_color(denoiser: Denoiser) -> None:
    """Refuse a denoiser for images of another number of channels than three, tried on one of zeros."""
    side = min(denoiser.config.image_size or 32, 256)  # a config can ask for a size that takes all memory
    of_any_size = Denoiser(replace(denoiser.config, image_size=None), denoiser.network)
    try:
        with torch.no_grad():
            of_any_size(torch.zeros(1, 3, side, side), torch.zeros(1, dtype=torch.int64))
    except RuntimeError as error:  # what a layer says of a wrong shape
        reason = str(error).partition("\n")[0]
        raise EclipseError(
            f"the denoiser of preset {denoiser.config.preset} does not take color images ({reason}); expected one for "
            "three channels: train one with 'eclipse denoiser train'"
        ) from error


def describe(denoiser: Denoiser) -> dict[str, JSON]:
    """List the facts about a denoiser that people ask for, noise levels in 8-bit levels."""
    config = denoiser.config
    lowest, highest = config.schedule.sigma(0) * 255, config.schedule.sigma(config.t_max - 1) * 255
    facts: dict[str, JSON] = {
        "preset": config.preset,
        "architecture": config.architecture,
        "options": config.options,
        "parameters": sum(p.numel() for p in denoiser.parameters()),
        "schedule": f"{config.schedule.name}, T = {config.schedule.T}",
        "noise levels": f"{lowest:.1f}/255 to {highest:.1f}/255 (indices 0 to {config.t_max - 1})",
        "learned variance": config.learned_variance,
        "image size": "any" if config.image_size is None else f"{config.image_size}x{config.image_size}",
    }
    return {**facts, **{name: value for name, value in config.trained.items() if name not in facts}}
