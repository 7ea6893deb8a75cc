"""The compensation module: what it does to one image, how often, and on whose randomness."""

import copy
import io
import math
import pickle
import shutil
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from eclipse.data.imageset import ImageSet
from eclipse.diffusion.presets import FAST
from eclipse.errors import EclipseError
from eclipse.purification.compensation import Compensate, corrupt, once

LUMA = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)


def colors(n: int, size: int = 4) -> Tensor:
    """Images between 0.25 and 0.75, which five standard deviations of the noise do not clip."""
    return 0.25 + 0.5 * torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(5))


def is_gray(x: Tensor) -> Tensor:
    return (x[:, 0] == x[:, 1]).flatten(1).all(1) & (x[:, 1] == x[:, 2]).flatten(1).all(1)


def image_set(n: int, shape: tuple[int, ...] = (3, 8, 8)) -> ImageSet:
    pixels = np.random.default_rng(2).integers(0, 256, (n, *shape), dtype=np.uint8)
    return ImageSet.from_arrays(pixels, np.arange(n) % 3, ["a", "b", "c"])


def gray_share(pixels: np.ndarray) -> float:
    return float(is_gray(torch.tensor(pixels)).float().mean())


def within_binomial_bounds(share: float, p: float, n: int) -> bool:
    return abs(share - p) < 4 * math.sqrt(p * (1 - p) / n)


# --- online -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.0, 0.1, 0.4, 1.0])
def test_each_image_turns_gray_with_probability_p(p: float) -> None:
    x = colors(4000, size=2)
    share = float(is_gray(Compensate(p=p, noise=0)(x)).float().mean())
    assert share == p if p in (0, 1) else within_binomial_bounds(share, p, 4000)


def test_gray_is_luma_on_all_channels_and_other_images_stay() -> None:
    x = colors(100)
    y = Compensate(p=0.4, noise=0)(x)
    gray = is_gray(y)
    assert torch.allclose(y[gray], (x * LUMA).sum(1, keepdim=True).expand_as(x)[gray], atol=1e-6)
    assert torch.equal(y[~gray], x[~gray])


def test_the_noise_is_gaussian_independent_and_as_strong_as_asked_for() -> None:
    x = torch.full((200, 3, 32, 32), 0.5)
    noise = Compensate(p=0.5, noise=0.05, q=1)(x) - x
    assert noise.std().item() == pytest.approx(0.05, rel=0.01)
    assert abs(noise.mean().item()) < 4 * 0.05 / math.sqrt(noise.numel())
    assert (noise.abs() < 0.05).float().mean().item() == pytest.approx(0.6827, abs=0.003)
    channels = torch.corrcoef(noise.transpose(0, 1).flatten(1))
    assert (channels - torch.eye(3)).abs().max() < 0.01, "a gray image gets colored noise"


def test_results_are_clamped_to_the_unit_interval() -> None:
    x = torch.cat([torch.zeros(50, 3, 8, 8), torch.ones(50, 3, 8, 8)])
    y = Compensate(noise=0.2, q=1)(x)
    assert y.min() == 0 and y.max() == 1
    assert (y == x).float().mean().item() == pytest.approx(0.5, abs=0.03)


def test_it_is_drawn_anew_at_each_call_from_the_global_generator() -> None:
    x, transform = colors(8), Compensate()
    first, second = transform(x), transform(x)
    torch.manual_seed(0)
    assert not torch.equal(first, second)
    assert torch.equal(transform(x), first)


def test_a_given_generator_decides_alone() -> None:
    x = colors(8)
    a, b = (Compensate(generator=torch.Generator().manual_seed(3)) for _ in range(2))
    first = a(x)
    torch.rand(7)
    assert torch.equal(b(x), first)
    assert not torch.equal(a(x), first)


def test_a_single_image_is_treated_as_a_batch_of_one() -> None:
    x = colors(1)
    batch = Compensate(generator=torch.Generator().manual_seed(3))(x)
    single = Compensate(generator=torch.Generator().manual_seed(3))(x[0])
    assert single.shape == (3, 4, 4) and torch.equal(single, batch[0])


def test_uint8_is_the_rounded_float_result() -> None:
    x = (colors(20) * 255).to(torch.uint8)
    stored = Compensate(generator=torch.Generator().manual_seed(3))(x)
    exact = Compensate(generator=torch.Generator().manual_seed(3))(x.float() / 255)
    assert stored.dtype == torch.uint8 and stored.shape == x.shape
    assert (stored.float() - exact * 255).abs().max() <= 0.5 + 1e-4
    assert torch.equal(Compensate(p=0, noise=0)(x), x)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_pil_image_stays_one(mode: str) -> None:
    pixels = image_set(1, (3, 6, 9)).images[0].transpose(1, 2, 0)
    image = Image.fromarray(pixels).convert(mode)
    same = Compensate(p=0, noise=0)(image)
    assert same.mode == mode and np.array_equal(np.array(same), np.array(image))
    noisy = Compensate(p=1, noise=0.05, q=1)(image)
    assert noisy.mode == mode and noisy.size == (9, 6) and noisy.tobytes() != image.tobytes()


