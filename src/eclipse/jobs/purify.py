"""``eclipse purify``: from a suspicious data set and a few trusted images to a purified copy."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch

from eclipse.compute.device import compute_dtype, describe_device, resolve_device, seeded
from eclipse.data.encoding import PNG, Encoding, encoding
from eclipse.data.output import check_apart, check_output, describe_rest, named_format, write_output
from eclipse.data.overlap import note_of_shared, shared_with
from eclipse.data.source import asked_columns, load_pictures, open_source
from eclipse.data.store import Source
from eclipse.detectors.level import LEVELS, lowest_level
from eclipse.diffusion.checkpoint import GENERAL, GENERAL_NAME, fingerprint_denoiser, load_denoiser
from eclipse.diffusion.denoiser import Denoiser, build_denoiser, check_color
from eclipse.diffusion.presets import Preset, get_preset, preset_of
from eclipse.diffusion.trusted import MIN_IMAGES, Planned, check_trusted, denoiser_in, plan_denoiser
from eclipse.errors import EclipseError
from eclipse.jobs.audit import pieces
from eclipse.jobs.canary import Canary, measure, sample
from eclipse.jobs.cost import first_images, purification_cost, training_cost
from eclipse.jobs.job import Job, Tell
from eclipse.jobs.match import mismatch
from eclipse.purification.algorithm import purification
from eclipse.purification.compensation import check_parameters
from eclipse.purification.shards import Shards
from eclipse.purification.stream import Treatment, check_first, purify_rows
from eclipse.runs.files import check_name, clear
from eclipse.runs.manifest import Times, flat, read_manifest, run_json
from eclipse.runs.state import State, Work

AUTO = "auto"
"""In place of a noise level: the lowest one after which labels are read no better than after the strongest."""
SPARSE = 0.05  # of the data set: the defender's assumption of the paper


@dataclass(frozen=True, eq=False)
class Purify(Job):
    """A purification, resolved.

    Attributes:
        source: the data set to purify.
        out: where the purified copy goes.
        format: of it; None for the layout of the source.
        treatment: all that decides what becomes of an image.
        preset: the numbers that the denoiser is trained with, and of the compensation.
        compensate: ``online`` (left to training time) or ``once`` (written into the data).
        ready: the denoiser that was given; or
        trusted: the images to train one on, for
        planned: the denoiser that is to be trained.
        denoiser: the folder that the denoiser lies in, or will.
        batch: images read at a time; does not change the result.
        columns: of a table that were asked for, ``image column`` and ``label column``.
        encoding: of the purified images.
        reason: why this noise level, where it was chosen by what can be read at each.
    """

    source: Source
    out: Path
    format: str | None
    treatment: Treatment
    preset: Preset
    compensate: str
    ready: Denoiser | None
    trusted: Source | None
    planned: Planned | None
    denoiser: Path
    batch: int = 256
    columns: Mapping[str, str] = field(default_factory=dict)
    encoding: Encoding = PNG
    reason: str | None = None

    doing: ClassVar[str] = "purifying"
    free: ClassVar[frozenset[str]] = frozenset(
        {
            *("input spec", "output path", "trusted spec", "trusted images", "trusted", "denoiser", "device name"),
            f"purification {AUTO}",
        }
    )
    # Finished rows carry digests, and a bad image may be mended; the denoiser is compared when it is there.
    mendable: ClassVar[frozenset[str]] = frozenset(
        {"input fingerprint", "input images", "trusted fingerprint", "output format", "skip-bad"}
    )

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """Every resolved setting, for people and for run.json."""
        treatment = self.treatment
        return {
            "input": {
                "spec": self.source.spec,
                "layout": self.source.layout,
                "images": len(self.source),
                **self.columns,
                **({} if self.source.longest is None else {"max side": self.source.longest}),
            },
            "output": {
                "path": str(self.out),
                "format": self.format or self.source.layout,
                **({} if self.encoding == PNG else {"image format": str(self.encoding)}),
            },
            "trusted": None if self.trusted is None else {"spec": self.trusted.spec, "images": len(self.trusted)},
            "denoiser": self._name,
            "training": None if self.planned is None else _training(self.planned),
            "preset": self.preset.denoiser.preset,
            "purification": {
                **treatment.how.numbers(),
                "sigma": round(treatment.how.sigma * 255, 3),
                **({} if self.reason is None else {AUTO: self.reason}),
            },
            "compensation": {
                "mode": self.compensate,
                "p": self.preset.p,
                "noise": self.preset.noise,
                "q": self.preset.q,
            },
            "seed": treatment.seed,
            "device": {"type": torch.device(treatment.device).type, "name": describe_device(treatment.device)},
            "precision": compute_dtype(treatment.device)[1],
            "skip-bad": treatment.skip_bad,
        }

    def in_words(self) -> Mapping[str, Any]:
        """The settings that there are, the denoiser's for people."""
        given = {name: value for name, value in self.settings.items() if value is not None}
        if self.planned is None:
            return given
        return {**given, "training": {**self.planned.in_words(), "preset": self.preset.denoiser.preset}}

    @cached_property
    def inputs(self) -> Mapping[str, str]:
        """Of the data set, of the trusted images, and of a denoiser that was given."""
        given: dict[str, str] = {"input fingerprint": self.source.fingerprint()}
        if self.trusted is not None:
            given["trusted fingerprint"] = self.trusted.fingerprint()
        if self.ready is not None:
            given["denoiser fingerprint"] = fingerprint_denoiser(self.ready)
        return given

    @property
    def _name(self) -> str:
        """The denoiser for people."""
        return GENERAL_NAME if self.denoiser == GENERAL else str(self.denoiser)

    def check_place(self) -> None:
        """Refuse a place where the data set could not be written."""
        check_output(self.source, self.out, self.format, self.encoding)

    @cached_property
    def _shared(self) -> int:
        """How many trusted images are among those to purify; all of them are refused."""
        assert self.trusted is not None
        return shared_with(self.source, self.trusted)

    def notes(self) -> list[str]:
        """What is odd about the data, what becomes of the rest, and whether trusted images are suspicious or many."""
        notes = self.source.notes + describe_rest(self.source, self.format, self.encoding.suffix)[1]
        if self.encoding.quality is not None:
            notes.append(
                f"images are written as JPEG of quality {self.encoding.quality}, which loses a little more than the "
                "purification does; png and webp lose nothing"
            )
        if self.source.longest is not None:
            notes.append(
                f"images are reduced to {self.source.longest} pixels: what other columns and files tell of sizes and "
                "places in them, such as boxes, is that of the old ones"
            )
        if self.trusted is None:
            return notes
        if not self.denoiser.exists():
            notes = [*notes, *note_of_shared(self._shared, len(self.trusted))]
        if (difference := mismatch(self.source, self.trusted)) is not None:
            notes.append(difference)
        enough = max(MIN_IMAGES, SPARSE * len(self.source))
        if len(self.trusted) <= enough:
            return notes
        share = len(self.trusted) / len(self.source)
        return [
            *notes,
            f"{len(self.trusted)} trusted images are {share:.0%} of the {len(self.source)} to purify; "
            f"{enough:.0f} are enough for the method, and more did not help in the paper",
        ]

    def estimate(self) -> Mapping[str, Any] | None:
        """The minutes of the training, unless it was done before, and of the purification."""
        found: dict[str, str | None] = {}
        denoiser = self.ready
        if denoiser is None:
            assert self.trusted is not None and self.planned is not None
            if not self.denoiser.exists():
                images = first_images(self.trusted, self.planned.training.batch)
                found["denoiser"] = training_cost(self.planned, images, self.treatment.device)
            with seeded(0, "cost"):
                denoiser = build_denoiser(self.planned.config)
        found["purification"] = purification_cost(self.source, denoiser, self.treatment)
        return {name: words for name, words in found.items() if words is not None} or None

    def work(self, state: State, tell: Tell, place: Path) -> dict[str, Any]:
        """Train the denoiser, or load it, purify, and put the output together."""
        assert state.folder is not None
        times = Times(state.folder)
        tell = times.telling(tell)
        with times.part("denoiser"):
            denoiser = self._denoiser(tell)
        fingerprint = self.inputs.get("denoiser fingerprint") or fingerprint_denoiser(denoiser)
        shards = Shards(state.folder, fingerprint, self.encoding)
        shards.check(self.source, self.treatment.skip_bad)
        canary = None
        if (images := sample(self.source, denoiser.config.image_size)) is not None:
            canary = measure(denoiser, self.treatment.how, images, self.treatment.device)
            tell(canary)
        with times.part("purification"):
            purify_rows(self.source, denoiser, self.treatment, shards, batch=self.batch, tell=tell)
        skipped = shards.skipped()
        if len(skipped) == len(self.source):
            clear(state.folder)
            raise EclipseError(f"{self.source.spec}: none of its {len(skipped)} images can be read; nothing to purify")
        with times.part("purification"):
            made = write_output(
                self.source,
                shards.pictures(self.source),
                place,
                self.format,
                frozenset(skipped),
                self.encoding.suffix,
            )
        purified = len(self.source) - len(skipped)
        return {
            "seconds": times.seconds,
            "counts": {"input": len(self.source), "purified": purified, "skipped": len(skipped)},
            "skipped": dict(skipped.values()),
            **describe_rest(self.source, self.format, self.encoding.suffix)[0],
            "output fingerprint": made,
            "denoiser": {"fingerprint": fingerprint, "trained": dict(denoiser.config.trained)},
            **({} if canary is None else {"canary": asdict(canary)}),
        }

    def _denoiser(self, tell: Tell) -> Denoiser:
        """The given denoiser, or that of the trusted images; they are in memory for no longer than its training."""
        how = self.treatment
        if self.ready is not None:
            check_first(self.source, self.ready.config, how.skip_bad)
            return self.ready
        assert self.trusted is not None and self.planned is not None
        trusted = check_trusted(load_pictures(self.trusted), self.planned.config)
        if not self.denoiser.exists():
            _ = self._shared
        check_first(self.source, self.planned.config, how.skip_bad)  # before a training that takes minutes
        return denoiser_in(self.denoiser, self.planned, trusted, Work(how.seed, how.device), on_step=tell)

    def closing(self, outcome: Mapping[str, Any]) -> Mapping[str, Any]:
        """What was made, and what to do with it."""
        numbers, treatment = self.preset, self.treatment
        transform = f"train with eclipse.Compensate(p={numbers.p:g}, noise={numbers.noise:g}, q={numbers.q:g})"
        if numbers.p == 0 and numbers.noise * numbers.q == 0:
            transform = "none: train on the images as they are"
        skipped = outcome["counts"]["skipped"]
        return {
            "purified": f"{outcome['counts']['purified']} images in {self.out}",
            **({} if self.reason is None else {"noise level": f"{treatment.how.sigma * 255:g}/255, {self.reason}"}),
            **({"skipped": f"{skipped} unreadable images, listed in the manifest"} if skipped else {}),
            **_told(outcome.get("canary")),
            "manifest": run_json(self.out),
            "denoiser": self._name,
            "compensation": "written into the images" if treatment.once else transform,
        }


