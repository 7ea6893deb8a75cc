import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from kit.tiny import CONFIG, one_sentence, some_images
from numpy.typing import NDArray
from torch import Tensor, nn

from eclipse.diffusion import presets, training
from eclipse.diffusion.checkpoint import load_denoiser
from eclipse.diffusion.denoiser import Denoiser, build_denoiser
from eclipse.diffusion.loss import hybrid_loss
from eclipse.diffusion.presets import FAST, PAPER, Training
from eclipse.diffusion.training import TrainStep, draw, train
from eclipse.diffusion.trusted import (
    check_trusted,
    denoiser_in,
    fingerprint_images,
    plan_denoiser,
    train_denoiser,
    training_folder,
)
from eclipse.errors import EclipseError
from eclipse.runs.files import locked
from eclipse.runs.state import State, Work

SHORT = Training(iterations=6, batch=8, lr=2e-3, decay=True, ema=0.9, copies=1, crop=None)
IMAGES = some_images(50)


def fresh(**changes: Any) -> Denoiser:
    torch.manual_seed(0)
    return build_denoiser(replace(CONFIG, **changes))


def run(denoiser: Denoiser, recipe: Training = SHORT, images: Any = IMAGES, **options: Any) -> list[TrainStep]:
    return list(steps(denoiser, recipe, images, **options))


def steps(
    denoiser: Denoiser,
    recipe: Training = SHORT,
    images: Any = IMAGES,
    *,
    state: Path | None = None,
    seed: int = 0,
    minutes: float | None = None,
) -> Iterator[TrainStep]:
    return train(denoiser, images, recipe, Work(seed, state=State(state)), dtype=torch.float32, minutes=minutes)


def weights(denoiser: nn.Module) -> bytes:
    return b"".join(w.contiguous().numpy().tobytes() for w in denoiser.state_dict().values())


def break_after(last: int, events: Iterator[TrainStep]) -> None:
    for event in events:
        if event.step == last:
            return


