"""``eclipse choose`` and ``eclipse purify --auto``: rankings, labels that a user gives, kills, and what is applied."""

import csv
import json
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit.commands import Command, refusal
from kit.kills import Killed, killing, manifest, names
from kit.letters import shapes

from eclipse.data.imageset import ImageSet
from eclipse.data.source import load_imageset, open_source
from eclipse.defenses.choice import Choice, rank
from eclipse.detectors.audit import Audit
from eclipse.detectors.detector import Finding
from eclipse.jobs import audit as audits
from eclipse.jobs import choose as choices
from eclipse.jobs.choose import CHOICE, VOTES, next_command

CLASSES = ("north", "east", "south", "west")
TRIED = ("none", "iss-g", "eclipse-general parts=A sigma=8")


@pytest.fixture(scope="module", autouse=True)
def _few_candidates() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choices, "CANDIDATES", TRIED[:2])
        yield


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sets")
    data, trusted = (replace(shapes(220, seed), class_names=CLASSES) for seed in (1, 2))
    data.save(place / "data.npz")
    trusted.save(place / "trusted.npz")
    replace(trusted, labels=None, class_names=None).save(place / "unlabelled.npz")
    return place


def fill_in(table: Path, label: Any) -> None:
    """Write a label into each line, by the id of its image."""
    with table.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["file", "id", "label"])
        writer.writeheader()
        writer.writerows({**line, "label": label(line["id"])} for line in lines)