def purify_job(
    images: str,
    out: Path,
    *,
    trusted: str | None = None,
    denoiser: Path | None = None,
    preset: str = "fast",
    start: str | None = None,
    sigma: float | str | None = None,
    steps: int | None = None,
    sampler: str | None = None,
    seed: int = 0,
    device: str = "auto",
    format: str | None = None,
    image_format: str = "png",
    compensate: str = "online",
    p: float | None = None,
    noise: float | None = None,
    q: float | None = None,
    skip_bad: bool = False,
    batch: int = 256,
    iterations: int | None = None,
    minutes: float | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    max_side: int | None = None,
    tell: Tell = lambda event: None,
) -> Purify:
    """Resolve a purification as its user asks for it, and refuse what cannot work; None stands for the preset's value.

    Args:
        images: the data set to purify, as a spec for ``open_source``.
        out: where the purified copy goes.
        trusted: spec of the trusted images, to train a denoiser; or
        denoiser: a folder with one; with neither, the general one that comes with the package.
        preset: ``fast`` or ``paper``.
        start: of that training, ``general`` or ``nothing``.
        sigma: noise level in 8-bit levels, or ``auto``, which takes minutes to find one.
        steps: network evaluations an image.
        sampler: a name in ``samplers.SAMPLERS``.
        seed: of the training and of the noise.
        device: ``auto``, ``cpu`` or ``cuda``.
        format: of the output; None for that of its name (``out.npz``), or else of the input.
        image_format: of the images in it: ``png``, ``webp``, ``jpeg:95`` or another quality.
        compensate: ``online`` (left to training time) or ``once`` (written into the data).
        p: probability of grayscale.
        noise: standard deviation of the compensation's noise on the [0, 1] scale.
        q: probability of that noise.
        skip_bad: leave unreadable images out.
        batch: images read at a time; does not change the result.
        iterations: training steps of the denoiser.
        minutes: a time budget for them instead.
        image_column: the column with the images, where it cannot be told.
        label_column: the column with the labels.
        max_side: reduce images, and trusted ones, whose longer side has more pixels.
        tell: is told how far the choice of a level is.
    """
    _check_options(
        out, trusted, denoiser, compensate, batch, {"start": start, "iterations": iterations, "minutes": minutes}
    )
    files, where = encoding(image_format), resolve_device(device)
    source = open_source(images, image_column=image_column, label_column=label_column, longest=max_side)
    format = named_format(source, out, format)
    ready = None if trusted is not None else load_denoiser(denoiser or GENERAL)
    if ready is not None:
        check_color(ready)
    level, reason = _level(sigma, source, out, Work(seed, where, State(on_step=tell)), skip_bad)
    if ready is not None:
        planned, chosen, config = None, _preset_of(ready, preset, denoiser), ready.config
    else:
        planned = plan_denoiser(get_preset(preset), start=start, iterations=iterations, minutes=minutes, sigma=level)
        planned.config.check_package()
        chosen, config = planned.preset, planned.config
    how = purification(chosen, config, sigma=level, steps=steps, sampler=sampler)
    given: dict[str, Any] = {"p": p, "noise": noise, "q": q}
    chosen = replace(chosen, **{name: value for name, value in given.items() if value is not None})
    corruption = chosen.p, chosen.noise, chosen.q
    check_parameters(*corruption)
    opened = None if trusted is None else _open_trusted(trusted, image_column, out, max_side)
    return Purify(
        source,
        out,
        format,
        Treatment(how, seed, where, corruption if compensate == "once" else None, skip_bad),
        chosen,
        compensate,
        ready,
        opened,
        planned.on(len(opened)) if planned is not None and opened is not None else None,
        denoiser or (GENERAL if trusted is None else out.with_name(out.name + ".denoiser")),
        batch,
        asked_columns(image_column, label_column),
        files,
        reason,
    )


