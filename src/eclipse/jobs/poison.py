"""``eclipse poison``: a whole data set with an attack, or with what others have made."""

import math
from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from eclipse.attacks import ATTACKS
from eclipse.attacks.attack import Attack, check_classes
from eclipse.attacks.crafting.cost import Cost, expected_cost, surrogate_of
from eclipse.attacks.imported import Imported, Poisoned, PoisonedImages, open_imported
from eclipse.classifiers.pgd import scaled_radius
from eclipse.compute.device import describe_device, resolve_device
from eclipse.data.changes import Sizes, Spread, length_in_words
from eclipse.data.encoding import PNG, Encoding, encoding
from eclipse.data.imageset import ImageSet
from eclipse.data.output import check_apart, check_output, describe_rest, named_format, write_output
from eclipse.data.picture import repainted
from eclipse.data.source import BY_RESIZE, load_imageset, open_source
from eclipse.data.store import Source
from eclipse.errors import EclipseError
from eclipse.jobs.job import Job, Tell
from eclipse.parameters import all_fields, parameters
from eclipse.runs.files import check_name
from eclipse.runs.manifest import Times, run_json, to_copy
from eclipse.runs.state import State, Work


@dataclass(frozen=True, eq=False)
class Poison(Job):
    """A poisoning, resolved.

    Attributes:
        source: the clean set.
        out: where the poisoned copy goes.
        format: of it; None for the layout of the source.
        encoding: of the images in it, without loss.
    """

    source: Source
    out: Path
    format: str | None
    encoding: Encoding

    doing: ClassVar[str] = "poisoning"
    free: ClassVar[frozenset[str]] = frozenset({"input spec", "output path", "import spec", "device name"})
    mendable: ClassVar[frozenset[str]] = frozenset({"input layout", "output format", "output image format"})

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """Every resolved setting, for run.json; radii and lengths are those of the attack's fields."""
        resize = {} if self.source.side is None else {"resize": self.source.side}
        return {
            "input": {"spec": self.source.spec, "layout": self.source.layout, "images": len(self.source), **resize},
            "output": {
                "path": str(self.out),
                "format": self.format or self.source.layout,
                **({} if self.encoding == PNG else {"image format": str(self.encoding)}),
            },
            **self.origin,
        }

    @property
    @abstractmethod
    def origin(self) -> Mapping[str, Any]:
        """The settings of the poison."""

    def check_place(self) -> None:
        """Refuse a place where the data set could not be written."""
        check_output(self.source, self.out, self.format, self.encoding)

    def notes(self) -> list[str]:
        """What is odd about the data set, and what becomes of what is no image."""
        found = self.source.notes + describe_rest(self.source, self.format, self.encoding.suffix)[1]
        if (side := self.source.side) is not None:
            found.append(f"all images become {side}x{side}; boxes and masks that come along are those of the old ones")
        return found

    @property
    @abstractmethod
    def bound(self) -> tuple[str, float | None, int]:
        """The norm of changes, the radius asked for in images of this size, if any, and the planes that count."""

    @abstractmethod
    def rows(self, state: State, tell: Tell) -> tuple[Poisoned, Any]:
        """The rows with their new pixels, and the surrogate behind them, if any."""

    def work(self, state: State, tell: Tell, place: Path) -> dict[str, Any]:
        """Craft the poison or take that of others, and write the output; measure what was changed, as stored."""
        assert state.folder is not None
        times = Times(state.folder)
        with times.part("crafting"):
            rows, surrogate = self.rows(state, times.telling(tell))
        norm, asked, planes = self.bound
        sizes = Sizes(norm)

        def pictures() -> Iterator[tuple[str, bytes]]:
            for row, picture, pixels in rows:
                new = repainted(picture, pixels)
                sizes.add(new.rgb[:planes].astype(np.int16) - picture.rgb[:planes])
                yield row.id, self.encoding.encode(new, row.name)

        with times.part("writing"):
            made = write_output(self.source, pictures(), place, self.format, frozenset(), self.encoding.suffix)
        spread = Spread.of(sizes.values)
        return {
            "seconds": times.seconds,
            "radius": {"norm": norm, "asked": asked, "measured": {"max": spread.most, "median": spread.median}},
            "surrogate": surrogate,
            "counts": {
                "input": len(self.source),
                "poisoned": len(sizes.values),
                "changed": int((sizes.values > 0).sum()),
            },
            **describe_rest(self.source, self.format, self.encoding.suffix)[0],
            "output fingerprint": made,
        }

    def closing(self, outcome: Mapping[str, Any]) -> Mapping[str, Any]:
        """What was made, and what to do with it."""
        radius, counts = outcome["radius"], outcome["counts"]
        resize = () if self.source.side is None else ("--resize", self.source.side)
        norm, asked = radius["norm"], radius["asked"]
        most, median = (length_in_words(norm, radius["measured"][name]) for name in ("max", "median"))
        bound = "unbounded" if asked is None else f"radius {length_in_words(norm, asked)}"
        return {
            "poisoned": f"{counts['changed']} of {counts['poisoned']} images in {self.out}",
            "change": f"{'Linf' if norm == 'none' else norm} {most} at most, {median} in the median ({bound})",
            "manifest": run_json(self.out),
            "next": to_copy("eclipse", "verify", self.out, "--clean", self.source.spec, *resize),
        }


