"""``eclipse audit``: whether a data set looks poisoned, with what was measured and what to do next."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from eclipse.compute.device import describe_device, resolve_device
from eclipse.data.imageset import ImageSet
from eclipse.data.source import asked_columns, open_source
from eclipse.data.store import Row, Source, comparable_names
from eclipse.detectors import DETECTORS
from eclipse.detectors.audit import FEWEST, Audit, audit, check_rows
from eclipse.detectors.pieces import SMALLEST, Look, most, places
from eclipse.diffusion.trusted import general_fingerprint
from eclipse.errors import EclipseError
from eclipse.jobs.job import Job, Tell
from eclipse.purification.arrays import purify
from eclipse.runs.files import check_name, write_json, write_whole
from eclipse.runs.manifest import Times, to_copy
from eclipse.runs.state import State, Work

FINDINGS, ROWS, SUSPECTS = "audit.json", "rows.csv", "suspects"
_PLACES = 200  # of a data set that may be sorted by class
_FEW = 0.1  # share of images that may be smaller than the others, and are left out
_SHOWN = 24
_SMALLEST_P = 1e-6


@dataclass(frozen=True, eq=False)
class Auditing(Job):
    """An audit, resolved.

    Attributes:
        source: the data set.
        trusted: clean images; None where there are none.
        out: the folder of the result.
        rows: how many are looked at, at most; None for what fits the time.
        seed: decides which rows, and the networks.
        device: where to compute.
        skip_bad: leave unreadable images out.
        columns: of a table that were asked for, ``image column`` and ``label column``.
    """

    source: Source
    trusted: Source | None
    out: Path
    rows: int | None
    seed: int
    device: str
    skip_bad: bool = False
    columns: Mapping[str, str] = field(default_factory=dict)

    doing: ClassVar[str] = "auditing"
    free: ClassVar[frozenset[str]] = frozenset({"dataset spec", "trusted spec", "device name"})

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """What decides the result."""
        trusted = None if self.trusted is None else {"spec": self.trusted.spec, "images": len(self.trusted)}
        return {
            "dataset": {"spec": self.source.spec, "images": len(self.source), **self.columns},
            "trusted": trusted,
            "rows": self.rows,
            "skip-bad": self.skip_bad,
            "denoiser": general_fingerprint(),
            "detectors": {name: DETECTORS.code(name).get("code", "") for name in DETECTORS.foreign()} or None,
            "seed": self.seed,
            "device": {"type": self.device.partition(":")[0], "name": describe_device(self.device)},
        }

    @cached_property
    def inputs(self) -> Mapping[str, str]:
        """Of the data set and of the trusted images."""
        sets = {"dataset": self.source, "trusted": self.trusted}
        return {f"{name} fingerprint": source.fingerprint() for name, source in sets.items() if source is not None}

    def in_words(self) -> Mapping[str, Any]:
        """What to tell the user before work starts."""
        trusted = "none" if self.trusted is None else f"{self.trusted.spec}, {len(self.trusted):,} images"
        return {
            "data set": f"{self.source.spec}, {len(self.source):,} images",
            "trusted": trusted,
            "looks at": f"at most {min(self.rows or _affordable(self.source), len(self.source)):,} images of each",
            "seed": self.seed,
            "device": describe_device(self.device),
        }

    def notes(self) -> list[str]:
        """What is odd about the data, and what is missing for a sure verdict."""
        notes = list(self.source.notes)
        if not self.source.has_labels:
            notes.append(f"without labels nothing that has to do with them can be found: {self.source.unlabelled}")
        if self.trusted is None:
            notes.append("without --trusted the harm of a poison to clean images cannot be measured")
            return notes
        return notes + note_of_classes(self.source, self.trusted)

    def examine(self, state: State) -> tuple[Audit, ImageSet]:
        """Look at the data set; also returns the pieces that were looked at."""
        data, trusted = pieces(self.source, self.trusted, self.rows, self.skip_bad)
        return audit(data, trusted=trusted, total=len(self.source), work=Work(self.seed, self.device, state)), data

    def work(self, state: State, tell: Tell, place: Path) -> dict[str, Any]:
        """Audit, and write what was found, the rows, and the most suspicious ones as pictures."""
        assert state.folder is not None
        times = Times(state.folder)
        with times.part("audit"):
            found, data = self.examine(State(state.folder / "audit", times.telling(tell)))
        place.mkdir()
        write_json(place / FINDINGS, found.to_dict())
        write_whole(place / ROWS, _table(found).encode())
        shown = np.argsort(-np.asarray(found.suspicion), kind="stable")[:_SHOWN]
        suspects = data[shown]
        suspects.save(place / f"{SUSPECTS}.npz")
        purified = purify(suspects.images, seed=self.seed, ids=suspects.ids, device=self.device)
        suspects.with_images(purified).save(place / f"{SUSPECTS}-purified.npz")
        return {"audit": found.to_dict(), "seconds": times.seconds}

    def closing(self, outcome: Mapping[str, Any]) -> Mapping[str, Any]:
        """Where the result is."""
        return {"result": self.out / FINDINGS, "rows": self.out / ROWS, "page": to_copy("eclipse", "report", self.out)}


def is_able(found: Mapping[str, Any]) -> bool:
    """Whether a detector whose finding would make the set suspicious had what it needs."""
    return any(DETECTORS.load(name).implicates for name in found["findings"])


def judged(name: str, found: Mapping[str, Any]) -> str:
    """What the answer of a detector comes to."""
    if name not in found["found"]:
        return "not found"
    return "found" if DETECTORS.load(name).implicates else "different"


def share_in_words(share: Sequence[float]) -> str:
    """How many rows are poisoned, from the least to the largest share that was estimated."""
    least, largest = (f"{bound:.0%}" for bound in share)
    return least if least == largest else f"{least} to {largest}"


def p_in_words(p: float) -> str:
    """A p-value, without the digits of tails that no normal distribution describes."""
    return f"{p:.1g}" if p >= _SMALLEST_P else f"< {_SMALLEST_P:g}"


def next_command(dataset: str, trusted: str | None) -> str:
    """The command to go on with where a set is suspicious: a treatment is chosen where trusted images can judge it."""
    if trusted is None:
        return to_copy("eclipse", "purify", dataset, "--out", "PURIFIED")
    return to_copy("eclipse", "choose", dataset, "--trusted", trusted, "--out", "CHOICE")


def pieces(
    source: Source, trusted: Source | None, rows: int | None, skip_bad: bool = False
) -> tuple[ImageSet, ImageSet | None]:
    """Pieces of the images of both sets, of one size; trusted ones have labels where the classes are the same.

    Args:
        source: a data set.
        trusted: clean images; None where there are none.
        rows: how many of each at most; None for what fits the time.
        skip_bad: leave unreadable images out.

    Raises:
        EclipseError: too few images, or too small ones.
    """
    check_rows(len(source))
    sources = [source] if trusted is None else [source, trusted]
    taken = [_look(one, rows, skip_bad) for one in sources]
    check_rows(len(taken[0]))
    few = 0.0 if (1 - _FEW) * len(taken[0]) < FEWEST else _FEW
    side = min(int(np.quantile([look.side for _, look, _ in found], few)) for found in taken)
    if side < SMALLEST:
        raise EclipseError(f"images of {side} pixels a side; expected {SMALLEST} and more: enlarge them")
    sets = [_pieces(found, side, one) for found, one in zip(taken, sources, strict=True)]
    return sets[0], None if trusted is None else _same_classes(*sets)


def note_of_classes(source: Source, trusted: Source) -> list[str]:
    """A note where the labels of trusted images cannot be used, since they are of other classes."""
    if not (source.has_labels and trusted.has_labels) or _numbers(source.class_names, trusted.class_names) is not None:
        return []
    return [f"the classes of {trusted.spec} are not those of {source.spec}, so its labels are left out"]


def _same_classes(data: ImageSet, trusted: ImageSet) -> ImageSet:
    """The trusted images, with the labels that the data set has for their classes, or with none."""
    without = replace(trusted, labels=None, class_names=None)
    numbers = _numbers(data.class_names, trusted.class_names)
    if data.labels is None or trusted.labels is None or numbers is None:
        return without
    if data.class_names is None:
        return trusted if trusted.num_classes <= data.num_classes else without
    return replace(trusted, labels=np.array(numbers, np.int64)[trusted.labels], class_names=data.class_names)


def _numbers(ours: tuple[str, ...] | None, theirs: tuple[str, ...] | None) -> list[int] | None:
    """Our number of each of their classes, by name; None where one is not among ours."""
    if ours is None or theirs is None:
        return [] if ours is theirs else None
    known = {name: i for i, name in enumerate(comparable_names(ours))}
    names = comparable_names(theirs)
    return [known[name] for name in names] if known.keys() >= set(names) else None


def _affordable(source: Source) -> int:
    """How many images fit the time, if all have the size of the first that can be read."""
    for row in source.rows():
        with suppress(EclipseError):
            return most(min(row.picture().rgb.shape[1:]))
    raise EclipseError(f"{source.spec}: none of its {len(source)} images can be read")


def _look(source: Source, rows: int | None, skip_bad: bool) -> list[tuple[str, Look, int | None]]:
    """Id, look and label of images at many places of a data set."""
    found = list[tuple[str, Look, int | None]]()
    for row in _spread(source, rows or _affordable(source)):
        try:
            found.append((row.id, Look.at(row.picture()), row.label))
        except EclipseError as error:
            if not skip_bad:
                raise EclipseError(f"{error}; --skip-bad leaves such images out") from error
    if not found:
        raise EclipseError(f"{source.spec}: none of the images that were looked at can be read")
    return found


def _spread(source: Source, wanted: int) -> Iterator[Row]:
    for place in places(len(source), wanted, _PLACES):
        yield from islice(source.labelled(place.start), len(place))


def _pieces(rows: list[tuple[str, Look, int | None]], side: int, source: Source) -> ImageSet:
    """One size, and labels where every row has one; smaller images are left out."""
    fitting = [(id, look.piece(side), label) for id, look, label in rows if look.side >= side]
    ids, images, labels = zip(*fitting, strict=True)
    known = source.has_labels and None not in labels
    return ImageSet(
        np.stack(images),
        ids,
        np.array(labels, np.int64) if known else None,
        source.class_names if known else None,
        source.unlabelled,
    )


def _table(found: Audit) -> str:
    """One line a row that was looked at."""
    columns = found.issues()
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return file.getvalue()


def audit_job(
    dataset: str,
    out: Path,
    *,
    trusted: str | None = None,
    rows: int | None = None,
    seed: int = 0,
    device: str = "auto",
    image_column: str | None = None,
    label_column: str | None = None,
    max_side: int | None = None,
    skip_bad: bool = False,
) -> Auditing:
    """Resolve an audit as its user asks for it (see ``eclipse audit --help``), and refuse what cannot work."""
    check_name(out)
    asked: dict[str, Any] = {"image_column": image_column, "label_column": label_column}
    source = open_source(dataset, **asked, longest=max_side)
    check_rows(len(source))
    if trusted is None and not source.has_labels:
        raise EclipseError(f"an audit needs labels, or trusted images to compare with, and {source.unlabelled}")
    clean = None if trusted is None else open_trusted(trusted, max_side=max_side, **asked)
    columns = asked_columns(image_column, label_column)
    return Auditing(source, clean, out, rows, seed, resolve_device(device), skip_bad, columns)


def open_trusted(
    spec: str, *, image_column: str | None, label_column: str | None, max_side: int | None = None
) -> Source:
    """Open trusted images, whose labels are wanted but not needed.

    Raises:
        EclipseError: there is no such data set.
    """
    columns: dict[str, Any] = {"image_column": image_column, "longest": max_side}
    if label_column is None:
        return open_source(spec, **columns)
    try:
        return open_source(spec, **columns, label_column=label_column)
    except EclipseError:  # a column that the data set has, and these do not
        return open_source(spec, **columns)
