import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit.tiny import CONFIG, one_sentence, random_weights, some_images, tiny_denoiser
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from eclipse.data.imageset import ImageSet
from eclipse.diffusion import presets, tiling
from eclipse.diffusion.denoiser import Denoiser, build_denoiser
from eclipse.diffusion.presets import FAST, PAPER, PRESETS, Preset, Training, preset_of
from eclipse.diffusion.samplers import SAMPLERS
from eclipse.diffusion.trusted import train_denoiser
from eclipse.errors import EclipseError
from eclipse.purification import algorithm, arrays
from eclipse.purification.algorithm import Purification, absorb, denoise, group_size, purification
from eclipse.purification.arrays import Purifier, purify

SIGMA = 21.6 / 255
STEPS = {"one-step": 1, "ancestral": 3, "ancestral-posterior": 3, "ddim": 3}
Pixels = NDArray[np.uint8]


class Perfect(nn.Module):
    """A network that knows the only image, and so the exact noise in every noised copy of it."""

    def __init__(self, image: Pixels) -> None:
        super().__init__()
        self.image = nn.Parameter(torch.from_numpy(image).float() / 127.5 - 1.0)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        abar = torch.from_numpy(CONFIG.schedule.abar)[(time * 4).round().long()].view(-1, 1, 1, 1)
        eps: Tensor = (x.double() - abar.sqrt() * self.image) / (1 - abar).sqrt()
        return eps


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute in float32 also where the machine is faster in bfloat16."""
    monkeypatch.setattr(algorithm, "compute_dtype", lambda device: (torch.float32, "for a test"))


# The same bytes, however the images come


@pytest.fixture(scope="module")
def fast() -> Denoiser:
    """The network of the preset ``fast`` with random weights."""
    torch.manual_seed(0)
    denoiser = build_denoiser(FAST.denoiser)
    random_weights(denoiser)
    return denoiser


def in_parts(images: Pixels, denoiser: Denoiser, size: int, **options: Any) -> Pixels:
    """The images, purified so many at a time."""
    ids = [str(i) for i in range(len(images))]
    slices = [slice(first, first + size) for first in range(0, len(images), size)]
    return np.concatenate([purify(images[rows], denoiser, ids=ids[rows], **options) for rows in slices])


@pytest.mark.parametrize(("height", "width"), [(32, 32), (13, 22)])
def test_company_does_not_change_a_byte(fast: Denoiser, height: int, width: int) -> None:
    images = some_images(19, height, width)
    whole = purify(images, fast)
    for size in (1, 7):
        np.testing.assert_array_equal(in_parts(images, fast, size), whole)


@pytest.mark.parametrize(
    ("sampler", "dtype"), [*((name, torch.float32) for name in SAMPLERS), ("ancestral", torch.bfloat16)]
)
def test_company_does_not_change_a_byte_of_any_sampler(
    monkeypatch: pytest.MonkeyPatch, sampler: str, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(algorithm, "compute_dtype", lambda device: (dtype, "for a test"))
    denoiser, images = tiny_denoiser(), some_images(9, 32, 32)
    options: dict[str, Any] = {"sampler": sampler, "steps": STEPS[sampler]}
    whole = purify(images, denoiser, **options)
    assert whole.std() > 10
    for size in (1, 7):
        np.testing.assert_array_equal(in_parts(images, denoiser, size, **options), whole)


@pytest.mark.parametrize("sampler", ["one-step", "ancestral"])
def test_ids_decide_the_noise_and_neither_order_nor_company(sampler: str) -> None:
    denoiser, images = tiny_denoiser(), some_images(21, 32, 32)
    ids = [f"class/{i}.png" for i in range(21)]
    options: dict[str, Any] = {"sampler": sampler, "steps": STEPS[sampler]}
    whole = purify(images, denoiser, ids=ids, **options)
    halves = [purify(images[rows], denoiser, ids=ids[rows], **options) for rows in (slice(10), slice(10, None))]
    np.testing.assert_array_equal(np.concatenate(halves), whole)
    order = np.random.default_rng(1).permutation(21)
    permuted = purify(images[order], denoiser, ids=[ids[i] for i in order], **options)
    np.testing.assert_array_equal(permuted, whole[order])


def test_same_images_get_other_noise_by_id_and_by_seed() -> None:
    denoiser = tiny_denoiser()
    images = np.repeat(some_images(1), 3, axis=0)
    out = purify(images, denoiser, ids=["a", "b", "a"])
    assert (out[0] == out[2]).all() and (out[0] != out[1]).any()
    assert (purify(images, denoiser, ids=["a", "b", "a"], seed=1)[0] != out[0]).any()
    np.testing.assert_array_equal(purify(images, denoiser)[1], purify(images[:1], denoiser, ids=["1"])[0])


def test_memory_is_bounded_for_large_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(algorithm, "GROUP_PIXELS", {"cpu": 2 * 16 * 16 + 100})
    sizes: list[int] = []

    def counting(denoiser: Denoiser, images: Tensor, ids: Sequence[str], how: Purification, seed: int) -> Tensor:
        sizes.append(len(images))
        return absorb(denoiser, images, ids, how, seed)

    monkeypatch.setattr(arrays, "absorb", counting)
    purify(some_images(5, 16, 16), tiny_denoiser())
    assert sizes == [2, 2, 1]


class Largest(TorchDispatchMode):
    """Notes the most numbers in a float tensor that is not a part of one there was before."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found, known = func(*args, **(kwargs or {})), {storage_of(x) for x in args if isinstance(x, Tensor)}
        if isinstance(found, Tensor) and found.is_floating_point() and storage_of(found) not in known:
            self.numbers = max(self.numbers, found.numel())
        return found


