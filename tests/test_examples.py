"""The examples of docs/training.md run as a reader would run them, where their libraries are there."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import eclipse

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
PICTURES = Path(eclipse.__file__).parent / "jobs" / "pictures"
NEEDS = {
    "mixed_sizes": (),
    "image_folder": ("torchvision",),
    "hugging_face": ("datasets", "transformers", "accelerate"),
    "with_timm": ("timm", "torchvision"),
    "with_lightning": ("lightning",),
}


def test_each_example_is_told_and_known() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(NEEDS)
    page = (EXAMPLES.parent / "training.md").read_text(encoding="utf-8")
    assert all(f"(examples/{name}.py)" in page for name in NEEDS)


@pytest.mark.parametrize("example", NEEDS)
def test_an_example_trains_for_an_epoch(example: str, tmp_path: Path) -> None:
    missing = [name for name in NEEDS[example] if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not here: torchvision and its like need a torch of their own")
    for name in ("china", "flower"):
        picture = Image.open(PICTURES / f"{name}.jpg")
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(6):
            part = picture.crop((20 * i, 10 * i, 20 * i + 70 + 8 * i, 10 * i + 90))
            part.save(tmp_path / "photos" / name / f"{i}.jpg")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{example}.py", "photos"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    if example == "hugging_face":
        assert "'train_loss'" in done.stdout
    else:
        assert (tmp_path / "kept" / "purified.sqlite").exists()
        assert example == "with_lightning" or "loss" in done.stdout
