"""``eclipse explain``: how noise absorbs a perturbation that is known, and what a purification leaves of it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from eclipse.compute.device import describe_device, resolve_device
from eclipse.compute.randomness import normal_like
from eclipse.data.imageset import ImageSet
from eclipse.data.picture import Pixels, middle
from eclipse.data.source import asked_columns, open_source
from eclipse.data.store import Source
from eclipse.detectors.audit import FEWEST
from eclipse.detectors.evidence import Evidence, ridge
from eclipse.detectors.features import flat, spectrum
from eclipse.detectors.pieces import SMALLEST, places
from eclipse.diffusion.trusted import general_fingerprint
from eclipse.errors import EclipseError
from eclipse.jobs.canary import share_left
from eclipse.jobs.job import Job, Tell
from eclipse.jobs.preview import LEVELS
from eclipse.jobs.verify import paired, pictures
from eclipse.purification.arrays import purify
from eclipse.runs.files import check_name, write_json
from eclipse.runs.manifest import Times
from eclipse.runs.state import State, Work

FOUND, STRIPS = "explain.json", ("clean", "poisoned", "noised", "purified", "purified-clean")
NOISE = (2.0, 4.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0)
"""The ladder of noise, in 8-bit levels."""
ROWS, PLACES = 1000, 40
"""Of 32x32 pixels that are looked at, and how many places of the set they are from, which may be sorted by class."""
SHOWN = 6
SIDE = 64  # of the piece from the middle of a larger image

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Explain(Job):
    """An explanation, resolved.

    Attributes:
        poisoned: the poisoned set.
        clean: the same images before.
        out: the folder of the result.
        rows: how many are looked at, at most; None for what fits the time.
        seed: decides the noise.
        device: where to purify.
        columns: of a table that were asked for, ``image column`` and ``label column``.
    """

    poisoned: Source
    clean: Source
    out: Path
    rows: int | None
    seed: int
    device: str
    columns: Mapping[str, str] = field(default_factory=dict)

    doing: ClassVar[str] = "explaining"
    free: ClassVar[frozenset[str]] = frozenset({"dataset spec", "clean spec", "device name"})

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """What decides the result."""
        return {
            "dataset": {"spec": self.poisoned.spec, "images": len(self.poisoned), **self.columns},
            "clean": {"spec": self.clean.spec, "images": len(self.clean)},
            "rows": self.rows,
            "denoiser": general_fingerprint(),
            "seed": self.seed,
            "device": {"type": self.device.partition(":")[0], "name": describe_device(self.device)},
        }

    @cached_property
    def inputs(self) -> Mapping[str, str]:
        """Of both sets."""
        sources = {"dataset": self.poisoned, "clean": self.clean}
        return {f"{name} fingerprint": source.fingerprint() for name, source in sources.items()}

    def in_words(self) -> Mapping[str, Any]:
        """What to tell the user before work starts."""
        return {
            "data set": f"{self.poisoned.spec}, {len(self.poisoned):,} images",
            "clean": self.clean.spec,
            "looks at": f"{ROWS:,} rows of 32x32, fewer larger ones" if self.rows is None else f"{self.rows:,} rows",
            "seed": self.seed,
            "device": describe_device(self.device),
        }

    def notes(self) -> list[str]:
        """What is odd about the data."""
        return list(self.poisoned.notes)

    def work(self, state: State, tell: Tell, place: Path) -> dict[str, Any]:
        """Measure, and write the figures and the images that the page shows."""
        assert state.folder is not None
        times = Times(state.folder)
        with times.part("explanation"):
            kept = State(state.folder / "purified", times.telling(tell))
            pair = sample(self.poisoned, self.clean, self.rows)
            found, strips = explain(pair, Work(self.seed, self.device, kept))
        place.mkdir()
        write_json(place / FOUND, {"images": len(self.clean), **found})
        for name, images in strips.items():
            images.save(place / f"{name}.npz")
        return {"explanation": found, "seconds": times.seconds}

    def closing(self, outcome: Mapping[str, Any]) -> Mapping[str, Any]:
        """The main figures, and where the others are."""
        found = outcome["explanation"]
        left = ", ".join(f"{level['left']:.2f} at {level['sigma']:g}/255" for level in found["purified"])
        return {
            "perturbation": f"{found['largest']:.0f} levels at most, L2 {found['length']:.2f}",
            "left by part A": left,
            "labels read": found["unread"] or _read_in_words(found),
            "result": self.out / FOUND,
            "next": f"eclipse report {self.out}",
        }


def _read_in_words(found: Mapping[str, Any]) -> str:
    last = found["noise"][-1]
    return (
        f"{found['noise'][0]['read']['perturbation']:.0%} in the perturbation under noise of "
        f"{found['noise'][0]['sigma']:g}/255, {last['read']['perturbation']:.0%} under {last['sigma']:g}/255 "
        f"({found['chance']:.0%} is chance)"
    )


@dataclass(frozen=True, eq=False)
class Pair:
    """Images before and after poisoning, of one size.

    Attributes:
        clean: the images before, with labels where there are any.
        poisoned: the same rows after.
    """

    clean: ImageSet
    poisoned: ImageSet


def sample(poisoned: Source, clean: Source, rows: int | None) -> Pair:
    """Rows spread over both sets; of larger images the middle.

    Args:
        poisoned: the poisoned set.
        clean: the same images before.
        rows: how many at most; None for what fits the time.

    Raises:
        EclipseError: the sets do not belong together, nothing was changed, or the images are too small.
    """
    ids, before, after, labels = list[str](), list[Pixels](), list[Pixels](), list[int | None]()
    for new, old in paired(poisoned, clean, _places(clean, rows))[0]:
        x, y = (middle(picture.rgb, SIDE) for picture in pictures(old, new))
        ids.append(old.id)
        before.append(x)
        after.append(y)
        labels.append(new.label if old.label is None else old.label)
    side = min(SIDE, int(np.quantile([min(x.shape[1:]) for x in before], 0.1)))  # a few may be smaller
    if side < SMALLEST:
        raise EclipseError(f"images of {side} pixels a side; expected {SMALLEST} and more: enlarge them")
    fitting = [i for i, x in enumerate(before) if min(x.shape[1:]) >= side]
    known = None if None in labels else np.array([labels[i] for i in fitting], np.int64)
    named = clean.class_names if clean.has_labels else poisoned.class_names
    images = np.stack([middle(before[i], side) for i in fitting])
    first = ImageSet(
        images, tuple(ids[i] for i in fitting), known, None if known is None else named, poisoned.unlabelled
    )
    second = first.with_images(np.stack([middle(after[i], side) for i in fitting]))
    if (first.images == second.images).all():
        raise EclipseError(
            f"{poisoned.spec} and {clean.spec} have the same pixels in all {len(first):,} rows that were looked at; "
            "expected a poisoned set and its images before"
        )
    return Pair(first, second)


def _places(source: Source, rows: int | None) -> list[range]:
    side = min(SIDE, *next(source.rows()).picture().rgb.shape[1:])
    most = rows or max(FEWEST, ROWS * 32 * 32 // side**2)
    return places(len(source), most, PLACES)


def explain(pair: Pair, work: Work) -> tuple[dict[str, Any], dict[str, ImageSet]]:
    """Measure what noise, and a purification, leave of a perturbation.

    Returns:
        The figures, for JSON, and the images that are shown, by name.
    """
    clean, poisoned = pair.clean, pair.poisoned
    probe = _Probe.of(clean, work)
    delta = poisoned.images.astype(np.float32) - clean.images
    noise = normal_like(work.seed, clean.ids, 0, clean.images.shape[1:], "explain")
    length = np.sqrt((delta.astype(np.float64) ** 2).sum((1, 2, 3)))
    half = np.random.default_rng([work.seed, len(clean)]).permutation(len(clean)) % 2 == 0
    rungs = list[dict[str, Any]]()
    for sigma in NOISE:
        noised = {
            "perturbation": delta + sigma * noise,
            "poisoned": poisoned.images + sigma * noise,
            "clean": clean.images + sigma * noise,
        }
        rungs.append(
            {
                "sigma": sigma,
                # KL(N(x, s^2) || N(x + d, s^2)) = |d|^2 / 2 s^2; the divergence of the sets is at most the mean of it.
                "divergence": _rounded(float((length**2).mean() / (2 * sigma**2))),
                "apart": [_told_apart(noised, half), _rounded(_pairs_apart(length, sigma))],
                "read": probe and {name: probe.read(images) for name, images in noised.items()},
            }
        )
        work.state.tell("noise", len(rungs), len(NOISE))
    levels, strips = _purified(pair, probe, noise, work)
    found = {
        "rows": len(clean),
        "largest": float(np.abs(delta).max()),
        "length": round(float(length.mean()) / 255, 4),
        "chance": None if probe is None else probe.chance,
        "unread": None if probe is not None else unread(clean),
        "noise": rungs,
        "purified": levels,
    }
    return found, strips


def _purified(
    pair: Pair, probe: "_Probe | None", noise: Array, work: Work
) -> tuple[list[dict[str, Any]], dict[str, ImageSet]]:
    """What part A leaves at each level, and strips of some rows."""
    shown = np.unique(np.linspace(0, len(pair.clean) - 1, SHOWN).round().astype(np.intp))
    clean, poisoned = pair.clean[shown], pair.poisoned[shown]
    levels, strips = list[dict[str, Any]](), {"clean": clean, "poisoned": poisoned}
    for sigma in LEVELS:
        kept = _kept(f"poisoned {sigma:g}", pair.poisoned, sigma, work)
        cleaned = _kept(f"clean {sigma:g}", pair.clean, sigma, work)
        left = kept.astype(np.float32) - cleaned
        levels.append(
            {
                "sigma": sigma,
                "left": _rounded(share_left(pair.clean.images, pair.poisoned.images, cleaned, kept)),
                "read": probe and {name: probe.read(x) for name, x in {"left": left, "poisoned": kept}.items()},
            }
        )
        noised = np.clip(np.rint(poisoned.images + sigma * noise[shown]), 0, 255).astype(np.uint8)
        for name, images in zip(STRIPS[2:], (noised, kept[shown], cleaned[shown]), strict=True):
            strips[f"{name}-{sigma:g}"] = clean.with_images(images)
        work.state.tell("purification", len(levels), len(LEVELS))
    return levels, strips


def _kept(stage: str, data: ImageSet, sigma: float, work: Work) -> NDArray[np.uint8]:
    """The images of a set purified at a level, which a killed explanation has already."""
    if found := work.state.load(stage):
        done: NDArray[np.uint8] = found[0]["images"].numpy()
        return done
    purified = purify(data.images, sigma=sigma / 255, seed=work.seed, ids=data.ids, device=work.device)
    work.state.save(stage, {"images": torch.from_numpy(purified)}, {})
    return purified


def _pairs_apart(length: NDArray[np.float64], sigma: float) -> float:
    """The mean total variation between the Gaussians around an image before and after; at least that of the sets."""
    return float(np.mean([math.erf(d / (2 * sigma) / math.sqrt(2)) for d in length.tolist()]))


def _told_apart(noised: Mapping[str, Array], half: NDArray[np.bool_]) -> float:
    """The total variation that a linear model of the spectrum shows: by how much it is right more often than wrong."""
    found = []
    for features in _FEATURES:
        clean, poisoned = (features(noised[name]) for name in ("clean", "poisoned"))
        train, test = (np.concatenate([poisoned[rows], clean[rows]]) for rows in (half, ~half))
        of_train, of_test = (np.repeat([1, 0], len(x) // 2) for x in (train, test))
        found.append(float((ridge(train, of_train, test, 2).argmax(1) == of_test).mean()))
    return _rounded(max(0.0, 2 * max(found) - 1))


class _Probe:
    """Reads labels by linear models of pixels and of spectra; the better one counts."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        counts = np.bincount(evidence.labels)
        self.chance = _rounded(float(counts.max() / counts.sum()))

    @classmethod
    def of(cls, clean: ImageSet, work: Work) -> "_Probe | None":
        """For these rows; None where their labels tell nothing."""
        if unread(clean) is not None:
            return None
        labels = np.unique(clean.require_labels("a probe"), return_inverse=True)[1].astype(np.int64)
        return cls(Evidence(ImageSet(clean.images, clean.ids, labels), None, work))

    def read(self, images: NDArray[Any]) -> float:
        """The share of labels that is read rightly, each by what was learned from the other half."""
        found = (self._evidence.read(features(images)) for features in _FEATURES)
        return _rounded(max(float(self._evidence.right(said).mean()) for said in found))


