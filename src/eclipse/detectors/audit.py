"""The verdict: what all detectors together say of a set, at a stated level of false alarms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eclipse.compute.randomness import some_rows
from eclipse.data.imageset import ImageSet
from eclipse.data.overlap import note_of_shared, refuse_if_all, rows_shared
from eclipse.detectors import DETECTORS
from eclipse.detectors.detector import Finding
from eclipse.detectors.evidence import Evidence
from eclipse.detectors.pieces import most, pieces
from eclipse.errors import EclipseError
from eclipse.runs.state import Work

LEVEL = 0.01
"""The share of clean sets that all detectors together may call suspicious."""
FEWEST = 200
"""Rows, below which no verdict is given."""


@dataclass(frozen=True, eq=False)
class Audit:
    """What was found in a set.

    Attributes:
        images: how many there are.
        ids: of the rows that were looked at.
        findings: by the name of the detector; those that could say something.
        skipped: by the name of the others, what they miss.
        level: the share of clean sets that are called suspicious.
        notes: what is odd about the data.
    """

    images: int
    ids: tuple[str, ...]
    findings: Mapping[str, Finding]
    skipped: Mapping[str, str]
    level: float = LEVEL
    notes: tuple[str, ...] = ()

    @property
    def found(self) -> tuple[str, ...]:
        """The detectors whose findings are significant, the number of detectors counted; the clearest first."""
        bound = self.level / max(1, len(self.findings))
        names = [name for name, finding in self.findings.items() if finding.p_value < bound]
        return tuple(sorted(names, key=lambda name: -self.findings[name].z))

    @property
    def implicating(self) -> tuple[str, ...]:
        """Those of ``found`` that have to do with labels."""
        return tuple(name for name in self.found if DETECTORS.load(name).implicates)

    @property
    def suspicious(self) -> bool:
        """Whether any finding has to do with labels."""
        return bool(self.implicating)

    @property
    def family(self) -> str | None:
        """The likely kind of poison; ``unknown`` where findings point at none, None where nothing was found."""
        if not self.suspicious:
            return None
        return next((family for name in self.implicating if (family := self.findings[name].family)), "unknown")

    @property
    def share(self) -> tuple[float, float] | None:
        """The least and the largest share of rows that the clearest reading allows; None where rows are alike."""
        return next((share for name in self.implicating if (share := self.findings[name].share) is not None), None)

    @property
    def suspicion(self) -> NDArray[np.float64]:
        """Of each row that was looked at, in [0, 1], how much speaks for its being poisoned."""
        found = (scores for name in self.implicating if (scores := self.findings[name].scores) is not None)
        return next(found, np.full(len(self.ids), float(self.suspicious)))

    @property
    def verdict(self) -> str:
        """In one line."""
        if self.implicating:
            return f"suspicious: {self.findings[self.implicating[0]].words}"
        if not self.findings:
            return "no verdict: nothing could be measured"
        if self.found:
            return f"nothing that has to do with labels was found; but {self.findings[self.found[0]].words}"
        return "nothing found"

    def issues(self) -> dict[str, list[Any]]:
        """One value a row that was looked at, as columns of a frame; those of poison named and turned as cleanlab's.

        ``poison_score`` is small where a row is likely poisoned.
        """
        return {
            "id": list(self.ids),
            "is_poison_issue": self.flags.tolist(),
            "poison_score": (1 - self.suspicion).round(4).tolist(),
        }

    @property
    def flags(self) -> NDArray[np.bool_]:
        """Which rows are likely poisoned: as many of the most suspicious as the estimated share."""
        flags = np.full(len(self.ids), self.suspicious)
        if self.suspicious and self.share is not None:
            flags[np.argsort(-self.suspicion, kind="stable")[round(sum(self.share) / 2 * len(flags)) :]] = False
        return flags

    def to_dict(self) -> dict[str, Any]:
        """All of it but the rows, as JSON has it."""
        return {
            "verdict": self.verdict,
            "suspicious": self.suspicious,
            "found": list(self.found),
            "family": self.family,
            "share": self.share,
            "level": self.level,
            "images": self.images,
            "looked at": len(self.ids),
            "findings": {name: finding.to_dict() for name, finding in self.findings.items()},
            "skipped": dict(self.skipped),
            "notes": list(self.notes),
        }

    def _repr_html_(self) -> str:
        """For notebooks."""
        from html import escape

        rows = "".join(
            f"<tr><td>{escape(name)}</td><td>{escape(finding.words)}</td><td>{finding.p_value:.2g}</td></tr>"
            for name, finding in self.findings.items()
        )
        head = "<tr><th>detector</th><th>what was seen</th><th>p</th></tr>"
        return f"<p><b>{escape(self.verdict)}</b></p><table>{head}{rows}</table>"


def audit(
    images: ImageSet | NDArray[np.uint8],
    labels: NDArray[np.integer] | Sequence[int] | None = None,
    trusted: ImageSet | NDArray[np.uint8] | None = None,
    *,
    work: Work | None = None,
    detectors: Sequence[str] | None = None,
    total: int | None = None,
) -> Audit:
    """Say whether a set looks poisoned.

    Args:
        images: uint8 (N, C, H, W), or a set with its labels.
        labels: the class of each image, (N,); without them little can be said.
        trusted: clean images of the same size, with labels if there are any; not images of the set.
        work: its seed decides which rows are looked at, and the networks; by default seed 0 on the processor.
        detectors: names in ``DETECTORS``; all by default.
        total: images of the data set that these were taken from; their number by default.

    Raises:
        EclipseError: fewer than 200 images, a single class, labels that are all different, trusted images of another
            size or from the set: what no verdict can be given on.
    """
    work = work or Work()
    data = images if isinstance(images, ImageSet) else ImageSet.from_arrays(images, labels)
    clean = trusted if isinstance(trusted, ImageSet) or trusted is None else ImageSet.from_arrays(trusted)
    notes = list[str]()
    check_rows(len(data))
    if clean is not None:
        clean, notes = _apart(data, clean)  # from all rows, not only those that are looked at
        clean = clean.with_images(pieces(clean.images))
    if total is None:
        total, data = len(data), data[sampled(len(data), min(data.images.shape[2:]), work.seed)]
    data = data.with_images(pieces(data.images))
    evidence = Evidence(numbered(data), clean and _numbered_like(data, clean), work)
    has = {name for name, there in (("labels", data.labels), ("trusted", clean)) if there is not None}
    if (data.images == data.images[:1]).all():
        raise EclipseError("all images are alike; expected images that differ: nothing can be read in them")
    findings, skipped = dict[str, Finding](), dict[str, str]()
    names = detectors or DETECTORS.names()
    for name in names:
        detector = DETECTORS.load(name)
        if missing := sorted(detector.needs - has):
            skipped[name] = f"needs {' and '.join(missing)}"
            continue
        try:
            with DETECTORS.blaming(name):
                findings[name] = detector().examine(evidence)
        except EclipseError as error:
            if DETECTORS.entry(name).ours:
                raise
            skipped[name] = str(error)
        work.state.tell("detectors", len(findings) + len(skipped), len(names))
    return Audit(total, data.ids, findings, skipped, notes=tuple(notes))


def check_rows(count: int) -> None:
    """Refuse a set that is too small for a verdict."""
    if count < FEWEST:
        raise EclipseError(
            f"{count} images; expected at least {FEWEST}: of fewer no verdict can be given, look at them by eye"
        )


def sampled(total: int, side: int, seed: int) -> NDArray[np.intp]:
    """The rows to look at, of images whose shorter side has so many pixels, in order."""
    return some_rows(total, max(FEWEST, most(side)), seed)


def _apart(data: ImageSet, trusted: ImageSet) -> tuple[ImageSet, list[str]]:
    """Trusted images that are not in the set, and a note where some are."""
    if trusted.images.shape[1:] != data.images.shape[1:]:
        sizes = ["x".join(map(str, images.images.shape[1:])) for images in (trusted, data)]
        raise EclipseError(f"trusted images of {sizes[0]} and suspicious ones of {sizes[1]}; expected one size")
    own = ~rows_shared(data, trusted)
    refuse_if_all(int((~own).sum()), len(trusted), "the set", "this audit")
    return trusted[np.flatnonzero(own)], note_of_shared(int((~own).sum()), len(trusted))


def numbered(data: ImageSet) -> ImageSet:
    """The same rows with labels from 0 on without gaps, so that networks have an output for each class that is there.

    Raises:
        EclipseError: a single class, or as many as rows.
    """
    if data.labels is None:
        return data
    present, labels = np.unique(data.require_labels("an audit"), return_inverse=True)
    if len(present) < 2:
        raise EclipseError("all images have one class; expected at least 2: what tells classes apart cannot be seen")
    if len(present) > len(data) / _FEWEST_OF_CLASS:
        raise EclipseError(
            f"{len(present):,} classes in {len(data):,} rows; expected at least {_FEWEST_OF_CLASS} rows a class: "
            "labels that tell every image apart are no classes"
        )
    # Names also where there were none: a half of the rows that lacks the last class must not count one class less.
    names = tuple(str(i) if data.class_names is None else data.class_names[i] for i in present.tolist())
    return ImageSet(data.images, data.ids, labels.astype(np.int64), names)


def _numbered_like(data: ImageSet, trusted: ImageSet) -> ImageSet:
    """Trusted images with the numbers of ``numbered``; those of classes that the data do not have are left out."""
    if data.labels is None or trusted.labels is None:
        return trusted
    present = np.unique(data.labels)
    known = trusted[np.flatnonzero(np.isin(trusted.labels, present))]
    if not len(known):
        return replace(trusted, labels=None)
    assert known.labels is not None
    return replace(known, labels=np.searchsorted(present, known.labels).astype(np.int64), class_names=None)


_FEWEST_OF_CLASS = 4