def test_a_choice_is_estimated_then_measured_with_labels_that_were_asked_for_and_a_killed_one_goes_on(
    sets: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("choose", sets / "data.npz", "--trusted", sets / "unlabelled.npz", "--candidate", TRIED[2])
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(choices, "StageStep", killing(choices.StageStep))  # told when a victim is kept
        command(*asked, "--out", tmp_path / "choice")
    assert len(names(tmp_path / ".choice.choosing" / "victims")) == 1
    said = command(*asked, "--out", tmp_path / "choice", "--ask", 60)
    assert said.code == 0 and "victims: 100%, 6 of 6" in said.err, said
    assert "estimated without labels" in said.out
    found = json.loads((tmp_path / "choice" / CHOICE).read_text())
    assert {tried["words"] for tried in found["ranked"]} == set(TRIED) and found["labels"] == 0
    assert found["ranked"] == sorted(found["ranked"], key=lambda tried: -tried["accuracy"])
    assert f"next: {next_command(found['best'], f'{sets}/data.npz', f'{sets}/unlabelled.npz')}" in said.out

    table = tmp_path / "choice.ask" / "labels.csv"
    assert len(list(table.parent.glob("*.png"))) == 60
    truth = ImageSet.load(sets / "trusted.npz")
    assert truth.labels is not None
    labels = dict(zip(load_imageset(open_source(sets / "trusted.npz"), "a test").ids, truth.labels, strict=True))
    labelling = (*asked, "--out", tmp_path / "choice", "--labels", table)
    assert "0 labels; expected at least 50" in refusal(command(*labelling)), "none is filled in yet"
    fill_in(table, lambda id: "up")
    assert "the label 'up'; expected one of north, east, south, west" in refusal(command(*labelling))
    fill_in(table, lambda id: CLASSES[labels[id]])
    said = command(*labelling)
    assert said.code == 0 and "measured on 60 labelled trusted images" in said.out, said
    found = json.loads((tmp_path / "choice" / CHOICE).read_text())
    with np.load(tmp_path / "choice" / VOTES) as kept:
        votes, ids = kept["votes"], kept["ids"].tolist()
    with table.open(newline="") as file:
        rows = [ids.index(line["id"]) for line in csv.DictReader(file)]
    right = (votes[:, rows] == [labels[ids[row]] for row in rows]).mean(1)
    for i, words in enumerate(TRIED):
        accuracy = next(tried["accuracy"] for tried in found["ranked"] if tried["words"] == words)
        assert accuracy == pytest.approx(right[2 * i : 2 * i + 2].mean())
    assert command(*asked, "--out", tmp_path / "choice").out.count("measured on 60") == 1, "the labels are kept"
    table.write_text("id,label\nnowhere,north\n" * 60)
    assert "'nowhere', which is no trusted image" in refusal(command(*labelling))
    np.savez(tmp_path / "choice" / VOTES, votes=votes[:, 1:], ids=ids)
    assert "do not go together" in refusal(command(*labelling))


def test_what_cannot_be_chosen_is_one_sentence(sets: Path, tmp_path: Path, command: Command) -> None:
    data = ImageSet.load(sets / "data.npz")
    replace(data, labels=np.zeros(220, np.int64)).save(tmp_path / "one.npz")
    data[slice(0, 100)].save(tmp_path / "few.npz")

    def refused(dataset: Path, trusted: Path, *more: str) -> str:
        return refusal(command("choose", dataset, "--trusted", trusted, "--out", tmp_path / "out", *more))

    trusted = sets / "trusted.npz"
    assert "one class" in refused(tmp_path / "one.npz", trusted)
    assert "200" in refused(tmp_path / "few.npz", trusted)
    assert "choosing needs labels" in refused(sets / "unlabelled.npz", trusted)
    assert "are in the set" in refused(sets / "data.npz", sets / "data.npz")
    assert "unknown defense 'iss'" in refused(sets / "data.npz", trusted, "--candidate", "iss")
    assert names(tmp_path) == ["few.npz", "one.npz"]


@pytest.mark.parametrize(
    ("words", "command_line"),
    [
        ("none", "eclipse train 'my set' --test TEST --out RUN"),
        ("iss-j quality=30", "eclipse train 'my set' --test TEST --defense iss-j --set quality=30 --out RUN"),
        ("op", "eclipse train 'my set' --test TEST --defense op --out RUN"),
        ("eclipse", "eclipse train 'my set' --test TEST --defense eclipse --trusted clean --out RUN"),
        ("eclipse-general", "eclipse purify 'my set' --out PURIFIED"),
        ("eclipse-general parts=A sigma=12", "eclipse purify 'my set' --out PURIFIED --sigma 12 --p 0 --noise 0"),
        ("eclipse-general parts=AB steps=4", "eclipse purify 'my set' --out PURIFIED --steps 4 --noise 0"),
        ("eclipse-general compensation=once", "eclipse purify 'my set' --out PURIFIED --compensate once"),
        (
            "eclipse-general parts=B",
            "eclipse train 'my set' --test TEST --defense eclipse-general --set parts=B --out RUN",
        ),
    ],
)
def test_a_treatment_is_a_command(words: str, command_line: str) -> None:
    assert next_command(words, "my set", "clean") == command_line


# ---- purify --auto


@pytest.fixture
def saying(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make the audit find something or nothing, and quick victims speak for a treatment."""

    def say(suspicious: bool, best: str = "none") -> None:
        def audited(data: ImageSet, **_: Any) -> Audit:
            finding = Finding(float(suspicious), (0.0, 0.1), "it was read")
            return Audit(len(data), data.ids, {"shortcut": finding}, {})

        def chosen(data: ImageSet, trusted: ImageSet, *_: Any, **__: Any) -> Choice:
            votes = np.zeros((4, len(trusted)), np.int64)
            votes[2:] = 1
            return rank(votes, ("none", best), 4, np.arange(len(trusted)), np.ones(len(trusted), np.int64))

        monkeypatch.setattr(audits, "audit", audited)
        monkeypatch.setattr(choices, "choose", chosen)

    return say


def test_auto_leaves_a_set_as_it_is_in_which_nothing_is_found(
    sets: Path, tmp_path: Path, command: Command, saying: Any
) -> None:
    saying(False)
    asked = ("purify", sets / "data.npz", "--trusted", sets / "trusted.npz", "--out", tmp_path / "out.npz", "--auto")
    dry = command(*asked, "--dry-run")
    assert dry.code == 0 and names(tmp_path) == []
    said = command(*asked, "--report")
    assert said.code == 0 and f"no copy was made, train on {sets}/data.npz as it is" in said.out
    assert names(tmp_path) == ["out.npz.audit", "out.npz.audit.run.json"]
    assert (tmp_path / "out.npz.audit" / "audit.html").exists()


def test_auto_purifies_a_suspicious_set_as_quick_victims_say(
    sets: Path, tmp_path: Path, command: Command, saying: Any
) -> None:
    saying(True, "eclipse-general parts=A sigma=12")
    out = tmp_path / "out.npz"
    asked = ("purify", sets / "data.npz", "--trusted", sets / "trusted.npz", "--out", out, "--auto")
    said = command(*asked)
    assert said.code == 0 and "none: train on the images as they are" in said.out, said
    assert manifest(out)["settings"]["purification"]["sigma"] == 12
    by_hand = next_command("eclipse-general parts=A sigma=12", f"{sets}/data.npz", "").replace(
        "PURIFIED", f"{out}-2.npz"
    )
    assert command(*shlex.split(by_hand)[1:]).code == 0
    same = [load_imageset(open_source(path), "a test").images for path in (out, f"{out}-2.npz")]
    assert (same[0] == same[1]).all()
    again = command(*asked)
    assert again.code == 0 and again.out.count("is complete already") == 3


def test_auto_leaves_to_its_user_what_is_no_purification(
    sets: Path, tmp_path: Path, command: Command, saying: Any
) -> None:
    saying(True, "iss-g")
    said = command("purify", sets / "data.npz", "--trusted", sets / "trusted.npz", "--out", tmp_path / "out", "--auto")
    assert said.code == 0 and "iss-g, which is no purification; next: eclipse train" in said.out
    assert names(tmp_path) == ["out.audit", "out.audit.run.json", "out.choice", "out.choice.run.json"]


def test_auto_is_refused_before_any_work_where_it_cannot_end_well(sets: Path, tmp_path: Path, command: Command) -> None:
    asked = ("purify", sets / "data.npz", "--out", tmp_path / "out", "--auto")
    trusted = ("--trusted", sets / "trusted.npz")
    assert "--auto needs --trusted" in refusal(command(*asked))
    assert "--sigma 12.0 with --auto" in refusal(command(*asked, *trusted, "--sigma", 12))
    assert "--compensate once with --auto" in refusal(command(*asked, *trusted, "--compensate", "once"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "theirs").touch()
    assert "exists already" in refusal(command(*asked, *trusted))
    assert names(tmp_path) == ["out"]
