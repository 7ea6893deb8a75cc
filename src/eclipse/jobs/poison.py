"""Poison a whole data set: with an attack, or with what others have made; a killed crafting goes on where it was."""

import json
import math
import shutil
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from eclipse.attacks import ATTACKS
from eclipse.attacks.attack import Attack, check_classes
from eclipse.attacks.crafting.cost import Cost, Surrogate, expected_cost, surrogate_of
from eclipse.attacks.crafting.perturbation import apply, length_in_words, size
from eclipse.attacks.imported import Perturbation, check_rows, is_perturbation, poisoned_rows, read_perturbation
from eclipse.classifiers.pgd import scaled_radius
from eclipse.compute.device import describe_device, resolve_device
from eclipse.data.imageset import ImageSet
from eclipse.data.output import assemble, check_apart, check_output, fingerprint, is_made
from eclipse.data.picture import Picture, Pixels, encode_png, repainted, size_in_words
from eclipse.data.source import load_imageset, open_source
from eclipse.data.store import Row, Source
from eclipse.errors import EclipseError, unknown
from eclipse.parameters import all_fields, parameters
from eclipse.runs.files import check_name, clear, locked, write_json, write_whole
from eclipse.runs.manifest import check_made, check_same_settings, flat, read_settings, recorded, run_json
from eclipse.runs.state import StageStep, State

UNITS = {"levels": 255.0, "unit": 1.0}
"""Scales of a perturbation, and the largest value that each can have."""

# Settings that may differ on a finished output: other words for the same thing (fingerprints tell), or another machine.
_WORDS = ("input spec", "output path", "import spec", "device name")


@dataclass(frozen=True)
class Request:
    """A poisoning as its user asks for it.

    Attributes:
        dataset: the clean set, as a spec for ``open_source``.
        out: where the poisoned copy goes.
        attack: name of the attack; or
        imported: spec of images that others have poisoned, or the file of a perturbation.
        scale: ``paper`` or ``small``; None is ``paper``.
        settings: parameters of the attack that are to differ, as ``eps=4``.
        sign: 1 or -1, what a perturbation is multiplied with.
        unit: scale of a perturbation, a name in ``UNITS``.
    """

    dataset: str
    out: Path
    attack: str | None = None
    imported: str | None = None
    scale: str | None = None
    settings: tuple[str, ...] = ()
    sign: int | None = None
    unit: str | None = None
    seed: int = 0
    device: str = "auto"
    format: str | None = None
    image_column: str | None = None
    label_column: str | None = None


@dataclass(frozen=True)
class Plan:
    """A request with everything resolved and checked that can be before the work starts.

    Attributes:
        origin: the attack, the images of others, or the perturbation of others.
        clean: the images, for an attack; of one channel where all are gray.
        finished: the output is there, made with the same settings.
    """

    request: Request
    source: Source
    origin: Attack | Source | Perturbation
    device: str
    clean: ImageSet | None = None
    finished: bool = False

    def describe(self) -> dict[str, Any]:
        """Every resolved setting, for run.json; radii and lengths are those of the attack's fields."""
        request = self.request
        settings: dict[str, Any] = {
            "input": {"spec": self.source.spec, "layout": self.source.layout, "images": len(self.source)},
            "output": {"path": str(request.out), "format": request.format or self.source.layout},
        }
        if not isinstance(self.origin, Attack):
            how = {"sign": request.sign, "unit": request.unit} if isinstance(self.origin, Perturbation) else {}
            return {**settings, "attack": None, "import": {"spec": request.imported, "kind": self._kind(), **how}}
        fields = all_fields(self.origin)
        attack = {
            "name": request.attack,
            "scale": request.scale or "paper",
            **ATTACKS.code(cast(str, request.attack)),
            "norm": self.origin.norm,
            "radius": fields["radius"],
            "fields": fields,
        }
        device = {"type": torch.device(self.device).type, "name": describe_device(self.device)}
        return {**settings, "attack": attack, "import": None, "seed": request.seed, "device": device}

    def _kind(self) -> str:
        if isinstance(self.origin, Perturbation):
            return f"perturbation of each {'class' if self.origin.class_wise else 'image'}"
        return "images"

    def in_words(self) -> dict[str, Any]:
        """The settings for people: lengths in 8-bit levels."""
        settings = {name: value for name, value in self.describe().items() if value is not None}
        if isinstance(self.origin, Attack):
            settings["attack"] = {name: settings["attack"][name] for name in ("name", "scale", "norm")}
            settings["parameters"] = {name: str(value) for name, value in parameters(self.origin).items()}
        return settings

    def cost(self) -> Cost | None:
        """Measure what the crafting will take; None where no network is needed."""
        if not isinstance(self.origin, Attack) or self.clean is None:
            return None
        return expected_cost(self.origin, self.clean, seed=self.request.seed, device=self.device)

    def notes(self, cost: Cost | None) -> list[str]:
        """What the user should know before the work starts."""
        if not isinstance(self.origin, Attack) or not self.origin.small:
            return []
        if self.request.scale == "small":
            return [f"scale small is not the published recipe: it has its own {', '.join(self.origin.small)}"]
        if cost is None or not cost.is_long():
            return []
        return [
            "that is long for a processor: --scale small is made for processors, and scale paper for a GPU; a crafting "
            "can be interrupted, the same command goes on with it"
        ]