def storage_of(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_nothing_is_computed_on_the_whole_of_a_large_image_at_once(
    sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiling, "TILE", 16)
    monkeypatch.setattr(algorithm, "_SLAB_PIXELS", 16 * 16)
    denoiser, images = tiny_denoiser(), torch.from_numpy(some_images(1, 320, 240))
    how = purification(FAST, CONFIG, sigma=SIGMA, steps=STEPS[sampler], sampler=sampler)
    x_t = absorb(denoiser, images, ["a"], how, 0)
    with Largest() as largest:
        denoise(denoiser, x_t, ["a"], how, 0)
    assert 0 < largest.numbers < x_t.numel() / 4


def test_gray_images_are_purified_as_three_equal_planes_of_which_the_rounded_mean_is_kept() -> None:
    denoiser, images = tiny_denoiser(), some_images(20, 9, 9)[:, :1]
    color = purify(np.repeat(images, 3, axis=1), denoiser)
    assert (color != color[:, :1]).any()
    expected = color.astype(np.float64).mean(axis=1, keepdims=True).round()
    np.testing.assert_array_equal(purify(images, denoiser), expected)
    np.testing.assert_array_equal(purify(torch.from_numpy(images), denoiser).numpy(), expected)


@pytest.mark.parametrize(("pixels", "size"), [(1, 256), (64, 256), (65, 128), (32 * 32, 16), (33 * 32, 8), (10**7, 1)])
def test_groups_are_powers_of_two_of_about_the_same_work(pixels: int, size: int) -> None:
    assert group_size(pixels, "cpu") == size
    assert group_size(pixels, "cuda") == (1 if pixels == 10**7 else 32 * size)


# What comes out


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("sigma", [6.4 / 255, SIGMA])
def test_a_perfect_denoiser_gives_back_every_level_of_the_image(sampler: str, sigma: float) -> None:
    levels = np.random.default_rng(0).permutation(np.arange(768) % 256).astype(np.uint8)
    images = np.repeat(levels.reshape(1, 3, 16, 16), 3, axis=0)
    denoiser = Denoiser(CONFIG, Perfect(images[0]))
    np.testing.assert_array_equal(
        purify(images, denoiser, sigma=sigma, sampler=sampler, steps=STEPS[sampler], ids=["a", "b", "c"]), images
    )


def test_output_is_in_the_order_of_the_input() -> None:
    levels = np.arange(10, 250, 6, dtype=np.uint8)
    images = np.broadcast_to(levels[:, None, None, None], (len(levels), 3, 32, 32))
    untrained = build_denoiser(CONFIG)  # it predicts no noise, so the image stays, noised
    np.testing.assert_allclose(purify(images, untrained, sigma=6.4 / 255).mean((1, 2, 3)), levels, atol=1)


@pytest.mark.parametrize("sigma", [6.4 / 255, SIGMA])
def test_absorbed_images_are_as_noisy_as_asked_for(sigma: float) -> None:
    denoiser, images = build_denoiser(CONFIG), some_images(20, 32, 32)
    how = purification(FAST, CONFIG, sigma=sigma, steps=1)
    x_t = absorb(denoiser, torch.from_numpy(images), [str(i) for i in range(20)], how, 0)
    (t_star,) = how.indices
    noise = x_t - math.sqrt(CONFIG.schedule.abar[t_star]) * (torch.from_numpy(images).double() / 127.5 - 1)
    assert noise.mean().abs() < 0.01 * sigma
    assert noise.std() / 2 == pytest.approx(sigma, rel=0.01)
    assert CONFIG.schedule.sigma(t_star) == pytest.approx(sigma, rel=0.01)


def test_several_steps_draw_noise_that_absorbing_did_not() -> None:
    drawn: list[Tensor] = []

    def asking(denoiser: Denoiser, x: Tensor, schedule: object, indices: Sequence[int], noise: Any) -> Tensor:
        drawn.extend(noise(t) for t in indices)
        return x

    images, ids = torch.zeros(4, 3, 32, 32, dtype=torch.uint8), ["a", "b", "c", "d"]
    denoiser, how = build_denoiser(CONFIG), purification(FAST, CONFIG, sigma=SIGMA, steps=2, sampler="ddim")
    x_t = absorb(denoiser, images, ids, how, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SAMPLERS, "ddim", asking)
        denoise(denoiser, x_t, ids, how, 0)
    drawn.append((x_t - x_t.mean()) / x_t.std())
    real = torch.stack([noise[:4].flatten() for noise in drawn])
    assert (torch.corrcoef(real) - torch.eye(3)).abs().max() < 0.05


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_images_out_are_like_the_images_in(sampler: str) -> None:
    images = some_images(3, 5, 7)
    out = purify(images, tiny_denoiser(), sampler=sampler, steps=STEPS[sampler])
    assert type(out) is np.ndarray
    assert (out.dtype, out.shape) == (np.uint8, images.shape)
    assert (out != images).any()


def test_torch_images_give_torch_images_of_the_same_bytes() -> None:
    denoiser, images = tiny_denoiser(), some_images(3, 9, 9)
    expected = purify(images, denoiser)
    tensor = torch.from_numpy(images)
    for given in (tensor, tensor.contiguous(memory_format=torch.channels_last)):
        out = purify(given, denoiser)
        assert isinstance(out, Tensor)
        assert (out.dtype, out.device) == (torch.uint8, given.device)
        np.testing.assert_array_equal(out.numpy(), expected)
    np.testing.assert_array_equal(tensor.numpy(), some_images(3, 9, 9))


@pytest.mark.filterwarnings("error")
def test_arrays_of_any_strides_are_read_and_not_written() -> None:
    denoiser, images = tiny_denoiser(), some_images(4, 9, 9)
    expected = purify(images, denoiser)
    images.setflags(write=False)
    np.testing.assert_array_equal(purify(images, denoiser), expected)
    backwards = np.ascontiguousarray(images[::-1])[::-1]
    np.testing.assert_array_equal(purify(backwards, denoiser), expected)
    channels_last = images.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(purify(channels_last, denoiser), expected)


def test_no_images_give_no_images() -> None:
    assert purify(some_images(0), tiny_denoiser()).shape == (0, 3, 8, 8)


def test_the_callers_denoiser_stays_as_it_is() -> None:
    denoiser = tiny_denoiser().train()
    before = {name: (w.clone(), w.dtype, w.stride()) for name, w in denoiser.state_dict().items()}
    purify(some_images(3), denoiser)
    assert denoiser.training and all(p.requires_grad for p in denoiser.parameters())
    for name, w in denoiser.state_dict().items():
        values, dtype, stride = before[name]
        assert (w.dtype, w.stride()) == (dtype, stride)
        assert torch.equal(w, values)


def test_dropout_of_a_denoiser_in_training_does_not_reach_the_images() -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Dropout(0.5))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = network

        def forward(self, x: Tensor, time: Tensor) -> Tensor:
            y: Tensor = self.layers(x)
            return y

    denoiser = Denoiser(CONFIG, Net()).train()
    np.testing.assert_array_equal(purify(some_images(2), denoiser), purify(some_images(2), denoiser))


