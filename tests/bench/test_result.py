"""The folder of results: lines that are whole or not there, of which the last one for a cell counts."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from kit.results import result, write_results
from kit.tiny import one_sentence

from eclipse.bench.result import Failure, Folder, read_results
from eclipse.errors import EclipseError

CELLS = [result("clean", "none", 0, 0.8), result("em", "none", 0, 0.2), result("tap", "none", 0, 0.3)]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Two of the three cells are finished."""
    return write_results(tmp_path / "results", CELLS[:2], CELLS[2:])


def test_a_result_is_read_as_it_was_kept(folder: Folder) -> None:
    assert list(read_results(folder.path).cells.values()) == CELLS[:2]


@pytest.mark.parametrize("cut", [1, 10, 500])
def test_what_a_kill_left_of_a_line_is_no_result_and_gives_way(folder: Folder, cut: int) -> None:
    before = folder.cells.read_bytes()
    with folder.cells.open("ab") as file:
        file.write(json.dumps(asdict(CELLS[2])).encode()[:cut])
    assert set(read_results(folder.path).cells) == {one.cell for one in CELLS[:2]}
    folder.keep(CELLS[2])
    assert folder.cells.read_bytes().startswith(before)
    assert list(read_results(folder.path).cells.values()) == CELLS


def test_a_last_line_that_lacks_nothing_but_its_end_counts(folder: Folder) -> None:
    folder.cells.write_bytes(folder.cells.read_bytes()[:-1])
    assert len(read_results(folder.path).cells) == 2
    folder.keep(CELLS[2])
    assert len(read_results(folder.path).cells) == 3


def test_results_of_two_machines_are_joined_by_writing_one_behind_the_other(folder: Folder, tmp_path: Path) -> None:
    again = replace(CELLS[1], accuracy=0.25)
    other = write_results(tmp_path / "other", [again, CELLS[2]])
    with folder.cells.open("ab") as file:
        file.write(other.cells.read_bytes())
    found = read_results(folder.path)
    assert list(found.cells.values()) == [CELLS[0], again, CELLS[2]] and found.strays == 0


def test_a_cell_breaks_until_it_is_finished(folder: Folder) -> None:
    for error in ("the first reason", "another reason"):
        folder.fail(Failure(CELLS[2].cell, error, "eclipse bench"))
    assert [failure.error for failure in read_results(folder.path).failures.values()] == ["another reason"]
    folder.keep(CELLS[2])
    assert not read_results(folder.path).failures and not folder.failed.exists()


def test_damaged_results_are_refused_before_cells_are_run(folder: Folder) -> None:
    folder.check("test")
    folder.cells.write_bytes(b"{\n" + folder.cells.read_bytes())
    with pytest.raises(EclipseError, match=r"cells\.jsonl, line 1 is damaged") as error:
        folder.check("test")
    one_sentence(error.value)