@dataclass(frozen=True)
class Outcome:
    """What became of a data set.

    Attributes:
        images: rows in the output.
        changed: how many of them are not as before.
        norm: that the changes were measured in.
        asked: the radius for images of this size; None where there is none.
        most: the largest change as stored, on the [0, 1] scale (pixels for L0).
        median: that of all images.
        fingerprint: SHA-256 over the ids and the pixels' PNG bytes, in order.
    """

    images: int
    changed: int
    norm: str
    asked: float | None
    most: float
    median: float
    fingerprint: str


def craft_folder(out: Path) -> Path:
    """Where the state of an unfinished crafting lies: hidden, beside the output."""
    return out.with_name(f".{out.name}.poisoning")


def plan(request: Request) -> Plan:
    """Resolve a request and refuse what cannot work, before anything is written; loads the images for an attack."""
    _check_options(request)
    device = resolve_device(request.device)
    source = open_source(request.dataset, image_column=request.image_column, label_column=request.label_column)
    made = is_made(request.out) and run_json(request.out).exists()
    if not made:
        check_output(source, request.out, request.format)
    resolved = Plan(request, source, _origin(request, source), device)
    if made:
        resolved = _compared(resolved)
    if isinstance(resolved.origin, Attack) and not resolved.finished:
        clean = _load(source)
        check_classes(type(resolved.origin).__name__, clean)
        resolved = replace(resolved, clean=clean)
        _check_resumable(resolved)
    return resolved


def _check_options(request: Request) -> None:
    """Refuse options that are wrong in themselves or do not go together."""
    if (request.attack is None) == (request.imported is None):
        given = "both were given" if request.attack else "neither was given"
        raise EclipseError(f"give either --attack or --import (a poison that others have made); {given}")
    if request.imported is not None and (request.scale or request.settings):
        raise EclipseError("--scale and --set are for --attack, and --import is made already; leave them out")
    if request.attack is not None and (request.sign or request.unit):
        raise EclipseError("--sign and --unit are for the perturbation of --import; leave them out")
    if request.sign not in (None, 1, -1):
        raise EclipseError(f"--sign {request.sign}; expected 1 or -1")
    if request.unit is not None and request.unit not in UNITS:
        raise unknown("unit", request.unit, UNITS)
    check_name(request.out)


def _origin(request: Request, source: Source) -> Attack | Source | Perturbation:
    """The attack, or the poison of others, checked as far as the clean images need not be decoded for it."""
    if request.imported is None:
        return cast(Attack, ATTACKS.asked(cast(str, request.attack), request.scale or "paper", request.settings))
    if is_perturbation(request.imported):
        perturbation = read_perturbation(Path(request.imported), source)
        _check_unit(request, perturbation)
        return perturbation
    if request.sign or request.unit:
        raise EclipseError(f"--sign and --unit are for perturbations, and {request.imported} is images; leave them out")
    images = open_source(request.imported)
    check_apart(request.out, images, "imported images")
    check_rows(source, images)
    return images


