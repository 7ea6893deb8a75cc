"""A whole data set as a stream: the bytes are always the same, memory is bounded, and what is done stays done."""

import errno
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kit.layouts import LAYOUTS, tree_bytes
from kit.streams import purify_source, shard_folder
from kit.tiny import CONFIG, one_sentence, some_images, tiny_denoiser
from numpy.typing import NDArray
from PIL import Image

from eclipse.data.imageset import ImageSet
from eclipse.data.layouts.npz import ArrayStore
from eclipse.data.source import load_imageset, load_pictures, open_source
from eclipse.data.store import Row, Source
from eclipse.diffusion.checkpoint import load_denoiser
from eclipse.diffusion.denoiser import Denoiser
from eclipse.diffusion.presets import FAST
from eclipse.errors import EclipseError
from eclipse.purification import algorithm, shards, stream
from eclipse.purification.algorithm import Purification, denoise, purification
from eclipse.purification.arrays import purify
from eclipse.purification.compensation import once
from eclipse.purification.stream import Progress, Treatment


def numbers(sigma: float = 21.6 / 255, **others: Any) -> Purification:
    return purification(FAST, CONFIG, sigma=sigma, **others)


HOW = numbers()
JOB = Treatment(HOW, seed=3, device="cpu")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 4)


@pytest.fixture(scope="module")
def denoiser(denoiser_folder: Path) -> Denoiser:
    return load_denoiser(denoiser_folder)


@dataclass
class Counted:
    """How many images went through the network."""

    images: int = 0


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    count = Counted()

    def counting(denoiser: Denoiser, x: Any, ids: Any, how: Purification, seed: int) -> Any:
        count.images += len(x)
        return denoise(denoiser, x, ids, how, seed)

    monkeypatch.setattr(stream, "denoise", counting)
    return count


def archive(path: Path, n: int = 13, side: int = 8) -> Path:
    np.savez(path, images=some_images(n, side, side).transpose(0, 2, 3, 1), labels=np.arange(n) % 3)
    return path