def test_a_pil_image_read_from_a_file_gets_the_gray_that_pillow_makes() -> None:
    file = io.BytesIO()
    Image.fromarray(image_set(1, (3, 16, 16)).images[0].transpose(1, 2, 0)).save(file, "PNG")
    image = Image.open(file)
    gray = np.array(Compensate(p=1, noise=0)(image)).astype(int)
    assert np.abs(gray - np.array(image.convert("L"))[..., None]).max() <= 1


def test_one_channel_is_gray_as_it_is_and_still_gets_noise() -> None:
    x = colors(50)[:, :1]
    assert torch.equal(Compensate(p=1, noise=0)(x), x)
    assert (Compensate(p=1, noise=0.05, q=1)(x) - x).std().item() == pytest.approx(0.05, rel=0.1)


def test_gradients_pass_through() -> None:
    x = colors(2).requires_grad_()
    corrupt(x, torch.tensor([True, False]), torch.zeros(2, 3, 4, 4))[:, 0].sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad[0, :, 0, 0], LUMA.flatten())
    assert x.grad[1, :, 0, 0].tolist() == [1, 0, 0]


def test_the_input_is_not_written_and_half_precision_stays() -> None:
    x = colors(4).bfloat16()
    before = x.clone()
    assert Compensate(p=1)(x).dtype == torch.bfloat16
    assert torch.equal(x, before)


def test_noise_comes_with_its_probability() -> None:
    middle = torch.full((400, 3, 8, 8), 0.5)
    noisy = (Compensate(p=0, noise=0.05, q=0.25)(middle) != 0.5).flatten(1).float().mean(1)
    assert set(noisy.tolist()) == {0.0, 1.0}
    assert 0.18 < noisy.mean() < 0.32
    stored = ImageSet.from_arrays(np.full((400, 3, 8, 8), 128, np.uint8))
    changed = (once(stored, p=0, noise=0.05, q=0.25, seed=0).images != 128).reshape(400, -1).mean(1) > 0.5
    assert 0.18 < changed.mean() < 0.32


def test_with_noise_on_every_image_gray_and_noise_stay_what_they_were() -> None:
    data = ImageSet.from_arrays(np.random.default_rng(0).integers(0, 256, (30, 3, 8, 8), dtype=np.uint8))
    some, all_ = (once(data, p=0.5, noise=0.05, q=q, seed=0).images for q in (0.5, 1))
    plain = once(data, p=0.5, noise=0, seed=0).images
    alike = [(row == other).all() for row, other in zip(some, all_, strict=True)]
    unnoised = [(row == other).all() for row, other in zip(some, plain, strict=True)]
    assert [a != b for a, b in zip(alike, unnoised, strict=True)] == [True] * 30
    assert 5 < sum(alike) < 25


@pytest.mark.parametrize("q", [-0.1, 1.5])
def test_a_noise_probability_is_a_probability(q: float) -> None:
    with pytest.raises(EclipseError, match=r"noise probability .*; expected 0 to 1"):
        Compensate(q=q)


def test_it_fits_pipelines_workers_and_printing() -> None:
    x = colors(3)
    pipeline = torch.nn.Sequential(torch.nn.Identity(), Compensate(p=0.25, noise=0.1))
    assert pipeline(x).shape == x.shape
    assert pickle.loads(pickle.dumps(pipeline))[1].noise == copy.deepcopy(pipeline)[1].noise == 0.1
    assert repr(Compensate()) == f"Compensate(p={FAST.p}, noise={FAST.noise}, q={FAST.q})", "the default preset's"
    assert not list(Compensate().parameters())


# --- in pipelines -----------------------------------------------------------------------------------------


class Kept(Tensor):
    """A subclass as torchvision's tv_tensors are: what is computed of it is a plain tensor."""

    __torch_function__ = torch._C._disabled_torch_function_impl


class Labelled(NamedTuple):
    image: Tensor
    label: int


def as_array(x: Tensor) -> np.ndarray:
    return x.movedim(0, -1).numpy()


def as_planes(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.copy()).movedim(-1, 0)


