"""Audit clean and poisoned sets, and count detections and false alarms of each detector and of the verdict.

    python benchmarks/audit.py --data DATA --cache CACHE

DATA is a folder with CIFAR-10 as train.parquet and test.parquet (and train-lossless-5k.parquet, for some clean sets).
Poisons are crafted once, at scale small, and kept in CACHE. Each audit is one line of benchmarks/results/audit.jsonl; a
second run does what is missing, and --only NAME does some. Detectors that need trusted images are left out of the
verdict without them, which needs no second audit. At the end, and with --table alone, benchmarks/results/audit.md is
written.
"""

import argparse
import io
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from eclipse.attacks import ATTACKS, make_attack
from eclipse.compute.device import describe_device
from eclipse.data.imageset import ImageSet
from eclipse.data.source import load_imageset, open_source
from eclipse.detectors import DETECTORS
from eclipse.detectors.audit import audit
from eclipse.purification.arrays import purify
from eclipse.runs.state import Work

ROOT = Path(__file__).parent / "results"
ROWS = 5_000
SHARES = (1.0, 0.5, 0.2)
SEEDS = (0, 1)
ONE_CLASS = 3


@dataclass(frozen=True)
class Case:
    """A set to audit.

    Attributes:
        name: of it.
        make: makes the set, the trusted images, and which rows are poisoned.
        poison: the attack; empty for a clean set.
    """

    name: str
    make: Callable[[], tuple[ImageSet, ImageSet, np.ndarray]]
    poison: str = ""


