"""Verify a poisoned data set against the clean one: what was changed, and whether the bound of the attack holds."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice, pairwise
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eclipse.attacks import ATTACKS
from eclipse.attacks.crafting.perturbation import bound
from eclipse.data.changes import BANDS, NORMS, Change, Changes, Figures, length_in_words, size
from eclipse.data.convert import finder, rows_of_folder
from eclipse.data.picture import Picture, size_in_words
from eclipse.data.store import Row, Source, comparable_classes
from eclipse.errors import EclipseError, unknown
from eclipse.runs.files import read_json
from eclipse.runs.manifest import run_json
from eclipse.runs.state import Event, StageStep

_TOLD = 100  # rows after which progress is told
_TRUNCATED = -0.5  # mean shift in levels of a perturbation that was truncated where rounding leaves none
_SLACK = 1e-9  # of a norm that is compared with its bound, both in float64

# The part of an id that an output shares with its input, in layouts whose rows have names.
_NAMES: dict[str, Callable[[str], str]] = {
    "folder": lambda id: str(PurePosixPath(id).with_suffix("")),  # of another format than before
    "webdataset": lambda id: id.partition("/")[2],  # the shard may have another name
}


@dataclass(frozen=True)
class Bound:
    """What an attack promises of every change.

    Attributes:
        norm: ``Linf``, ``L2``, ``L0`` or ``none``.
        radius: as ``Attack.radius``: on the [0, 1] scale, L2 at 3x32x32, L0 in pixels; any for ``none``.
        origin: who promises it.
    """

    norm: str
    radius: float
    origin: str

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise unknown("norm", self.norm, NORMS)
        if not self.radius > 0:
            raise EclipseError(f"{self.norm} radius {self.radius:g}; expected more than 0")

    def allows(self, shape: tuple[int, ...]) -> float:
        """The largest norm of a change of shape (C, H, W) as it is stored."""
        return bound(self.norm, self.radius, shape)

    def __str__(self) -> str:
        radius = "" if self.norm == "none" else f" {length_in_words(self.norm, self.radius)}"
        size = " at 3x32x32" if self.norm == "L2" else ""
        return f"{self.norm}{radius}{size} ({self.origin})"


@dataclass(frozen=True)
class Problem:
    """Rows that are not as they must be.

    Attributes:
        kind: ``bound`` or ``labels``.
        rows: how many.
        first: the name of the first.
        what: all of it in one sentence.
    """

    kind: str
    rows: int
    first: str
    what: str


@dataclass(frozen=True)
class Verification(Figures):
    """What was found out about a poisoned set: the figures of its changes, and whether all is as it must be.

    Attributes:
        poisoned: where it is.
        clean: where the clean set is.
        images: rows compared.
        bound: what was to hold; None where nothing says.
        names_checked: whether rows have names, which then are the same in both sets.
        labels_checked: whether the clean set has labels to compare.
        problems: what is wrong; empty where all is well.
    """

    poisoned: str
    clean: str
    images: int
    bound: Bound | None
    names_checked: bool
    labels_checked: bool
    problems: tuple[Problem, ...]

    @property
    def holds(self) -> bool:
        """Whether labels are kept, and the bound, if there is one."""
        return not self.problems

    def describe(self) -> dict[str, Any]:
        """All findings in words, for people."""
        labels = "changed" if any(problem.kind == "labels" for problem in self.problems) else "kept"
        constancy = "not measured" if self.class_constancy is None else f"{self.class_constancy:.3f} (1 is class-wise)"
        return {
            "images": self.images,
            "bound": "not known" if self.bound is None else str(self.bound),
            "Linf in levels": self.linf.describe(0),
            "L2": self.l2.describe(3),
            "L0 in pixels": self.l0.describe(0),
            "mean shift": f"{self.shift:+.3f} levels",
            "clipped": f"{self.clipped:.2%} of the changed values are 0 or 255",
            "unchanged": f"{self.unchanged:.2%} of the images",
            "class-constancy": constancy,
            "spectrum": "not measured" if self.spectrum is None else _bands(self.spectrum),
            "labels": labels if self.labels_checked else "not checked",
            "order": "kept, by the names of the rows"
            if self.names_checked
            else "the rows have no names to check it by",
        }

    def notes(self) -> list[str]:
        """What the figures suggest without proving it, and what could not be checked."""
        found = []
        if self.bound is None:
            found.append("no bound is known; name the attack with --attack, or the bound with --norm and --radius")
        if self.unchanged == 1:
            found.append("nothing was changed at all")
        if abs(self.shift - _TRUNCATED) < 0.1:
            found.append(f"a mean shift of {self.shift:.2f} levels is what truncation leaves in place of rounding")
        if not self.labels_checked:
            found.append(f"{self.clean} has no labels, so those of {self.poisoned} could not be checked")
        return found

    def as_json(self) -> dict[str, Any]:
        """All findings as JSON knows them; an infinite radius is null."""
        found = asdict(self) | {"holds": self.holds}
        if self.bound is not None and math.isinf(self.bound.radius):
            found["bound"]["radius"] = None
        return found


def verify(
    poisoned: Source, clean: Source, bound: Bound | None = None, *, tell: Callable[[Event], None] = lambda event: None
) -> Verification:
    """Compare a poisoned data set with the clean one row by row, keeping a few numbers of each.

    Images may have different sizes. Where an image has one gray plane in both sets, that plane is compared. Now and
    then ``tell`` is told how many rows are done.

    Raises:
        EclipseError: the sets differ in length, or in the name or size of a row; an image cannot be read.
    """
    sets = (poisoned, clean)
    for compared in sets:
        compared.fingerprint()
    pairs, names_checked = paired(poisoned, clean, [range(len(clean))])
    changes, broken, relabelled = Changes(), _Rows("bound"), _Rows("labels")
    for done, (new, old) in enumerate(pairs, start=1):
        before, after = _planes(old, new)
        change = after.astype(np.int16) - before
        if bound is not None:
            broken.add(new, _breach(bound, change))
        if clean.has_labels:
            relabelled.add(new, _other_class(*comparable_classes(poisoned, new, clean, old)))
        changes.add(change, after, new.label if old.label is None else old.label)
        if done % _TOLD == 0 or done == len(clean):
            tell(StageStep("verifying", done, len(clean)))
    for compared in sets:
        compared.check_unchanged()
    return Verification(
        poisoned=poisoned.spec,
        clean=clean.spec,
        images=len(clean),
        bound=bound,
        names_checked=names_checked,
        labels_checked=clean.has_labels,
        problems=(
            *broken.problems(f"of {len(clean)} images break the bound {bound}"),
            *relabelled.problems(f"of {len(clean)} labels differ, and so may the order of the rows"),
        ),
        **vars(changes.figures()),
    )


def paired(poisoned: Source, clean: Source, places: Sequence[range]) -> tuple[Iterator[tuple[Row, Row]], bool]:
    """The rows of a poisoned set at some places, each with the clean one.

    A folder that was made of rows in another layout is paired by its names, all else by the order.

    Returns:
        The pairs, and whether rows have names that tell that they belong together.

    Raises:
        EclipseError: the sets differ in length; or, on the way, in the name of a row.
    """
    if len(poisoned) != len(clean):
        raise EclipseError(
            f"{poisoned.spec} has {len(poisoned)} images and {clean.spec} has {len(clean)}; expected the set that was "
            "poisoned, or the same slice of it"
        )
    name = _NAMES.get(clean.layout) if poisoned.layout == clean.layout else None
    find = None if rows_of_folder(poisoned, clean) is None else finder(poisoned, clean)

    def pairs() -> Iterator[tuple[Row, Row]]:
        for place in places:
            for old, new in _beside(poisoned, clean, place, find):
                if name is not None and name(new.id) != name(old.id):
                    raise EclipseError(
                        f"{new.name} stands in {poisoned.spec} where {clean.spec} has {old.name}; expected the same "
                        "images in the same order"
                    )
                yield new, old

    return pairs(), name is not None or find is not None


def _beside(
    poisoned: Source, clean: Source, place: range, find: Callable[[str], Row] | None
) -> Iterable[tuple[Row, Row]]:
    olds = islice(clean.labelled(place.start), len(place))
    if find is None:
        return zip(olds, poisoned.labelled(place.start), strict=False)  # which has more rows than a place
    return ((old, find(old.id)) for old in olds)


def pictures(old: Row, new: Row) -> tuple[Picture, Picture]:
    """Both images, of one size."""
    before, after = old.picture(), new.picture()
    if before.rgb.shape != after.rgb.shape:
        raise EclipseError(
            f"{new.name} is {size_in_words(after.rgb)} and {old.name} is {size_in_words(before.rgb)}; expected images "
            "of the same size, as poisoning leaves it"
        )
    return before, after


def _planes(old: Row, new: Row) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The color planes of both images: one where both have a single gray one, else three."""
    before, after = pictures(old, new)
    planes = slice(1 if before.gray and after.gray else 3)
    return before.rgb[planes], after.rgb[planes]


