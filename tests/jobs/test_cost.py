"""What work will take is told by the images that there are, not by the first one."""

from itertools import count
from pathlib import Path

import numpy as np
import pytest
from kit.tiny import CONFIG, tiny_denoiser
from PIL import Image

from eclipse.data.source import open_source
from eclipse.diffusion.presets import FAST
from eclipse.jobs import cost
from eclipse.purification.algorithm import purification
from eclipse.purification.stream import Treatment

JOB = Treatment(purification(FAST, CONFIG), seed=0, device="cpu")


@pytest.mark.parametrize(
    ("sides", "longest", "expected"), [((128, 32, 32, 32), None, "26.9"), ((128, 32, 32, 32), 32, "128")]
)
def test_sizes_of_several_images_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sides: tuple[int, ...], longest: int | None, expected: str
) -> None:
    """On a clock that tells an eighth of a second for every batch: four images of 64x64, or 16 of 32x32."""
    for i, side in enumerate(sides):
        Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(tmp_path / f"{i}.png")
    clock = count(step=0.125)
    monkeypatch.setattr(cost.time, "perf_counter", lambda: next(clock))
    told = cost.purification_cost(open_source(tmp_path, longest=longest), tiny_denoiser(), JOB)
    assert told == f"less than a minute: 4 images at {expected} a second, measured on two batches"


def test_nothing_is_told_where_the_first_image_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(b"no image")
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    assert cost.purification_cost(open_source(tmp_path), tiny_denoiser(), JOB) is None