SEEN = {
    "image and label": (lambda x: (x, 7), lambda sample: sample[0]),
    "a named tuple": (lambda x: Labelled(x, 7), lambda sample: sample.image),
    "a collated batch": (lambda x: [x[None], torch.eye(4)], lambda sample: sample[0][0]),
    "a batch and masks": (lambda x: [x[None], x[None, :1]], lambda sample: sample[0][0]),
    "a mapping": (lambda x: {"label": 7, "image": x}, lambda sample: sample["image"]),
    "columns": (lambda x: {"img": [x], "label": [7]}, lambda sample: sample["img"][0]),
    "a shard": (lambda x: {"__key__": "0/a", "png": x, "cls": 7}, lambda sample: sample["png"]),
    "a list": (lambda x: [x], lambda sample: sample[0]),
    "a subclass": (lambda x: x.as_subclass(Kept), lambda sample: sample.as_subclass(Tensor)),
    "an array": (as_array, as_planes),
    "a flipped array": (lambda x: as_array(x)[:, ::-1], as_planes),
    "a batch of arrays": (lambda x: as_array(x)[None], lambda sample: as_planes(sample[0])),
}


@pytest.mark.parametrize("form", SEEN)
@pytest.mark.parametrize("stored", [True, False])
def test_the_image_of_a_sample_is_found_and_all_else_stays(form: str, stored: bool) -> None:
    wrap, image_of = SEEN[form]
    x = (colors(1)[0] * 255).byte() if stored else colors(1)[0]
    sample = wrap(x)
    done = Compensate(p=1, noise=0)(sample)
    assert type(done) is type(sample)
    expected = Compensate(p=1, noise=0)(x.flip(-1) if form == "a flipped array" else x)
    assert torch.equal(image_of(done), expected) and not torch.equal(image_of(done), x)
    assert torch.equal(image_of(wrap(x)), image_of(sample)), "the input is as it was"
    if isinstance(sample, tuple | list) and len(sample) > 1:
        assert done[1] is sample[1]
    if isinstance(sample, dict):
        assert list(done) == list(sample) and all(
            done[name] is sample[name] for name in ("label", "cls") if name in sample
        )


def test_named_arguments_are_a_sample() -> None:
    gray = Compensate(p=1, noise=0)
    pixels, mask = np.full((2, 2, 3), [0, 0, 255], np.uint8), np.ones((2, 2), np.uint8)
    done = gray(image=pixels, mask=mask)
    assert np.array_equal(done["image"], gray(pixels)) and done["mask"] is mask
    assert np.array_equal(gray(pixels[..., :1]), pixels[..., :1]) and np.array_equal(gray(mask), mask)
    photo = Compensate(p=1, noise=0, image_key="photo")
    assert np.array_equal(photo({"image": mask, "photo": pixels})["photo"], gray(pixels))
    parts = gray(pixels, mask)
    assert np.array_equal(parts[0], gray(pixels)) and parts[1] is mask
    with pytest.raises(EclipseError, match="0 samples; expected"):
        gray()
    with pytest.raises(
        EclipseError, match="1 samples and the arguments image; expected a sample, or its parts by name"
    ):
        gray(pixels, image=pixels)


def test_vmap_treats_each_image_for_itself() -> None:
    x = colors(400)
    y = torch.func.vmap(Compensate(p=0.5, noise=0), randomness="different")(x)
    assert within_binomial_bounds(float(is_gray(y).float().mean()), 0.5, 400)
    assert torch.equal(y[~is_gray(y)], x[~is_gray(y)])
    noise = torch.func.vmap(Compensate(p=0, noise=0.05, q=1), randomness="different")(x) - x
    assert noise.std().item() == pytest.approx(0.05, rel=0.02) and not torch.equal(noise[0], noise[1])


COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="torch's inductor needs a C++ compiler")


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=[pytest.mark.slow, COMPILER])])
@pytest.mark.parametrize("stored", [True, False])
def test_it_compiles_to_one_graph(backend: str, stored: bool) -> None:
    torch.compiler.reset()
    x = (colors(400) * 255).byte() if stored else colors(400)
    compiled = torch.compile(Compensate(p=0.5, noise=0), fullgraph=True, backend=backend)
    labels = torch.arange(400)
    for done in (compiled(x), compiled((x, labels))[0], compiled({"image": x, "label": labels})["image"]):
        gray = is_gray(done)
        assert within_binomial_bounds(float(gray.float().mean()), 0.5, 400)
        assert torch.equal(done[~gray], x[~gray])
        assert (done[gray].float() - Compensate(p=1, noise=0)(x)[gray].float()).abs().max() <= (1 if stored else 1e-6)


# --- once -------------------------------------------------------------------------------------------------


