"""The main job: from a suspicious data set and a few trusted images to a purified copy with a manifest."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from eclipse.compute.device import compute_dtype, describe_device, resolve_device
from eclipse.data.output import check_apart, check_output, is_made
from eclipse.data.source import load_pictures, open_source
from eclipse.data.store import Source
from eclipse.diffusion.checkpoint import fingerprint_denoiser, load_denoiser
from eclipse.diffusion.denoiser import Denoiser, DenoiserConfig
from eclipse.diffusion.presets import Preset, get_preset, preset_of
from eclipse.diffusion.training import TrainStep
from eclipse.diffusion.trusted import MIN_IMAGES, Planned, Trusted, check_trusted, denoiser_in, plan_denoiser
from eclipse.errors import EclipseError
from eclipse.purification.algorithm import purification
from eclipse.purification.compensation import check_parameters
from eclipse.purification.shards import shard_folder
from eclipse.purification.stream import Job, Outcome, Progress, check_first, check_resumable, purify_source
from eclipse.runs.files import check_name, locked
from eclipse.runs.manifest import check_made, recorded, run_json
from eclipse.runs.state import Work

_COMPENSATION = ("p", "noise", "q")  # of a preset, for which a request may have values of its own

SPARSE = 0.05  # of the data set: the defender's assumption of the paper

# Settings that may differ on a finished output: other words for the same thing (fingerprints tell), or another machine.
_WORDS = ("input spec", "output path", "trusted", "trusted spec", "trusted images", "denoiser", "device name")


@dataclass(frozen=True)
class Request:
    """A purification as its user asks for it; None stands for the preset's value.

    Attributes:
        images: the data set to purify, as a spec for ``open_source``.
        out: where the purified copy goes.
        trusted: spec of the trusted images, to train a denoiser; or
        denoiser: a folder with one.
        sigma: noise level in 8-bit levels.
        compensate: ``online`` (left to training time) or ``once`` (written into the data).
        p: probability of grayscale.
        noise: standard deviation of the compensation's noise on the [0, 1] scale.
        q: probability of that noise.
    """

    images: str
    out: Path
    trusted: str | None = None
    denoiser: Path | None = None
    preset: str = "fast"
    sigma: float | None = None
    steps: int | None = None
    sampler: str | None = None
    seed: int = 0
    device: str = "auto"
    format: str | None = None
    compensate: str = "online"
    p: float | None = None
    noise: float | None = None
    q: float | None = None
    skip_bad: bool = False
    batch: int = 256
    iterations: int | None = None
    minutes: float | None = None
    image_column: str | None = None
    label_column: str | None = None


@dataclass(frozen=True)
class Plan:
    """A request with everything resolved and checked that can be before the work starts.

    Attributes:
        config: of the denoiser, trained or not.
        planned: the denoiser that is to be trained; None where it is given.
        finished: the output is there, made with the same settings.
    """

    request: Request
    source: Source
    trusted: Source | None
    ready: Denoiser | None
    config: DenoiserConfig
    planned: Planned | None
    preset: Preset
    job: Job
    denoiser_folder: Path
    finished: bool

    def describe(self) -> dict[str, Any]:
        """Every resolved setting, for people and for run.json."""
        job, request = self.job, self.request
        return {
            "input": {"spec": self.source.spec, "layout": self.source.layout, "images": len(self.source)},
            "output": {"path": str(request.out), "format": request.format or self.source.layout},
            "trusted": None if self.trusted is None else {"spec": self.trusted.spec, "images": len(self.trusted)},
            "denoiser": str(self.denoiser_folder),
            "training": None if self.planned is None else _training(self.planned),
            "preset": self.preset.denoiser.preset,
            "purification": {**job.how.numbers(), "sigma": round(job.how.sigma * 255, 3)},
            "compensation": {
                "mode": request.compensate,
                "p": self.preset.p,
                "noise": self.preset.noise,
                "q": self.preset.q,
            },
            "seed": job.seed,
            "device": {"type": torch.device(job.device).type, "name": describe_device(job.device)},
            "precision": compute_dtype(job.device)[1],
            "skip-bad": job.skip_bad,
        }

    def notes(self) -> list[str]:
        """What the user should know before the work starts."""
        if self.trusted is None or len(self.trusted) <= SPARSE * len(self.source):
            return []
        share = len(self.trusted) / len(self.source)
        return [
            f"{len(self.trusted)} trusted images are {share:.0%} of the {len(self.source)} to purify; "
            f"{SPARSE:.0%} are enough for the method, and more did not help in the paper"
        ]


def plan(request: Request) -> Plan:
    """Resolve a request and refuse what cannot work, before anything is written."""
    _check_options(request)
    device = resolve_device(request.device)
    source = open_source(request.images, image_column=request.image_column, label_column=request.label_column)
    made = is_made(request.out) and run_json(request.out).exists()
    if not made:
        check_output(source, request.out, request.format)
    ready = None if request.denoiser is None else load_denoiser(request.denoiser)
    preset = _preset(request, ready)
    trusted = None if request.trusted is None else _open_trusted(request)
    sigma = None if request.sigma is None else request.sigma / 255
    planned: Planned | None = None
    if ready is None:
        planned = plan_denoiser(preset, iterations=request.iterations, minutes=request.minutes, sigma=sigma)
        config = planned.config
    else:
        config = ready.config
    how = purification(preset, config, sigma=sigma, steps=request.steps, sampler=request.sampler)
    preset = replace(preset, **{name: value for name in _COMPENSATION if (value := getattr(request, name)) is not None})
    corruption = preset.p, preset.noise, preset.q
    check_parameters(*corruption)
    written = corruption if request.compensate == "once" else None
    job = Job(how, request.seed, device, request.format, written, request.skip_bad)
    folder = request.denoiser or request.out.with_name(request.out.name + ".denoiser")
    resolved = Plan(request, source, trusted, ready, config, planned, preset, job, folder, finished=False)
    if made:
        return _compared(resolved)
    check_resumable(request.out, job, ready)
    return resolved


def _check_options(request: Request) -> None:
    """Refuse options that are wrong in themselves or do not go together."""
    if (request.trusted is None) == (request.denoiser is None):
        given = "both were given" if request.trusted else "neither was given"
        raise EclipseError(f"give either --trusted (to train a denoiser) or --denoiser (to use one); {given}")
    for name in ("iterations", "minutes"):
        value = getattr(request, name)
        if request.denoiser is not None and value is not None:
            raise EclipseError(f"--{name} {value:g} is for training, and --denoiser is trained; leave it out")
    if request.compensate not in ("online", "once"):
        raise EclipseError(f"--compensate {request.compensate!r}; expected online or once")
    if request.batch < 1:
        raise EclipseError(f"--batch {request.batch}; expected at least 1")
    check_name(request.out)


def _preset(request: Request, ready: Denoiser | None) -> Preset:
    """The preset asked for, or that of the denoiser."""
    asked = get_preset(request.preset)
    if ready is None:
        return asked
    preset = preset_of(ready.config)
    if request.preset != Request.preset and preset != asked:
        raise EclipseError(
            f"--preset {request.preset}, but {request.denoiser} is of preset {preset.denoiser.preset}; leave --preset "
            "out and give --sigma, --steps and --sampler where you want others"
        )
    return preset


def _training(planned: Planned) -> dict[str, Any]:
    """What decides the weights of the denoiser, but for the preset, the seed and the trusted images."""
    return {name: value for name, value in planned.settings().items() if name != "preset" and value is not None}


def _compared(plan: Plan) -> Plan:
    """A plan whose output exists: refused unless it was made, or is being made, with the same settings."""

    def fingerprints(manifest: dict[str, Any]) -> dict[str, Any]:
        found = {"input": manifest["input fingerprint"], "trusted": manifest["trusted fingerprint"]}
        if manifest["status"] == "complete" and plan.ready is not None:
            found["denoiser"] = manifest["denoiser"]["fingerprint"]
        return found

    known = {
        "input": plan.source.fingerprint(),
        "trusted": None if plan.trusted is None else plan.trusted.fingerprint(),
        "denoiser": None if plan.ready is None else fingerprint_denoiser(plan.ready),
    }
    return replace(plan, finished=check_made(plan.request.out, plan.describe(), _WORDS, fingerprints, known))


def run(
    plan: Plan,
    *,
    on_step: Callable[[TrainStep], None] = lambda step: None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Outcome:
    """Carry a plan out: train (or load) the denoiser, purify, write the manifest.

    An interrupted run goes on where it was when it is carried out again with the same settings.
    """
    trusted = _trusted_images(plan)
    kept = _denoiser(plan, trusted, on_step) if plan.denoiser_folder.exists() else None
    check_resumable(plan.request.out, plan.job, kept)
    check_first(plan.source, plan.config, plan.job.skip_bad)
    out, started = plan.request.out, time.time()
    fingerprints = {
        "input fingerprint": plan.source.fingerprint(),
        "trusted fingerprint": None if plan.trusted is None else plan.trusted.fingerprint(),
    }
    with locked(shard_folder(out), out):
        with recorded(out, plan.describe(), **fingerprints) as found:
            denoiser = kept or _denoiser(plan, trusted, on_step)
            trusted = None  # its images may take as much memory as all the rest
            trained = time.time()
            batch = plan.request.batch
            outcome = purify_source(plan.source, denoiser, out, plan.job, batch=batch, on_progress=on_progress)
            found |= {
                "seconds": {"denoiser": round(trained - started, 2), "purification": round(time.time() - trained, 2)},
                "counts": {"input": len(plan.source), "purified": outcome.purified, "skipped": len(outcome.skipped)},
                "skipped": dict(outcome.skipped),
                "output fingerprint": outcome.fingerprint,
                "denoiser": {"fingerprint": fingerprint_denoiser(denoiser), "trained": dict(denoiser.config.trained)},
            }
        outcome.forget()
    return outcome


def tidy(plan: Plan) -> None:
    """Delete the intermediate files of a finished output, which a kill at the very end leaves."""
    shutil.rmtree(shard_folder(plan.request.out), ignore_errors=True)


def closing(plan: Plan, outcome: Outcome) -> dict[str, Any]:
    """What to tell the user at the end: what was made, and what to do with it."""
    job, preset = plan.job, plan.preset
    transform = f"eclipse.Compensate(p={preset.p:g}, noise={preset.noise:g}, q={preset.q:g})"
    advice = "written into the images" if job.once else f"train with {transform}"
    return {
        "purified": f"{outcome.purified} images in {plan.request.out}",
        **({"skipped": f"{len(outcome.skipped)} unreadable images, listed in the manifest"} if outcome.skipped else {}),
        "manifest": run_json(plan.request.out),
        "denoiser": plan.denoiser_folder,
        "compensation": advice,
    }


def _open_trusted(request: Request) -> Source:
    assert request.trusted is not None
    trusted = open_source(request.trusted, image_column=request.image_column)
    if len(trusted) < MIN_IMAGES:
        raise EclipseError(
            f"{trusted.spec} has {len(trusted)} images; a denoiser needs at least {MIN_IMAGES} trusted ones, "
            "and the paper uses 4% of the training set: give more images that you trust"
        )
    check_apart(request.out, trusted, "trusted images")
    return trusted


def _trusted_images(plan: Plan) -> Trusted | None:
    """Load the trusted images, and refuse ones that a denoiser cannot be trained on."""
    return None if plan.trusted is None else check_trusted(load_pictures(plan.trusted), plan.preset.denoiser)


def _denoiser(plan: Plan, trusted: Trusted | None, on_step: Callable[[TrainStep], None]) -> Denoiser:
    """The denoiser that was given, or one trained on the trusted images, or trained on them before."""
    if plan.ready is not None:
        return plan.ready
    assert plan.planned is not None and trusted is not None
    work = Work(plan.request.seed, plan.job.device)
    return denoiser_in(plan.denoiser_folder, plan.planned, trusted, work, on_step=on_step)
