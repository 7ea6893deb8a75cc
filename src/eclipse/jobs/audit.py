"""``eclipse audit``: whether a data set looks poisoned, with what was measured and what to do next."""

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from eclipse.compute.device import describe_device, resolve_device
from eclipse.data.imageset import ImageSet
from eclipse.data.source import open_source
from eclipse.data.store import Row, Source
from eclipse.detectors.audit import Audit, audit, check_rows
from eclipse.detectors.pieces import SMALLEST, WHOLE, Look, most
from eclipse.diffusion.trusted import general_fingerprint
from eclipse.errors import EclipseError
from eclipse.jobs.job import Job, Tell
from eclipse.purification.arrays import purify
from eclipse.runs.files import check_name, write_json, write_whole
from eclipse.runs.manifest import Times
from eclipse.runs.state import State, Work

FINDINGS, ROWS, SUSPECTS = "audit.json", "rows.csv", "suspects"
_PLACES = 200  # of a data set that may be sorted by class
_FEW = 0.1  # share of images that may be smaller than the others, and are left out
_SHOWN = 24


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
    """

    source: Source
    trusted: Source | None
    out: Path
    rows: int | None
    seed: int
    device: str

    doing: ClassVar[str] = "auditing"
    free: ClassVar[frozenset[str]] = frozenset({"dataset spec", "trusted spec", "device name"})

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """What decides the result."""
        trusted = None if self.trusted is None else {"spec": self.trusted.spec, "images": len(self.trusted)}
        return {
            "dataset": {"spec": self.source.spec, "images": len(self.source)},
            "trusted": trusted,
            "rows": self.rows,
            "denoiser": general_fingerprint(),
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
            "looks at": f"{self.rows or most(WHOLE + 1):,} rows or more",
            "seed": self.seed,
            "device": describe_device(self.device),
        }

    def notes(self) -> list[str]:
        """What is odd about the data, and what is missing for a sure verdict."""
        notes = list(self.source.notes)
        if self.trusted is None:
            notes.append("without --trusted the harm of a poison to clean images cannot be measured")
        return notes

    def examine(self, state: State) -> tuple[Audit, ImageSet]:
        """Look at the data set; also returns the pieces that were looked at."""
        data, trusted = pieces(self.source, self.trusted, self.rows)
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
        return {"result": self.out / FINDINGS, "rows": self.out / ROWS, "next": f"eclipse report {self.out}"}


def pieces(source: Source, trusted: Source | None, rows: int | None) -> tuple[ImageSet, ImageSet | None]:
    """Pieces of the images of both sets, of one size.

    Args:
        source: a data set.
        trusted: clean images; None where there are none.
        rows: how many of each at most; None for what fits the time.

    Raises:
        EclipseError: too few images, or too small ones.
    """
    check_rows(len(source))
    sources = [source] if trusted is None else [source, trusted]
    taken = [_look(one, rows) for one in sources]
    side = min(int(np.quantile([look.side for _, look, _ in found], _FEW)) for found in taken)
    if side < SMALLEST:
        raise EclipseError(f"images of {side} pixels a side; expected {SMALLEST} and more: enlarge them")
    sets = [_pieces(found, side, one) for found, one in zip(taken, sources, strict=True)]
    return sets[0], None if trusted is None else sets[1]


def _look(source: Source, rows: int | None) -> list[tuple[str, Look, int | None]]:
    """Id, look and label of images at many places of a data set."""
    first = next(source.rows()).picture().rgb
    wanted = rows or most(min(first.shape[1:]))
    return [(row.id, Look.at(row.picture()), row.label) for row in _spread(source, wanted)]


def _spread(source: Source, wanted: int) -> Iterator[Row]:
    if len(source) <= wanted:
        yield from source.labelled()
        return
    size = max(1, wanted // _PLACES)
    for start in np.linspace(0, len(source) - size, wanted // size).round().astype(int).tolist():
        yield from islice(source.labelled(start), size)


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
) -> Auditing:
    """Resolve an audit as its user asks for it (see ``eclipse audit --help``), and refuse what cannot work."""
    check_name(out)
    columns: dict[str, Any] = {"image_column": image_column, "label_column": label_column, "longest": max_side}
    clean = None if trusted is None else open_source(trusted, **columns)
    return Auditing(open_source(dataset, **columns), clean, out, rows, seed, resolve_device(device))
