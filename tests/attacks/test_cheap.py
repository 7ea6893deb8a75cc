"""OPS, CUDA and PIL: bounds, determinism, resume, and the property that each of them lives by."""

import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit.sets import change, gray_set, noisy_set, probed
from kit.tiny import one_sentence
from numpy.typing import NDArray
from torch.nn import functional as F

from eclipse.attacks import make_attack
from eclipse.attacks.attack import Attack
from eclipse.attacks.crafting.perturbation import bound
from eclipse.attacks.cuda import CUDA, convolve
from eclipse.attacks.pil import PIL
from eclipse.classifiers.pgd import scaled_radius
from eclipse.data.changes import measure, size
from eclipse.data.imageset import ImageSet
from eclipse.errors import EclipseError
from eclipse.runs.state import StageStep, State, Work

SMALL = (3, 8, 8)


def quick_pil(**fields: Any) -> Attack:
    return make_attack("pil", **{"epochs": 2, "steps": 4, "step": 4 / 255, "batch": 16, **fields})


def every_attack() -> list[Attack]:
    return [make_attack("ops"), make_attack("ops", radius=3), make_attack("cuda"), quick_pil()]


def middle_set(n: int, shape: tuple[int, ...] = SMALL, classes: int = 10) -> ImageSet:
    """Random images without 0 or 255: no pixel of theirs is a corner of the color cube."""
    pixels = np.random.default_rng(2).integers(1, 255, (n, *shape)).astype(np.uint8)
    return ImageSet.from_arrays(pixels, np.arange(n) % classes)


# --- the contract -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", every_attack(), ids=repr)
@pytest.mark.parametrize(
    ("shape", "classes"), [(SMALL, 10), (SMALL, 100), ((1, 8, 8), 10), ((3, 6, 11), 3), ((4, 5, 5), 2)]
)
def test_any_shape_and_number_of_classes_is_poisoned_within_its_bound(
    attack: Attack, shape: tuple[int, ...], classes: int
) -> None:
    clean = noisy_set(max(20, 2 * classes), shape, classes)
    sizes = measure(clean.images, attack.poison(clean, seed=0).images, attack.norm)
    assert sizes.max() <= bound(attack.norm, attack.radius, shape)
    assert np.median(sizes) > 0


@pytest.mark.parametrize("attack", every_attack(), ids=repr)
def test_labels_ids_and_order_stay_and_the_input_is_not_written(attack: Attack) -> None:
    clean = noisy_set(30, SMALL)
    before = clean.fingerprint()
    poisoned = attack.poison(clean, seed=0)
    assert clean.fingerprint() == before
    assert poisoned.ids == clean.ids and np.array_equal(poisoned.labels, clean.labels)
    assert poisoned.images.dtype == np.uint8 and poisoned.images.shape == clean.images.shape


@pytest.mark.parametrize("attack", every_attack(), ids=repr)
def test_equal_seeds_give_equal_bytes(attack: Attack) -> None:
    clean = noisy_set(30, SMALL)
    assert np.array_equal(attack.poison(clean, seed=3).images, attack.poison(clean, seed=3).images)


@pytest.mark.parametrize("attack", [make_attack("cuda"), quick_pil()], ids=repr)
def test_the_seed_matters(attack: Attack) -> None:
    clean = noisy_set(30, SMALL)
    assert (attack.poison(clean, seed=0).images != attack.poison(clean, seed=1).images).mean() > 0.3


