"""Defenses that act on the images of a batch or of a set: what each of them does, to the pixel."""

from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from kit.tiny import one_sentence
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from eclipse.classifiers.fit import Epoch, Recipe, fit
from eclipse.classifiers.small import SmallNet
from eclipse.data.imageset import ImageSet
from eclipse.defenses import make_defense
from eclipse.defenses.mixup import draw_share
from eclipse.defenses.op import orthonormal, project
from eclipse.errors import EclipseError
from eclipse.runs.state import StageStep, State, Work

BATCHWISE = ("cutout", "mixup", "cutmix", "op")
SHAPES = [(3, 32, 32), (3, 16, 24), (1, 16, 16), (4, 24, 16)]


def noise_set(n: int, shape: tuple[int, ...] = (3, 16, 16), classes: int = 4, seed: int = 0) -> ImageSet:
    pixels = np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)
    return ImageSet.from_arrays(pixels, np.arange(n) % classes)


def colors(n: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Images of one color each, and a label of its own for each of them."""
    x = torch.rand(n, shape[0], 1, 1).expand(n, *shape).contiguous()
    return x, torch.arange(n)


# --- all that change batches ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BATCHWISE)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_batches_of_any_shape_and_100_classes_keep_shape_range_and_total_label(
    name: str, shape: tuple[int, ...]
) -> None:
    x, y = torch.rand(20, *shape), torch.arange(20) * 5
    kept = x.clone(), y.clone()
    for _ in range(4):
        new, labels = make_defense(name).augment(x, y, 100)
        assert new.shape == x.shape and new.dtype == x.dtype and new.min() >= 0 and new.max() <= 1
        assert torch.equal(labels, y) or labels.shape == (20, 100)
        if labels.ndim == 2:
            assert labels.min() >= 0 and labels.sum(1).numpy() == pytest.approx(1)
    assert torch.equal(x, kept[0]) and torch.equal(y, kept[1]), "the caller's batch is not written"


@pytest.mark.parametrize("name", BATCHWISE)
def test_only_torchs_generators_decide_a_batch(name: str) -> None:
    x, y = torch.rand(8, 3, 16, 16), torch.arange(8)
    defense, results = make_defense(name), []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        results.append(torch.stack([defense.augment(x, y, 10)[0] for _ in range(6)]))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("name", BATCHWISE)
def test_the_training_loop_takes_what_they_return(name: str) -> None:
    defense, data = make_defense(name), noise_set(24)
    recipe = Recipe(epochs=1, batch=8, lr=0.05)
    epochs = list(fit(SmallNet(4), data, recipe, seed=0, augment=lambda x, y: defense.augment(x, y, 4)))
    assert np.isfinite(epochs[0].loss)


# --- Cutout -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "side"), [((3, 32, 32), 16), ((1, 16, 24), 8), ((3, 9, 21), 4)])
def test_cutout_is_one_square_in_all_channels_that_only_borders_cut(shape: tuple[int, ...], side: int) -> None:
    x, _ = make_defense("cutout").augment(torch.ones(500, *shape), torch.zeros(500, dtype=torch.long), 10)
    assert set(x.unique().tolist()) == {0, 1}
    assert torch.equal(x, x[:, :1].expand_as(x)), "all channels at one place"
    black = x[:, 0] == 0
    for mask, length in ((black.any(2), shape[1]), (black.any(1), shape[2])):
        size, first = mask.sum(1), mask.int().argmax(1)
        last = length - 1 - mask.flip(1).int().argmax(1)
        assert torch.equal(last - first + 1, size), "one interval"
        assert size.max() == side and size.min() == side // 2, "center within the image, also at the border"
        inside = (first > 0) & (last < length - 1)
        assert inside.any() and torch.all(size[inside] == side)
        assert set(first.tolist()) >= set(range(length - side)) and {0, length - 1} <= {*first.tolist(), *last.tolist()}
    assert torch.equal(black, black.any(2)[:, :, None] & black.any(1)[:, None, :]), "a full rectangle"


def test_cutout_takes_another_share() -> None:
    x, _ = make_defense("cutout", share=0.25).augment(torch.ones(50, 3, 32, 32), torch.zeros(50), 10)
    assert (x[:, 0] == 0).sum((1, 2)).max() == 8 * 8


# --- Mixup and CutMix -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 16, 24)])
@pytest.mark.parametrize(("name", "fields"), [("mixup", {}), ("cutmix", {"p": 1.0})])
def test_labels_are_blended_as_the_pixels_are(name: str, fields: dict[str, Any], shape: tuple[int, ...]) -> None:
    x, y = colors(12, shape)
    for _ in range(20):
        mixed, labels = make_defense(name, **fields).augment(x, y, 12)
        # Class k is the color of image k, so the blend of the labels tells the mean color.
        assert mixed.mean((2, 3)).numpy() == pytest.approx((labels @ x[:, :, 0, 0]).numpy(), abs=1e-5)
        assert (labels > 0).sum(1).max() <= 2


def test_mixup_blends_a_whole_batch_by_one_share() -> None:
    x, y = colors(12, (3, 4, 4))
    shares = []
    for _ in range(40):
        mixed, labels = make_defense("mixup").augment(x, y, 12)
        own, partner = labels.diagonal(), labels.clone().fill_diagonal_(0).argmax(1)
        moved = own < 1
        share = own[moved][0]
        assert torch.allclose(own[moved], share), "one share for all with another partner than themselves"
        blend = share * x[moved] + (1 - share) * x[partner[moved]]
        assert torch.allclose(mixed[moved], blend, atol=1e-5)
        assert len(set(partner[moved].tolist())) == int(moved.sum()), "a permutation"
        shares.append(float(share))
    assert min(shares) < 0.2 and max(shares) > 0.8


@pytest.mark.parametrize(("alpha", "variance"), [(1.0, 1 / 12), (4.0, 1 / 36), (0.2, 0.25 / 1.4)])
def test_the_share_has_a_beta_distribution(alpha: float, variance: float) -> None:
    shares = [draw_share(alpha) for _ in range(2000)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)
    assert np.var(shares) == pytest.approx(variance, rel=0.1)


def test_two_images_of_one_class_keep_their_label_in_a_blend() -> None:
    for name, fields in (("mixup", {}), ("cutmix", {"p": 1.0})):
        _, labels = make_defense(name, **fields).augment(torch.rand(6, 3, 8, 8), torch.full((6,), 2), 3)
        assert labels.numpy() == pytest.approx(np.tile([0, 0, 1], (6, 1)))


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 16, 24)])
def test_cutmix_pastes_one_box_from_one_partner_at_the_same_place(shape: tuple[int, ...]) -> None:
    x, y = torch.rand(8, *shape), torch.arange(8)
    defense, corners, areas = make_defense("cutmix", p=1.0), set(), []
    for _ in range(150):
        mixed, labels = defense.augment(x, y, 8)
        partner = labels.clone().fill_diagonal_(0).argmax(1)
        changed = (mixed != x).any(1)
        box = changed.any(0)
        assert torch.equal(box, box.any(1)[:, None] & box.any(0)[None, :]), "a full rectangle"
        moved = changed.flatten(1).any(1)
        assert torch.all(changed[moved] == box), "one place in the batch"
        assert torch.all((mixed == torch.where(box, x[partner], x)).flatten(1).all(1)[moved])
        assert labels.diagonal()[moved].numpy() == pytest.approx(1 - box.float().mean().item(), abs=1e-5)
        areas.append(box.float().mean().item())
        corners |= {place for place in ((0, 0), (0, -1), (-1, 0), (-1, -1)) if box[place]}
    assert len(corners) == 4, "clipped at all borders"
    # Of a side of share u borders leave u - u^2/4 on average, and u^2 = 1 - s is uniform.
    assert np.mean(areas) == pytest.approx(1 / 2 - 1 / 5 + 1 / 48, abs=0.06)


def test_cutmix_mixes_the_share_p_of_batches_and_leaves_the_rest_alone() -> None:
    x, y = torch.rand(4, 3, 8, 8), torch.arange(4)
    mixed = 0
    for _ in range(400):
        new, labels = make_defense("cutmix", p=0.25).augment(x, y, 4)
        mixed += labels.ndim == 2
        assert labels.ndim == 2 or (torch.equal(new, x) and torch.equal(labels, y))
    assert mixed == pytest.approx(100, abs=30)
    assert make_defense("cutmix", p=0).augment(x, y, 4)[1] is y
    assert make_defense("cutmix").p == 0.5


# --- ISS --------------------------------------------------------------------------------------------------


def pillow(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """An image, (C, H, W), through Pillow's encoder, in 4:2:0 by its name."""
    encoded = BytesIO()
    color = image.shape[0] == 3
    picture = Image.fromarray(np.moveaxis(image, 0, 2) if color else image[0], "RGB" if color else "L")
    picture.save(encoded, "JPEG", quality=quality, **({"subsampling": "4:2:0"} if color else {}))
    pixels = np.asarray(Image.open(BytesIO(encoded.getvalue())))
    return np.moveaxis(pixels, 2, 0) if color else pixels[None]


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 16, 24), (1, 13, 7)])
@pytest.mark.parametrize("quality", [10, 90])
def test_iss_j_gives_pillows_bytes(shape: tuple[int, ...], quality: int) -> None:
    data = noise_set(6, shape)
    compressed = make_defense("iss-j", quality=quality).prepare(data, None, Work()).images
    assert compressed.tobytes() == np.stack([pillow(image, quality) for image in data.images]).tobytes()
    assert make_defense("iss-j").quality == 10