@pytest.fixture
def saving(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save the state at every step instead of every half minute."""
    monkeypatch.setattr(training, "CHECKPOINT_EVERY_S", -1.0)


# What is learned


def test_loss_falls_and_held_out_noise_is_found() -> None:
    smooth = np.broadcast_to(np.arange(0, 200, 4, dtype=np.uint8)[:, None, None, None], (50, 3, 8, 8))
    denoiser = fresh()
    losses = [step.loss for step in run(denoiser, replace(SHORT, iterations=100, batch=16, lr=2e-2), smooth)]
    assert losses[0] == pytest.approx(1.0, abs=0.2)  # no noise predicted: its variance is the loss
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])
    x0 = torch.full((16, 3, 8, 8), 0.3)
    with torch.no_grad():
        left = hybrid_loss(denoiser, denoiser.config.schedule, x0, torch.full((16,), 300), torch.randn(16, 3, 8, 8))
    assert left.loss.mean() < 0.4


def test_the_average_of_the_weights_is_kept() -> None:
    denoiser = fresh()
    average = [w.detach().clone() for w in denoiser.parameters()]
    recipe = replace(SHORT, iterations=20, ema=0.6, lr=0.1)
    for event in steps(denoiser, recipe):
        decay = min(0.6, event.step / (event.step + 10))
        average = [decay * a + (1 - decay) * w.detach() for a, w in zip(average, denoiser.parameters(), strict=True)]
        last = [w.detach().clone() for w in denoiser.parameters()]
    for kept, expected in zip(denoiser.parameters(), average, strict=True):
        torch.testing.assert_close(kept, expected, rtol=0, atol=1e-6)
    assert any((a - b).abs().max() > 1e-4 for a, b in zip(average, last, strict=True))
    assert not denoiser.training


def test_the_learning_rate_warms_up_and_falls_along_a_half_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = torch.optim.AdamW.step

    def note(self: torch.optim.AdamW, *args: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", note)
    run(fresh())
    expected = [2e-3 * (i + 1) / 100 * 0.5 * (1 + math.cos(math.pi * i / 6)) for i in range(6)]
    assert rates == pytest.approx(expected)
    rates.clear()
    run(fresh(), replace(SHORT, decay=False))
    assert rates == pytest.approx([2e-3 * (i + 1) / 100 for i in range(6)])


def test_seed_decides_the_weights_and_nothing_else_does() -> None:
    first, same, other = fresh(), fresh(), fresh()
    run(first)
    torch.manual_seed(99)
    np.random.seed(99)
    run(same)
    run(other, seed=-1)
    assert weights(first) == weights(same) != weights(other)


def test_events_tell_how_far_training_is() -> None:
    events = run(fresh())
    assert [e.step for e in events] == [1, 2, 3, 4, 5, 6]
    assert [e.progress for e in events] == pytest.approx([i / 6 for i in range(1, 7)])
    assert all(a.seconds < b.seconds for a, b in itertools.pairwise(events))
    assert all(e.images_per_s > 0 and e.seconds_left >= 0 for e in events)
    assert events[-1].seconds_left == 0


def test_minutes_stop_training_whatever_its_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0.0, 7.0)
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    events = run(fresh(), minutes=0.5)
    assert [e.seconds for e in events] == [7, 14, 21, 28, 35]
    assert [e.progress for e in events] == pytest.approx([7 / 30, 14 / 30, 21 / 30, 28 / 30, 1.0])
    assert [e.seconds_left for e in events] == pytest.approx([23, 16, 9, 2, 0])


# Interruptions


class Dropping(nn.Module):
    """A network that drops pixels while it learns, from torch's global generator."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Dropout(0.5), nn.Conv2d(4, 3, 3, padding=1))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


@pytest.mark.usefixtures("saving")
@pytest.mark.parametrize("done", [1, 4, 6])
def test_resumed_training_equals_an_undisturbed_one(tmp_path: Path, done: int) -> None:
    undisturbed, first, second = fresh(), fresh(), fresh()
    run(undisturbed)
    state = tmp_path / "state"
    break_after(done, steps(first, state=state))
    events = run(second, state=state)
    assert events[0].step == min(done, 5) + 1  # a finished training keeps its state of one step before
    assert weights(second) == weights(undisturbed)


@pytest.mark.usefixtures("saving")
def test_dropout_and_crops_are_resumed_too(tmp_path: Path) -> None:
    def dropping() -> Denoiser:
        torch.manual_seed(0)
        return Denoiser(CONFIG, Dropping())

    images = [*some_images(25, 9, 14), *some_images(25, 12, 5)]
    undisturbed, first, second = dropping(), dropping(), dropping()
    run(undisturbed, images=images)
    break_after(2, steps(first, images=images, state=tmp_path / "state"))
    torch.manual_seed(5)
    assert [e.step for e in run(second, images=images, state=tmp_path / "state")] == [3, 4, 5, 6]
    assert weights(second) == weights(undisturbed)


def test_steps_after_the_last_save_are_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed, first, second = fresh(), fresh(), fresh()
    run(undisturbed)
    clock = itertools.count(0.0, 12.0)  # a save is due after three steps, and again after three more
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    break_after(5, steps(first, state=tmp_path / "state"))
    assert [e.step for e in run(second, state=tmp_path / "state")] == [4, 5, 6]
    assert weights(second) == weights(undisturbed)


@pytest.mark.usefixtures("saving")
def test_time_before_the_break_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0.0, 7.0)
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    state = tmp_path / "state"
    break_after(3, steps(fresh(), minutes=0.5, state=state))
    assert [e.seconds for e in run(fresh(), minutes=0.5, state=state)] == [28, 35]


@pytest.mark.usefixtures("saving")
def test_a_failed_save_leaves_the_state_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tmp_path / "state"
    break_after(2, steps(fresh(), state=state))
    (file,) = state.iterdir()
    before = file.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr("os.fsync", full)
        run(fresh(), state=state)
    assert file.read_bytes() == before
    assert list(state.iterdir()) == [file]


# What a batch is drawn from


