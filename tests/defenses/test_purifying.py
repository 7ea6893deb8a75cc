"""Defenses that purify: ECLIPSE and its parts, AVATAR, one-step denoising and D-VAE."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit.sets import noisy_set
from kit.tiny import CONFIG, one_sentence, some_images, tiny_denoiser
from numpy.typing import NDArray
from torch import Tensor

from eclipse.compute.device import seeded
from eclipse.data.imageset import ImageSet
from eclipse.data.pixels import quantize, to_unit
from eclipse.defenses import DEFENSES, make_defense
from eclipse.defenses.avatar import AVATAR
from eclipse.defenses.disentangling import Parts
from eclipse.defenses.dvae import DVAE
from eclipse.defenses.eclipse import ECLIPSE
from eclipse.diffusion import presets
from eclipse.diffusion import trusted as denoisers
from eclipse.diffusion.checkpoint import save_denoiser
from eclipse.diffusion.presets import FAST
from eclipse.diffusion.trusted import train_denoiser
from eclipse.errors import EclipseError
from eclipse.parameters import parameters
from eclipse.purification import arrays
from eclipse.purification.arrays import purify
from eclipse.purification.compensation import once
from eclipse.runs.files import locked
from eclipse.runs.state import StageStep, State, Work

SHAPE = (3, 8, 8)
TRUSTED = ImageSet.from_arrays(some_images(50, seed=7), np.arange(50) % 10)


class Killed(Exception):
    """Stands for the end of a process."""


def dying(stage: str, survived: int, seen: list[StageStep]) -> Callable[[StageStep], None]:
    """Die at a step of a stage, after as many of its steps as were survived."""

    def on_step(step: StageStep) -> None:
        seen.append(step)
        if step.stage == stage and [s.stage for s in seen].count(stage) > survived:
            raise Killed

    return on_step


@pytest.fixture
def at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tell and save without waiting for a second to pass, and purify 16 images at a time."""
    for module, name in ((denoisers, "TELL_EVERY_S"), (arrays, "TELL_EVERY_S"), (arrays, "SAVE_EVERY_S")):
        monkeypatch.setattr(module, name, 0.0)
    monkeypatch.setattr("eclipse.purification.algorithm.GROUP_PIXELS", {"cpu": 16 * 8 * 8})


def augmented(name: str, x: Tensor, **fields: Any) -> Tensor:
    torch.manual_seed(0)
    return make_defense(name, **fields).augment(x, torch.zeros(len(x), dtype=torch.int64), 10)[0]


# --- ECLIPSE ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("tiny_fast")
def test_part_a_is_purification_with_a_denoiser_of_the_trusted_images() -> None:
    data = noisy_set(40, SHAPE)
    denoiser = train_denoiser(TRUSTED.images, "fast", seed=3, device="cpu")
    for fields in ({}, {"sigma": 10 / 255, "steps": 3}):
        expected = purify(data.images, denoiser, seed=3, ids=data.ids, device="cpu", **fields)
        found = make_defense("eclipse-a", **fields).prepare(data, TRUSTED, Work(3))
        assert np.array_equal(found.images, expected)
        assert found.ids == data.ids and np.array_equal(found.labels, data.labels)
        assert not np.array_equal(found.images, data.images)


@pytest.mark.parametrize("parts", ["B", "C", "BC"])
def test_without_part_a_nothing_is_trained_and_the_data_stays_as_it_is(parts: str) -> None:
    data = noisy_set(5, SHAPE)
    assert make_defense("eclipse", parts=parts).prepare(data, None, Work()) is data


def test_part_a_alone_leaves_batches_as_they_are() -> None:
    x = torch.rand(5, *SHAPE)
    assert torch.equal(augmented("eclipse-a", x), x)


