"""The model-free attacks: bounds, determinism, and the closed forms that each of them must have."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from kit.sets import SPECTRA, change, gray_set, noisy_set, probed
from numpy.typing import NDArray

from eclipse.attacks import make_attack
from eclipse.attacks.attack import Attack
from eclipse.attacks.crafting.ar_process import CROP, Float32, processes, published, responses, simulate, start_shape
from eclipse.attacks.crafting.perturbation import bound
from eclipse.classifiers.pgd import scaled_radius
from eclipse.compute.randomness import normal_like, stream
from eclipse.data.changes import measure
from eclipse.data.imageset import ImageSet
from eclipse.data.pixels import add
from eclipse.errors import EclipseError

MODEL_FREE = ("urp", "lsp", "ar")


def every_attack() -> list[Attack]:
    return [make_attack(name) for name in MODEL_FREE] + [make_attack("urp", gaussian=True)]


# --- the contract -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", every_attack(), ids=repr)
def test_the_norm_is_kept_after_rounding_and_clipping(attack: Attack) -> None:
    for clean in (gray_set(200), noisy_set(200)):
        sizes = measure(clean.images, attack.poison(clean, seed=0).images, attack.norm)
        assert sizes.max() <= bound(attack.norm, attack.radius, (3, 32, 32))
        assert sizes.min() > 0.5 * attack.radius, "hardly any poison"


def test_rounding_exceeds_an_l2_radius_by_no_more_than_the_documented_amount() -> None:
    for name, slack in (("lsp", 0.05), ("ar", 0.01)):
        attack, clean = make_attack(name), gray_set(1000)
        sizes = measure(clean.images, attack.poison(clean, seed=0).images, "L2")
        assert sizes.max() <= attack.radius + slack
        assert sizes.mean() == pytest.approx(attack.radius, rel=0.01), "the radius is used up"


@pytest.mark.parametrize("attack", every_attack(), ids=repr)
def test_labels_ids_names_and_order_stay_and_the_input_is_not_written(attack: Attack) -> None:
    clean = noisy_set(30)
    before = clean.fingerprint()
    poisoned = attack.poison(clean, seed=0)
    assert clean.fingerprint() == before
    assert poisoned.ids == clean.ids and poisoned.class_names == clean.class_names
    assert np.array_equal(poisoned.require_labels("test"), clean.require_labels("test"))
    assert poisoned.images.dtype == np.uint8 and poisoned.images.shape == clean.images.shape


@pytest.mark.parametrize("attack", every_attack(), ids=repr)
def test_the_seed_decides_every_byte(attack: Attack) -> None:
    clean = noisy_set(30)
    first, again, other = (attack.poison(clean, seed=s).images for s in (0, 0, 1))
    assert np.array_equal(first, again)
    assert (first != other).mean() > 0.5


@pytest.mark.parametrize("attack", every_attack(), ids=repr)
def test_a_subset_in_another_order_gets_the_same_perturbations(attack: Attack) -> None:
    clean, rows = noisy_set(1500), np.array([1499, 3, 700, 41])  # 1,365 images are one chunk
    whole = attack.poison(clean, seed=0).images
    assert np.array_equal(attack.poison(clean[rows], seed=0).images, whole[rows])


@pytest.mark.parametrize("attack", every_attack(), ids=repr)
@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 28, 28), (3, 17, 40), (3, 96, 96), (3, 4, 4)])
def test_any_size_is_poisoned_within_its_scaled_radius(attack: Attack, shape: tuple[int, ...]) -> None:
    clean = gray_set(20, shape)
    sizes = measure(clean.images, attack.poison(clean, seed=0).images, attack.norm)
    assert sizes.max() <= bound(attack.norm, attack.radius, shape)
    assert sizes.min() > 0.8 * scaled_radius(attack.norm, attack.radius, shape)


def test_l2_radii_follow_the_papers_at_other_sizes() -> None:
    lsp, ar = make_attack("lsp"), make_attack("ar")
    assert lsp.radius == pytest.approx(1.3041, abs=1e-4)
    assert scaled_radius("L2", lsp.radius, (3, 224, 224)) == pytest.approx(9.13, abs=0.01)
    assert scaled_radius("L2", ar.radius, (3, 96, 96)) == pytest.approx(3.0)
    assert scaled_radius("L2", ar.radius, (3, 224, 224)) == pytest.approx(7.0)


@pytest.mark.parametrize("name", ["lsp", "ar"])
def test_a_class_of_one_image_is_poisoned_as_it_is_among_many(name: str) -> None:
    images = np.full((41, 3, 32, 32), 128, np.uint8)
    unbalanced = ImageSet.from_arrays(images, [0] * 40 + [9])
    ids, alone = unbalanced.ids, unbalanced[40:]
    assert alone.ids == ids[40:]
    whole = make_attack(name).poison(unbalanced, seed=0).images
    assert np.array_equal(make_attack(name).poison(alone, seed=0).images, whole[40:])


def test_the_spectra_are_those_of_the_authors_perturbations() -> None:
    clean = gray_set(500)
    for name, expected in SPECTRA.items():
        delta = change(clean, make_attack(name).poison(clean, seed=0)).astype(np.float64)
        assert spectrum(delta) == pytest.approx(expected, abs=0.03), name


def spectrum(delta: NDArray[np.float64]) -> list[float]:
    energy = np.square(np.abs(np.fft.fft2(delta))).sum(axis=(0, 1))
    f = np.fft.fftfreq(32, 1 / 32)
    r = np.hypot(f[:, None], f)
    bands = [(0, 4), (4, 8), (8, 12), (12, 99)]
    return [float(energy[(r >= low) & (r < high)].sum() / energy.sum()) for low, high in bands]


# --- adding a perturbation --------------------------------------------------------------------------------


def test_apply_adds_signed_values_rounds_them_and_clips() -> None:
    clean = np.array([100, 100, 100, 100, 2, 250, 0, 255], np.uint8)
    levels = np.array([2.4, 2.6, -2.4, -2.6, -8, 8, 8, -8])
    assert add(clean, levels / 255).tolist() == [102, 103, 98, 97, 0, 255, 8, 247]


def test_apply_has_no_bias_where_truncation_darkens_by_half_a_level(rng: np.random.Generator) -> None:
    clean = np.full(100_000, 128, np.uint8)
    moved = add(clean, rng.uniform(-8, 8, clean.shape) / 255).astype(float) - 128
    assert abs(moved.mean()) < 0.06  # 4 standard errors of 4.6/sqrt(1e5)


# --- URP --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gaussian", [False, True])
def test_urp_is_one_noise_for_a_class_and_another_for_the_next(gaussian: bool) -> None:
    clean = gray_set(50)
    delta = change(clean, make_attack("urp", gaussian=gaussian).poison(clean, seed=0)).reshape(5, 10, -1)
    assert np.all(delta == delta[0])
    assert np.abs(np.corrcoef(delta[0]) - np.eye(10)).max() < 0.1


def test_urp_draws_the_two_distributions_of_its_sources() -> None:
    clean = gray_set(10)
    uniform, gaussian = (change(clean, make_attack("urp", gaussian=g).poison(clean, seed=0)) for g in (False, True))
    assert np.abs(uniform).mean() == pytest.approx(4.0, abs=0.05)
    assert (np.abs(uniform) == 8).mean() == pytest.approx(1 / 16, abs=0.01)
    assert np.abs(gaussian).mean() == pytest.approx(5.0, abs=0.05)
    assert (np.abs(gaussian) == 8).mean() == pytest.approx(math.erfc(7.5 / 8 / math.sqrt(2)), abs=0.01)


# --- LSP --------------------------------------------------------------------------------------------------


def lsp_points(n: int, classes: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The 48 patch values of each perturbation, as stored."""
    clean = gray_set(n, classes=classes)
    delta = change(clean, make_attack("lsp").poison(clean, seed=0))
    return delta[:, :, ::8, ::8].reshape(n, 48).astype(float), clean.require_labels("test")