@pytest.mark.parametrize("name", ["ops", "cuda", "pil"])
def test_sets_that_cannot_be_poisoned_are_refused(name: str) -> None:
    attack = make_attack(name)
    for unfit, words in (
        (ImageSet.from_arrays(np.zeros((2, *SMALL), np.uint8)), "needs labels"),
        (gray_set(4, SMALL, classes=1), "1 class; expected at least 2"),
    ):
        with pytest.raises(EclipseError, match=words) as refused:
            attack.poison(unfit, seed=0)
        one_sentence(refused.value)


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("ops", {"radius": 0}, "radius of 0 pixels; expected a whole number"),
        ("ops", {"radius": 1.5}, "radius of 1.5 pixels"),
        ("cuda", {"radius": 1.0}, "radius 1, but nothing bounds this attack"),
        ("cuda", {"kernel": 4}, "kernel of 4 pixels; expected an odd number"),
        ("cuda", {"blur": -0.1}, "blur -0.1; expected 0 to 1"),
        ("pil", {"radius": 8}, "radius of 2040 levels"),
        ("pil", {"step": 0}, "step of 0 levels"),
        ("pil", {"steps": 0}, "steps 0"),
        ("pil", {"epochs": 0}, "0 epochs; expected at least 1"),
        ("pil", {"balance": 1.1}, "balance 1.1; expected more than 0"),
    ],
)
def test_parameters_out_of_range_are_refused(name: str, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(EclipseError, match=words) as refused:
        make_attack(name, **fields)
    one_sentence(refused.value)


# --- OPS --------------------------------------------------------------------------------------------------


def slow_ops(clean: ImageSet) -> NDArray[np.uint8]:
    """The search as the paper has it, image by image and pixel by pixel."""
    images, poisoned = clean.images / 255, clean.images.copy()
    labels = clean.require_labels("test")
    height, width = images.shape[2:]
    taken: set[tuple[Any, ...]] = set()
    for label in np.unique(labels):
        scores = {}
        for color in product((0, 1), repeat=3):
            for y, x in product(range(height), range(width)):
                away = np.abs(np.array(color) - images[labels == label][:, :, y, x])
                scores[color, y, x] = away.mean() / away.std() if (color, y, x) not in taken else 0
        color, y, x = max(scores, key=lambda pair: scores[pair])
        taken.add((color, y, x))
        poisoned[labels == label, :, y, x] = 255 * np.array(color)
    return poisoned


def test_ops_finds_what_the_slow_search_finds() -> None:
    clean = noisy_set(60, (3, 5, 4), classes=4)
    assert np.array_equal(make_attack("ops").poison(clean, seed=0).images, slow_ops(clean))


@pytest.mark.parametrize("classes", [10, 100])
def test_ops_gives_each_class_one_pixel_of_one_color_that_no_other_class_has(classes: int) -> None:
    clean = middle_set(3 * classes, classes=classes)
    poisoned = make_attack("ops").poison(clean, seed=0)
    moved = change(clean, poisoned).any(axis=1).reshape(3, classes, 64)
    assert np.all(moved.sum(axis=2) == 1), "one pixel of each image"
    assert np.all(moved == moved[0]), "the same one in a class"
    places = moved[0].argmax(axis=1)
    colors = poisoned.images.reshape(3, classes, 3, 64)[:, np.arange(classes), :, places]
    assert np.all(colors == colors[:, :1]) and set(np.unique(colors)) == {0, 255}
    assert len({(place, *color[0]) for place, color in zip(places, colors, strict=True)}) == classes


def test_ops_gives_classes_that_look_alike_pixels_of_their_own() -> None:
    clean = gray_set(20, (3, 2, 2))
    poisoned = make_attack("ops").poison(clean, seed=0).images
    assert len({image.tobytes() for image in poisoned}) == 10


def test_ops_changes_as_many_pixels_as_its_radius() -> None:
    clean = middle_set(20)
    poisoned = make_attack("ops", radius=5).poison(clean, seed=0).images
    assert set(measure(clean.images, poisoned, "L0")) == {5}


def test_ops_is_not_lured_to_a_constant_pixel_that_it_would_not_change() -> None:
    clean = middle_set(20)
    clean.images[:, :, 0] = 0  # black border: mean and deviation of black on it are both 0
    poisoned = make_attack("ops").poison(clean, seed=0).images
    assert set(measure(clean.images, poisoned, "L0")) == {1}


def test_ops_says_when_there_are_more_classes_than_pixels_and_colors() -> None:
    assert make_attack("ops").poison(gray_set(8, (1, 2, 2), classes=8), seed=0)
    with pytest.raises(EclipseError, match="runs out of pixels and colors on images of 2x2") as refused:
        make_attack("ops").poison(gray_set(9, (1, 2, 2), classes=9), seed=0)
    one_sentence(refused.value)


# --- CUDA -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 9, 14)])
def test_cuda_is_the_convolution_of_each_class_at_full_range(shape: tuple[int, ...]) -> None:
    clean, attack = noisy_set(20, shape), CUDA()
    poisoned = attack.poison(clean, seed=5).images
    for i, label in enumerate(clean.require_labels("test").tolist()):
        kernel = torch.tensor(attack.kernel_of(label, min(shape[1:]), seed=5), dtype=torch.float64)
        image = torch.tensor(clean.images[i], dtype=torch.float64)[:, None]
        direct = F.conv2d(image, kernel[None, None], padding=1)[:, 0].numpy()
        off = np.abs(poisoned[i] - direct / direct.max() * 255)
        assert off.max() <= 0.5 + 1e-3, "rounded, not truncated"


def test_convolve_takes_kernels_larger_than_an_image() -> None:
    images, kernel = noisy_set(2, (2, 3, 4)).images, np.random.default_rng(0).random((9, 9), np.float32)
    direct = F.conv2d(torch.tensor(images).float().reshape(4, 1, 3, 4), torch.tensor(kernel)[None, None], padding=4)
    assert convolve(images, kernel).reshape(4, 1, 3, 4) == pytest.approx(direct.numpy(), rel=1e-5)


def test_cuda_kernels_are_noise_around_a_one_at_a_random_place() -> None:
    kernels = np.stack([CUDA().kernel_of(label, 32, seed=0) for label in range(50)]).reshape(50, 9)
    assert np.all((kernels == 1).sum(axis=1) == 1)
    rest = kernels[kernels < 1]
    assert rest.min() >= 0 and rest.max() <= 0.3 and rest.mean() == pytest.approx(0.15, abs=0.01)
    assert len(set(kernels.argmax(axis=1))) == 9


def test_cuda_kernels_grow_with_the_images() -> None:
    large = CUDA().kernel_of(0, 64, seed=0)
    assert large.shape == (9, 9) and np.sort(large.ravel())[-2] <= 0.06
    assert CUDA().kernel_of(0, 63, seed=0).shape == (3, 3)
    assert CUDA(kernel=5, blur=0.0).kernel_of(0, 64, seed=0).sum() == 1


def test_cuda_uses_the_whole_range_and_leaves_black_images_black() -> None:
    clean = noisy_set(20, SMALL)
    clean.images[3] = 0
    clean.images[4] //= 50
    largest = CUDA().poison(clean, seed=0).images.max(axis=(1, 2, 3))
    assert largest[3] == 0 and set(np.delete(largest, 3)) == {255}


# --- PIL --------------------------------------------------------------------------------------------------


def quarters(n: int) -> ImageSet:
    """Three classes, each with a bright quarter of its own in noise."""
    pixels, labels = np.random.default_rng(3).integers(40, 120, (n, 3, 16, 16)), np.arange(n) % 3
    for label, (top, left) in enumerate([(0, 0), (0, 8), (8, 0)]):
        pixels[labels == label, :, top : top + 8, left : left + 8] += 60
    return ImageSet.from_arrays(pixels.astype(np.uint8), labels)


@pytest.mark.parametrize("classes", [10, 100])
def test_a_linear_probe_reads_the_class_off_pil_noise_it_was_not_fitted_to(classes: int) -> None:
    clean = middle_set(8 * classes, (3, 16, 16), classes)
    delta = change(clean, quick_pil(step=0.8 / 255, steps=30).poison(clean, seed=0)).reshape(len(clean), -1)
    assert probed(delta, clean.require_labels("test")) > 0.99


def test_pil_takes_away_from_an_image_what_its_class_looks_like() -> None:
    clean = quarters(60)
    delta = change(clean, quick_pil(epochs=20, lr=0.03).poison(clean, seed=0)).mean(axis=1)
    blocks = np.stack([delta[:, :8, :8], delta[:, :8, 8:], delta[:, 8:, :8]], axis=1).mean(axis=(2, 3))
    assert np.array_equal(blocks.argmin(axis=1), clean.require_labels("test"))


def test_pil_counts_its_passes() -> None:
    attack = PIL()
    assert attack.passes() == 30 + 2 * 30
    network = attack.surrogate(gray_set(4, SMALL, classes=4), Work())
    assert network(torch.zeros(2, *SMALL)).shape == (2, 4)
    assert [tuple(weight.shape) for weight in network.parameters()] == [(4, 192), (4, 4)], "no biases"


def test_pil_learns_at_a_rate_that_falls_along_half_a_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = torch.optim.SGD.step

    def recorded(self: torch.optim.SGD, *args: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", recorded)
    quick_pil(epochs=4, batch=20, lr=0.5).poison(gray_set(40, SMALL), seed=0)
    assert rates == pytest.approx([0.25 * (1 + math.cos(math.pi * i / 8)) for i in range(8)])


class Killed(Exception):
    """Stands for the end of a process."""


@pytest.mark.parametrize("survived", [1, 3, 4, 5])
def test_pil_goes_on_after_a_kill_and_ends_with_the_same_bytes(
    survived: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eclipse.attacks.crafting.surrogate.ROWS", 8)
    clean, attack, steps = noisy_set(20, SMALL), quick_pil(epochs=3), list[StageStep]()

    def die(step: StageStep) -> None:
        steps.append(step)
        if len(steps) == survived:
            raise Killed

    with pytest.raises(Killed):
        attack.craft(clean, Work(state=State(tmp_path, die)))
    resumed = attack.craft(clean, Work(state=State(tmp_path, steps.append)))
    assert np.array_equal(resumed.images, attack.poison(clean, seed=0).images)
    assert [step.stage for step in steps].count("surrogate") == 3, "no epoch is trained twice"
    assert steps[-1] == StageStep("noise", 20, 20, {})


# --- norms ------------------------------------------------------------------------------------------------


def test_l0_counts_pixels_and_not_values() -> None:
    moved = np.zeros((2, 3, 4, 4), np.int16)
    moved[0, :, 1, 2] = (1, -255, 0)
    moved[0, 2, 3, 3] = 7
    assert size(moved, "L0").tolist() == [2, 0]
    assert size(moved, "none").tolist() == size(moved, "Linf").tolist() == [1, 0]
    assert size(moved, "L2")[0] == pytest.approx(math.sqrt(1 + 1 / 255**2 + (7 / 255) ** 2))


def test_measure_is_the_same_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    clean, poisoned = noisy_set(7, SMALL).images, middle_set(7).images
    whole = {norm: measure(clean, poisoned, norm).tolist() for norm in ("Linf", "L2", "L0", "none")}
    monkeypatch.setattr("eclipse.data.changes.CHUNK_VALUES", 400)
    assert whole == {norm: measure(clean, poisoned, norm).tolist() for norm in whole}
    assert np.abs(clean.astype(int) - poisoned).max(axis=(1, 2, 3)) == pytest.approx(np.multiply(whole["Linf"], 255))


def test_the_bound_of_a_count_is_exact_and_none_has_no_bound() -> None:
    assert bound("L0", 2, SMALL) == scaled_radius("L0", 2, SMALL) == 2
    assert bound("none", math.inf, SMALL) == math.inf
    with pytest.raises(EclipseError, match="unknown norm 'L1'; known: L0"):
        size(np.zeros((1, *SMALL), np.int16), "L1")
