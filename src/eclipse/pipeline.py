"""The main job: from a suspicious data set and a few trusted images to a purified copy with a manifest."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from eclipse.compensate import check_parameters
from eclipse.data.assemble import check_output
from eclipse.data.rows import Source
from eclipse.data.sources import load_pictures, open_source
from eclipse.device import compute_dtype, describe_device, resolve_device
from eclipse.diffusion.checkpoint import load_denoiser
from eclipse.diffusion.denoiser import Denoiser
from eclipse.diffusion.presets import Preset, get_preset
from eclipse.diffusion.sparse import train_into
from eclipse.diffusion.training import MIN_IMAGES, TrainStep
from eclipse.errors import EclipseError
from eclipse.purification import preset_of, purification
from eclipse.runs import check_same_settings, command, run_json, versions, write_json
from eclipse.streaming import Job, Outcome, Progress, fingerprint_denoiser, purify_source

SPARSE = 0.05  # of the data set: the defender's assumption of the paper


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
    skip_bad: bool = False
    batch: int = 256
    iterations: int | None = None
    minutes: float | None = None
    image_column: str | None = None
    label_column: str | None = None


@dataclass(frozen=True)
class Plan:
    """A request with everything resolved and checked that can be before the work starts."""

    request: Request
    source: Source
    trusted: Source | None
    ready: Denoiser | None
    preset: Preset
    job: Job
    denoiser_folder: Path
    finished: bool

    def describe(self) -> dict[str, Any]:
        """Every resolved setting, for people and for run.json."""
        job, request = self.job, self.request
        compensation = {
            "mode": request.compensate,
            "p": self.preset.p if request.p is None else request.p,
            "sigma": self.preset.noise if request.noise is None else request.noise,
        }
        return {
            "input": {"spec": self.source.spec, "layout": self.source.layout, "images": len(self.source)},
            "output": {"path": str(request.out), "format": request.format or self.source.layout},
            "trusted": None if self.trusted is None else {"spec": self.trusted.spec, "images": len(self.trusted)},
            "denoiser": str(self.denoiser_folder),
            "training": None if self.trusted is None else self._training(),
            "preset": self.preset.denoiser.preset,
            "purification": {**asdict(job.how), "sigma": round(job.how.sigma * 255, 3)},
            "compensation": compensation,
            "seed": job.seed,
            "device": describe_device(job.device),
            "precision": compute_dtype(job.device)[1],
            "skip-bad": job.skip_bad,
        }

    def _training(self) -> dict[str, float]:
        if self.request.minutes is not None:
            return {"minutes": self.request.minutes}
        return {"iterations": self.request.iterations or self.preset.training.iterations}

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
    if (request.trusted is None) == (request.denoiser is None):
        given = "both were given" if request.trusted else "neither was given"
        raise EclipseError(f"give either --trusted (to train a denoiser) or --denoiser (to use one); {given}")
    if request.compensate not in ("online", "once"):
        raise EclipseError(f"--compensate {request.compensate!r}; expected online or once")
    if request.batch < 1:
        raise EclipseError(f"--batch {request.batch}; expected at least 1")
    device = resolve_device(request.device)
    source = _open(request.images, request)
    unfinished = not request.out.exists() or not run_json(request.out).exists()
    if unfinished:
        check_output(source, request.out, request.format)
    ready = None if request.denoiser is None else load_denoiser(request.denoiser)
    preset = get_preset(request.preset) if ready is None else preset_of(ready)
    trusted = None if request.trusted is None else _open_trusted(request)
    p = preset.p if request.p is None else request.p
    noise = preset.noise if request.noise is None else request.noise
    check_parameters(p, noise)
    sigma = None if request.sigma is None else request.sigma / 255
    how = purification(preset, sigma, request.steps, request.sampler)
    preset.denoiser.schedule.index(how.sigma)
    if ready is not None:
        how.indices(ready)
    written = (p, noise) if request.compensate == "once" else None
    job = Job(how, request.seed, device, request.format, written, request.skip_bad)
    folder = request.denoiser or request.out.with_name(request.out.name + ".denoiser")
    resolved = Plan(request, source, trusted, ready, preset, job, folder, finished=not unfinished)
    return resolved if unfinished else _compared(resolved)


def _compared(plan: Plan) -> Plan:
    """A plan whose output exists: refused unless it was made, or is being made, with the same settings."""
    path = run_json(plan.request.out)
    try:
        manifest = json.loads(path.read_text())
        made = manifest["settings"], manifest["input fingerprint"], manifest["status"]
    except (ValueError, KeyError, TypeError) as error:
        reason = f"{plan.request.out} exists, and {path} is not a manifest of it; choose another output"
        raise EclipseError(reason) from error
    asked = json.loads(json.dumps(plan.describe(), default=str))
    check_same_settings(_flat(made[0]), _flat(asked), plan.request.out)
    check_same_settings({"input": made[1]}, {"input": plan.source.fingerprint()}, plan.request.out)
    return replace(plan, finished=made[2] == "complete")


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without their nesting, so that a difference can be named."""
    flat = {}
    for name, value in settings.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        flat.update({f"{name} {part}".strip(): inner for part, inner in parts})
    return flat


