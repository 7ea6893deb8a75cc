"""The pages of an audit and of a choice say what was found, and refuse what is damaged."""

from pathlib import Path

import pytest
from kit.commands import Command, refusal
from kit.verdicts import write_audit, write_choice

from eclipse.errors import EclipseError
from eclipse.jobs.audit import FINDINGS, SUSPECTS
from eclipse.jobs.choose import CHOICE
from eclipse.report import write_report


def text(folder: Path) -> str:
    (path,) = write_report(folder)
    assert path.parent == folder
    return path.read_text()


def test_a_suspicious_set_has_its_verdict_first_then_findings_rows_and_the_next_command(tmp_path: Path) -> None:
    page = text(write_audit(tmp_path / "audit"))
    parts = ['role="alert">suspicious', "40% to 60%", "One pattern for each class", ">found<", ">different<"]
    parts += [
        "harm-trusted was skipped",
        "The most suspicious rows",
        "eclipse choose ",
        "--trusted trusted --out CHOICE",
    ]
    places = [page.index(part) for part in parts]
    assert places == sorted(places)
    assert page.count('<svg class="plot"') == 2 and page.count('class="suspect"') == 6


def test_a_set_in_which_nothing_is_found_is_to_be_trained_on_as_it_is(tmp_path: Path) -> None:
    page = text(write_audit(tmp_path / "audit", suspicious=False))
    assert "alert" not in page and ">nothing found<" in page and "Train on the images as they are" in page
    assert "most suspicious" not in page and "eclipse choose" not in page


def test_without_a_detector_that_could_make_it_suspicious_there_is_no_verdict(tmp_path: Path) -> None:
    page = text(write_audit(tmp_path / "audit", suspicious=False, findings={}, found=[]))
    assert "No verdict" in page and "nothing found" not in page and "Train on the images" not in page


@pytest.mark.parametrize(
    ("labels", "words"), [(200, "measured on 200 labelled images"), (0, "estimated, without labels")]
)
def test_a_choice_ranks_treatments_and_says_how_it_knows(labels: int, words: str, tmp_path: Path) -> None:
    page = text(write_choice(tmp_path / "choice", labels))
    assert words in page and page.count('<svg class="plot"') == 1 and page.count('<th scope="row">') == 10
    assert page.count('class="copy"') == 3 and "+0.0%" in page and "Dashed: without a treatment" in page
    assert ("an estimate can be too high" in page) == (labels == 0)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"ranked": []}', b'{"found": 3, "findings": {"x": 1}}'])
def test_damaged_results_are_one_sentence(content: bytes, tmp_path: Path, command: Command) -> None:
    for folder, name in ((write_audit(tmp_path / "audit"), FINDINGS), (write_choice(tmp_path / "choice"), CHOICE)):
        (folder / name).write_bytes(content)
        assert "eclipse" in refusal(command("report", folder))


def test_pictures_that_are_missing_are_one_sentence(tmp_path: Path) -> None:
    folder = write_audit(tmp_path / "audit")
    (folder / f"{SUSPECTS}.npz").write_bytes(b"no archive")
    with pytest.raises(EclipseError):
        write_report(folder)
