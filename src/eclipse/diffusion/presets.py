"""The presets: every number of a run as data. Both go through the same functions."""

from dataclasses import dataclass

from eclipse.diffusion.denoiser import DenoiserConfig
from eclipse.diffusion.schedule import NoiseSchedule
from eclipse.errors import unknown


@dataclass(frozen=True)
class Training:
    """How a denoiser is trained on the sparse set, from nothing or from the general one.

    Attributes:
        iterations: optimizer steps.
        batch: images a step.
        lr: the learning rate of Adam.
        decay: lower the learning rate to zero along a half cosine; else keep it.
        ema: decay of the moving average of the weights, which is what is kept.
        copies: M of the paper: D_A is the sparse set and M exact copies.
        crop: the largest side of the crops that larger images are trained on; None for whole images only.
    """

    iterations: int
    batch: int
    lr: float
    decay: bool
    ema: float
    copies: int
    crop: int | None


@dataclass(frozen=True)
class Preset:
    """A denoiser, how to train it, how to purify with it, and the compensation that goes with it.

    Attributes:
        denoiser: the network.
        training: from nothing, as the paper does.
        tuning: of the general denoiser that comes with the package; None where that is another network.
        sigma: noise level t*, as a standard deviation on the [0, 1] scale.
        steps: network evaluations from there.
        sampler: a name in ``samplers.SAMPLERS``.
        p: probability of grayscale (module B).
        noise: standard deviation of the Gaussian noise (module C), on the [0, 1] scale.
        q: probability of that noise.
    """

    denoiser: DenoiserConfig
    training: Training
    tuning: Training | None
    sigma: float
    steps: int
    sampler: str
    p: float
    noise: float
    q: float


_COSINE = NoiseSchedule("cosine", 4000)

PAPER = Preset(
    denoiser=DenoiserConfig(
        architecture="unet",
        options={"channels": 128, "multipliers": [1, 2, 2, 2], "blocks": 3, "dropout": 0.3},
        schedule=_COSINE,
        learned_variance=True,
        t_max=4000,
        image_size=32,
        preset="paper",
    ),
    training=Training(iterations=250_000, batch=128, lr=1e-4, decay=False, ema=0.9999, copies=4, crop=None),
    tuning=None,
    sigma=_COSINE.sigma(99),  # t* = 100 of the paper, counted from 1
    steps=100,
    sampler="ancestral",
    p=0.4,
    noise=0.05,
    q=1.0,
)

FAST = Preset(
    denoiser=DenoiserConfig(
        architecture="compact",
        options={"widths": [32, 64, 96], "blocks": [1, 1, 1]},
        schedule=_COSINE,
        learned_variance=False,
        t_max=650,  # up to 33.4/255: the network's whole capacity goes to the levels that it will meet
        image_size=None,
        preset="fast",
    ),
    training=Training(iterations=3000, batch=16, lr=2e-3, decay=True, ema=0.995, copies=4, crop=32),
    tuning=Training(iterations=600, batch=16, lr=1e-3, decay=True, ema=0.99, copies=4, crop=32),
    # Less leaves more of TAP, SEP and ADP, more costs the others as much (docs/log). Nothing speaks for less on larger
    # images (docs/photographs.md).
    sigma=32 / 255,
    steps=1,
    sampler="one-step",
    p=0.7,
    noise=0.05,
    q=0.5,  # with noise on every image the clean set loses a point more, and no poison gains (docs/log)
)

PRESETS = {"fast": FAST, "paper": PAPER}


def get_preset(name: str) -> Preset:
    """Look a preset up by name."""
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    return PRESETS[name]


def preset_of(config: DenoiserConfig) -> Preset:
    """The preset whose purification fits a denoiser; imported ones are the paper's."""
    return get_preset("paper" if config.preset == "imported" else config.preset)
