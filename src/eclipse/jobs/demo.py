"""The whole story on one data set: poison it, watch a network fail, purify it, watch the network recover."""

import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from eclipse.attacks import make_attack
from eclipse.classifiers.fit import RECIPES, Recipe, accuracy, fit
from eclipse.classifiers.small import SMALLEST, SmallNet
from eclipse.compute.device import resolve_device
from eclipse.data.imageset import ImageSet
from eclipse.data.picture import Picture, encode_png
from eclipse.data.source import load_imageset, open_source
from eclipse.diffusion.presets import FAST
from eclipse.errors import EclipseError
from eclipse.jobs.job import Tell, carry_out
from eclipse.jobs.purify import purify_job
from eclipse.purification.compensation import Compensate
from eclipse.runs.files import locked, remove, write_json
from eclipse.runs.manifest import command, versions

_UNFINISHED = ".unfinished"
_MADE = ("clean", "poisoned", "purified", "purified.run.json", "purified.report.html", "picture.png", "demo.json")
_BESIDE = (".purified", ".demo.json")  # hidden files of what is not finished

_PICTURES = Path(__file__).with_name("pictures")

TEST = 0.25  # share of the data
_FEWEST = 200  # images


@dataclass(frozen=True)
class Setting:
    """How much work a demo does.

    Attributes:
        recipe: of the victims.
        steps: training steps of a victim, at least: a small set is visited in more epochs than the recipe says.
    """

    recipe: Recipe
    steps: int = 0

    def recipe_for(self, images: int) -> Recipe:
        """The recipe for a training set of this size."""
        epochs = math.ceil(self.steps / max(1, images // self.recipe.batch))
        return replace(self.recipe, epochs=max(self.recipe.epochs, epochs))


DIGITS = Setting(replace(RECIPES["fast"], epochs=16, batch=64, lr=0.1, pad=0, flip=False))
# After 144 steps on 1,560 images a victim is right in 15% of ten classes, and no poison could do it harm.
OWN_DATA = Setting(replace(RECIPES["fast"], batch=64, lr=0.1), steps=500)


@dataclass(frozen=True)
class Split:
    """Two parts of a data set that share no image."""

    train: ImageSet
    test: ImageSet


@dataclass(frozen=True)
class Story:
    """What the demo measured: test accuracies in [0, 1] and the seconds each part took."""

    clean: float
    poisoned: float
    purified: float
    seconds: dict[str, float]
    picture: Path

    @property
    def recovery(self) -> float:
        """(purified - poisoned) / (clean - poisoned); nan where the poison did no harm."""
        lost = self.clean - self.poisoned
        return (self.purified - self.poisoned) / lost if lost > 0 else math.nan


def digits(seed: int) -> Split:
    """Handwritten digits on photographs, from the pictures that come with this package.

    Each digit is enlarged, shifted, turned and blended in a random color into a random crop of a photo, 32x32 RGB:
    in a light color where that is dark, and the other way round, since others vanish in gray and in noise. Plain digits
    would not do: a network learns them faster than any poison. The parts share no digit; a training digit
    is drawn three times.
    """
    with np.load(_PICTURES / "digits.npz", allow_pickle=False) as file:
        data = file["images"], file["labels"].astype(np.int64)
    photos = [np.asarray(Image.open(_PICTURES / name).convert("RGB")) for name in ("china.jpg", "flower.jpg")]
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(data[0]))
    rows = {"train": np.tile(order[650:], 3), "test": order[:650]}
    return Split(**{name: _drawn(data[0][part], data[1][part], photos, rng) for name, part in rows.items()})


def _drawn(
    digits: NDArray[np.uint8], labels: NDArray[np.int64], photos: list[NDArray[np.uint8]], rng: np.random.Generator
) -> ImageSet:
    images = [_blended(digit, photos[rng.integers(len(photos))], rng) for digit in digits]
    return ImageSet.from_arrays(np.stack(images), labels, [str(i) for i in range(10)])


def _blended(digit: NDArray[np.uint8], photo: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    canvas = Image.new("L", (32, 32))
    enlarged = Image.fromarray((digit * (255 / 16)).astype(np.uint8)).resize((26, 26), Image.Resampling.BICUBIC)
    left, top = rng.integers(0, 7, size=2).tolist()
    canvas.paste(enlarged, (left, top))
    stroke = np.asarray(canvas.rotate(rng.uniform(-20, 20), Image.Resampling.BICUBIC))[..., None] / 255.0
    side = int(rng.integers(32, 128))
    y, x = (int(rng.integers(length - side)) for length in photo.shape[:2])
    crop = Image.fromarray(photo[y : y + side, x : x + side])
    background = np.asarray(crop.resize((32, 32), Image.Resampling.LANCZOS)).astype(np.float64)
    cover = rng.uniform(0.35, 0.7) * stroke
    color = rng.uniform(0, 80, size=3)
    if background.mean() < 128:
        color = 255 - color
    mixed = background * (1 - cover) + color * cover
    return mixed.round().astype(np.uint8).transpose(2, 0, 1)


def split(data: ImageSet, seed: int) -> Split:
    """Shuffle and split a labelled set."""
    data.require_labels("the demo")
    if len(data) < _FEWEST:
        raise EclipseError(f"{len(data)} images; the demo needs at least {_FEWEST}, to train and to test on")
    order, test = np.random.default_rng(seed).permutation(len(data)), round(TEST * len(data))
    return Split(data[order[test:]], data[order[:test]])


def tell_story(
    parts: Split,
    out: Path,
    setting: Setting,
    *,
    attack: str = "lsp",
    seed: int = 0,
    device: str = "auto",
    say: Callable[[str], None] = lambda line: None,
    tell: Tell = lambda event: None,
) -> Story:
    """Run the story and write everything it makes into ``out``.

    Args:
        parts: from ``digits`` or ``split``; labelled images of one size.
        out: a folder; one that holds something is refused, unless it is a demo that was interrupted: that gives way.
        setting: ``DIGITS`` or ``OWN_DATA``.
        attack: a name in the table of attacks; at the small scale.
        seed: of split, poison, victim and purification.
        device: ``auto``, ``cpu`` or ``cuda``.
        say: called with one line for people after each part.
        tell: called with the progress of the purification.
    """
    _check(parts, out)
    where, clock = resolve_device(device), _Clock()
    with _begun(out):
        poisoned = make_attack(attack, scale="small").poison(parts.train, seed=seed, device=where)
        for name, images in (("clean", parts.train), ("poisoned", poisoned)):
            write_folder(images, out / name)
        say(f"{len(parts.train)} training images poisoned with {attack.upper()}: {out / 'poisoned'}")
        clock.lap("poison")

        clean_accuracy = _victim(parts.train, parts.test, setting, seed, where)
        say(f"trained on clean data:     {clean_accuracy:6.1%} of {len(parts.test)} test images right")
        poisoned_accuracy = _victim(poisoned, parts.test, setting, seed, where)
        say(f"trained on poisoned data:  {poisoned_accuracy:6.1%}")
        clock.lap("victims")

        carry_out(purify_job(str(out / "poisoned"), out / "purified", seed=seed, device=device), tell)
        clock.lap("purification")
        purified = read_folder(out / "purified", parts.train)
        purified_accuracy = _victim(purified, parts.test, setting, seed, where, Compensate(FAST.p, FAST.noise, FAST.q))
        clock.lap("victim on purified data")

        picture = out / "picture.png"
        _draw(parts.train, poisoned, purified, picture)
        story = Story(clean_accuracy, poisoned_accuracy, purified_accuracy, clock.laps, picture)
        say(f"purified + compensated:    {purified_accuracy:6.1%}   ({_recovery(story)})")
        _record(story, attack, seed, len(parts.train), out)
        return story


def _check(parts: Split, out: Path) -> None:
    """Refuse what the story would stop at halfway."""
    if out.exists() and any(out.iterdir()) and not (out / _UNFINISHED).is_dir():
        raise EclipseError(f"{out} is not empty; give the demo a new folder with --out, or delete it")
    height, width = parts.train.images.shape[2:]
    if min(height, width) < SMALLEST:
        raise EclipseError(f"images of {height}x{width}; the demo's network takes {SMALLEST}x{SMALLEST} and up")


@contextmanager
def _begun(out: Path) -> Iterator[None]:
    """Lock and mark the folder of an unfinished demo; what an interrupted one has left there is removed."""
    mark = out / _UNFINISHED / "demo"
    with locked(mark.parent, out):
        for path in list(out.iterdir()):
            if path.name in _MADE or path.name.startswith(_BESIDE):
                remove(path)
        mark.touch()
        yield
        mark.unlink()


def _recovery(story: Story) -> str:
    return "the poison did no harm" if math.isnan(story.recovery) else f"recovery {story.recovery:.2f}"


def write_folder(images: ImageSet, folder: Path) -> None:
    """Write a set as PNG files, ``<class>/<row>.png``."""
    labels = images.require_labels("writing one folder a class")
    for row, (image, label) in enumerate(zip(images.images, labels, strict=True)):
        place = folder / _folder_name(images.class_names[label] if images.class_names else str(label))
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{row:06d}.png").write_bytes(encode_png(Picture(image, None, gray=False)))


def _folder_name(name: str) -> str:
    """A class name as a folder: names come with the data and may hold anything, ``../..`` for example."""
    return re.sub(r"[^\w -]", "_", name)[:60] or "_"


def read_folder(folder: Path, like: ImageSet) -> ImageSet:
    """Read back what ``write_folder`` wrote of a set, in the order and with the labels and ids of that set."""
    stored = load_imageset(open_source(folder), "the demo")
    rows = np.argsort([int(Path(id).stem) for id in stored.ids])
    return like.with_images(stored.images[rows])


def _victim(
    train: ImageSet, test: ImageSet, setting: Setting, seed: int, device: str, compensate: Compensate | None = None
) -> float:
    def augment(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return (x if compensate is None else compensate(x)), y

    torch.manual_seed(seed)
    network = SmallNet(max(train.num_classes, test.num_classes), channels=train.images.shape[1])
    for _ in fit(network, train, setting.recipe_for(len(train)), seed=seed, device=device, augment=augment):
        pass
    return accuracy(network, test, device=device)


class _Clock:
    """Seconds between laps."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = round(now - self._last, 1)
        self._last = now


def _draw(clean: ImageSet, poisoned: ImageSet, purified: ImageSet, path: Path, count: int = 8, scale: int = 2) -> None:
    """Draw rows of the same images: clean, poisoned, purified, and both differences ten times amplified."""
    a, b, c = (x.images[:count].astype(np.float32) for x in (clean, poisoned, purified))
    strips = {
        "clean": a,
        "poisoned": b,
        "purified": c,
        "poison x10": 127.5 + 10 * (b - a),
        "left over x10": 127.5 + 10 * (c - a),
    }
    height, width = a.shape[2] * scale, a.shape[3] * scale
    margin = 90
    canvas = Image.new("RGB", (margin + len(a) * (width + 2), len(strips) * (height + 2)), "white")
    for line, (name, images) in enumerate(strips.items()):
        ImageDraw.Draw(canvas).text((4, line * (height + 2) + height // 2 - 5), name, fill="black")
        for column, image in enumerate(images):
            tile = Image.fromarray(_hwc(image)).resize((width, height), Image.Resampling.NEAREST)
            canvas.paste(tile, (margin + column * (width + 2), line * (height + 2)))
    canvas.save(path)


def _hwc(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    rgb = np.broadcast_to(image, (3, *image.shape[1:]))
    return np.ascontiguousarray(rgb.clip(0, 255).round().astype(np.uint8).transpose(1, 2, 0))


def _record(story: Story, attack: str, seed: int, images: int, out: Path) -> None:
    write_json(
        out / "demo.json",
        {
            "command": command(),
            "attack": attack,
            "seed": seed,
            "training images": images,
            "accuracy": {"clean": story.clean, "poisoned": story.poisoned, "purified": story.purified},
            "recovery": None if math.isnan(story.recovery) else story.recovery,
            "seconds": story.seconds,
            "versions": versions(),
        },
    )