def test_part_b_turns_the_published_share_gray_and_adds_nothing() -> None:
    x = torch.rand(2000, *SHAPE)
    out = augmented("eclipse-b", x, preset="paper")
    gray = (out == out[:, :1]).all(dim=(1, 2, 3))
    assert torch.equal(out[~gray], x[~gray])
    luma = (x * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    assert torch.allclose(out[gray], luma[gray].expand(-1, 3, -1, -1), atol=1e-6)
    assert gray.float().mean().item() == pytest.approx(0.4, abs=0.04)


def test_part_c_adds_the_published_noise_and_grays_nothing() -> None:
    x = torch.rand(2000, *SHAPE).mul(0.2).add(0.4)  # so that nothing is clipped
    out = augmented("eclipse-c", x, preset="paper")
    assert (out - x).std().item() == pytest.approx(0.05, rel=0.02)
    assert (out - x).mean(dim=(0, 2, 3)).abs().max() < 1e-3
    assert (out != out[:, :1]).flatten(1).any(1).all()


def test_overrides_take_the_place_of_the_presets_numbers() -> None:
    x = torch.rand(500, *SHAPE).mul(0.2).add(0.4)
    out = augmented("eclipse-bc", x, p=0.0, noise=0.02, q=1.0)
    assert (out - x).std().item() == pytest.approx(0.02, rel=0.03)
    assert torch.equal(augmented("eclipse", x, p=0.0, noise=0.0), x)


@pytest.mark.usefixtures("tiny_fast")
def test_once_writes_the_compensation_into_the_data_and_online_leaves_it_to_the_batches() -> None:
    data, x = noisy_set(20, SHAPE), torch.rand(8, *SHAPE)
    purified = make_defense("eclipse-a").prepare(data, TRUSTED, Work(1))
    written = make_defense("eclipse", compensation="once").prepare(data, TRUSTED, Work(1))
    assert np.array_equal(written.images, once(purified, p=FAST.p, noise=FAST.noise, q=FAST.q, seed=1).images)
    assert torch.equal(augmented("eclipse", x, compensation="once"), x)
    online = make_defense("eclipse").prepare(data, TRUSTED, Work(1))
    assert np.array_equal(online.images, purified.images)
    assert not torch.equal(augmented("eclipse", x), x)


def test_preparations_are_equal_where_the_prepared_data_are() -> None:
    a = make_defense("eclipse-a").preparation()
    for name in ("eclipse", "eclipse-ab", "eclipse-ac"):
        assert make_defense(name, p=0.1).preparation() == a is not None
    assert make_defense("eclipse", sigma=FAST.sigma, steps=1).preparation() == a, "the preset's numbers, spelled out"
    for name in ("eclipse-b", "eclipse-c", "eclipse-bc"):
        assert make_defense(name).preparation() is None
        assert make_defense(name).needs() == "nothing"
    others = [
        make_defense("eclipse-a", steps=2),
        make_defense("eclipse-a", iterations=9),
        make_defense("eclipse-paper"),
        make_defense("eclipse", compensation="once"),
        make_defense("eclipse", compensation="once", p=0.1),
        make_defense("eclipse-bc", compensation="once"),
        make_defense("eclipse-trusted"),
        make_defense("eclipse-trusted", parts="B"),
    ]
    seen = [repr(defense.preparation()) for defense in others]
    assert len({*seen, repr(a)}) == 9


def test_settings_tell_the_numbers_of_the_preset_and_follow_it(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("eclipse", "eclipse-bc", "eclipse-c", "avatar", "one-step")

    def told() -> dict[str, tuple[Any, Any]]:
        made = {name: make_defense(name, scale="small") for name in names}
        return {name: (defense.settings(), defense.preparation()) for name, defense in made.items()}

    before = told()
    whole = before["eclipse"][0]
    assert (whole["sigma"], whole["p"], whole["noise"], whole["q"]) == (FAST.sigma, FAST.p, FAST.noise, FAST.q)
    assert before["eclipse-c"][0]["p"] == 0 and before["one-step"][0]["sigma"] == 0.25
    training = replace(FAST.training, iterations=7)
    for changed, settings, prepared in (
        (replace(FAST, p=0.1), {"eclipse", "eclipse-bc"}, set[str]()),
        (replace(FAST, training=training), {"eclipse", "avatar", "one-step"}, {"eclipse", "avatar", "one-step"}),
    ):
        monkeypatch.setitem(presets.PRESETS, "fast", changed)
        after = told()
        assert {name for name in names if after[name][0] != before[name][0]} == settings
        assert {name for name in names if after[name][1] != before[name][1]} == prepared


def test_what_is_needed_follows_the_fields() -> None:
    assert make_defense("eclipse").needs() == "images"
    assert make_defense("eclipse-trusted", parts="B").needs() == "labelled images"
    assert (AVATAR().needs(), AVATAR(denoiser="folder").needs()) == ("a clean set", "nothing")


@pytest.mark.usefixtures("tiny_fast")
def test_eclipse_trusted_appends_the_trusted_images_as_they_are() -> None:
    data = noisy_set(20, SHAPE)
    both = make_defense("eclipse-trusted").prepare(data, TRUSTED, Work(1))
    purified = make_defense("eclipse-a").prepare(data, TRUSTED, Work(1))
    assert np.array_equal(both.images, np.concatenate([purified.images, TRUSTED.images]))
    assert np.array_equal(both.labels, np.concatenate([data.labels, TRUSTED.labels]))
    assert both.ids[:20] == data.ids and len(set(both.ids)) == 70


def test_eclipse_trusted_refuses_unlabelled_images_before_anything_is_trained() -> None:
    seen: list[StageStep] = []
    with pytest.raises(EclipseError, match="have no labels") as refused:
        unlabelled = ImageSet.from_arrays(TRUSTED.images)
        make_defense("eclipse-trusted").prepare(noisy_set(5, SHAPE), unlabelled, Work(state=State(on_step=seen.append)))
    one_sentence(refused.value)
    assert seen == []


# --- what the defenses that need a denoiser have in common ------------------------------------------------


@pytest.mark.usefixtures("tiny_fast")
@pytest.mark.parametrize("name", ["eclipse", "avatar", "one-step"])
def test_equal_seeds_give_equal_bytes_and_another_seed_gives_others(name: str) -> None:
    data, defense = noisy_set(20, SHAPE), make_defense(name, scale="small")
    first, again, other = (defense.prepare(data, TRUSTED, Work(seed)).images for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert (first != other).mean() > 0.5


@pytest.mark.usefixtures("tiny_fast")
@pytest.mark.parametrize("name", ["eclipse", "avatar", "one-step"])
def test_gray_images_are_purified_as_three_equal_planes(name: str) -> None:
    data, trusted = noisy_set(20, (1, 8, 8)), ImageSet.from_arrays(some_images(50)[:, :1])
    defense = make_defense(name, scale="small")
    found = defense.prepare(data, trusted, Work()).images
    as_color = [images.with_images(np.repeat(images.images, 3, axis=1)) for images in (data, trusted)]
    color = defense.prepare(as_color[0], as_color[1], Work()).images
    assert np.array_equal(found[:, 0], color.mean(axis=1).round())


@pytest.mark.parametrize("name", ["eclipse", "eclipse-paper", "avatar", "one-step"])
def test_what_cannot_work_is_refused_before_anything_is_trained(name: str) -> None:
    seen: list[StageStep] = []
    defense, state = make_defense(name, scale="small"), State(on_step=seen.append)
    for data, trusted, words in (
        (noisy_set(5, SHAPE), None, "needs a (few images|clean set) that you trust"),
        (noisy_set(5, SHAPE), TRUSTED[:49], "49 trusted images|images of 8x8"),
        (noisy_set(5, (4, 8, 8)), TRUSTED, "images of 4 channels; a denoiser takes 3"),
    ):
        with pytest.raises(EclipseError, match=words) as refused:
            defense.prepare(data, trusted, Work(state=state))
        one_sentence(str(refused.value).replace("4% of the training set: give", "4%: give"))
    assert seen == []


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("eclipse", {"parts": ""}, "parts '' of ECLIPSE"),
        ("eclipse", {"parts": "CA"}, "parts 'CA' of ECLIPSE"),
        ("eclipse", {"preset": "fsat"}, "did you mean 'fast'"),
        ("eclipse", {"sigma": 21.6}, "noise level sigma 5508/255 is out of range"),
        ("eclipse", {"steps": 0}, "0 steps"),
        ("eclipse", {"sampler": "dim"}, "did you mean 'ddim'"),
        ("eclipse", {"p": 1.1}, "grayscale probability 1.1"),
        ("eclipse", {"noise": 12.8}, "looks like 8-bit levels"),
        ("eclipse", {"iterations": 0}, "--iterations 0; expected more than 0"),
        ("eclipse", {"compensation": "twice"}, "compensation 'twice'"),
        ("avatar", {"sigma": 0.6}, "out of range"),
        ("avatar", {"preset": "slow"}, "unknown preset"),
        ("one-step", {"sigma": 0}, "noise level sigma 0/255 of one-step"),
        ("d-vae", {"epochs": 0}, "epochs 0 of D-VAE"),
        ("d-vae", {"lr": 0.0}, "learning rate 0 of D-VAE"),
    ],
)
def test_parameters_out_of_range_are_refused(name: str, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(EclipseError, match=words) as refused:
        make_defense(name, **fields)
    one_sentence(refused.value)


@pytest.mark.parametrize("name", ["eclipse", "avatar", "one-step"])
def test_noise_levels_are_given_and_read_in_8_bit_levels(name: str) -> None:
    changed = DEFENSES.asked(name, "small", ["sigma=12.75"])
    assert changed == make_defense(name, scale="small", sigma=12.75 / 255)
    assert str(parameters(changed)["sigma"]) == "12.75"
    with pytest.raises(EclipseError, match="noise level sigma 300/255"):
        DEFENSES.asked(name, "small", ["sigma=300"])


@pytest.mark.usefixtures("tiny_fast", "at_every_step")
@pytest.mark.parametrize(("stage", "survived"), [("denoiser", 1), ("purification", 1)])
def test_eclipse_goes_on_after_a_kill_and_ends_with_the_same_bytes(stage: str, survived: int, tmp_path: Path) -> None:
    data, defense = noisy_set(40, SHAPE), make_defense("eclipse-a", steps=4)
    undisturbed = defense.prepare(data, TRUSTED, Work()).images
    seen: list[StageStep] = []
    with pytest.raises(Killed):
        defense.prepare(data, TRUSTED, Work(state=State(tmp_path, dying(stage, survived, seen))))
    resumed = defense.prepare(data, TRUSTED, Work(state=State(tmp_path, seen.append))).images
    assert np.array_equal(resumed, undisturbed)
    purified = [step.done for step in seen if step.stage == "purification"]
    assert purified == [16, 32, 40], "no image is purified twice"
    if stage == "purification":
        assert [step.done for step in seen if "loss" in step.facts] == [1, 2, 3], "nor is a denoiser trained twice"


# --- denoisers --------------------------------------------------------------------------------------------


def trained(steps: list[StageStep]) -> int:
    return sum("loss" in step.facts and step.done == step.total for step in steps)


def asked(images: ImageSet, work: Work, **numbers: Any) -> None:
    """Ask for the shared denoiser of preset ``fast``."""
    planned = denoisers.plan_denoiser(presets.PRESETS["fast"], **numbers)
    denoisers.shared_denoiser(planned, denoisers.check_trusted(images.images, planned.config), work)


@pytest.mark.usefixtures("tiny_fast")
def test_a_denoiser_is_trained_once_and_shared(tmp_path: Path) -> None:
    seen: list[StageStep] = []
    data = noisy_set(10, SHAPE)
    states = [State(tmp_path / str(i), seen.append, tmp_path / "shared") for i in range(4)]
    alone = make_defense("eclipse-a").prepare(data, TRUSTED, Work())
    for name, place in zip(("eclipse-a", "eclipse-ab"), states, strict=False):
        assert np.array_equal(make_defense(name).prepare(data, TRUSTED, Work(state=place)).images, alone.images)
    assert trained(seen) == 1
    make_defense("eclipse-a").prepare(noisy_set(5, SHAPE), TRUSTED, Work(state=states[2]))
    make_defense("eclipse-a", steps=3).prepare(data, TRUSTED, Work(state=states[3]))
    assert trained(seen) == 1, "neither the data nor the sampling plays a part"


@pytest.mark.usefixtures("tiny_fast")
def test_another_denoiser_is_trained_where_anything_that_decides_it_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[StageStep] = []
    state = State(None, seen.append, tmp_path)
    for images, sigma, seed, iterations in (
        (TRUSTED, FAST.sigma, 0, None),
        (TRUSTED[::-1], FAST.sigma, 0, None),
        (TRUSTED, 40 / 255, 0, None),
        (TRUSTED, FAST.sigma, 1, None),
        (TRUSTED, FAST.sigma, 0, 4),
    ):
        asked(images, Work(seed, state=state), sigma=sigma, iterations=iterations)
    assert trained(seen) == len(list(tmp_path.iterdir())) == 5
    preset = presets.PRESETS["fast"]
    monkeypatch.setitem(presets.PRESETS, "fast", replace(preset, training=replace(preset.training, lr=1e-4)))
    asked(TRUSTED, Work(state=state), sigma=FAST.sigma)
    assert trained(seen) == 6, "a preset whose numbers were changed is another"


@pytest.mark.usefixtures("tiny_fast")
def test_a_denoiser_that_another_process_trains_is_waited_for(tmp_path: Path) -> None:
    def ask(place: Path) -> None:
        asked(TRUSTED, Work(state=State(None, seen.append, place)), sigma=0.02)

    seen, place = list[StageStep](), tmp_path / "shared"
    ask(tmp_path / "elsewhere")
    (made,) = (tmp_path / "elsewhere").iterdir()
    seen.clear()
    place.mkdir()
    waiting = threading.Thread(target=ask, args=[place])
    with locked(denoisers.training_folder(place / made.name), made):  # what the other process holds
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        made.rename(place / made.name)
    waiting.join(10)
    assert not waiting.is_alive() and trained(seen) == 0, "it was loaded, not trained again"
    assert [set(step.facts) for step in seen] == [{"seconds"}], "and its seconds are told, for who counts them"


# --- AVATAR and one-step denoising ------------------------------------------------------------------------


@pytest.mark.usefixtures("at_every_step")
def test_avatar_uses_a_given_denoiser_at_the_published_level(tmp_path: Path) -> None:
    denoiser, data = tiny_denoiser(t_max=900), noisy_set(6, SHAPE)
    save_denoiser(denoiser, tmp_path / "denoiser")
    assert AVATAR().sigma * 255 == pytest.approx(40.9, abs=0.05) and AVATAR().steps == 100
    found = AVATAR(denoiser=str(tmp_path / "denoiser")).prepare(data, None, Work(2)).images
    how: dict[str, Any] = {"sigma": AVATAR().sigma, "steps": 100, "sampler": "ancestral"}
    assert np.array_equal(found, purify(data.images, denoiser, seed=2, ids=data.ids, device="cpu", **how))


def test_avatar_refuses_a_denoiser_that_does_not_serve_its_level(tmp_path: Path) -> None:
    save_denoiser(tiny_denoiser(), tmp_path / "denoiser")
    with pytest.raises(
        EclipseError, match=r"40\.9/255; this denoiser was trained on levels up to 33\.4/255"
    ) as refused:
        AVATAR(denoiser=str(tmp_path / "denoiser")).prepare(noisy_set(5, SHAPE), None, Work())
    one_sentence(refused.value)
    with pytest.raises(EclipseError, match="cannot read"):
        AVATAR(denoiser=str(tmp_path / "none")).prepare(noisy_set(5, SHAPE), None, Work())


@pytest.mark.usefixtures("tiny_fast")
def test_one_step_adds_its_noise_to_the_image_and_takes_the_denoisers_estimate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A fresh denoiser predicts no noise at all, so that its estimate is the noised image, scaled back.
    training = replace(FAST.training, iterations=1, batch=4, lr=0.0)
    monkeypatch.setitem(presets.PRESETS, "fast", replace(FAST, denoiser=CONFIG, training=training))
    data = ImageSet.from_arrays(np.full((40, 3, 16, 16), 128, np.uint8))
    trusted = ImageSet.from_arrays(some_images(50, 16, 16))
    noise = make_defense("one-step", scale="small", sigma=0.1).prepare(data, trusted, Work()).images.astype(float) - 128
    assert noise.std() / 255 == pytest.approx(0.1, rel=0.02)


# --- D-VAE ------------------------------------------------------------------------------------------------


def tiny_dvae(**fields: Any) -> DVAE:
    return DVAE(**{"width": 8, "latent": 16, "blocks": 0, "epochs": 3, "batch": 16, "free_epochs": 1, **fields})


def planted(n: int) -> tuple[ImageSet, ImageSet, NDArray[np.float32]]:
    """Smooth images of 8x8, the same with the pattern of their class of 4, and the patterns, +-16/255 a pixel."""
    rng = np.random.default_rng(5)
    coarse = torch.from_numpy(rng.uniform(0.25, 0.75, (n, 3, 4, 4)))
    smooth = torch.nn.functional.interpolate(coarse, size=(8, 8), mode="bilinear")
    labels = np.arange(n) % 4
    pattern = rng.choice([-16 / 255, 16 / 255], (4, 3, 8, 8)).astype(np.float32)
    clean = ImageSet.from_arrays(quantize(smooth).numpy(), labels)
    return clean, clean.with_images(quantize(smooth + torch.from_numpy(pattern[labels])).numpy()), pattern


def test_the_perturbation_branch_of_d_vae_finds_a_planted_class_wise_pattern(tmp_path: Path) -> None:
    clean, poisoned, pattern = planted(128)
    labels, state = clean.require_labels("test"), State(tmp_path)
    defense = tiny_dvae(epochs=20, free_epochs=6, batch=32, lr=0.01)
    cleaned = defense.prepare(poisoned, None, Work(state=state)).images
    network = defense.train_network(poisoned, 1, Work(state=state))  # as it is on record
    perturbation = network(to_unit(torch.from_numpy(poisoned.images)), torch.from_numpy(labels)).perturbation
    means = np.stack([perturbation[torch.from_numpy(labels == label)].mean(0).numpy() for label in range(4)])
    correlation = np.corrcoef(means.reshape(4, -1), pattern.reshape(4, -1))[:4, 4:]
    assert correlation.diagonal().min() > 0.5
    assert np.abs(correlation - np.diag(correlation.diagonal())).max() < 0.3

    def along(images: NDArray[np.uint8]) -> float:
        """How much of the pattern of its class an image has, on average; 1 as planted."""
        change = (images.astype(np.float32) - clean.images) / 255
        return float((change * pattern[labels]).sum() / np.square(pattern[labels]).sum())

    rough = quantize(to_unit(torch.from_numpy(poisoned.images)) - perturbation).numpy()
    assert along(poisoned.images) == pytest.approx(1, abs=0.01)
    assert abs(along(rough)) < 0.7 and abs(along(cleaned)) < 0.2


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 7), (4, 6, 10)])
def test_d_vae_takes_any_channels_and_sizes_and_keeps_rows(shape: tuple[int, ...]) -> None:
    data = noisy_set(20, shape)
    before = data.fingerprint()
    first, again, other = (tiny_dvae(epochs=1).prepare(data, None, Work(seed)) for seed in (0, 0, 1))
    assert first.images.shape == data.images.shape and first.images.dtype == np.uint8
    assert first.ids == data.ids and np.array_equal(first.labels, data.labels) and data.fingerprint() == before
    assert np.array_equal(first.images, again.images) and not np.array_equal(first.images, other.images)