def _check_unit(request: Request, perturbation: Perturbation) -> None:
    """Refuse a perturbation whose sign or scale is not said, or cannot be meant."""
    low, high = perturbation.range()
    held = f"{request.imported} is a perturbation with values from {low:.4g} to {high:.4g}"
    if request.sign is None or request.unit is None:
        raise EclipseError(
            f"{held}; say how to add it: --sign 1 or --sign -1, and --unit levels (8-bit) or --unit unit ([0, 1] scale)"
        )
    most = max(abs(low), abs(high)) / UNITS[request.unit]
    if most > 1:
        limit = UNITS[request.unit]
        raise EclipseError(f"{held}, and --unit {request.unit} goes from {-limit:g} to {limit:g}; give the other unit")
    if most * 255 < 0.5:
        raise EclipseError(f"{held}, less than half a level with --unit {request.unit}; expected one that is seen")


def _load(source: Source) -> ImageSet:
    """All images in memory; with one channel where they are gray, so that their poison is made for one."""
    clean = load_imageset(source, "poisoning")
    gray = next(source.rows()).picture().gray and bool((clean.images == clean.images[:, :1]).all())
    return clean.with_images(np.ascontiguousarray(clean.images[:, :1])) if gray else clean


def _compared(plan: Plan) -> Plan:
    """A plan whose output exists: refused unless it was made, or is being made, with the same settings."""
    known = _fingerprints(plan)
    finished = check_made(
        plan.request.out, plan.describe(), _WORDS, lambda manifest: {name: manifest[name] for name in known}, known
    )
    return replace(plan, finished=finished)


def _fingerprints(plan: Plan) -> dict[str, str]:
    imported = {} if isinstance(plan.origin, Attack) else {"import fingerprint": plan.origin.fingerprint()}
    return {"input fingerprint": plan.source.fingerprint(), **imported}


def _state(plan: Plan) -> dict[str, Any]:
    """What a crafting must agree on to be gone on with."""
    assert plan.clean is not None
    settings = plan.describe()
    decisive = {"attack": settings["attack"], "seed": settings["seed"], "device": settings["device"]["type"]}
    return cast(dict[str, Any], json.loads(json.dumps({**flat(decisive), "input": plan.clean.fingerprint()})))


def _has_state(out: Path) -> bool:
    return any(craft_folder(out).glob("*.safetensors"))


def _check_resumable(plan: Plan) -> None:
    """Refuse settings other than those of the unfinished crafting of the same output, if there is one."""
    folder = craft_folder(plan.request.out)
    if _has_state(plan.request.out):
        check_same_settings(read_settings(folder), _state(plan), folder)


def run(plan: Plan, *, on_step: Callable[[StageStep], None] = lambda step: None) -> Outcome:
    """Carry a plan out: craft the poison or take that of others, write the output and its manifest.

    An interrupted run goes on where it was when it is carried out again with the same settings, and ends with the
    same bytes.
    """
    out, folder = plan.request.out, craft_folder(plan.request.out)
    with locked(folder, out):
        if plan.clean is not None:
            _check_resumable(plan)  # another process may have been at work since
        with _as_before_if_refused(out), recorded(out, plan.describe(), **_fingerprints(plan)) as found:
            began = time.monotonic()
            rows, surrogate = _poisoned(plan, on_step)
            crafted = time.monotonic()
            outcome = _written(plan, rows)
            found |= {
                "seconds": {"crafting": round(crafted - began, 2), "writing": round(time.monotonic() - crafted, 2)},
                "radius": {
                    "norm": outcome.norm,
                    "asked": outcome.asked,
                    "measured": {"max": outcome.most, "median": outcome.median},
                },
                "surrogate": None if surrogate is None else asdict(surrogate),
                "counts": {"input": len(plan.source), "poisoned": outcome.images, "changed": outcome.changed},
                "output fingerprint": outcome.fingerprint,
            }
        tidy(plan)
    return outcome


@contextmanager
def _as_before_if_refused(out: Path) -> Iterator[None]:
    """Leave nothing behind where the work is refused before any part of it was done."""
    path = run_json(out)
    before = path.read_bytes() if path.exists() else None
    try:
        yield
    except EclipseError:
        if not _has_state(out) and not is_made(out):
            clear(craft_folder(out))
            if before is None:
                path.unlink(missing_ok=True)
            else:
                write_whole(path, before)
        raise


Renewed = Iterator[tuple[Row, Picture, Pixels]]