class Data:
    """Slices of CIFAR-10, read once."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache = folder, cache
        self._read: dict[str, ImageSet] = {}

    def __call__(self, spec: str) -> ImageSet:
        if spec not in self._read:
            self._read[spec] = load_imageset(open_source(f"{self.folder / spec}"), "this benchmark")
        return self._read[spec]

    def poisoned(self, attack: str, seed: int) -> ImageSet:
        """The first rows, poisoned."""
        path = self.cache / f"{attack}-{seed}.npz"
        if not path.exists():
            self.cache.mkdir(parents=True, exist_ok=True)
            clean = self(f"train.parquet[:{ROWS}]")
            make_attack(attack, scale="small").poison(clean, seed=seed).save(path)
        return ImageSet.load(path)[slice(0, ROWS)]


def poisoned_cases(data: Data) -> Iterator[Case]:
    """Every attack with every seed, at every share of the rows and on one class."""

    def case(attack: str, seed: int, share: float | None) -> Case:
        def make() -> tuple[ImageSet, ImageSet, np.ndarray]:
            clean, poison = data(f"train.parquet[:{ROWS}]"), data.poisoned(attack, seed)
            if share is None:
                rows = clean.labels == ONE_CLASS
            else:
                rows = np.random.default_rng(seed).random(len(clean)) < share
            images = np.where(rows[:, None, None, None], poison.images, clean.images)
            return clean.with_images(images), data("train.parquet[48000:50000]"), rows

        part = "one class" if share is None else f"{share:g}"
        return Case(f"{attack} seed {seed}, {part}", make, attack)

    names = [name for name in ATTACKS.names() if ATTACKS.entry(name).ours]
    for seed in SEEDS:
        for share in (*SHARES, None):
            yield from (case(attack, seed, share) for attack in names)


def clean_cases(data: Data) -> Iterator[Case]:
    """Clean sets of many kinds."""

    def case(name: str, make: Callable[[], ImageSet], trusted: str = "train.parquet[48000:50000]") -> Case:
        def both() -> tuple[ImageSet, ImageSet, np.ndarray]:
            found = make()
            return found, data(trusted), np.zeros(len(found), bool)

        return Case(f"clean: {name}", both)

    def part(start: int, count: int) -> ImageSet:
        return data("train.parquet[:40000]")[slice(start, start + count)]

    def classes(*wanted: int) -> ImageSet:
        every = data("train.parquet[:40000]")
        return every[np.flatnonzero(np.isin(every.labels, wanted))[:ROWS]]

    def unbalanced(ratio: float) -> ImageSet:
        every = data("train.parquet[:40000]")
        rows = [
            np.flatnonzero(every.labels == label)[: max(20, int(4_000 * ratio ** (-label / 9)))] for label in range(10)
        ]
        return every[np.sort(np.concatenate(rows))]

    def wrong(share: float) -> ImageSet:
        found, rng = part(0, ROWS), np.random.default_rng(0)
        other = (found.labels + rng.integers(1, 10, len(found))) % 10
        labels = np.where(rng.random(len(found)) < share, other, found.labels)
        return ImageSet(found.images, found.ids, labels, found.class_names)

    def twice(noise: float) -> ImageSet:
        found, rng = part(0, ROWS // 2), np.random.default_rng(0)
        again = np.clip(found.images + rng.normal(0, noise, found.images.shape).round(), 0, 255).astype(np.uint8)
        ids = (*found.ids, *(f"{id}'" for id in found.ids))
        return ImageSet(np.concatenate([found.images, again]), ids, np.tile(found.labels, 2), found.class_names)

    def jpeg(quality: int) -> ImageSet:
        found = part(0, ROWS)
        return found.with_images(np.stack([_jpeg(image, quality) for image in found.images]))

    def resized(low: int) -> ImageSet:
        found = part(0, ROWS)
        x = torch.from_numpy(found.images).float()
        small = torch.nn.functional.interpolate(x, low, mode="area")
        back = torch.nn.functional.interpolate(small, 32, mode="bicubic", align_corners=False)
        return found.with_images(back.clamp(0, 255).round().byte().numpy())

    def gray() -> ImageSet:
        found = part(0, ROWS)
        mean = found.images.mean(1, keepdims=True).round().astype(np.uint8)
        return found.with_images(np.repeat(mean, 3, axis=1))

    def digits() -> ImageSet:
        from sklearn.datasets import load_digits

        found = load_digits()
        x = torch.from_numpy(found.images)[:, None].float() * 255 / 16
        large = torch.nn.functional.interpolate(x, 32, mode="bicubic", align_corners=False).clamp(0, 255)
        return ImageSet.from_arrays(large.round().byte().repeat(1, 3, 1, 1).numpy(), found.target)

    lossless = "train-lossless-5k.parquet"
    yield from (case(f"rows {start}, {count}", lambda s=start, c=count: part(s, c)) for start, count in _PARTS)
    yield case("lossless, trusted JPEG", lambda: data(f"{lossless}[:4000]"))
    yield case("JPEG, trusted lossless", lambda: part(0, ROWS), f"{lossless}[4000:5000]")
    yield case("lossless, trusted lossless", lambda: data(f"{lossless}[:4000]"), f"{lossless}[4000:5000]")
    yield case("test images", lambda: data("test.parquet[:5000]"))
    yield from (case(f"classes {pair}", lambda p=pair: classes(*p)) for pair in _CLASSES)
    yield from (case(f"unbalanced {ratio}:1", lambda r=ratio: unbalanced(r)) for ratio in (10, 100))
    yield from (case(f"{share:.0%} wrong labels", lambda s=share: wrong(s)) for share in (0.2, 0.4))
    yield from (case(f"twice, noise {noise}", lambda n=noise: twice(n)) for noise in (0, 4))
    yield from (case(f"JPEG at {quality}", lambda q=quality: jpeg(q)) for quality in (20, 50, 90))
    yield from (case(f"reduced to {low} and back", lambda n=low: resized(n)) for low in (16, 24))
    yield case("gray", gray)
    yield case("purified", lambda: part(0, ROWS).with_images(purify(part(0, ROWS).images)))
    yield case("digits", digits)


_PARTS = [(0, 5_000), (10_000, 5_000), (20_000, 5_000), (0, 3_000), (6_000, 3_000), (9_000, 2_000), (12_000, 1_000)]
_PARTS += [(13_000, 1_000), (14_000, 500), (15_000, 250)]
_CLASSES = [(0, 1), (3, 5), (2, 6), (0, 8), (0, 1, 2, 3, 4), (5, 6, 7, 8, 9)]


def _jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)).transpose(2, 0, 1)


def examine(case: Case) -> dict[str, Any]:
    """Audit a set: what was found, and how well rows are told apart."""
    data, trusted, poisoned = case.make()
    began = time.monotonic()
    found = audit(data, trusted=trusted, work=Work(0, "cpu"))
    looked = {id: i for i, id in enumerate(data.ids)}
    rows = poisoned[[looked[id] for id in found.ids]]
    return {
        "case": case.name,
        "attack": case.poison,
        "rows": len(data),
        "poisoned": round(float(poisoned.mean()), 3),
        "seconds": round(time.monotonic() - began, 1),
        "device": describe_device("cpu"),
        "auroc": {name: area(f.scores, rows) for name, f in found.findings.items() if f.scores is not None},
        "auroc of the verdict": area(found.suspicion, rows),
        **found.to_dict(),
    }


def verdict(line: dict[str, Any], trusted: bool) -> bool:
    """Whether a set is called suspicious, with trusted images or without."""
    asked = {
        name: finding
        for name, finding in line["findings"].items()
        if trusted or "trusted" not in DETECTORS.load(name).needs
    }
    bound = line["level"] / len(asked)
    return any(finding["p"] < bound and DETECTORS.load(name).implicates for name, finding in asked.items())


def table(lines: list[dict[str, Any]]) -> str:
    """What was found, as Markdown."""
    clean = [line for line in lines if not line["attack"]]
    names = list(DETECTORS.names())
    text = [
        "# Audits of clean and of poisoned sets",
        "",
        f"CIFAR-10 (JPEG copy), at most {ROWS:,} rows; poisons at scale small; {lines[0]['device']}; median "
        f"{np.median([line['seconds'] for line in lines]):.0f} s an audit. Command: `python benchmarks/audit.py --data "
        "DATA --cache CACHE`. A detector counts where its p-value is below the level of the verdict, "
        f"{lines[0]['level']:.0%} divided by the number of detectors.",
        "",
        "## Clean sets",
        "",
        "``two-sample`` says that sets are different, and makes none suspicious. "
        f"{sum(verdict(line, True) for line in clean)} of {len(clean)} clean sets are called suspicious with trusted "
        f"images, {sum(verdict(line, False) for line in clean)} without.",
        "",
        "| set | rows | with | without | findings |",
        "| --- | --: | --- | --- | --- |",
    ]
    text += [_line(line, line["case"].removeprefix("clean: "), line["rows"]) for line in clean]
    for share, title in ((1.0, "All rows poisoned"), (0.5, "Half of the rows"), (0.2, "A fifth"), (None, "One class")):
        those = [line for line in lines if line["attack"] and _is_share(line, share)]
        if not those:
            continue
        found = [sum(verdict(line, trusted) for line in those) for trusted in (True, False)]
        text += [
            "",
            f"## {title}",
            "",
            f"{found[0]} of {len(those)} are found with trusted images, {found[1]} without.",
            "",
            "| poison | seed | with | without | findings | kind | share | AUROC |",
            "| --- | --: | --- | --- | --- | --- | --- | --: |",
        ]
        for line in those:
            attack, seed = line["attack"], line["case"].split()[2][0]
            area, bounds = line["auroc of the verdict"], line["share"]
            more = f"{line['family'] or '-'} | {'-' if not bounds else '{:.2f} to {:.2f}'.format(*bounds)} | "
            text.append(f"{_line(line, attack, seed)} {more}{'-' if area is None else f'{area:.2f}'} |")
    text += ["", "## Detectors", "", "| detector | false alarms | found at 1.0 | at 0.5 | at 0.2 | one class |"]
    text.append("| --- | --: | --: | --: | --: | --: |")
    for name in names:
        counts = [_count(clean, name)]
        for share in (1.0, 0.5, 0.2, None):
            counts.append(_count([line for line in lines if line["attack"] and _is_share(line, share)], name))
        text.append(f"| {name} | {' | '.join(counts)} |")
    return "\n".join([*text, ""])


def _line(line: dict[str, Any], name: str, second: object) -> str:
    yes = ["found" if verdict(line, trusted) else "-" for trusted in (True, False)]
    return f"| {name} | {second} | {yes[0]} | {yes[1]} | {', '.join(line['found']) or '-'} |"


def _is_share(line: dict[str, Any], share: float | None) -> bool:
    return line["case"].endswith("one class" if share is None else f", {share:g}")


def _count(lines: list[dict[str, Any]], name: str) -> str:
    asked = [line for line in lines if name in line["findings"]]
    return f"{sum(name in line['found'] for line in asked)} of {len(asked)}" if asked else "-"


def area(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Under the ROC curve; None where all rows are of one kind."""
    if positive.all() or not positive.any():
        return None
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    few = int(positive.sum())
    return round(float((ranks[positive].sum() - few * (few + 1) / 2) / (few * (len(scores) - few))), 4)


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--only", action="append", default=[], help="cases whose name has this in it; repeatable")
    parser.add_argument("--crafted", action="store_true", help="leave out poisons that are not in CACHE")
    parser.add_argument("--out", type=Path, default=ROOT / "audit.jsonl")
    parser.add_argument("--table", action="store_true", help="write the table of what is there, and stop")
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = Data(given.data, given.cache)
    done = {json.loads(line)["case"] for line in given.out.read_text().splitlines()} if given.out.exists() else set()
    for case in () if given.table else (*clean_cases(data), *poisoned_cases(data)):
        if case.name in done or (given.only and not any(word in case.name for word in given.only)):
            continue
        if (
            given.crafted
            and case.poison
            and not (given.cache / f"{case.poison}-{case.name.split()[2][0]}.npz").exists()
        ):
            continue
        found = examine(case)
        with given.out.open("a") as file:
            file.write(json.dumps(found) + "\n")
        print(f"{case.name}: {found['verdict']} ({found['seconds']:.0f} s)", flush=True)
    lines = [json.loads(line) for line in given.out.read_text().splitlines()]
    given.out.with_suffix(".md").write_text(table(lines))


if __name__ == "__main__":
    main()