def test_lsp_is_constant_in_patches() -> None:
    clean = gray_set(20)
    delta = change(clean, make_attack("lsp").poison(clean, seed=0))
    assert np.array_equal(delta, delta[:, :, ::8, ::8].repeat(8, axis=2).repeat(8, axis=3))
    assert len(np.unique(delta[0])) > 8, "the patches differ"


def test_lsp_rounds_the_grid_up_and_crops_it() -> None:
    clean = gray_set(2, (3, 20, 13))
    delta = change(clean, make_attack("lsp", patch=8).poison(clean, seed=0))
    grid = delta[:, :, ::8, ::8]
    assert grid.shape == (2, 3, 3, 2)
    assert np.array_equal(delta, grid.repeat(8, axis=2).repeat(8, axis=3)[:, :, :20, :13])


def test_lsp_is_linearly_separable_on_images_that_were_not_fitted() -> None:
    assert probed(*lsp_points(600, classes=10)) == 1.0


def test_lsp_separates_120_classes_by_their_centers() -> None:
    points, labels = lsp_points(1200, classes=120)
    centers = np.stack([points[:600][labels[:600] == c].mean(axis=0) for c in range(120)])
    unit = centers / np.linalg.norm(centers, axis=1, keepdims=True)
    assert (np.argmax(points[600:] @ unit.T, axis=1) == labels[600:]).mean() > 0.99