@pytest.mark.parametrize(("stage", "survived"), [(1, 1), (2, 1)])
def test_d_vae_goes_on_after_a_kill_and_ends_with_the_same_bytes(stage: int, survived: int, tmp_path: Path) -> None:
    data, defense, seen = noisy_set(40, SHAPE), tiny_dvae(), list[StageStep]()
    with pytest.raises(Killed):
        defense.prepare(data, None, Work(state=State(tmp_path, dying(f"d-vae stage {stage}", survived, seen))))
    resumed = defense.prepare(data, None, Work(state=State(tmp_path, seen.append))).images
    assert np.array_equal(resumed, defense.prepare(data, None, Work()).images)
    epochs = [(step.stage, step.done) for step in seen]
    assert epochs == [(f"d-vae stage {number}", epoch) for number in (1, 2) for epoch in (1, 2, 3)]


def test_d_vae_takes_the_perturbation_off_twice_and_keeps_what_passes_the_second_bottleneck(tmp_path: Path) -> None:
    data, defense, state = noisy_set(20, SHAPE), tiny_dvae(), State(tmp_path)
    prepared = defense.prepare(data, None, Work(state=state)).images
    y = torch.from_numpy(data.require_labels("test"))

    def drawn(images: NDArray[np.uint8], purpose: str, change: Any) -> NDArray[np.uint8]:
        with seeded(0, purpose), torch.no_grad():
            return quantize(change(to_unit(torch.from_numpy(images)))).numpy()

    rough = defense.train_network(data, 1, Work(state=state))  # as they are on record
    x1 = drawn(data.images, "d-vae rough", lambda x: x - rough(x, y).perturbation)
    fine = defense.train_network(data.with_images(x1), 2, Work(state=state))
    assert np.array_equal(
        prepared, drawn(x1, "d-vae fine", lambda x: fine((x - fine(x, y).perturbation).clamp(0, 1), y).image)
    )
    alone = tiny_dvae().train_network(data.with_images(x1), 2, Work())
    assert torch.equal(fine.widen.weight, alone.widen.weight), "the second stage is trained on the result of the first"