def _breach(bound: Bound, change: Change) -> str | None:
    """How a change breaks a bound; None where it does not."""
    found, allowed = float(size(change[None], bound.norm)[0]), bound.allows(change.shape)
    if found <= allowed + _SLACK:
        return None
    had, limit = (length_in_words(bound.norm, value) for value in (found, allowed))
    return f"with {had}, where rounding allows {limit} at most"


def _other_class(found: str | int | None, expected: str | int | None) -> str | None:
    """Which class a row has got and had; None where they are the same."""
    return None if found == expected else f"with {found} instead of {expected}"


class _Rows:
    """Rows with a problem of one kind, of which the first is kept."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._count = 0
        self._first = self._what = ""

    def add(self, row: Row, what: str | None) -> None:
        """Count a row, unless there is nothing wrong with it."""
        if what is None:
            return
        if not self._count:
            self._first, self._what = row.name, what
        self._count += 1

    def problems(self, words: str) -> list[Problem]:
        sentence = f"{self._count} {words}: the first is {self._first} {self._what}"
        return [Problem(self._kind, self._count, self._first, sentence)] if self._count else []


def resolve_bound(
    poisoned: Source,
    *,
    attack: str | None = None,
    scale: str | None = None,
    settings: Sequence[str] = (),
    norm: str | None = None,
    radius: float | None = None,
) -> Bound | None:
    """The bound that a poisoned set is to keep.

    Args:
        poisoned: the set; its manifest tells where nothing else is given.
        attack: the name of the attack that made it.
        scale: of the attack.
        settings: parameters of the attack that differ, such as ``eps=4``.
        norm: a bound without an attack, with
        radius: in 8-bit levels for Linf, in pixels for L0, else on the [0, 1] scale.

    Returns:
        None where nothing is given and there is no manifest of an attack.

    Raises:
        EclipseError: options that do not go together, or a manifest that cannot be read.
    """
    if attack is None and (scale or settings):
        raise EclipseError("--scale and --set are of an attack, and none is given; name it with --attack")
    if attack is not None and (norm is not None or radius is not None):
        raise EclipseError(f"--attack {attack} has a norm and a radius; leave --norm and --radius out, or --attack")
    if attack is not None:
        made = ATTACKS.asked(attack, scale or "paper", settings)
        return Bound(made.norm, made.radius, attack)
    if norm is None and radius is None:
        return _recorded(poisoned)
    if norm is None or (radius is None and norm != "none"):
        raise EclipseError(f"--{'radius' if norm is None else 'norm'} alone is no bound; give --norm and --radius")
    if radius is None:
        return Bound(norm, math.inf, "as given")
    return Bound(norm, radius / 255 if norm == "Linf" else radius, "as given")


def _recorded(poisoned: Source) -> Bound | None:
    """The bound in the manifest beside a set; None where there is none of an attack."""
    if poisoned.root is None or not run_json(poisoned.root).exists():
        return None
    path = run_json(poisoned.root)
    try:
        attack = read_json(path)["settings"].get("attack")
        if attack is None:
            return None
        radius = math.inf if attack["norm"] == "none" else float(attack["radius"])
        return Bound(str(attack["norm"]), radius, str(attack["name"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EclipseError(
            f"{path} is not a manifest that 'eclipse poison' wrote; name the attack with --attack, or the bound with "
            "--norm and --radius"
        ) from error


def _bands(shares: Sequence[float]) -> str:
    names = [f"r<{BANDS[0]}", *(f"{low}-{high}" for low, high in pairwise(BANDS)), f">={BANDS[-1]}"]
    parts = ", ".join(f"{name} {share:.2f}" for name, share in zip(names, shares, strict=True))
    return f"{parts} cycles per 32 pixels"