@dataclass(frozen=True, eq=False)
class Craft(Poison):
    """A poisoning with an attack.

    Attributes:
        attack: which.
        name: as its user calls it.
        scale: ``paper`` or ``small``.
        seed: decides the poison.
        device: where a surrogate computes.
    """

    attack: Attack
    name: str
    scale: str
    seed: int
    device: str

    @property
    def origin(self) -> Mapping[str, Any]:
        """The attack, every field spelled out."""
        fields = all_fields(self.attack)
        return {
            "attack": {
                "name": self.name,
                "scale": self.scale,
                **ATTACKS.code(self.name),
                **self.attack.surrogate_code(),
                "norm": self.attack.norm,
                "radius": fields["radius"],
                "fields": fields,
            },
            "import": None,
            "seed": self.seed,
            "device": {"type": torch.device(self.device).type, "name": describe_device(self.device)},
        }

    @cached_property
    def inputs(self) -> Mapping[str, str]:
        """Of the clean set."""
        return {"input fingerprint": self.source.fingerprint()}

    @property
    def tied(self) -> Mapping[str, Any]:
        """The pixels, however they are stored, in place of the files."""
        return {**super().tied, "input fingerprint": self.clean.fingerprint()}

    def in_words(self) -> Mapping[str, Any]:
        """The settings, lengths in 8-bit levels."""
        settings = {name: value for name, value in self.settings.items() if value is not None}
        settings["attack"] = {name: settings["attack"][name] for name in ("name", "scale", "norm")}
        return {**settings, "parameters": {name: str(value) for name, value in parameters(self.attack).items()}}

    @property
    def levels(self) -> Collection[str]:
        """Those of the attack; its radius is told twice."""
        found = [parameter.path for parameter in parameters(self.attack).values() if parameter.levels]
        radius = {"attack radius"} if ("radius",) in found else set[str]()
        return radius | {" ".join(("attack fields", *path)) for path in found}

    @cached_property
    def clean(self) -> ImageSet:
        """All images in memory; with one channel where they are gray, so that their poison is made for one."""
        clean = load_imageset(self.source, "poisoning", BY_RESIZE)
        gray = next(self.source.rows()).picture().gray and bool((clean.images == clean.images[:, :1]).all())
        clean = clean.with_images(np.ascontiguousarray(clean.images[:, :1])) if gray else clean
        check_classes(type(self.attack).__name__, clean)
        return clean

    @cached_property
    def _cost(self) -> Cost | None:
        return expected_cost(self.attack, self.clean, Work(self.seed, self.device))

    def estimate(self) -> Mapping[str, Any] | None:
        """What the crafting will take; None where no network is needed."""
        return None if self._cost is None else self._cost.describe()

    def notes(self) -> list[str]:
        """What becomes of what is no image, and what the scale means, where there are two that differ."""
        return super().notes() + self._notes_of_scale()

    def _notes_of_scale(self) -> list[str]:
        if not self.attack.small:
            return []
        if self.scale == "small":
            return [f"scale small is not the published recipe: it has its own {', '.join(self.attack.small)}"]
        if self._cost is None or not self._cost.is_long():
            return []
        return [
            "that is long for a processor: --scale small is made for processors, and scale paper for a GPU; a crafting "
            "can be interrupted, the same command goes on with it"
        ]

    @property
    def bound(self) -> tuple[str, float | None, int]:
        """Those of the attack."""
        attack, shape = self.attack, self.clean.images.shape[1:]
        asked = None if math.isinf(attack.radius) else scaled_radius(attack.norm, attack.radius, shape)
        return attack.norm, asked, shape[0]

    def rows(self, state: State, tell: Tell) -> tuple[Poisoned, Any]:
        """Craft the poison for all images."""
        crafting = State(state.folder, lambda step: tell(replace(step, stage=f"crafting: {step.stage}")))
        work = Work(self.seed, self.device, crafting)
        surrogate = surrogate_of(self.attack, self.clean, work)
        poisoned = self.attack.craft(self.clean, work)
        return self._crafted(poisoned), None if surrogate is None else asdict(surrogate)

    def _crafted(self, poisoned: ImageSet) -> Poisoned:
        clean = self.clean
        for row, id, old, new in zip(self.source.rows(), clean.ids, clean.images, poisoned.images, strict=True):
            picture = row.picture()
            if row.id != id or not (picture.rgb == old).all():
                raise EclipseError(f"{row.name} has changed in the meantime; put the old one back and start again")
            yield row, picture, np.broadcast_to(new, picture.rgb.shape)