def test_lsp_points_have_the_distribution_of_make_classification() -> None:
    from sklearn.datasets import make_classification

    theirs, labels = make_classification(
        2000, 48, n_informative=48, n_redundant=0, n_repeated=0, n_classes=10, n_clusters_per_class=1,
        class_sep=10.0, flip_y=0.0, random_state=1,
    )  # fmt: skip
    ours, our_labels = lsp_points(2000, classes=10)
    assert class_statistics(ours, our_labels) == pytest.approx(class_statistics(theirs, labels), rel=0.1)


def test_lsp_classes_spread_in_directions_of_their_own() -> None:
    points, labels = lsp_points(1000, classes=2)
    spread = [points[labels == c] - points[labels == c].mean(axis=0) for c in (0, 1)]
    first, second = (np.linalg.svd(s, full_matrices=False)[2][:10] for s in spread)
    overlap = np.square(first @ second.T).sum() / 10
    assert overlap < 0.4, "about 10/48 for unrelated directions and 1 for equal ones"


def class_statistics(points: NDArray[np.float64], labels: NDArray[np.int64]) -> list[float]:
    """Of points scaled to unit norm: spread between and within classes, and how uneven the latter is."""
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    means = np.stack([unit[labels == c].mean(axis=0) for c in range(10)])
    within = np.stack([np.linalg.svd(unit[labels == c] - means[c], compute_uv=False) for c in range(10)])
    shares = np.square(within) / np.square(within).sum(axis=1, keepdims=True)
    return [
        float(np.abs(means).mean()),
        float(np.sqrt((unit - means[labels]).var())),
        float(shares[:, 0].mean()),
    ]


# --- AR ---------------------------------------------------------------------------------------------------


def ar_signals(labels: NDArray[np.int64], height: int = 32, width: int = 32) -> Float32:
    ids = [str(i) for i in range(len(labels))]
    start = normal_like(0, ids, 0, start_shape(3, height, width))
    return simulate(processes(10)[labels], start, height, width)


def residual(blocks: Float32, signals: Float32) -> NDArray[np.floating]:
    """How far each pixel is from what the process makes of the pixels before it, written independently."""
    h, w = signals.shape[2] - 2, signals.shape[3] - 2
    predicted = sum(
        blocks[:, :, i, j, None, None] * signals[:, :, i : i + h, j : j + w] for i in range(3) for j in range(3)
    )
    return np.asarray(predicted - signals[:, :, 2:, 2:])


