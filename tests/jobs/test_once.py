"""In one run each derivation happens once: a job is resolved into values, and these are handed on."""

import sys
from collections import Counter
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
from kit.commands import Command, write_images

from eclipse.compute.device import compute_dtype, describe_device, resolve_device
from eclipse.data.output import check_apart, check_output, write_output
from eclipse.data.source import load_pictures, open_source
from eclipse.data.store import fingerprint_files
from eclipse.diffusion.checkpoint import fingerprint_denoiser
from eclipse.diffusion.presets import get_preset
from eclipse.diffusion.schedule import NoiseSchedule
from eclipse.diffusion.trusted import check_trusted, fingerprint_images, general_fingerprint, plan_denoiser
from eclipse.jobs.job import check
from eclipse.purification.algorithm import prepare, purification
from eclipse.purification.stream import check_first

TIMES = {
    get_preset: 2,  # and that of the general denoiser
    plan_denoiser: 1,
    purification: 2,  # and that of the general denoiser, which the canary compares with; so
    NoiseSchedule.index: 2,
    NoiseSchedule.spaced: 2,
    resolve_device: 1,
    check_trusted: 1,
    fingerprint_images: 1,
    fingerprint_denoiser: 3,  # for the manifest and the canary, and that of the general one, which is kept
    load_pictures: 1,
    check_first: 1,
    check_apart: 1,
    prepare: 4,  # for the estimate, the canary's two, and the work
    write_output: 1,
    open_source: 2,  # the images and the trusted ones, and
    fingerprint_files: 4,  # likewise, and both again at the end, where a set may have been replaced
    check: 2,  # before the work, and again under the lock, where another process may have been in the meantime; so
    check_output: 3,  # and a last time when the output is about to appear
    describe_device: 2,  # in the manifest of the run, and among what the denoiser tells of its training
    compute_dtype: 10,  # for the manifest, the training, the canary, the purification, and the batches of the estimate
}


def test_each_derivation_of_a_purification_happens_once(
    tiny_fast: None, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = Counter[Callable[..., Any]]()

    def counting(work: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(work)
        def counted(*args: Any, **options: Any) -> Any:
            counts[work] += 1
            return work(*args, **options)

        return counted

    counted = {work: counting(work) for work in TIMES}
    modules = [module for name, module in sys.modules.items() if name.partition(".")[0] == "eclipse"]
    for owner in (*modules, NoiseSchedule):
        for name, value in list(vars(owner).items()):
            if isinstance(value, FunctionType) and value in counted:
                monkeypatch.setattr(owner, name, counted[value])
    general_fingerprint.cache_clear()
    images, trusted = (write_images(tmp_path / name, count) for name, count in (("images", 40), ("trusted", 50)))
    said = command("purify", images, "--trusted", trusted, "--out", tmp_path / "out", "--batch", 20)
    assert said.code == 0, said
    assert {work.__qualname__: counts[work] for work in TIMES} == {w.__qualname__: n for w, n in TIMES.items()}