def folder(path: Path, n: int = 13) -> Path:
    for i, image in enumerate(some_images(n)):
        (path / f"class{i % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(path / f"class{i % 2}" / f"{i:03d}.png")
    return path


def table(path: Path, n: int = 13) -> Path:
    files = sorted(folder(path.with_suffix(".images"), n).rglob("*.png"))
    pq.write_table(pa.table({"image": [file.read_bytes() for file in files], "label": list(range(n))}), path)
    return path


MAKE: dict[str, Callable[[Path], Path]] = {"in": folder, "in.parquet": table, "in.npz": archive}


class Break(Exception):
    """What a test ends a run with."""


@dataclass
class Breaking:
    """Ends a run after some batches, as a kill would."""

    batches: int
    seen: list[Progress] = field(default_factory=list)

    def __call__(self, progress: Progress) -> None:
        self.seen.append(progress)
        if len(self.seen) == self.batches:
            raise Break


def finished_rows(out: Path) -> int:
    """The rows in the shards of an unfinished output; every shard must be whole."""
    files = (pa.py_buffer(path.read_bytes()) for path in shard_folder(out).glob("shard-*.arrow"))
    return sum(pa.ipc.open_file(file[: -len(shards.checksum([]))]).read_all().num_rows for file in files)


def run_broken(
    source: Source, denoiser: Denoiser, out: Path, job: Treatment = JOB, batches: int = 2, batch: int = 4
) -> int:
    with pytest.raises(Break):
        purify_source(source, denoiser, out, job, batch=batch, tell=Breaking(batches))
    assert not out.exists()
    return finished_rows(out)


# The same pixels as in memory


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_pixels_of_purify_in_memory(denoiser: Denoiser, tmp_path: Path, layout: str) -> None:
    source = open_source(LAYOUTS[layout](tmp_path / "in"))
    out = tmp_path / "out" / ("in" if source.store.is_folder else f"in{(source.root or tmp_path).suffix}")
    outcome = purify_source(source, denoiser, out, JOB)
    images = load_imageset(source, "a test")
    expected = purify(images.images, denoiser, ids=images.ids, seed=3, sigma=HOW.sigma)
    assert expected.std() > 10
    result = load_imageset(open_source(out), "a test")
    np.testing.assert_array_equal(result.images, expected)
    assert result.ids == images.ids and outcome["counts"]["purified"] == len(images) and not outcome["skipped"]
    assert images.labels is None or (result.labels is not None and (result.labels == images.labels).all())


def made(source: Source, denoiser: Denoiser, out: Path, job: Treatment = JOB, **options: Any) -> dict[str, bytes]:
    """Purify to the end; the bytes of the output."""
    purify_source(source, denoiser, out, job, **options)
    assert not shard_folder(out).exists()
    return tree_bytes(out)


@pytest.mark.parametrize("name", MAKE)
def test_batch_size_does_not_change_a_byte_of_the_output(denoiser: Denoiser, tmp_path: Path, name: str) -> None:
    source = open_source(MAKE[name](tmp_path / name))
    whole = made(source, denoiser, tmp_path / "256" / name)
    assert whole
    for batch in (1, 7):
        assert made(source, denoiser, tmp_path / str(batch) / name, batch=batch) == whole


@pytest.mark.parametrize("name", MAKE)
def test_two_halves_are_the_whole(denoiser: Denoiser, tmp_path: Path, name: str) -> None:
    path = MAKE[name](tmp_path / name)
    rows = []
    for i, part in enumerate(("", "[:6]", "[6:]")):
        out = tmp_path / str(i) / name
        purify_source(open_source(f"{path}{part}"), denoiser, out, JOB)
        rows.append(load_pictures(open_source(out)))
    np.testing.assert_array_equal(rows[0], rows[1] + rows[2])


def test_the_fingerprint_of_the_output_knows_pixels_and_ids(denoiser: Denoiser, tmp_path: Path) -> None:
    def of(spec: str, job: Treatment = JOB, **options: Any) -> str:
        name = f"{len(list(tmp_path.iterdir()))}.npz"
        return purify_source(open_source(spec), denoiser, tmp_path / name, job, **options)["output fingerprint"]

    path = str(archive(tmp_path / "in.npz"))
    assert of(path) == of(path, batch=1) == of(f"{path}[0:]")
    assert len({of(path), of(path, replace(JOB, seed=4)), of(f"{path}[:12]")}) == 3


# Images of every kind


def odd_images(root: Path) -> Path:
    """Every color mode, in sizes from one pixel on."""
    root.mkdir()
    sizes = {"L": (1, 1), "RGB": (1, 1), "LA": (5, 9), "RGBA": (40, 3), "P": (17, 16), "CMYK": (32, 32), "1": (8, 8)}
    for mode, (width, height) in sizes.items():
        image = Image.fromarray(some_images(1, height, width)[0].transpose(1, 2, 0)).convert("RGB").convert(mode)
        if "A" in mode:
            ramp = np.arange(width * height).reshape(height, width) % 256
            image.putalpha(Image.fromarray(ramp.astype(np.uint8)))
        image.save(root / f"{mode}.{'tif' if mode == 'CMYK' else 'png'}")
    return root


def pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)


def test_gray_stays_gray_and_alpha_is_not_touched_at_any_size(denoiser: Denoiser, tmp_path: Path) -> None:
    source, out = open_source(odd_images(tmp_path / "in")), tmp_path / "out"
    purify_source(source, denoiser, out, JOB, batch=3)
    planes = {"L": 1, "1": 1, "LA": 2, "RGB": 3, "P": 3, "CMYK": 3, "RGBA": 4}
    for row in source.rows():
        name = Path(row.id).stem
        got, before = pixels(out / f"{name}.png"), row.picture()
        assert got.shape == (planes[name], *before.rgb.shape[1:])
        color = purify(before.rgb[None], denoiser, ids=[row.id], seed=3, sigma=HOW.sigma)[0]
        if before.gray:
            color = color.mean(axis=0, dtype=np.float64, keepdims=True).round().astype(np.uint8)
        np.testing.assert_array_equal(got[: len(color)], color)
        if before.alpha is not None:
            np.testing.assert_array_equal(got[-1], before.alpha)