def unread(clean: ImageSet) -> str | None:
    """Why no probe can read the labels of these rows; None where it can."""
    if clean.labels is None:
        return f"not read, since {clean.unlabelled}"
    classes = len(np.unique(clean.labels))
    if len(clean) < FEWEST or classes < 2 or classes > len(clean) / 4:
        return (
            f"not read: of {len(clean):,} rows and {classes:,} classes; a probe needs {FEWEST} rows, two classes, and "
            "four rows a class"
        )
    return None


_FEATURES: tuple[Callable[[Any], Array], ...] = (flat, spectrum)


def _rounded(value: float) -> float:
    """To four digits, which is more than a thousand rows tell."""
    return float(f"{value:.4g}")


def explain_job(
    dataset: str,
    clean: str,
    out: Path,
    *,
    rows: int | None = None,
    seed: int = 0,
    device: str = "auto",
    image_column: str | None = None,
    label_column: str | None = None,
    max_side: int | None = None,
) -> Explain:
    """Resolve an explanation as its user asks for it (see ``eclipse explain --help``), and refuse what cannot work.

    Raises:
        EclipseError: a set that cannot be opened, or sets of different length.
    """
    check_name(out)
    asked: dict[str, Any] = {"image_column": image_column, "label_column": label_column}
    sets = open_source(dataset, **asked, longest=max_side), open_source(clean, **asked, longest=max_side)
    paired(*sets, [])
    columns = asked_columns(image_column, label_column)
    return Explain(*sets, out, rows, seed, resolve_device(device), columns)