def test_iss_g_is_the_luma_on_all_channels() -> None:
    data = noise_set(6, (3, 16, 24))
    gray = make_defense("iss-g").prepare(data, None, Work()).images
    luma = np.einsum("c,nchw->nhw", (0.299, 0.587, 0.114), data.images)
    assert gray.shape == data.images.shape
    for channel in range(3):
        assert np.abs(gray[:, channel] - luma).max() <= 0.5 + 1e-2, "rounded"
    assert np.array_equal(gray, make_defense("iss-g").prepare(data.with_images(gray), None, Work()).images)


def test_iss_g_leaves_one_channel_as_it_is() -> None:
    data = noise_set(3, (1, 8, 9))
    assert np.array_equal(make_defense("iss-g").prepare(data, None, Work()).images, data.images)


@pytest.mark.parametrize("name", ["iss-g", "iss-j"])
def test_iss_refuses_images_that_are_neither_gray_nor_rgb(name: str) -> None:
    with pytest.raises(EclipseError, match="images of 4 channels for ISS") as refused:
        make_defense(name).prepare(noise_set(3, (4, 8, 8)), None, Work())
    one_sentence(refused.value)


# --- OP ---------------------------------------------------------------------------------------------------


def test_the_projection_is_orthogonal() -> None:
    weights, x = torch.randn(7, 2 * 6 * 9) * 100, torch.rand(20, 2, 6, 9)
    basis = orthonormal(weights)
    assert (basis @ basis.T).numpy() == pytest.approx(np.eye(7), abs=1e-5)
    projected = project(x, basis)
    assert projected.shape == x.shape
    unit = torch.nn.functional.normalize(weights, dim=1)
    assert (projected.flatten(1) @ unit.T).numpy() == pytest.approx(0, abs=1e-4), "nothing along any weight"
    assert project(projected, basis).numpy() == pytest.approx(projected.numpy(), abs=1e-5), "twice is once"
    removed = (x - projected).flatten(1)
    assert (removed * projected.flatten(1)).sum(1).numpy() == pytest.approx(0, abs=1e-3), "at a right angle"