def test_d_vae_has_the_published_numbers() -> None:
    assert DVAE().settings() == {
        **{"width": 64, "latent": 256, "blocks": 2, "epochs": 60, "batch": 128, "lr": 5e-3, "clip": 5.0},
        **{"targets": (1.0, 3.0), "weight": 0.01, "free_epochs": 11, "bound": 0.002},
    }


def test_the_loss_of_d_vae_is_the_published_sum() -> None:
    x, image, rest = torch.full((2, 3, 4, 4), 0.5), torch.full((2, 3, 4, 4), 0.4), torch.full((2, 3, 4, 4), 0.3)
    for kl, bounded, expected in (
        (0.5, False, 0.01 + 0.04 + 0.01 * 1.0),
        (2.0, False, 0.01 + 0.04 + 0.01 * 2.0),
        (2.0, True, 0.01 + 0.04 + 0.01 * 2.0 + 0.09),
    ):
        found = DVAE().loss(Parts(image, rest, torch.tensor(kl)), x, 1.0, bounded)
        assert found.item() == pytest.approx(expected, rel=1e-5)
    little = Parts(image, torch.full((2, 3, 4, 4), 0.01), torch.tensor(1.0))
    assert DVAE().loss(little, x, 1.0, True).item() == pytest.approx(0.01 + 0.0081 + 0.01 + 0.002, rel=1e-5)