def test_compensation_once_is_that_of_compensate(denoiser: Denoiser, tmp_path: Path) -> None:
    source = open_source(archive(tmp_path / "in.npz", 20))
    purify_source(source, denoiser, tmp_path / "out.npz", replace(JOB, once=(0.5, 0.1, 0.8)), batch=7)
    images = load_imageset(source, "a test")
    plain = purify(images.images, denoiser, ids=images.ids, seed=3, sigma=HOW.sigma)
    expected = once(ImageSet(plain, images.ids), p=0.5, noise=0.1, q=0.8, seed=3).images
    np.testing.assert_array_equal(load_imageset(open_source(tmp_path / "out.npz"), "a test").images, expected)
    assert (expected != plain).any()


def test_compensation_once_is_as_noisy_on_gray_images(denoiser: Denoiser, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(np.full((64, 64), 128, np.uint8)).save(tmp_path / "in" / "gray.png")
    source = open_source(tmp_path / "in")
    results = []
    for name, written in (("plain", None), ("once", (0.0, 0.05, 1.0))):
        purify_source(source, denoiser, tmp_path / name, replace(JOB, once=written))
        results.append(pixels(tmp_path / name / "gray.png").astype(float))
    inside = (results[0] > 40) & (results[0] < 215)
    assert inside.sum() > 500
    assert np.std((results[1] - results[0])[inside]) == pytest.approx(0.05 * 255, rel=0.1)


def test_images_of_another_size_than_the_denoiser_takes_are_named(tmp_path: Path) -> None:
    source = open_source(odd_images(tmp_path / "in"))
    with pytest.raises(EclipseError, match=r"in/1\.png: images of 8x8; this denoiser takes 16x16 only") as caught:
        purify_source(source, tiny_denoiser(image_size=16), tmp_path / "out", JOB)
    one_sentence(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


# Bad images


def spoil(path: Path) -> bytes:
    """Make a file of 13 have no image; what it was."""
    before = path.read_bytes()
    path.write_bytes(before[:60])
    return before


def test_bad_images_are_left_out_and_listed_by_name(denoiser: Denoiser, tmp_path: Path) -> None:
    source = open_source(folder(tmp_path / "in"))
    whole = made(source, denoiser, tmp_path / "whole")
    spoil(tmp_path / "in" / "class0" / "006.png")
    (tmp_path / "in" / "class1" / "003.png").write_text("I am text")
    source = open_source(tmp_path / "in")
    outcome = purify_source(source, denoiser, tmp_path / "out", replace(JOB, skip_bad=True), batch=4)
    assert outcome["counts"]["purified"] == 11
    assert [Path(name).name for name in outcome["skipped"]] == ["006.png", "003.png"]
    assert all(reason.startswith(name) for name, reason in outcome["skipped"].items())
    kept = {name: data for name, data in whole.items() if not name.endswith(("006.png", "003.png"))}
    assert tree_bytes(tmp_path / "out") == kept


def test_bad_images_alone_are_refused_and_leave_nothing(denoiser: Denoiser, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i in range(6):
        (tmp_path / "in" / f"{i}.png").write_text("I am text")
    with pytest.raises(EclipseError, match="none of its 6 images can be read"):
        purify_source(open_source(tmp_path / "in"), denoiser, tmp_path / "out", replace(JOB, skip_bad=True))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out.run.json"]


def test_a_run_stops_at_a_bad_image_and_goes_on_when_it_is_mended(
    denoiser: Denoiser, tmp_path: Path, counted: Counted
) -> None:
    whole = made(open_source(folder(tmp_path / "in")), denoiser, tmp_path / "whole")
    bad, out = tmp_path / "in" / "class1" / "007.png", tmp_path / "out"
    before = spoil(bad)
    with pytest.raises(EclipseError, match=r"007\.png is a damaged .*; --skip-bad leaves such images out") as caught:
        purify_source(open_source(tmp_path / "in"), denoiser, out, JOB, batch=2)
    one_sentence(caught.value)
    finished = finished_rows(out)
    assert 4 <= finished <= 10 and not out.exists()
    bad.write_bytes(before)
    counted.images = 0
    assert made(open_source(tmp_path / "in"), denoiser, out) == whole
    assert counted.images == 13 - finished


def test_a_run_that_stopped_at_a_bad_image_may_go_on_without_it_but_not_back(
    denoiser: Denoiser, tmp_path: Path
) -> None:
    source, out = open_source(folder(tmp_path / "in")), tmp_path / "out"
    spoil(tmp_path / "in" / "class0" / "008.png")
    lenient = replace(JOB, skip_bad=True)
    whole = made(source, denoiser, tmp_path / "whole", lenient)
    with pytest.raises(EclipseError, match=r"008\.png"):
        purify_source(source, denoiser, out, JOB, batch=2)
    assert finished_rows(out) == 4
    run_broken(source, denoiser, out, lenient)
    with pytest.raises(EclipseError, match="skip-bad = true and this run asks for false"):
        purify_source(source, denoiser, out, JOB)
    assert made(source, denoiser, out, lenient) == whole


def test_a_finished_image_that_changed_is_refused_by_name(denoiser: Denoiser, tmp_path: Path) -> None:
    source, out = open_source(folder(tmp_path / "in")), tmp_path / "out"
    run_broken(source, denoiser, out)
    path = tmp_path / "in" / "class0" / "002.png"
    Image.fromarray(255 - pixels(path).transpose(1, 2, 0)).save(path)
    with pytest.raises(
        EclipseError, match=r"the image class0/002\.png of .* has changed since .*; put the old"
    ) as caught:
        purify_source(source, denoiser, out, JOB)
    one_sentence(caught.value)
    (tmp_path / "in" / "class0" / "001.png").write_bytes(path.read_bytes())  # and one before it that is new
    with pytest.raises(EclipseError, match=r"the image class0/000\.png|class0/002\.png"):
        purify_source(open_source(tmp_path / "in"), denoiser, out, JOB)


# Going on


@pytest.mark.parametrize("name", MAKE)
def test_a_run_broken_anywhere_ends_with_the_same_bytes(
    denoiser: Denoiser, tmp_path: Path, name: str, counted: Counted
) -> None:
    source = open_source(MAKE[name](tmp_path / name))
    whole = made(source, denoiser, tmp_path / "whole" / name)
    for batches in (1, 4):
        out = tmp_path / str(batches) / name
        finished = run_broken(source, denoiser, out, batches=batches, batch=2)
        counted.images = 0
        assert made(source, denoiser, out, batch=7) == whole
        assert counted.images == 13 - finished <= 13 - 2 * (batches - 1)


def test_a_run_broken_many_times_ends_with_the_same_bytes(denoiser: Denoiser, tmp_path: Path) -> None:
    source, out = open_source(archive(tmp_path / "in.npz")), tmp_path / "out.npz"
    whole = made(source, denoiser, tmp_path / "whole.npz")
    rows = [run_broken(source, denoiser, out, batches=1, batch=3) for _ in range(3)]
    assert rows == sorted(set(rows))
    assert made(source, denoiser, out) == whole


def test_an_empty_folder_at_the_place_of_the_output_is_not_taken_for_it(denoiser: Denoiser, tmp_path: Path) -> None:
    source, out = open_source(folder(tmp_path / "in")), tmp_path / "out"
    whole = made(source, denoiser, tmp_path / "whole")
    out.mkdir()
    for batches in (2, 2):
        with pytest.raises(Break):
            purify_source(source, denoiser, out, JOB, batch=4, tell=Breaking(batches))
    assert finished_rows(out) == 13
    assert made(source, denoiser, out) == whole


def test_settings_that_do_not_change_the_images_may_differ(denoiser: Denoiser, tmp_path: Path) -> None:
    source = open_source(archive(tmp_path / "in.npz"))
    run_broken(source, denoiser, tmp_path / "out")
    assert made(source, denoiser, tmp_path / "out", format="folder", batch=5)


# Errors on the way


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("failing", [0, 2])
def test_a_full_disk_is_one_error_and_what_was_stored_counts(
    denoiser: Denoiser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    source, out = open_source(archive(tmp_path / "in.npz", 60)), tmp_path / "out.npz"
    before = threads()
    whole = shards.whole

    def full(path: Path) -> Any:
        if path.name == f"shard-{failing:06d}.arrow":
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(path)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "whole", full)
        with pytest.raises(OSError, match="No space left") as caught:
            purify_source(source, denoiser, out, JOB, batch=1)
    assert caught.value.__context__ is None and caught.value.__cause__ is None
    assert threads() == before
    assert finished_rows(out) == 4 * failing and not out.exists()
    assert made(source, denoiser, out) == made(source, denoiser, tmp_path / "whole.npz")


def test_a_source_that_vanishes_is_one_error_and_may_come_back(denoiser: Denoiser, tmp_path: Path) -> None:
    source, out = open_source(folder(tmp_path / "in", 60)), tmp_path / "out"

    def vanish(progress: Progress) -> None:
        if (tmp_path / "in").exists():
            (tmp_path / "in").rename(tmp_path / "away")

    with pytest.raises(FileNotFoundError) as caught:
        purify_source(source, denoiser, out, JOB, batch=1, tell=vanish)
    assert str(caught.value.filename).startswith(str(tmp_path / "in")) and not out.exists()
    (tmp_path / "away").rename(tmp_path / "in")
    assert finished_rows(out) > 0
    assert made(source, denoiser, out) == made(source, denoiser, tmp_path / "whole")


def test_an_error_ends_the_threads(denoiser: Denoiser, tmp_path: Path) -> None:
    source, before = open_source(archive(tmp_path / "in.npz", 200)), threads()
    with pytest.raises(Break):
        purify_source(source, denoiser, tmp_path / "out.npz", JOB, batch=1, tell=Breaking(1))
    assert threads() == before


# Progress and memory


def test_progress_counts_every_row_once_also_when_resumed(denoiser: Denoiser, tmp_path: Path) -> None:
    source, out = open_source(archive(tmp_path / "in.npz")), tmp_path / "out.npz"
    finished = run_broken(source, denoiser, out)
    seen: list[Progress] = []
    purify_source(source, denoiser, out, JOB, batch=2, tell=seen.append)
    assert [progress.done for progress in seen] == [*range(finished + 2, 13, 2), 13]
    assert all(p.total == 13 and p.images_per_s > 0 and 0 < p.busy <= 1 for p in seen)


@pytest.mark.parametrize("steps", [1, 3])
def test_progress_moves_within_a_batch_with_the_pixels(
    denoiser: Denoiser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    monkeypatch.setattr(stream, "TOLD_PIXELS", 1)
    monkeypatch.setattr(algorithm, "GROUP_PIXELS", {"cpu": 4 * 8 * 8})  # four images at a time
    job = Treatment(purification(FAST, CONFIG, steps=steps), seed=0, device="cpu")
    source, seen = open_source(archive(tmp_path / "in.npz")), list[Progress]()
    purify_source(source, denoiser, tmp_path / "out.npz", job, batch=8, tell=seen.append)
    shares = [progress.share * 13 for progress in seen]
    parts = 2 * steps  # of each batch: of 8 images, and of 5 that are filled up to 8
    expected = [*(8 * i / parts for i in range(1, parts + 1)), *(8 + 5 * i / parts for i in range(1, parts + 1))]
    np.testing.assert_allclose(shares, expected)
    assert [progress.done for progress in seen] == [0] * (parts - 1) + [8] * parts + [13]
    assert all(p.seconds_left == pytest.approx((13 - p.done - p.begun) / p.images_per_s) for p in seen)


class Counting(ArrayStore):
    """An archive that knows how many of its rows were read and not yet stored."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.ahead, self.most_ahead = 0, 0

    def read(self, start: int, stop: int) -> Iterator[Row]:
        for row in super().read(start, stop):
            self.ahead += 1
            self.most_ahead = max(self.most_ahead, self.ahead)
            yield row


@pytest.mark.parametrize(("owner", "slow"), [(stream, "denoise"), (shards, "whole")])
def test_reading_goes_on_beside_the_network_and_the_disk_and_waits_for_them(
    denoiser: Denoiser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, slow: str
) -> None:
    store, batch = Counting(archive(tmp_path / "in.npz", 150)), 2
    work, add = getattr(owner, slow), shards.Shards.add

    def slowly(*args: Any) -> Any:
        time.sleep(0.02)
        return work(*args)

    def stored(rows: shards.Shards, items: list[Any]) -> None:
        add(rows, items)
        store.ahead -= len(items)

    monkeypatch.setattr(owner, slow, slowly)
    monkeypatch.setattr(shards.Shards, "add", stored)
    most: list[int] = []  # until the rows are read again, to be compared
    counted = Source("counted", store, range(150))
    purify_source(
        counted, denoiser, tmp_path / "out.npz", JOB, batch=batch, tell=lambda event: most.append(store.most_ahead)
    )
    assert batch < most[-1] < 150 / 5, "a small part of the set is in memory"


def test_few_large_images_are_in_memory_whatever_waits_for_what(
    denoiser: Denoiser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is read, one is at the network, one is stored; and the first was looked at before the work."""
    store, denoising, add = Counting(archive(tmp_path / "in.npz", 40)), stream.denoise, shards.Shards.add

    def slowly(*args: Any) -> Any:
        time.sleep(0.005)
        return denoising(*args)

    def stored(rows: shards.Shards, items: list[Any]) -> None:
        time.sleep(0.01)
        add(rows, items)
        store.ahead -= len(items)

    monkeypatch.setattr(stream, "BATCH_PIXELS", 16)
    monkeypatch.setattr(shards, "SHARD_BYTES", 48)
    monkeypatch.setattr(stream, "denoise", slowly)
    monkeypatch.setattr(shards.Shards, "add", stored)
    most: list[int] = []
    counted = Source("counted", store, range(40))
    purify_source(counted, denoiser, tmp_path / "out.npz", JOB, tell=lambda event: most.append(store.most_ahead))
    assert 2 <= most[-1] <= 4


def test_a_batch_ends_where_its_pixels_would_take_too_much_memory(
    denoiser: Denoiser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(archive(tmp_path / "in.npz"))
    whole = made(source, denoiser, tmp_path / "whole.npz")
    monkeypatch.setattr(stream, "BATCH_PIXELS", 3 * 8 * 8 + 1)
    seen: list[Progress] = []
    assert made(source, denoiser, tmp_path / "out.npz", tell=seen.append) == whole
    assert [progress.done for progress in seen] == [3, 6, 9, 12, 13]
    monkeypatch.setattr(stream, "BATCH_PIXELS", 1)  # an image larger than that is a batch of its own
    assert made(source, denoiser, tmp_path / "again.npz") == whole


def test_a_shard_ends_where_its_pixels_would_take_too_much_memory(
    denoiser: Denoiser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 1000)
    monkeypatch.setattr(shards, "SHARD_BYTES", 2 * 3 * 8 * 8)
    out = tmp_path / "out.npz"
    assert run_broken(open_source(archive(tmp_path / "in.npz")), denoiser, out, batches=13, batch=1) == 13
    assert len(list(shard_folder(out).glob("shard-*.arrow"))) == 7