def planted(n: int, shape: tuple[int, ...], classes: int) -> tuple[ImageSet, NDArray[np.float32]]:
    """Noise around middle gray, to each class a pattern of its own added; and the patterns, (classes, values)."""
    rng = np.random.default_rng(0)
    patterns, labels = rng.choice([-1, 1], (classes, *shape)), np.arange(n) % classes
    pixels = rng.integers(118, 139, (n, *shape)) + 16 * patterns[labels]
    return ImageSet.from_arrays(pixels.astype(np.uint8), labels), patterns.reshape(classes, -1).astype(np.float32)


def strength(data: ImageSet, patterns: NDArray[np.float32]) -> float:
    """How many levels of its own pattern, less the average of all patterns, an image of a class has on average."""
    own = (patterns - patterns.mean(0))[data.require_labels("test")]
    return float(((data.images.reshape(len(data), -1) - 128.0) * own).sum() / (own**2).sum())


@pytest.mark.parametrize(
    ("shape", "classes", "n", "lr"),
    [((3, 16, 16), 4, 120, 0.1), ((1, 16, 24), 3, 120, 0.1), ((3, 16, 16), 100, 400, 1.0)],
)
@pytest.mark.parametrize("sorted_by_class", [False, True])
def test_op_removes_a_planted_pattern(
    shape: tuple[int, ...], classes: int, n: int, lr: float, sorted_by_class: bool
) -> None:
    data, patterns = planted(n, shape, classes)
    if sorted_by_class:
        data = data[np.argsort(data.require_labels("test"), kind="stable")]
    assert strength(data, patterns) == pytest.approx(16, abs=0.5)
    projected = make_defense("op", batch=10, lr=lr).prepare(data, None, Work())
    assert abs(strength(projected, patterns)) < 1.6