def test_d_vae_at_its_published_width_is_the_published_network() -> None:
    network = DVAE().network(noisy_set(10, (3, 32, 32)), "d-vae", 0)
    stem = 3 * 64 * 9 + 2 * 64 + 4 * (64 * 64 * 9 + 2 * 64) + 64 * 128 * 11 - 64 * 128 + 128 * 128 * 9 + 6 * 128
    bottleneck = 2 * (128 + 1) * 256 + (256 + 1) * 128
    decoder = 128 * 64 * 16 + 64 + 64 * 64 * 9 + 64 + 64 * 32 * 9 + 32 + 32 * 3 * 9 + 3
    count = sum(p.numel() for name, p in network.named_parameters())
    assert count == stem + bottleneck + 2 * decoder + 10 * 128 * 16 * 16


def test_d_vae_refuses_sets_without_labels_or_images_and_a_training_that_diverges() -> None:
    for data, fields, words in (
        (ImageSet.from_arrays(some_images(4)), {}, "D-VAE needs labels"),
        (noisy_set(4, SHAPE)[:0], {}, "there are 0"),
        (noisy_set(16, SHAPE), {"lr": 1e30}, "loss is (nan|inf) after epoch"),
    ):
        with pytest.raises(EclipseError, match=words) as refused:
            tiny_dvae(**fields).prepare(data, None, Work())
        one_sentence(refused.value)


# --- costs ------------------------------------------------------------------------------------------------


def test_costs_are_those_of_the_published_methods() -> None:
    assert ECLIPSE(preset="paper").cost() == pytest.approx(1 + 117 + 6, rel=0.05)
    assert ECLIPSE(parts="BC").cost() == 1.0
    assert 1 < ECLIPSE().cost() < 1.01
    assert DVAE().cost() == pytest.approx(2.1, abs=0.1)