# Settings


def test_what_is_not_given_is_the_presets() -> None:
    def numbers(preset: Preset, **options: Any) -> list[Any]:
        return list(purification(preset, preset.denoiser, **options).numbers().values())

    assert numbers(FAST) == [FAST.sigma, FAST.steps, FAST.sampler]
    assert numbers(PAPER, sigma=0.1) == [0.1, PAPER.steps, PAPER.sampler]
    one_step = replace(FAST, steps=1, sampler="one-step")
    assert numbers(one_step, steps=6) == [FAST.sigma, 6, "ancestral"]
    assert numbers(one_step, steps=6, sampler="ddim") == [FAST.sigma, 6, "ddim"]
    assert numbers(PAPER, sampler="one-step") == [PAPER.sigma, 1, "one-step"]


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_purifies_at_levels_that_its_denoiser_knows(name: str) -> None:
    config = PRESETS[name].denoiser
    assert len(purification(PRESETS[name], config).indices) == PRESETS[name].steps
    assert preset_of(config) is PRESETS[name]


def test_paper_preset_takes_the_papers_hundred_steps() -> None:
    config = replace(PAPER.denoiser, preset="imported")
    assert purification(preset_of(config), config).indices == tuple(range(99, -1, -1))


@pytest.mark.parametrize(
    ("images", "options", "words"),
    [
        (some_images(2).astype(np.float32), {}, "images are float32 of shape (2, 3, 8, 8); expected uint8"),
        (torch.zeros(2, 3, 8, 8), {}, "images are torch.float32 of shape (2, 3, 8, 8); expected uint8"),
        (some_images(2)[0], {}, "of shape (3, 8, 8); expected uint8 (N, 3, H, W)"),
        (some_images(2)[:, :2], {}, "of shape (2, 2, 8, 8); expected uint8 (N, 3, H, W)"),
        (some_images(2)[..., :0], {}, "of shape (2, 3, 8, 0); expected uint8 (N, 3, H, W)"),
        (some_images(2), {"ids": ["a"]}, "1 ids for 2 images"),
        (some_images(2), {"ids": [0, 1]}, "ids that are no text; expected one text per image"),
        (
            list(some_images(2)),
            {},
            "images are a list of ndarray; expected an array, uint8 (N, 3, H, W): use numpy.stack",
        ),
        ([Image.new("RGB", (8, 8))], {}, "images are a list of Image; expected an array"),
        ("photos", {}, "images are a str; expected an array"),
        (some_images(2).transpose(0, 2, 3, 1), {}, "channels last, use images.transpose(0, 3, 1, 2)"),
        (torch.zeros(2, 8, 8, 3, dtype=torch.uint8), {}, "channels last, use images.transpose(0, 3, 1, 2)"),
        (some_images(2), {"sigma": 6.4}, "noise level sigma 1632/255 is out of range"),
        (some_images(2), {"sigma": 0.0}, "noise level sigma 0/255 is out of range"),
        (
            some_images(2),
            {"sigma": 60 / 255},
            "noise level 60.0/255; this denoiser was trained on levels up to 33.4/255",
        ),
        (
            some_images(2),
            {"sigma": CONFIG.schedule.sigma(99), "steps": 101},
            "101 steps from noise level 6.359/255; expected at most 100",
        ),
        (some_images(2), {"steps": 0}, "0 steps"),
        (some_images(2), {"sampler": "dim"}, "unknown sampler 'dim'; did you mean 'ddim'?"),
        (some_images(2), {"sampler": "one-step", "steps": 4}, "4 steps of the sampler 'one-step'; expected 1"),
        (some_images(2), {"device": "tpu"}, "device 'tpu'"),
    ],
)
def test_mistakes_are_explained_in_one_sentence(images: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(EclipseError) as caught:
        purify(images, tiny_denoiser(), **options)
    assert words in one_sentence(caught.value)


def test_images_of_another_size_than_the_denoiser_takes_are_refused() -> None:
    with pytest.raises(EclipseError) as caught:
        purify(some_images(1, 8, 9), tiny_denoiser(image_size=8))
    assert "images of 8x9; this denoiser takes 8x8 only" in one_sentence(caught.value)


# The face


@pytest.fixture
def tiny_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(iterations=3, batch=4, lr=2e-3, decay=True, ema=0.9, copies=1, crop=None)
    denoiser = replace(FAST.denoiser, options=CONFIG.options)
    monkeypatch.setitem(presets.PRESETS, "fast", replace(FAST, denoiser=denoiser, training=training))


@pytest.mark.usefixtures("tiny_fast")
def test_purifier_does_what_the_functions_do() -> None:
    clean, suspicious = some_images(50), ImageSet.from_arrays(some_images(6, seed=1), [0, 1, 2, 0, 1, 2], "abc")[2:]
    purifier = Purifier(sigma=12 / 255, steps=2, sampler="ddim", iterations=2, seed=5)
    out = purifier.fit(clean).transform(suspicious)
    denoiser = train_denoiser(clean, iterations=2, sigma=12 / 255, seed=5)
    expected = purify(suspicious.images, denoiser, sigma=12 / 255, steps=2, sampler="ddim", seed=5, ids=suspicious.ids)
    np.testing.assert_array_equal(out.images, expected)
    assert (
        (out.ids, out.class_names) == (suspicious.ids, suspicious.class_names) == (("2", "3", "4", "5"), tuple("abc"))
    )
    assert out.labels is suspicious.labels
    same = Purifier(sigma=12 / 255, steps=2, sampler="ddim", iterations=2, seed=5).fit(ImageSet.from_arrays(clean))
    np.testing.assert_array_equal(same.transform(suspicious).images, expected)


@pytest.mark.usefixtures("tiny_fast")
def test_purifier_takes_arrays_and_tensors_too() -> None:
    purifier, images = Purifier().fit(list(some_images(50))), some_images(3)
    assert purifier.denoiser is not None
    expected = purify(images, purifier.denoiser)
    np.testing.assert_array_equal(purifier.transform(images), expected)
    np.testing.assert_array_equal(purifier.transform(torch.from_numpy(images)).numpy(), expected)


@pytest.mark.parametrize("denoiser", ["denoiser", Path("denoiser"), nn.Identity()])
def test_what_is_no_denoiser_is_refused(denoiser: Any) -> None:
    with pytest.raises(EclipseError) as caught:
        purify(some_images(2), denoiser)
    assert f"the denoiser is a {type(denoiser).__name__}; expected" in one_sentence(caught.value)


WRONG = {
    "a path": "trusted",
    "PIL images": [Image.new("RGB", (8, 8))] * 50,
    "channels last": some_images(50).transpose(0, 2, 3, 1),
    "a tensor": torch.from_numpy(some_images(50)),
    "a list of tensors": list(torch.from_numpy(some_images(50))),
    "lists": some_images(50).tolist(),
    "nothing": None,
}


@pytest.mark.usefixtures("tiny_fast")
@pytest.mark.parametrize("what", WRONG)
def test_trusted_images_in_another_form_are_refused_in_one_sentence(what: str) -> None:
    for learn in (train_denoiser, Purifier().fit):
        with pytest.raises(EclipseError) as caught:
            learn(WRONG[what])
        assert "; expected" in one_sentence(caught.value)


def test_purifier_refuses_to_transform_before_fit() -> None:
    with pytest.raises(EclipseError) as caught:
        Purifier().transform(some_images(2))
    assert "call fit(trusted_images) before transform" in one_sentence(caught.value)
