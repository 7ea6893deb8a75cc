"""What cells share is made once, and a killed making goes on."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from kit.grids import quiet
from kit.kills import Killed, killing
from kit.tiny import some_images

from eclipse.bench.cache import Cache, Kept, key
from eclipse.data.imageset import ImageSet
from eclipse.errors import EclipseError
from eclipse.runs.state import StageStep, State


def test_what_is_made_is_made_once_and_read_back_as_it_was(tmp_path: Path) -> None:
    images = ImageSet(some_images(3), ("a", "b/c", "ü"), np.array([0, 1, 0]), ("cat", "dog"))
    made: list[State] = []

    def make(state: State) -> ImageSet:
        made.append(state)
        state.tell("half", 1, 2)
        return images

    told: list[StageStep] = []
    cache = Cache(tmp_path / "cache")
    first, again = (cache.made("poisoned", {"a": 1}, make, told.append) for _ in range(2))
    assert len(made) == len(told) == 1 and not first.shared and again.shared
    assert again.images.fingerprint() == again.fingerprint == images.fingerprint()
    assert again.images.class_names == images.class_names
    cache.made("poisoned", {"a": 2}, make, told.append)
    assert len(made) == 2, "other settings, another set"
    assert key({"a": 1, "b": 2}) == key({"b": 2, "a": 1})


def test_one_that_waits_for_a_making_finds_it_made(tmp_path: Path) -> None:
    cache, waits, others = Cache(tmp_path / "cache"), threading.Event(), list[Future[Kept]]()

    def wait_for_it() -> Kept:
        waits.set()
        return cache.made("poisoned", {}, never, quiet)

    def never(state: State) -> ImageSet:
        raise AssertionError("it is being made already")

    with ThreadPoolExecutor() as pool:

        def make(state: State) -> ImageSet:
            others.append(pool.submit(wait_for_it))
            assert waits.wait(60)
            return ImageSet.from_arrays(some_images(2))

        made = cache.made("poisoned", {}, make, quiet)
        assert others[0].result().fingerprint == made.fingerprint and others[0].result().shared


def test_a_set_that_several_keep_at_once_is_whole(tmp_path: Path) -> None:
    cache, big = Cache(tmp_path / "cache"), ImageSet.from_arrays(some_images(400))
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(cache.keep, [big] * 4))) == 1
    assert cache.load(big.fingerprint()).fingerprint() == big.fingerprint()


def test_work_that_a_kill_left_beside_a_finished_set_is_tidied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path / "cache")

    def make(state: State) -> ImageSet:
        state.save("half", {"x": torch.zeros(1)}, {})
        return ImageSet.from_arrays(some_images(2))

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(ImageSet, "save", killing(ImageSet.save))
        cache.made("poisoned", {}, make, quiet)
    assert any(path.name.endswith(".making") for path in (tmp_path / "cache").rglob("*"))
    assert cache.made("poisoned", {}, make, quiet).shared
    assert not any(path.name.endswith(".making") for path in (tmp_path / "cache").rglob("*"))


class Clock:
    """Stands still but where a test moves it."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_making_that_was_killed_goes_on_and_its_seconds_add_up(tmp_path: Path) -> None:
    clock, folders = Clock(), list[Path | None]()
    cache = Cache(tmp_path / "cache", clock)

    def make(state: State) -> ImageSet:
        folders.append(state.folder)
        clock.now += 10.0
        state.tell("half", 1, 2)
        clock.now += 1.0
        if len(folders) == 1:
            raise KeyboardInterrupt
        return ImageSet.from_arrays(some_images(2))

    with pytest.raises(KeyboardInterrupt):
        cache.made("poisoned", {}, make, quiet)
    clock.now += 500.0
    kept = cache.made("poisoned", {}, make, quiet)
    assert folders[0] == folders[1] and kept.seconds == 21.0, "what was after the last saved state was lost"


def test_the_seconds_of_a_denoiser_are_told_apart_from_those_of_the_set(tmp_path: Path) -> None:
    clock = Clock()
    cache = Cache(tmp_path / "cache", clock)

    def make(state: State) -> ImageSet:
        clock.now += 80.0
        state.tell("denoiser", 1, 1, seconds=77.0)
        clock.now += 5.0
        return ImageSet.from_arrays(some_images(2))

    first, again = (cache.made("prepared", {}, make, quiet) for _ in range(2))
    assert (first.seconds, first.denoiser) == (again.seconds, again.denoiser) == (5.0, 77.0)


def test_a_damaged_set_in_the_cache_is_named_with_the_remedy(tmp_path: Path) -> None:
    cache, images = Cache(tmp_path / "cache"), ImageSet.from_arrays(some_images(2))
    cache.keep(images)
    cache.made("poisoned", {}, lambda state: images, quiet)
    for path in [*tmp_path.glob("cache/*/*.npz"), *tmp_path.glob("cache/*/*.json")]:
        path.write_bytes(path.read_bytes()[:100][:-50])
    for read in (
        lambda: cache.load(images.fingerprint()),
        lambda: cache.fingerprint("poisoned", {}),
        lambda: cache.made("poisoned", {}, lambda state: images, quiet),
    ):
        with pytest.raises(EclipseError, match=r"cannot be read .*; delete it, and .* is made anew"):
            read()


def test_a_cache_is_kept_from_version_control_unless_its_folder_has_rules_of_its_own(tmp_path: Path) -> None:
    for folder, before in ((tmp_path / "new", None), (tmp_path / "old", "keep\n")):
        if before:
            folder.mkdir()
            (folder / ".gitignore").write_text(before)
        Cache(folder).keep(ImageSet.from_arrays(some_images(2)))
        assert (folder / ".gitignore").read_text() == (before or "*\n")