def test_once_has_the_grayscale_rate_and_the_noise_of_online() -> None:
    images = image_set(3000, (3, 2, 2))
    done = once(images, p=0.4, noise=0.0, seed=0)
    assert within_binomial_bounds(gray_share(done.images), 0.4, 3000)
    middle = ImageSet.from_arrays(np.full((200, 3, 16, 16), 128, np.uint8))
    noise = once(middle, noise=0.05, q=1, seed=0).images.astype(float) - 128
    assert noise.std() == pytest.approx(12.75, rel=0.02)
    assert abs(noise.mean()) < 0.2


def test_once_repeats_itself_while_online_does_not() -> None:
    images = image_set(10)
    assert once(images, seed=1).fingerprint() == once(images, seed=1).fingerprint()
    assert once(images, seed=1).fingerprint() != once(images, seed=2).fingerprint()
    x, online = torch.tensor(images.images), Compensate()
    assert not torch.equal(online(x), online(x))


def test_once_depends_on_the_id_and_not_on_the_batch_or_the_order() -> None:
    images, rows = image_set(1100, (3, 4, 4)), np.array([1099, 5, 1024, 1023])
    whole = once(images, seed=0).images
    assert np.array_equal(once(images[rows], seed=0).images, whole[rows])
    halves = [once(images[part], seed=0).images for part in (slice(0, 333), slice(333, None))]
    assert np.array_equal(np.concatenate(halves), whole)


def test_once_keeps_everything_but_the_pixels() -> None:
    images = image_set(6)
    before = images.fingerprint()
    done = once(images, seed=0)
    assert images.fingerprint() == before
    assert done.ids == images.ids and done.class_names == images.class_names
    assert np.array_equal(done.require_labels("test"), images.require_labels("test"))
    assert done.images.shape == images.images.shape and done.images.dtype == np.uint8


def test_once_reads_arrays_that_cannot_be_written() -> None:
    images = image_set(6, (1, 5, 7))
    images.images.setflags(write=False)
    assert np.array_equal(once(images, p=1, noise=0, seed=0).images, images.images)


def test_gray_images_at_a_small_p_stay_gray_at_a_larger_one() -> None:
    images = image_set(300)
    few, many = (is_gray(torch.tensor(once(images, p=p, noise=0, seed=0).images)) for p in (0.3, 0.7))
    assert few.sum() < many.sum() and bool(many[few].all())


# --- errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "noise", "words"),
    [
        (1.2, 0.05, "probability 1.2; expected 0 to 1"),
        (-0.1, 0.05, "probability -0.1; expected 0 to 1"),
        (0.4, 12.8, "12.8 looks like 8-bit levels; .* 12.8/255 = 0.0502"),
        (0.4, -0.05, "-0.05; expected 0 or more"),
        (0.4, math.nan, "nan; expected 0 or more"),
        ("0.4", 0.05, "p is '0.4'; expected a number"),
        (0.4, None, "noise is None; expected a number"),
    ],
)
def test_impossible_parameters_are_refused_in_both_modes(p: Any, noise: Any, words: str) -> None:
    with pytest.raises(EclipseError, match=words):
        Compensate(p, noise)
    with pytest.raises(EclipseError, match=words):
        once(image_set(2), p=p, noise=noise, seed=0)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.zeros(4, 8, 8), r"\(4, 8, 8\); expected \(B, C, H, W\)"),
        (torch.zeros(8, 8), r"\(8, 8\); expected"),
        (torch.zeros(2, 8, 8, 3), "expected .* with C = 3 or 1"),
        (torch.full((3, 4, 4), 255.0), "pixels from 255 to 255; .* before normalizing"),
        (torch.full((3, 4, 4), -1.0), "pixels from -1 to -1"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "torch.int64; expected float in .* or uint8"),
        (Image.new("RGBA", (4, 4)), "mode RGBA; expected RGB or L"),
        (Image.new("P", (4, 4)), "mode P; expected RGB or L"),
        (np.zeros((3, 4, 4), np.uint8), r"an array of shape \(3, 4, 4\); .* torch.from_numpy where the channels"),
        (np.zeros((4, 4, 3), int), "torch.int64; expected float in .* or uint8"),
        ("photo.png", "images are a str; expected a tensor, an array or a PIL image"),
        ({"pixels": torch.zeros(3, 4, 4), "label": 1}, "a sample of pixels, label; .* name it with image_key"),
        (None, "images are a NoneType"),
    ],
)
def test_pixels_that_are_not_images_in_range_are_refused(x: object, words: str) -> None:
    with pytest.raises(EclipseError, match=words):
        Compensate()(x)


def test_once_refuses_an_alpha_channel() -> None:
    with pytest.raises(EclipseError, match="with C = 3 or 1"):
        once(image_set(2, (4, 8, 8)), seed=0)