def run(
    plan: Plan,
    *,
    on_step: Callable[[TrainStep], None] = lambda step: None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Outcome:
    """Carry a plan out: train (or load) the denoiser, purify, write the manifest.

    An interrupted run goes on where it was when it is carried out again with the same settings.
    """
    request = plan.request
    started = time.time()
    manifest: dict[str, Any] = {
        "status": "started",
        "command": command(),
        "settings": plan.describe(),
        "versions": versions(),
        "started": _date(started),
        "input fingerprint": plan.source.fingerprint(),
    }
    write_json(run_json(request.out), manifest)
    denoiser = plan.ready or _train(plan, on_step)
    trained = time.time()
    outcome = purify_source(plan.source, denoiser, request.out, plan.job, batch=request.batch, on_progress=on_progress)
    finished = time.time()
    manifest |= {
        "status": "complete",
        "finished": _date(finished),
        "seconds": {"denoiser": round(trained - started, 2), "purification": round(finished - trained, 2)},
        "counts": {"input": len(plan.source), "purified": outcome.purified, "skipped": len(outcome.skipped)},
        "skipped": dict(outcome.skipped),
        "output fingerprint": outcome.fingerprint,
        "denoiser": {"fingerprint": fingerprint_denoiser(denoiser), "trained": dict(denoiser.config.trained)},
    }
    write_json(run_json(request.out), manifest)
    outcome.forget()
    return outcome


def closing(plan: Plan, outcome: Outcome) -> dict[str, Any]:
    """What to tell the user at the end: what was made, and what to do with it."""
    job, preset = plan.job, plan.preset
    p = preset.p if plan.request.p is None else plan.request.p
    noise = preset.noise if plan.request.noise is None else plan.request.noise
    advice = "written into the images" if job.once else f"train with eclipse.Compensate(p={p:g}, sigma={noise:g})"
    return {
        "purified": f"{outcome.purified} images in {plan.request.out}",
        **({"skipped": f"{len(outcome.skipped)} unreadable images, listed in the manifest"} if outcome.skipped else {}),
        "manifest": run_json(plan.request.out),
        "denoiser": plan.denoiser_folder,
        "compensation": advice,
    }


def _open(spec: str, request: Request) -> Source:
    return open_source(spec, image_column=request.image_column, label_column=request.label_column)


def _open_trusted(request: Request) -> Source:
    assert request.trusted is not None
    trusted = open_source(request.trusted, image_column=request.image_column)
    if len(trusted) < MIN_IMAGES:
        raise EclipseError(
            f"{trusted.spec} has {len(trusted)} images; a denoiser needs at least {MIN_IMAGES} trusted ones, "
            "and the paper uses 4% of the training set: give more images that you trust"
        )
    return trusted


def _train(plan: Plan, on_step: Callable[[TrainStep], None]) -> Denoiser:
    assert plan.trusted is not None
    return train_into(
        plan.denoiser_folder,
        load_pictures(plan.trusted),
        plan.request.preset,
        iterations=plan.request.iterations,
        minutes=plan.request.minutes,
        sigma=plan.job.how.sigma,
        seed=plan.request.seed,
        device=plan.job.device,
        on_step=on_step,
    )


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(seconds))