def _level(
    sigma: float | str | None, source: Source, out: Path, work: Work, skip_bad: bool
) -> tuple[float | None, str | None]:
    """The noise level on the [0, 1] scale, None for the preset's, and why it is this one, where it was left open."""
    if not isinstance(sigma, str):
        return None if sigma is None else sigma / 255, None
    if sigma != AUTO:
        raise EclipseError(f"--sigma {sigma!r}; expected a noise level in 8-bit levels, or {AUTO}")
    if before := _chosen_before(source, out, work.seed):
        return before
    try:
        if not source.has_labels:
            raise EclipseError(f"it needs labels, and {source.unlabelled}")
        readings = lowest_level(pieces(source, None, None, skip_bad)[0], work)
    except EclipseError as error:
        raise EclipseError(f"--sigma {AUTO} cannot choose: {error}; or name a level, such as --sigma 32") from error
    last = readings[-1]
    if last.sigma == LEVELS[-1] / 255:
        return last.sigma, f"the strongest, since after {readings[-2].sigma * 255:g}/255 {readings[-2].words()}"
    return last.sigma, f"the lowest after which labels are read no better than after the strongest: {last.words()}"


def _chosen_before(source: Source, out: Path, seed: int) -> tuple[float, str] | None:
    """What this choice was when the run that is to go on began: other processors may round readings otherwise."""
    if not run_json(out).is_file():
        return None
    manifest = read_manifest(out)
    settings = flat(manifest["settings"])
    same = manifest.get("input fingerprint") == source.fingerprint() and settings.get("seed") == seed
    sigma, reason = (settings.get(f"purification {name}") for name in ("sigma", AUTO))
    if not same or not isinstance(reason, str) or not isinstance(sigma, int | float):
        return None
    return sigma / 255, reason