def test_op_removes_one_direction_a_class_and_nothing_else() -> None:
    data, _ = planted(80, (3, 16, 16), classes=4)
    projected = make_defense("op", batch=20).prepare(data, None, Work()).images
    removed = (data.images.astype(float) - projected).reshape(80, -1)
    sizes = np.linalg.svd(removed, compute_uv=False)
    rounding = 0.29 * (np.sqrt(80) + np.sqrt(768))  # the largest singular value of uniform errors of up to half a level
    assert sizes[3] > 3 * rounding > sizes[4] * 2.5


def test_op_clips_and_rounds_what_it_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    exact: list[Tensor] = []

    def recorded(x: Tensor, basis: Tensor) -> Tensor:
        exact.append(project(x, basis))
        return exact[-1]

    monkeypatch.setattr("eclipse.defenses.op.project", recorded)
    monkeypatch.setattr("eclipse.defenses.op.ROWS", 16)
    stored = make_defense("op", batch=10).prepare(noise_set(40), None, Work()).images
    levels = torch.cat(exact).numpy() * 255
    assert levels.min() < -5 and levels.max() > 260
    assert np.abs(stored - levels.clip(0, 255)).max() <= 0.5 + 1e-3


def test_op_depends_on_the_seed_and_on_nothing_else() -> None:
    data, defense = noise_set(40), make_defense("op", scale="small", epochs=2)
    first = defense.prepare(data, None, Work(1)).images
    torch.rand(3)
    assert np.array_equal(first, defense.prepare(data, None, Work(1)).images)
    assert not np.array_equal(first, defense.prepare(data, None, Work(2)).images)


def test_op_trains_its_linear_classifier_as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[nn.Module, ImageSet, Recipe]] = []

    def recorded(network: nn.Module, data: ImageSet, recipe: Recipe, **options: Any) -> Iterator[Epoch]:
        seen.append((network, data, recipe))
        return fit(network, data, recipe, **options)

    monkeypatch.setattr("eclipse.defenses.op.fit", recorded)
    data = noise_set(20, classes=5)
    make_defense("op").prepare(data, None, Work())
    network, shown, recipe = seen[0]
    assert shown is data and [weight.shape for weight in network.parameters()] == [(5, 768)], "raw pixels, no bias"
    assert (recipe.epochs, recipe.batch, recipe.momentum, recipe.weight_decay) == (20, 1024, 0, 0)
    assert (recipe.pad, recipe.flip) == (0, False)
    assert [recipe.rate(epoch / 20) for epoch in (0, 9, 10, 14, 15, 19)] == pytest.approx(
        [0.1] * 2 + [0.01] * 2 + [0.001] * 2
    )


def test_op_tells_its_progress() -> None:
    told: list[StageStep] = []
    work = Work(state=State(None, told.append))
    make_defense("op", epochs=20, batch=10).prepare(planted(40, (3, 8, 8), 4)[0], None, work)
    assert [(step.done, step.total) for step in told] == [(epoch, 20) for epoch in range(1, 21)]
    assert {step.stage for step in told} == {"linear classifier"} and told[-1].facts["accuracy"] > 0.9


