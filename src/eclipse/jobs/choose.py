"""``eclipse choose``: treatments tried with quick victims, ranked by what these are worth on trusted images."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from eclipse.compute.device import describe_device, resolve_device
from eclipse.data.overlap import note_of_shared, refuse_if_all, rows_shared
from eclipse.data.picture import Picture, encode_png
from eclipse.data.source import asked_columns, open_source
from eclipse.data.store import Source
from eclipse.defenses.choice import (
    CANDIDATES,
    FEWEST_LABELS,
    SEEDS,
    choose,
    judging,
    labels_worth_most,
    rank,
    treatment,
)
from eclipse.defenses.eclipse import ECLIPSEGeneral
from eclipse.detectors.audit import check_rows
from eclipse.diffusion.trusted import general_fingerprint
from eclipse.errors import EclipseError, reading
from eclipse.jobs.audit import note_of_classes, open_trusted, pieces
from eclipse.jobs.job import Job, Tell
from eclipse.runs.files import check_name, read_bounded, whole, write_json
from eclipse.runs.manifest import Times, to_copy
from eclipse.runs.state import StageStep, State, Work

CHOICE, VOTES = "choice.json", "votes.npz"
ASKED = "labels.csv"


@dataclass(frozen=True, eq=False)
class Choosing(Job):
    """A choice, resolved.

    Attributes:
        source: the data set.
        trusted: clean images.
        out: the folder of the result.
        candidates: treatments, as ``choice.treatment`` reads them.
        seed: decides which rows are used, and the victims.
        device: where to compute.
        skip_bad: leave unreadable images out.
        columns: of a table that were asked for, ``image column`` and ``label column``.
    """

    source: Source
    trusted: Source
    out: Path
    candidates: tuple[str, ...]
    seed: int
    device: str
    skip_bad: bool = False
    columns: Mapping[str, str] = field(default_factory=dict)

    doing: ClassVar[str] = "choosing"
    free: ClassVar[frozenset[str]] = frozenset({"dataset spec", "trusted spec", "device name"})

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """What decides the result."""
        return {
            "dataset": {"spec": self.source.spec, "images": len(self.source), **self.columns},
            "trusted": {"spec": self.trusted.spec, "images": len(self.trusted)},
            "candidates": list(self.candidates),
            "skip-bad": self.skip_bad,
            "denoiser": general_fingerprint(),
            "seed": self.seed,
            "device": {"type": self.device.partition(":")[0], "name": describe_device(self.device)},
        }

    @cached_property
    def inputs(self) -> Mapping[str, str]:
        """Of both sets."""
        return {
            "dataset fingerprint": self.source.fingerprint(),
            "trusted fingerprint": self.trusted.fingerprint(),
        }

    def in_words(self) -> Mapping[str, Any]:
        """What to tell the user before work starts."""
        return {
            "data set": f"{self.source.spec}, {len(self.source):,} images",
            "trusted": f"{self.trusted.spec}, {len(self.trusted):,} images",
            "candidates": "; ".join(self.candidates),
            "seed": self.seed,
            "device": describe_device(self.device),
        }

    def notes(self) -> list[str]:
        """What is odd about the data."""
        return list(self.source.notes) + note_of_classes(self.source, self.trusted)

    def work(self, state: State, tell: Tell, place: Path) -> dict[str, Any]:
        """Try all candidates, rank them, and keep what their victims said."""
        assert state.folder is not None
        times = Times(state.folder)
        with times.part("choose"):
            data, trusted = pieces(self.source, self.trusted, None, self.skip_bad)
            assert trusted is not None
            if len(np.unique(data.require_labels("a choice"))) < 2:
                raise EclipseError("all images have one class; expected at least 2, for victims to tell apart")
            victims = state.folder / "victims"

            def counted(step: StageStep) -> None:  # each victim that was trained is a file
                done = sum(1 for _ in victims.glob("*.safetensors"))
                tell(StageStep("victims", done, len(SEEDS) * len(self.candidates)))

            work = Work(self.seed, self.device, State(victims, times.telling(counted)))
            own = ~rows_shared(data, trusted)
            refuse_if_all(int((~own).sum()), len(trusted), "the set", "this choice")
            trusted = trusted[np.flatnonzero(own)]
            found = choose(data, trusted, work, candidates=self.candidates)
        place.mkdir()
        with (place / VOTES).open("wb") as file:
            ids = trusted[judging(len(trusted), self.seed)].ids
            np.savez(file, votes=found.votes, ids=np.array(ids, np.str_))
        told = {
            **found.to_dict(),
            "notes": note_of_shared(int((~own).sum()), len(own)),
            "classes": list(data.class_names or map(str, range(data.num_classes))),
        }
        write_json(place / CHOICE, told)
        return {"choice": told, "seconds": times.seconds}

    def closing(self, outcome: Mapping[str, Any]) -> Mapping[str, Any]:
        """The best one, and the command to go on with."""
        return {"result": self.out / CHOICE}


def choose_job(
    dataset: str,
    trusted: str,
    out: Path,
    *,
    candidates: Sequence[str] = (),
    seed: int = 0,
    device: str = "auto",
    image_column: str | None = None,
    label_column: str | None = None,
    max_side: int | None = None,
    skip_bad: bool = False,
) -> Choosing:
    """Resolve a choice as its user asks for it (see ``eclipse choose --help``), and refuse what cannot work."""
    check_name(out)
    for words in candidates:
        treatment(words)
    asked: dict[str, Any] = {"image_column": image_column, "label_column": label_column}
    source = open_source(dataset, **asked, longest=max_side)
    check_rows(len(source))
    if not source.has_labels:
        raise EclipseError(f"choosing needs labels, and {source.unlabelled}")
    every = tuple(dict.fromkeys((*CANDIDATES, *candidates)))
    columns = asked_columns(image_column, label_column)
    clean = open_trusted(trusted, max_side=max_side, **asked)
    return Choosing(source, clean, out, every, seed, resolve_device(device), skip_bad, columns)


# ---- labels that a user gives


def ask(job: Choosing, count: int, folder: Path) -> Path:
    """Write the trusted images whose labels are worth most, and a table to fill in; returns the table.

    Raises:
        EclipseError: the folder is there.
    """
    kept = _kept(job.out)
    wanted = {kept.ids[i] for i in labels_worth_most(kept.votes, count)}
    if folder.exists():
        raise EclipseError(f"{folder} exists; choose another output, or fill in {folder / ASKED}")
    with whole(folder) as place:
        place.mkdir()
        rows = list[tuple[str, str, str]]()
        for row in job.trusted.rows():
            if row.id in wanted:
                name = f"{len(rows):04d}.png"
                (place / name).write_bytes(encode_png(Picture(row.picture().rgb)))
                rows.append((name, row.id, ""))
        with (place / ASKED).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("file", "id", "label"), *rows])
    return folder / ASKED


def relabel(job: Choosing, table: Path) -> dict[str, Any]:
    """Rank a finished choice anew by labels from a table with the columns id and label, and keep that.

    Raises:
        EclipseError: the table has too few labels, an unknown class, or an id that was not asked for.
    """
    kept, found = _kept(job.out), read_choice(job.out)
    with reading(table, "a table of labels", f"expected the columns id and label, as in {ASKED}"):
        lines = csv.DictReader(io.StringIO(read_bounded(table).decode("utf-8-sig"), newline=""))
        given = {line["id"]: line["label"].strip() for line in lines if line["label"].strip()}
    place = {id: i for i, id in enumerate(kept.ids)}
    classes = {name: i for i, name in enumerate(found["classes"])}
    for id, label in given.items():
        if id not in place:
            raise EclipseError(f"{table} has a label for {id!r}, which is no trusted image; expected ids as they were")
        if label not in classes:
            raise EclipseError(f"{table} has the label {label!r}; expected one of {', '.join(found['classes'])}")
    if len(given) < FEWEST_LABELS:
        raise EclipseError(f"{table} has {len(given)} labels; expected at least {FEWEST_LABELS}: fill in more rows")
    rows = np.array([place[id] for id in given], np.intp)
    labels = np.array([classes[label] for label in given.values()], np.int64)
    ranked = rank(kept.votes, tuple(found["candidates"]), len(classes), rows, labels)
    told = {**found, **ranked.to_dict()}
    write_json(job.out / CHOICE, told)
    return told


@dataclass(frozen=True, eq=False)
class _Kept:
    votes: NDArray[np.int64]
    ids: tuple[str, ...]


def _kept(out: Path) -> _Kept:
    wrong = "expected what 'eclipse choose' wrote"
    with (
        reading(out / VOTES, "what the victims of a choice said", wrong),
        np.load(out / VOTES, allow_pickle=False) as file,
    ):
        kept = _Kept(file["votes"], tuple(file["ids"].tolist()))
        if kept.votes.dtype != np.int64 or kept.votes.shape[1:] != (len(kept.ids),) or len(kept.votes) % len(SEEDS):
            raise ValueError("votes and ids do not go together")
        return kept


def read_choice(out: Path) -> dict[str, Any]:
    """What a finished choice says."""
    from eclipse.runs.files import read_json

    with reading(out / CHOICE, "the result of a choice", "expected what 'eclipse choose' wrote"):
        found: dict[str, Any] = read_json(out / CHOICE)
        return found


def as_purification(words: str) -> dict[str, Any] | None:
    """The options of ``purify_job`` that apply a treatment; None for one that is no purification by itself."""
    made = treatment(words)
    if not isinstance(made, ECLIPSEGeneral) or "A" not in made.parts or made.preset != "fast":
        return None
    numbers = ("sigma", "steps", "sampler", "p", "noise", "q")
    options: dict[str, Any] = {name: value for name in numbers if (value := getattr(made, name)) is not None}
    if made.sigma is not None:
        options["sigma"] = round(made.sigma * 255, 6)
    options |= {name: 0.0 for part, name in (("B", "p"), ("C", "noise")) if part not in made.parts}
    return {**options, "compensate": "once"} if made.compensation == "once" else options


def next_command(words: str, dataset: str, trusted: str) -> str:
    """The command that applies a treatment: purify where that does it, else train with the defense."""
    purifies = as_purification(words)
    if purifies is not None:
        given = [(f"--{name}", f"{value:g}" if isinstance(value, float) else value) for name, value in purifies.items()]
        return to_copy("eclipse", "purify", dataset, "--out", "PURIFIED", *chain(*given))
    train = ("eclipse", "train", dataset, "--test", "TEST")
    name, *settings = words.split()
    if name == "none":
        return to_copy(*train, "--out", "RUN")
    more = [word for setting in settings for word in ("--set", setting)]
    clean = () if treatment(words).needs() == "nothing" else ("--trusted", trusted)
    return to_copy(*train, "--defense", name, *more, *clean, "--out", "RUN")