def _check_options(
    out: Path, trusted: str | None, denoiser: Path | None, compensate: str, batch: int, training: Mapping[str, Any]
) -> None:
    """Refuse options that are wrong in themselves or do not go together."""
    check_one_denoiser(trusted, denoiser)
    for name, value in training.items():
        if trusted is None and value is not None:
            raise EclipseError(f"--{name} {value} is for training; give --trusted CLEAN with it, or leave it out")
    if compensate not in ("online", "once"):
        raise EclipseError(f"--compensate {compensate!r}; expected online or once")
    if batch < 1:
        raise EclipseError(f"--batch {batch}; expected at least 1")
    check_name(out)


def check_one_denoiser(trusted: str | None, denoiser: Path | None) -> None:
    """Refuse two words for where the denoiser comes from."""
    if trusted is not None and denoiser is not None:
        raise EclipseError("--trusted and --denoiser; expected one: images to train a denoiser on, or a trained one")


def _told(canary: Mapping[str, Any] | None) -> dict[str, str]:
    """What the canary says at the end, of a run that may be an older one."""
    if canary is None:
        return {}
    found = Canary(**canary)
    return {"canary": found.words()} | ({"warning": warning} if (warning := found.warning()) else {})


def _preset_of(ready: Denoiser, asked: str, folder: Path | None) -> Preset:
    """The preset of a denoiser, if no other was asked for."""
    preset = preset_of(ready.config)
    if asked != "fast" and preset != get_preset(asked):
        if folder is None:
            raise EclipseError(f"--preset {asked} needs --trusted CLEAN, or a --denoiser that was trained with it")
        raise EclipseError(
            f"--preset {asked}, but {folder} is of preset {preset.denoiser.preset}; leave --preset out and give "
            "--sigma, --steps and --sampler where you want others"
        )
    return preset


def _training(planned: Planned) -> dict[str, Any]:
    """What decides the weights of the denoiser, but for the preset, the seed and the trusted images."""
    return {name: value for name, value in planned.settings().items() if name != "preset" and value is not None}


def _open_trusted(spec: str, image_column: str | None, out: Path, max_side: int | None) -> Source:
    trusted = open_source(spec, image_column=image_column, longest=max_side)
    if len(trusted) < MIN_IMAGES:
        raise EclipseError(
            f"{trusted.spec} has {len(trusted)} images; a denoiser needs at least {MIN_IMAGES} trusted ones, "
            "and the paper uses 4% of the training set: give more images that you trust"
        )
    check_apart(out, trusted, "trusted images")
    return trusted