def _poisoned(plan: Plan, on_step: Callable[[StageStep], None]) -> tuple[Renewed, Surrogate | None]:
    """The rows of the clean set with their pictures and their new pixels, and the surrogate behind these."""
    if isinstance(plan.origin, Source):
        return poisoned_rows(plan.source, plan.origin), None
    if isinstance(plan.origin, Perturbation):
        return _added(plan.source, plan.origin, plan.request), None
    assert plan.clean is not None
    surrogate = surrogate_of(plan.origin, plan.clean, seed=plan.request.seed, device=plan.device)
    folder = craft_folder(plan.request.out)
    write_json(folder / "settings.json", _state(plan))
    crafting = State(folder, on_step)
    poisoned = plan.origin.poison(plan.clean, seed=plan.request.seed, device=plan.device, crafting=crafting)
    return _crafted(plan.source, plan.clean, poisoned), surrogate


def _crafted(source: Source, clean: ImageSet, poisoned: ImageSet) -> Renewed:
    for row, id, old, new in zip(source.rows(), clean.ids, clean.images, poisoned.images, strict=True):
        picture = row.picture()
        if row.id != id or not (picture.rgb == old).all():
            raise EclipseError(f"{row.name} has changed in the meantime; put the old one back and start again")
        yield row, picture, np.broadcast_to(new, picture.rgb.shape)


def _added(source: Source, perturbation: Perturbation, request: Request) -> Renewed:
    assert request.sign is not None and request.unit is not None
    scale = request.sign / UNITS[request.unit]
    for place, row in enumerate(source.rows()):
        picture, values = row.picture(), perturbation.of(place, row)
        if picture.rgb.shape[1:] != values.shape[1:]:
            raise EclipseError(
                f"{row.name} is {size_in_words(picture.rgb)} and the perturbation is {size_in_words(values)}; expected "
                "the same size"
            )
        yield row, picture, apply(picture.rgb, scale * values)


class _Changes:
    """Measures changes as they are stored."""

    def __init__(self, plan: Plan) -> None:
        self.norm, self.asked, self._planes = "Linf", None, 3
        if isinstance(plan.origin, Attack) and plan.clean is not None:
            shape, attack = plan.clean.images.shape[1:], plan.origin
            self.norm, self._planes = attack.norm, shape[0]
            self.asked = None if math.isinf(attack.radius) else scaled_radius(attack.norm, attack.radius, shape)
        self._sizes = array("d")

    def add(self, old: Pixels, new: Pixels) -> None:
        change = new[: self._planes].astype(np.int16) - old[: self._planes]
        self._sizes.append(float(size(change[None], self.norm)[0]))

    @property
    def sizes(self) -> NDArray[np.float64]:
        return np.asarray(self._sizes)


def _written(plan: Plan, rows: Renewed) -> Outcome:
    """Write the output, or find it there where a kill came right after; measure what was changed."""
    out, changes = plan.request.out, _Changes(plan)

    def pictures() -> Iterator[tuple[str, bytes]]:
        for row, picture, pixels in rows:
            new = repainted(picture, pixels)
            changes.add(picture.rgb, new.rgb)
            yield row.id, encode_png(new)

    begun = craft_folder(out) / "assembling"  # tells that what is at ``out`` afterwards is ours
    if begun.exists() and is_made(out):
        made = fingerprint(pictures())
    else:
        write_whole(begun, b"")
        made = assemble(plan.source, pictures(), out, plan.request.format, frozenset())
    sizes = changes.sizes
    most, median = float(sizes.max()), float(np.median(sizes))
    return Outcome(len(sizes), int((sizes > 0).sum()), changes.norm, changes.asked, most, median, made)


def tidy(plan: Plan) -> None:
    """Delete the intermediate files of a finished output, which a kill at the very end leaves."""
    shutil.rmtree(craft_folder(plan.request.out), ignore_errors=True)


def closing(plan: Plan, outcome: Outcome) -> dict[str, Any]:
    """What to tell the user at the end: what was made, and what to do with it."""
    most, median = (length_in_words(outcome.norm, value) for value in (outcome.most, outcome.median))
    asked = "unbounded" if outcome.asked is None else f"radius {length_in_words(outcome.norm, outcome.asked)}"
    norm = "Linf" if outcome.norm == "none" else outcome.norm
    return {
        "poisoned": f"{outcome.changed} of {outcome.images} images in {plan.request.out}",
        "change": f"{norm} {most} at most, {median} in the median ({asked})",
        "manifest": run_json(plan.request.out),
        "check": f"eclipse verify {plan.request.out} --clean {plan.source.spec}",
    }