@dataclass(frozen=True, eq=False)
class Import(Poison):
    """A poisoning with what others have made.

    Attributes:
        spec: of the poison.
        imported: the poison.
    """

    spec: str
    imported: Imported

    @property
    def origin(self) -> Mapping[str, Any]:
        """Where the poison comes from."""
        return {"attack": None, "import": {"spec": self.spec, "kind": self.imported.kind, **self.imported.how}}

    @cached_property
    def inputs(self) -> Mapping[str, str]:
        """Of the clean set and of the poison."""
        return {"input fingerprint": self.source.fingerprint(), "import fingerprint": self.imported.fingerprint()}

    def in_words(self) -> Mapping[str, Any]:
        """The settings that there are."""
        return {name: value for name, value in self.settings.items() if value is not None}

    @property
    def bound(self) -> tuple[str, float | None, int]:
        """None that is known."""
        return "Linf", None, 3

    def rows(self, state: State, tell: Tell) -> tuple[Poisoned, None]:
        """Take the poison."""
        return self.imported.rows(self.source), None


def poison_job(
    dataset: str,
    out: Path,
    *,
    attack: str | None = None,
    imported: str | None = None,
    scale: str | None = None,
    settings: tuple[str, ...] = (),
    sign: int | None = None,
    unit: str | None = None,
    resize: int | None = None,
    seed: int = 0,
    device: str = "auto",
    format: str | None = None,
    image_format: str = "png",
    image_column: str | None = None,
    label_column: str | None = None,
) -> Poison:
    """Resolve a poisoning as its user asks for it, and refuse what cannot work.

    Args:
        dataset: the clean set, as a spec for ``open_source``.
        out: where the poisoned copy goes.
        attack: name of the attack; or
        imported: spec of images that others have poisoned, or the file of a perturbation.
        scale: ``paper`` or ``small``; None is ``paper``.
        settings: parameters of the attack that are to differ, as ``eps=4``.
        sign: 1 or -1, what a perturbation is multiplied with.
        unit: scale of a perturbation, a name in ``imported.UNITS``.
        resize: side of the squares that all images are made first; None for images as they are.
        seed: decides the poison.
        device: ``auto``, ``cpu`` or ``cuda``.
        format: of the output; None for that of its name (``out.npz``), or else of the input.
        image_format: of the images in it, ``png`` or ``webp``.
        image_column: the column with the images, where it cannot be told.
        label_column: the column with the labels.
    """
    if (attack is None) == (imported is None):
        given = "both were given" if attack else "neither was given"
        raise EclipseError(f"give either --attack or --import (a poison that others have made); {given}")
    if imported is not None and (scale or settings):
        raise EclipseError("--scale and --set are for --attack, and --import is made already; leave them out")
    if attack is not None and (sign or unit):
        raise EclipseError("--sign and --unit are for the perturbation of --import; leave them out")
    check_name(out)
    files = encoding(image_format)
    if files.quality is not None:
        raise EclipseError(
            f"--image-format {files} changes pixels after the poison was bounded, by more than most poisons do; "
            "expected png, or webp, which is smaller and loses nothing"
        )
    where = resolve_device(device)
    source = open_source(dataset, image_column=image_column, label_column=label_column, side=resize)
    format = named_format(source, out, format)
    if attack is not None:
        size = scale or "paper"
        return Craft(source, out, format, files, ATTACKS.asked(attack, size, settings), attack, size, seed, where)
    assert imported is not None
    found = open_imported(imported, source, sign, unit)
    if isinstance(found, PoisonedImages):
        check_apart(out, found.source, "imported images")
    return Import(source, out, format, files, imported, found)