def test_op_refuses_sets_that_it_would_leave_without_a_pixel_or_as_they_are() -> None:
    for unfit, words in (
        (noise_set(80, (1, 5, 8), classes=40), "40 classes of images of 40 values for OP"),
        (noise_set(10, classes=1), "1 classes of images"),
        (replace(noise_set(10), labels=None), "the defense OP needs labels"),
    ):
        with pytest.raises(EclipseError, match=words) as refused:
            make_defense("op").prepare(unfit, None, Work())
        one_sentence(refused.value)


def test_op_plain_does_not_augment() -> None:
    x, y = torch.rand(4, 3, 16, 16), torch.arange(4)
    new, labels = make_defense("op-plain").augment(x, y, 4)
    assert new is x and labels is y
    assert make_defense("op-plain").preparation() == make_defense("op").preparation(), "one projection serves both"
    assert make_defense("op", epochs=3).preparation() != make_defense("op").preparation()


@pytest.mark.parametrize("channels", [1, 3])
def test_ops_augmentation_turns_stretches_and_recolors_each_image_a_little(channels: int) -> None:
    x = torch.zeros(200, channels, 33, 33)
    x[:, :, 14:19, 14:19] = x[:, :, 1:6, 14:19] = 0.5  # a mark in the middle, and one above it at the border
    new, _ = make_defense("op").augment(x, torch.zeros(200, dtype=torch.long), 2)
    middle, above = new[:, 0, 16, 16], new[:, 0, :9].sum(1)
    assert middle.min() > 0.3 and middle.max() < 0.75 and middle.std() > 0.02, "brightness and contrast"
    columns = (above * torch.arange(33)).sum(1) / above.sum(1) - 16
    # 13 rows above the middle, up to 10 degrees of rotation and of shear, at up to 1.2 times the size.
    assert 2 < columns.abs().max() < 13 * 1.2 * 2 * np.tan(np.deg2rad(10)) + 1
    assert columns.mean().abs() < 0.5


def test_op_mixes_half_of_the_batches() -> None:
    torch.manual_seed(0)
    x, y = torch.rand(2, 3, 16, 16), torch.tensor([0, 1])
    mixed = sum(make_defense("op").augment(x, y, 2)[1].ndim == 2 for _ in range(60))
    assert 15 < mixed < 45


def test_mixup_and_cutmix_have_the_numbers_of_their_authors() -> None:
    assert make_defense("mixup").settings() == {"alpha": 1.0}
    assert make_defense("cutmix").settings() == {"p": 0.5, "beta": 1.0}


# --- dilution and trusted-only ----------------------------------------------------------------------------


def test_dilution_appends_the_trusted_images_with_ids_of_their_own() -> None:
    data, trusted = noise_set(12), noise_set(5, seed=1)
    mixed = make_defense("dilution").prepare(data, trusted, Work())
    assert mixed[:12].fingerprint() == data.fingerprint()
    assert np.array_equal(mixed.images[12:], trusted.images)
    assert mixed.require_labels("test").tolist() == [*data.labels, *trusted.labels]  # type: ignore[misc]
    assert mixed.ids[12:] == ("trusted/0", "trusted/1", "trusted/2", "trusted/3", "trusted/4")
    again = make_defense("dilution").prepare(mixed, trusted, Work())
    assert len(set(again.ids)) == 22


def test_trusted_only_has_nothing_of_the_suspicious_images() -> None:
    trusted = noise_set(5, seed=1)
    alone = make_defense("trusted-only", equal_steps=False).prepare(noise_set(12), trusted, Work())
    assert alone.fingerprint() == trusted.fingerprint()
    one, other = (make_defense("trusted-only").prepare(noise_set(12, seed=seed), trusted, Work()) for seed in (0, 7))
    assert one.fingerprint() == other.fingerprint() and make_defense("trusted-only").ignores_data