def test_the_published_table_is_the_authors(shared: Path) -> None:
    reference = np.load(shared / "data" / "ar" / "coefficients-10x3x3x3.npy", allow_pickle=False)
    assert np.array_equal(published(), reference)


def test_ar_blocks_sum_to_one_and_use_no_pixel_to_come() -> None:
    blocks = processes(14)
    assert blocks.sum(axis=(2, 3)) == pytest.approx(1, abs=3e-4)
    assert not blocks[..., 2, 2].any()


@pytest.mark.parametrize(("height", "width"), [(32, 32), (5, 19)])
def test_ar_signals_satisfy_their_recursion(height: int, width: int) -> None:
    labels = np.arange(20) % 10
    signals = ar_signals(labels, height, width)
    assert signals.shape == (20, 3, height, width)
    scale = np.abs(signals).max(axis=(1, 2, 3), keepdims=True)
    assert np.abs(residual(published()[labels], signals) / scale).max() < 1e-5
    assert np.abs(residual(published()[(labels + 1) % 10], signals) / scale).max() > 0.1, "the test can fail"


def test_the_start_of_ar_is_its_first_two_rows_and_columns_before_the_crop() -> None:
    start = normal_like(0, ["a", "b"], 0, start_shape(3, 8, 10))
    diagonal = np.zeros((2, 3, 3, 3), np.float32)
    diagonal[..., 0, 0] = 1  # a pixel is the one two up and two left, so the start travels along diagonals
    signals = simulate(diagonal, start, 8, 10)
    rows = start[:, :, : 2 * (10 + CROP)].reshape(2, 3, 2, 10 + CROP)
    columns = start[:, :, 2 * (10 + CROP) :].reshape(2, 3, 8 + CROP - 2, 2)
    assert np.array_equal(signals[:, :, :2], rows[:, :, :, :10])
    assert np.array_equal(signals[:, :, 2:, :2], columns[:, :, :6])


def test_ar_as_stored_still_follows_its_class_up_to_rounding() -> None:
    clean = gray_set(200)
    labels = clean.require_labels("test")
    delta = change(clean, make_attack("ar").poison(clean, seed=0)).astype(np.float32)
    errors = np.stack([np.abs(residual(np.repeat(b[None], 200, 0), delta)).mean(axis=(1, 2, 3)) for b in published()])
    assert (errors.argmin(axis=0) == labels).mean() > 0.99


def test_two_images_of_a_class_are_different_realizations() -> None:
    delta = ar_signals(np.zeros(20, np.int64)).reshape(20, -1)
    assert np.median(np.abs(np.corrcoef(delta) - np.eye(20))) < 0.3


def test_searched_processes_are_stable_distinct_and_do_not_depend_on_their_number() -> None:
    table = processes(16)
    assert np.array_equal(table[:10], published())
    assert np.array_equal(processes(13), table[:13])
    start = normal_like(0, [str(i) for i in range(16 * 5)], 0, start_shape(3, 32, 32))
    signals = simulate(table.repeat(5, axis=0), start, 32, 32)
    norms = np.linalg.norm(signals.reshape(80, -1), axis=1)
    assert np.median(norms) < 50 and np.isfinite(norms).all()
    unit = signals / norms.reshape(-1, 1, 1, 1)
    answers = responses(table, unit).reshape(16, 5, 16)
    own = answers[np.arange(16), :, np.arange(16)]
    assert own.max() < 1e-2, "a filter is silent on its own process"
    assert np.median(answers, axis=1)[~np.eye(16, dtype=bool)].min() > 2


def test_ar_poisons_more_classes_than_were_published() -> None:
    clean = gray_set(16, classes=16)
    sizes = measure(clean.images, make_attack("ar").poison(clean, seed=0).images, "L2")
    assert sizes == pytest.approx(np.ones(16), abs=0.02)


