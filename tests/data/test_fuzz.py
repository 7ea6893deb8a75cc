"""Damaged inputs of every reader are read or refused in one sentence; the long form is benchmarks/fuzz.py."""

import runpy
from pathlib import Path

import pytest

FUZZ = runpy.run_path(str(Path(__file__).resolve().parents[2] / "benchmarks" / "fuzz.py"))


@pytest.mark.parametrize("reader", FUZZ["READERS"])
def test_undamaged_inputs_are_read(reader: str, tmp_path: Path) -> None:
    make, read = FUZZ["READERS"][reader]
    make(tmp_path)
    (tmp_path / "out").mkdir()
    read(tmp_path)


@pytest.mark.parametrize("reader", FUZZ["READERS"])
def test_damaged_inputs_are_read_or_refused(reader: str, tmp_path: Path) -> None:
    found = list(FUZZ["outcomes"](reader, range(20), tmp_path / "inputs"))
    assert len(found) == 20
    assert [(number, how, why) for number, how, why in found if how not in FUZZ["RIGHT"]] == []


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("import os; os.system('true')", "forbidden"),
        ("open('../../elsewhere', 'w')", "forbidden"),
        ("import subprocess; subprocess.run(['true'])", "forbidden"),
        ("bytearray(2**31)", "MemoryError"),
        ("1 / 0", "ZeroDivisionError"),
        ("import os; os.kill(os.getpid(), 9)", "crash"),
    ],
)
def test_what_is_wrong_is_seen(code: str, how: str, tmp_path: Path) -> None:
    def make(root: Path) -> None:
        (root / "in").write_text("some text")

    FUZZ["READERS"]["wrong"] = (make, lambda root: exec(code))
    try:
        found = [how for _, how, _ in FUZZ["outcomes"]("wrong", range(2), tmp_path / "inputs")]
    finally:
        del FUZZ["READERS"]["wrong"]
    assert found == [how, how]