def test_trusted_only_repeats_images_until_they_are_as_many_as_the_suspicious() -> None:
    trusted = noise_set(5, seed=1)
    repeated = make_defense("trusted-only").prepare(noise_set(12), trusted, Work())
    rows = np.arange(12) % 5
    assert np.array_equal(repeated.images, trusted.images[rows])
    assert repeated.require_labels("test").tolist() == (rows % 4).tolist()
    assert len(set(repeated.ids)) == 12
    assert len(make_defense("trusted-only").prepare(noise_set(3, classes=4), noise_set(6, classes=3), Work())) == 6


@pytest.mark.parametrize("name", ["dilution", "trusted-only"])
def test_trusted_images_that_do_not_fit_are_refused(name: str) -> None:
    data, names = noise_set(8), ("a", "b", "c", "d")
    for trusted, words in (
        (None, f"the defense {name} needs labelled images that you trust"),
        (replace(noise_set(4), labels=None), "have no labels"),
        (noise_set(4)[:0], "have no images"),
        (noise_set(4, (3, 16, 24)), "trusted images of 3x16x24; expected 3x16x16"),
        (noise_set(4, (1, 16, 16)), "trusted images of 1x16x16"),
        (noise_set(5, classes=5), "label 4 in a set of 4 classes"),
        (replace(noise_set(4), class_names=("a", "b", "d", "c")), "class 2 is 'd' among the trusted .* and 'c'"),
        (replace(noise_set(4), class_names=(*names, "e")), "class 4 is 'e' among the trusted .* and None"),
    ):
        with pytest.raises(EclipseError, match=words) as refused:
            named = data if trusted is None or trusted.class_names is None else replace(data, class_names=names)
            make_defense(name).prepare(named, trusted, Work())
        one_sentence(refused.value)


@pytest.mark.parametrize("name", ["dilution", "trusted-only"])
def test_class_names_are_those_of_whichever_set_has_them(name: str) -> None:
    plain, named = noise_set(8), replace(noise_set(8), class_names=("a", "b", "c", "d", "e"))
    for data, trusted in ((plain, named), (named, plain), (named, named)):
        assert make_defense(name).prepare(data, trusted, Work()).class_names == named.class_names
    with pytest.raises(EclipseError, match="label 3 in a set of 2 classes"):
        make_defense(name).prepare(plain, replace(noise_set(4, classes=2), class_names=("a", "b")), Work())


# --- all --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cutout", "mixup", "cutmix", "iss-g", "iss-j", "op", "op-plain"])
def test_labels_ids_names_and_order_stay_and_the_input_is_not_written(name: str) -> None:
    data = replace(noise_set(30), class_names=("a", "b", "c", "d"), ids=tuple(f"row {i}" for i in range(30, 0, -1)))
    before = data.fingerprint()
    prepared = make_defense(name, scale="small").prepare(data, None, Work())
    assert data.fingerprint() == before
    assert prepared.ids == data.ids and prepared.class_names == data.class_names
    assert np.array_equal(prepared.require_labels("test"), data.require_labels("test"))
    assert prepared.images.shape == data.images.shape and prepared.images.dtype == np.uint8


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("cutout", {"share": 0}, "share 0; expected more than 0"),
        ("cutout", {"share": 1.5}, "share 1.5"),
        ("mixup", {"alpha": 0}, "Mixup alpha 0; expected more than 0"),
        ("mixup", {"alpha": float("nan")}, "Mixup alpha nan"),
        ("cutmix", {"beta": -1}, "CutMix beta -1"),
        ("cutmix", {"p": 1.1}, "CutMix probability 1.1; expected 0 to 1"),
        ("iss-j", {"quality": 0}, "JPEG quality 0; expected a whole number from 1 to 100"),
        ("iss-j", {"quality": 9.5}, "JPEG quality 9.5"),
        ("op", {"lr": 0}, "OP learning rate 0"),
        ("op", {"epochs": 0}, "OP epochs 0; expected a whole number"),
        ("op", {"batch": 2.5}, "OP batch 2.5"),
    ],
)
def test_parameters_out_of_range_are_refused(name: str, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(EclipseError, match=words) as refused:
        make_defense(name, **fields)
    one_sentence(refused.value)