def numbered(n: int, height: int = 4, width: int = 4) -> NDArray[np.uint8]:
    """Images that know their row in red, and their pixels' row and column in green and blue."""
    index, y, x = np.meshgrid(np.arange(n), np.arange(height), np.arange(width), indexing="ij")
    return np.stack([index, y, x], axis=1).astype(np.uint8)


def pixels(x0: Tensor) -> NDArray[np.int64]:
    return ((x0 + 1) * 127.5).round().to(torch.int64).numpy()


def test_each_epoch_visits_every_image_and_its_copies_once() -> None:
    recipe = replace(SHORT, copies=2, batch=4)  # 30 images an epoch: the eighth batch belongs to two
    images = numbered(10)
    seen = np.concatenate([pixels(draw(images, recipe, None, 500, 3, step)[0])[:, 0, 0, 0] for step in range(15)])
    first, second = seen[:30], seen[30:]
    assert (np.bincount(first) == 3).all() and (np.bincount(second) == 3).all()
    assert first.tolist() != second.tolist()


def test_a_batch_may_be_larger_than_the_enlarged_set() -> None:
    seen = pixels(draw(numbered(3), replace(SHORT, copies=0, batch=8), None, 500, 0, 1)[0])[:, 0, 0, 0]
    # The ninth to sixteenth images of a sequence of threes: the last of one epoch, two whole ones, the first of a next.
    assert sorted(seen[1:4]) == sorted(seen[4:7]) == [0, 1, 2]


def test_levels_and_noise_are_drawn_as_they_should() -> None:
    drawn = [draw(numbered(10), replace(SHORT, batch=500), None, 20, 0, step) for step in range(2)]
    for _, t, noise in drawn:
        assert set(t.tolist()) == set(range(20))
        assert noise.mean().abs() < 0.03 and (noise.std() - 1).abs() < 0.03
    assert not torch.equal(drawn[0][1], drawn[1][1]) and not torch.equal(drawn[0][2], drawn[1][2])


def drawn_sizes(images: Any, crop: int | None) -> NDArray[np.int64]:
    x0 = draw(images, replace(SHORT, batch=64), training.crop_size(images, crop), 500, 0, 0)[0]
    return pixels(x0)


def test_images_of_one_size_are_taken_whole() -> None:
    images = numbered(10, 6, 9)
    for x in drawn_sizes(images, 9):
        np.testing.assert_array_equal(x, images[x[0, 0, 0]])


def test_larger_images_are_cropped_all_over() -> None:
    crops = drawn_sizes(numbered(10, 12, 20), 8)
    assert crops.shape == (64, 3, 8, 8)
    tops, lefts = crops[:, 1, 0, 0], crops[:, 2, 0, 0]
    for x, top, left in zip(crops, tops, lefts, strict=True):
        np.testing.assert_array_equal(x[1:], numbered(1, 12, 20)[0, 1:, top : top + 8, left : left + 8])
    assert set(tops) == set(range(5)) and set(lefts) == set(range(13))


def test_mixed_sizes_share_a_crop_of_the_median_side_and_small_ones_are_padded() -> None:
    images = [*numbered(2, 3, 2), *numbered(4, 30, 6), *numbered(4, 9, 16)]
    crops = drawn_sizes(images, 64)
    assert crops.shape == (64, 3, 6, 6)
    small = [x for x in crops if x[1].max() == 2]
    assert small
    for x in small:  # its last row and column go on
        np.testing.assert_array_equal(x[1], np.minimum(np.arange(6), 2)[:, None].repeat(6, 1))
        np.testing.assert_array_equal(x[2], np.minimum(np.arange(6), 1)[None].repeat(6, 0))


def test_mixed_sizes_train() -> None:
    events = run(fresh(), images=[*some_images(30, 9, 14), *some_images(30, 7, 8)])
    assert len(events) == 6 and math.isfinite(events[-1].loss)


