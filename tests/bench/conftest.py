"""Fixtures of the tests of grids."""

from pathlib import Path

import pytest
from kit.grids import write_data


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path)