def test_given_coefficients_replace_the_published_ones() -> None:
    clean = gray_set(4, classes=2)
    swapped = make_attack("ar", coefficients=published()[[1, 0]]).poison(clean, seed=0)
    ours = ImageSet(clean.images, clean.ids, 1 - clean.require_labels("test"))
    assert np.array_equal(swapped.images, make_attack("ar").poison(ours, seed=0).images)


# --- errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: make_attack("lspp"), "unknown attack 'lspp'; did you mean 'lsp'"),
        (lambda: make_attack("urp", raduis=0.1), "'raduis'; did you mean 'radius'"),
        (lambda: make_attack("urp", radius=8), "2040 levels; expected more than 0 and at most 255"),
        (lambda: make_attack("lsp", radius=0), "0; expected more than 0"),
        (lambda: make_attack("ar", radius=-1), "-1; expected more than 0"),
        (lambda: make_attack("lsp", patch=33).poison(gray_set(2), seed=0), "33 pixels does not fit .* 32x32"),
        (lambda: make_attack("lsp").poison(gray_set(10, (3, 1, 1)), seed=0), "8 corners for 10 classes"),
        (lambda: make_attack("ar").poison(gray_set(2, (4, 8, 8)), seed=0), "4 channels; expected 1 to 3"),
        (lambda: make_attack("ar", coefficients=published()[0]), r"\(3, 3, 3\); expected \(classes"),
        (lambda: make_attack("ar", coefficients=2 * published()), "sum to 2 .*expected 1"),
        (
            lambda: make_attack("ar", coefficients=published()[:3]).poison(gray_set(10), seed=0),
            "3 classes and a data set of 10",
        ),
    ],
)  # fmt: skip
def test_mistakes_are_explained(call, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(EclipseError, match=words):
        call()


@pytest.mark.parametrize("attack", every_attack(), ids=repr)
def test_labels_are_required(attack: Attack) -> None:
    with pytest.raises(EclipseError, match="needs labels"):
        attack.poison(ImageSet.from_arrays(np.zeros((2, 3, 8, 8), np.uint8)), seed=0)


def test_an_exploding_process_is_refused_and_named() -> None:
    block = np.zeros((1, 3, 3, 3), np.float32)
    block[..., 2, 1], block[..., 2, 0] = 40, -39
    with pytest.raises(EclipseError, match="process of class 0 overflows on images of 32x32"):
        make_attack("ar", coefficients=block).poison(gray_set(2, classes=1), seed=0)


def test_the_table_of_attacks_imports_none_of_them() -> None:
    code = "import sys, eclipse.attacks; print([m for m in sys.modules if m == 'torch' or 'attacks.' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- random streams ---------------------------------------------------------------------------------------


def test_a_stream_is_told_apart_by_each_of_its_keys() -> None:
    keys = [
        (0, "a", 0, ""),
        (1, "a", 0, ""),
        (0, "b", 0, ""),
        (0, "a", 1, ""),
        (0, "a", 0, "x"),
        (0, "xa", 0, ""),
    ]
    draws = [stream(*key).random() for key in keys]
    assert len(set(draws)) == len(draws)
    assert stream(0, "a", 0).random() == draws[0]


def test_streams_are_the_same_on_every_machine() -> None:
    raw = stream(0, "7", 3, "test").bit_generator.random_raw(2)
    assert raw.tolist() == [2879257346941567892, 5605204001733444812]


def test_normal_like_gives_each_id_its_own_noise_whatever_the_batch() -> None:
    ids = ["a", "b", "c\udcff", "日本"]  # a file name that is not valid UTF-8 among them
    together = normal_like(0, ids, 5, (3, 8, 8))
    for i, id in enumerate(ids):
        assert np.array_equal(normal_like(0, [id], 5, (3, 8, 8))[0], together[i])
    many = normal_like(0, [str(i) for i in range(500)], 0, (64,))
    assert abs(many.mean()) < 0.025 and abs(many.std() - 1) < 0.02
    assert np.abs(np.corrcoef(many[:50]) - np.eye(50)).max() < 0.6
