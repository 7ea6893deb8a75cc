"""Fixtures shared by all tests."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from kit import golden
from kit.commands import Command, Said
from kit.tiny import CONFIG, tiny_denoiser

from eclipse.cli import main
from eclipse.compute import device
from eclipse.diffusion import presets
from eclipse.diffusion.checkpoint import save_denoiser
from eclipse.diffusion.presets import FAST

# Small tensors gain nothing from a second thread, and on a busy machine the threads wait for each other.
torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[2]


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


@pytest.fixture
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks in float32, also where the hardware multiplies bfloat16: for what is compared closely."""
    monkeypatch.setattr(device, "compute_dtype", lambda _: (torch.float32, "this test compares closely"))


@pytest.fixture(autouse=True)
def _repeatable() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def denoiser_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved denoiser of preset ``fast``, tiny and with random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("saved") / "denoiser"
    save_denoiser(tiny_denoiser(), folder)
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of improved-diffusion, small and with random weights."""
    return golden.write_checkpoint(tmp_path_factory.mktemp("checkpoint") / golden.NAME)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package tests/plugin, built and installed, in a folder that is not on the path."""
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "--target", target, ROOT / "tests" / "plugin"], check=True)
    return target


@pytest.fixture
def plugin(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Join what the package tests/plugin adds, here and in processes that start from here."""
    monkeypatch.syspath_prepend(installed)


@pytest.fixture
def tiny_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the preset ``fast`` tiny, and trained in no time."""
    training = replace(FAST.training, iterations=3, batch=4)
    monkeypatch.setitem(presets.PRESETS, "fast", replace(FAST, denoiser=CONFIG, training=training))


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run ``eclipse`` with the given arguments in this process."""

    def run(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["eclipse", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        return Said(end.value.code, said.out, said.err)

    return run