# What is refused


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (IMAGES[:49], "49 trusted images; a denoiser needs at least 50"),
        (IMAGES.astype(np.float32), "trusted image 0 is float32"),
        (IMAGES[:, :2], "shape (2, 8, 8)"),
        ([*IMAGES, IMAGES[0, 0]], "trusted image 50 is uint8 of shape (8, 8)"),
        ([*IMAGES, IMAGES[0][:, :0]], "trusted image 50 is uint8 of shape (3, 0, 8)"),
    ],
)
def test_unusable_trusted_images_are_refused(images: Any, words: str) -> None:
    with pytest.raises(EclipseError) as caught:
        train_denoiser(images)
    assert words in one_sentence(caught.value)


def test_a_denoiser_of_one_size_refuses_others() -> None:
    with pytest.raises(EclipseError) as caught:
        train_denoiser(IMAGES, preset="paper")
    assert "trusted image 0 is 8x8; this denoiser takes 32x32 only" in one_sentence(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"preset": "fats"}, "unknown preset 'fats'; did you mean 'fast'?"),
        ({"iterations": 0}, "--iterations 0; expected more than 0"),
        ({"minutes": -1.0}, "--minutes -1; expected more than 0"),
        ({"iterations": 5, "minutes": 1.0}, "expected one of them, not both"),
        ({"sigma": 2.0}, "noise level sigma 510/255 is out of range"),
        ({"device": "gpu"}, "device 'gpu'"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(EclipseError) as caught:
        train_denoiser(IMAGES, **options)
    assert words in one_sentence(caught.value)


# From images to a denoiser, and to a folder with one


@pytest.fixture
def tiny_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The preset ``fast`` with a tiny network and six steps."""
    small = replace(FAST, denoiser=replace(FAST.denoiser, options=CONFIG.options), training=SHORT)
    monkeypatch.setitem(presets.PRESETS, "fast", small)


@pytest.mark.usefixtures("tiny_fast")
def test_trained_denoiser_is_decided_by_the_seed_and_leaves_torchs_generator_alone() -> None:
    generator = torch.get_rng_state()
    first, same, other = train_denoiser(IMAGES), train_denoiser(IMAGES), train_denoiser(IMAGES, seed=1)
    assert torch.equal(torch.get_rng_state(), generator)
    assert weights(first) == weights(same) != weights(other)


@pytest.mark.usefixtures("tiny_fast")
def test_trained_denoiser_says_how_it_was_trained() -> None:
    events: list[TrainStep] = []
    trained = train_denoiser(list(IMAGES), iterations=4, seed=3, on_step=events.append).config.trained
    assert [e.step for e in events] == [1, 2, 3, 4]
    expected = {"preset": "fast", "iterations": 4, "iterations done": 4, "minutes": None, "seed": 3}
    assert expected.items() <= trained.items()
    assert trained["trusted images"] == 50
    assert trained["trusted"] == fingerprint_images(IMAGES) != fingerprint_images(IMAGES[::-1])


@pytest.mark.usefixtures("tiny_fast")
def test_a_higher_noise_level_widens_the_training() -> None:
    assert train_denoiser(IMAGES, sigma=6.4 / 255).config.t_max == FAST.denoiser.t_max
    wider = train_denoiser(IMAGES, sigma=60 / 255).config
    assert wider.t_max == wider.schedule.index(60 / 255) + 1 > FAST.denoiser.t_max


def into(folder: Path, images: NDArray[np.uint8] = IMAGES, seed: int = 0, **options: Any) -> tuple[Denoiser, int]:
    """Train into a folder; return the denoiser and the number of steps that it took."""
    done: list[TrainStep] = []
    on_step = options.pop("on_step", done.append)
    planned = plan_denoiser(presets.PRESETS["fast"], **options)
    trusted = check_trusted(images, planned.config)
    return denoiser_in(folder, planned, trusted, Work(seed), on_step=on_step), len(done)


@pytest.mark.usefixtures("tiny_fast")
def test_a_finished_folder_is_used_again(tmp_path: Path) -> None:
    first, done = into(tmp_path / "d")
    again, none = into(tmp_path / "d")
    assert (done, none) == (6, 0)
    assert weights(first) == weights(again) == weights(load_denoiser(tmp_path / "d"))


@pytest.mark.usefixtures("tiny_fast", "saving")
def test_an_interrupted_folder_is_gone_on_with(tmp_path: Path) -> None:
    undisturbed, _ = into(tmp_path / "other")

    def interrupt(event: TrainStep) -> None:
        if event.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        into(tmp_path / "d", on_step=interrupt)
    assert not (tmp_path / "d").exists()
    resumed, done = into(tmp_path / "d")
    assert done == 2
    assert weights(resumed) == weights(undisturbed)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "other"]


def interrupted(folder: Path) -> None:
    """Leave an unfinished training of a denoiser for a folder."""

    def interrupt(event: TrainStep) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        into(folder, on_step=interrupt)


DIFFERENT = {
    "iterations": {"iterations": 5},
    "seed": {"seed": 1},
    "noise levels": {"sigma": 60 / 255},
    "trusted": {"images": IMAGES[::-1]},
    "minutes": {"minutes": 1.0},
}


@pytest.mark.usefixtures("tiny_fast", "saving")
@pytest.mark.parametrize("begin", [into, interrupted])
@pytest.mark.parametrize("name", DIFFERENT)
def test_other_settings_are_refused_by_name(tmp_path: Path, begin: Callable[[Path], object], name: str) -> None:
    begin(tmp_path / "d")
    with pytest.raises(EclipseError) as caught:
        into(tmp_path / "d", **DIFFERENT[name])
    assert "was made with " in one_sentence(caught.value)
    assert f"{name} = " in str(caught.value) or name == "minutes"  # which also replaces the iterations


@pytest.mark.usefixtures("tiny_fast", "saving")
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("network options widths", {"denoiser": replace(CONFIG, options={"widths": [4, 12], "blocks": [1, 1]})}),
        ("training batch", {"training": replace(SHORT, batch=9)}),
        ("training decay", {"training": replace(SHORT, decay=False)}),
        ("training crop", {"training": replace(SHORT, crop=4)}),
    ],
)
def test_an_unfinished_training_by_other_numbers_of_the_preset_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, changes: dict[str, Any]
) -> None:
    interrupted(tmp_path / "d")
    monkeypatch.setitem(presets.PRESETS, "fast", replace(presets.PRESETS["fast"], **changes))
    with pytest.raises(EclipseError, match=f"was made with {name} = "):
        into(tmp_path / "d")


@pytest.mark.usefixtures("tiny_fast", "saving")
@pytest.mark.parametrize("what", ["settings.json", "denoiser.safetensors"])
def test_a_damaged_state_is_refused(tmp_path: Path, what: str) -> None:
    interrupted(tmp_path / "d")
    damaged = training_folder(tmp_path / "d") / what
    damaged.write_bytes(damaged.read_bytes()[:-10])
    with pytest.raises(EclipseError, match=f"{damaged} .*delete .*training to (start|begin) anew"):
        into(tmp_path / "d")


@pytest.mark.usefixtures("tiny_fast")
def test_a_folder_that_another_process_trains_into_is_refused(tmp_path: Path) -> None:
    with locked(training_folder(tmp_path / "d"), tmp_path / "d"), pytest.raises(EclipseError, match="another process"):
        into(tmp_path / "d")


@pytest.mark.usefixtures("tiny_fast")
def test_gray_trusted_images_are_trained_on_as_three_equal_planes() -> None:
    gray = IMAGES[:, :1]
    color = train_denoiser(np.repeat(gray, 3, axis=1))
    assert weights(train_denoiser(gray)) == weights(train_denoiser(list(gray))) == weights(color)


def test_a_folder_that_cannot_be_made_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(EclipseError, match="no such folder"):
        into(tmp_path / "missing" / "d")


def test_presets_train_on_the_levels_that_they_purify_at() -> None:
    for preset in (FAST, PAPER):
        assert preset.denoiser.schedule.index(preset.sigma) < preset.denoiser.t_max
