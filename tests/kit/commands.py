"""How a command line ended, and what every refusal must be."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kit.tiny import one_sentence, some_images
from PIL import Image


@dataclass(frozen=True)
class Said:
    """How a command ended and what it printed."""

    code: object
    out: str
    err: str


Command = Callable[..., Said]


def refusal(said: Said) -> str:
    """Check that a command was refused in one sentence, after lines of progress if it had begun; return it."""
    assert said.code == 2 and said.err.endswith("\n"), said
    *progress, last = said.err.splitlines()
    assert all(
        line.startswith(("training the denoiser: ", "canary: ", "purifying: ", "crafting: ")) for line in progress
    ), said
    assert last.startswith("eclipse: "), said
    return one_sentence(last.removeprefix("eclipse: "))


def write_images(folder: Path, count: int, side: int = 8, seed: int = 0) -> Path:
    """A folder of PNG files in two classes, 000.png and so on."""
    for i, image in enumerate(some_images(count, side, side, seed)):
        (folder / f"class{i % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"class{i % 2}" / f"{i:03d}.png")
    return folder


def files(place: Path) -> set[str]:
    return {str(path.relative_to(place)) for path in place.rglob("*")}
