"""``eclipse audit``: verdicts as exit codes, what is kept, what a kill leaves, and data that carry no verdict."""

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kit.commands import Command, refusal, write_images
from kit.kills import Killed, killing, names
from kit.letters import shapes
from PIL import Image

from eclipse.attacks import make_attack
from eclipse.data.imageset import ImageSet
from eclipse.data.source import open_source
from eclipse.detectors import evidence
from eclipse.jobs.audit import FINDINGS, ROWS, pieces

CLASSES = ("north", "east, or so", "south", "west")


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Letters are learned in fewer steps than photographs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evidence, "LEAST_STEPS", 100)
        yield


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Letters: poisoned, trusted, and trusted ones whose classes have other names."""
    place = tmp_path_factory.mktemp("sets")
    clean, trusted = (replace(shapes(240, seed), class_names=CLASSES) for seed in (1, 2))
    make_attack("urp").poison(clean).save(place / "poisoned.npz")
    clean.save(place / "clean.npz")
    trusted.save(place / "trusted.npz")
    replace(trusted, class_names=("a", "b", "c", "d")).save(place / "others.npz")
    replace(trusted, labels=None, class_names=None).save(place / "unlabelled.npz")
    return place


def test_a_poisoned_set_ends_in_1_and_a_killed_audit_goes_on_to_the_same_bytes(
    sets: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("audit", sets / "poisoned.npz", "--trusted", sets / "trusted.npz", "--out")
    said = command(*asked, tmp_path / "whole")
    assert said.code == 1, said
    assert "verdict: suspicious" in said.out
    next_line = next(line for line in said.out.splitlines() if line.startswith("next: "))
    assert next_line == f"next: eclipse choose {sets}/poisoned.npz --trusted {sets}/trusted.npz --out CHOICE"
    found = json.loads((tmp_path / "whole" / FINDINGS).read_text())
    assert found["suspicious"] and found["looked at"] == found["images"] == 240
    with (tmp_path / "whole" / ROWS).open() as file:
        rows = list(csv.DictReader(file))
    assert len({row["id"] for row in rows}) == 240 and set(rows[0]) == {"id", "is_poison_issue", "poison_score"}
    assert all(0 <= float(row["poison_score"]) <= 1 for row in rows)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(evidence.Evidence, "read", killing(lambda *_: None))
        command(*asked, tmp_path / "killed")
    assert names(tmp_path / ".killed.auditing" / "audit")
    assert not (tmp_path / "killed").exists()
    assert command(*asked, tmp_path / "killed").code == 1
    for name in (FINDINGS, ROWS):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    again = command(*asked, tmp_path / "killed")
    assert again.code == 1 and "complete already" in again.out and "verdict: suspicious" in again.out


def test_without_out_a_clean_set_ends_in_0_and_leaves_nothing(
    sets: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = command("audit", sets / "clean.npz", "--json")
    assert said.code == 0, said
    assert "verdict: nothing found" in said.out and "needs trusted" in said.out
    assert all(json.loads(line)["share"] <= 1 for line in said.err.splitlines())
    assert names(tmp_path) == []


def test_without_labels_there_is_no_verdict(sets: Path, command: Command, tmp_path: Path) -> None:
    said = command("audit", sets / "unlabelled.npz", "--trusted", sets / "clean.npz")
    assert said.code == 2 and "verdict" not in said.out
    assert "eclipse: no verdict" in said.err and "two-sample" in said.out
    assert "trusted images to compare with" in refusal(command("audit", sets / "unlabelled.npz"))


def test_a_dry_run_leaves_nothing(sets: Path, tmp_path: Path, command: Command) -> None:
    said = command("audit", sets / "poisoned.npz", "--rows", 220, "--out", tmp_path / "out", "--dry-run")
    assert said.code == 0 and "at most 220 images" in said.out and names(tmp_path) == []


def test_what_carries_no_verdict_is_one_sentence(sets: Path, tmp_path: Path, command: Command) -> None:
    clean = ImageSet.load(sets / "clean.npz")
    bad = {
        "few": (clean[slice(0, 150)], "200"),
        "one": (replace(clean, labels=np.zeros(240, np.int64)), "one class"),
        "unique": (replace(clean, labels=np.arange(240), class_names=None), "240 classes"),
        "constant": (clean.with_images(np.zeros_like(clean.images)), "alike"),
        "tiny": (clean.with_images(clean.images[:, :, :8, :8]), "8 pixels"),
    }
    for name, (data, word) in bad.items():
        data.save(tmp_path / f"{name}.npz")
        assert word in refusal(command("audit", tmp_path / f"{name}.npz", "--out", tmp_path / "out")), name
    own = command("audit", sets / "clean.npz", "--trusted", sets / "clean.npz")
    assert "all 240 trusted images of this audit are in the set" in refusal(own)
    assert not list(tmp_path.glob("*out*")), "a refused audit leaves nothing"


def test_unreadable_images_are_left_out_where_that_is_asked_for(tmp_path: Path, command: Command) -> None:
    folder = write_images(tmp_path / "set", 210, side=16)
    bad = sorted(folder.rglob("*.png"))[:3]
    for path in bad:
        path.write_bytes(b"no image")
    assert "--skip-bad" in refusal(command("audit", folder))
    data, _ = pieces(open_source(folder), None, None, skip_bad=True)
    assert len(data) == 207 and not {path.name for path in bad} & {Path(id).name for id in data.ids}


def test_images_of_many_sizes_are_seen_in_pieces_of_one(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "set", 300, side=60)
    for path in sorted(folder.rglob("*.png"))[:20]:
        Image.open(path).resize((20, 20)).save(path)
    data, _ = pieces(open_source(folder), None, None)
    assert len(data) == 280 and data.images.shape[1:] == (3, 32, 64), "few small ones do not make all pieces small"


@pytest.mark.parametrize(("names_of_classes", "kept"), [(CLASSES[::-1], True), (("a", "b", "c", "d"), False)])
def test_labels_of_trusted_images_count_by_the_names_of_their_classes(
    names_of_classes: tuple[str, ...], kept: bool, sets: Path, tmp_path: Path, command: Command
) -> None:
    clean = ImageSet.load(sets / "clean.npz")
    assert clean.labels is not None
    replace(ImageSet.load(sets / "trusted.npz"), labels=3 - clean.labels, class_names=names_of_classes).save(
        tmp_path / "trusted.npz"
    )
    _, trusted = pieces(open_source(sets / "clean.npz"), open_source(tmp_path / "trusted.npz"), None)
    assert trusted is not None
    assert (trusted.labels is not None) == kept
    if kept:
        assert (trusted.labels == clean.labels).all() and trusted.class_names == CLASSES
    dry = command("audit", sets / "clean.npz", "--trusted", tmp_path / "trusted.npz", "--dry-run")
    assert bool(re.search("classes of .* are not those", dry.out)) != kept
