"""Fixtures shared by all tests."""

from pathlib import Path

import numpy as np
import pytest
import torch

# Small tensors gain nothing from a second thread, and on a busy machine the threads wait for each other.
torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of development data beside the checkout; tests that need it skip where it is missing."""
    folder = ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("the development data beside the checkout (../shared) is not here")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _repeatable() -> None:
    torch.manual_seed(0)
