from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit.tiny import one_sentence, some_images
from PIL import Image

from eclipse.data.imageset import ImageSet
from eclipse.data.pixels import quantize, to_unit
from eclipse.data.source import load_imageset, open_source
from eclipse.errors import EclipseError

IMAGES = some_images(4)


def sample() -> ImageSet:
    return ImageSet(IMAGES.copy(), ("a", "b", "c", "d"), np.array([0, 1, 1, 0]), ("cat", "dog"))


# Image sets


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (list(IMAGES), "images are a list of ndarray; expected an array"),
        ([Image.new("RGB", (8, 8))], "images are a list of Image; expected an array"),
        ("photos", "images are a str; expected an array"),
        (torch.from_numpy(IMAGES), "images are a Tensor; expected an array"),
        (IMAGES.transpose(0, 2, 3, 1), "they have their channels last, use images.transpose(0, 3, 1, 2)"),
        (IMAGES[:, :2].repeat(4, 1), "have 8 channels; expected (N, C, H, W) with C of 1 to 4"),
        (IMAGES[0], "uint8 of shape (3, 8, 8); expected uint8 (N, C, H, W)"),
    ],
)
def test_what_is_no_array_of_images_is_refused(images: Any, said: str) -> None:
    for make in (ImageSet.from_arrays, lambda given: ImageSet(given, tuple("abcd"))):
        with pytest.raises(EclipseError) as caught:
            make(images)
        assert said in one_sentence(caught.value)


@pytest.mark.parametrize("labels", [[0, [1, 2], 3, 0], ["a", "b", "a", "b"], [0.5, 1, 2, 3]])
def test_labels_that_are_no_whole_numbers_are_refused(labels: Any) -> None:
    with pytest.raises(EclipseError, match=r"labels are .*; expected .*whole number"):
        ImageSet.from_arrays(IMAGES, labels)


def test_arrays_get_their_row_numbers_as_ids() -> None:
    images = ImageSet.from_arrays(IMAGES, [2, 0, 1, 2], ["x", "y", "z"])
    assert images.ids == ("0", "1", "2", "3")
    assert images.labels is not None and images.labels.dtype == np.int64
    assert (images.labels.tolist(), images.class_names, len(images)) == ([2, 0, 1, 2], ("x", "y", "z"), 4)
    assert ImageSet.from_arrays(IMAGES).labels is None


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_labels_of_any_integer_type_are_taken(dtype: type) -> None:
    labels = ImageSet.from_arrays(IMAGES, np.array([3, 0, 1, 2], dtype)).labels
    assert labels is not None and (labels.dtype, labels.tolist()) == (np.int64, [3, 0, 1, 2])


def test_an_empty_set_is_a_set() -> None:
    empty = ImageSet.from_arrays(IMAGES[:0], [])
    assert len(empty) == empty.num_classes == 0
    assert len(empty.fingerprint()) == 64


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (slice(1, 3), [1, 2]),
        (slice(None, None, -2), [3, 1]),
        (np.array([3, 0, 3]), [3, 0, 3]),
        (np.array([True, False, False, True]), [0, 3]),
        (slice(0, 0), []),
    ],
)
def test_rows_keep_their_identity(rows: Any, expected: list[int]) -> None:
    whole, part = sample(), sample()[rows]
    assert part.ids == tuple(whole.ids[i] for i in expected)
    assert part.labels is not None and whole.labels is not None
    assert part.labels.tolist() == [whole.labels[i] for i in expected]
    np.testing.assert_array_equal(part.images, whole.images[expected])
    assert part.class_names == whole.class_names


def test_other_pixels_change_nothing_else() -> None:
    before = sample()
    after = before.with_images(255 - before.images)
    assert (after.ids, after.class_names) == (before.ids, before.class_names)
    assert after.labels is before.labels
    np.testing.assert_array_equal(after.images, 255 - IMAGES)


def test_classes_are_counted_by_name_or_else_by_label() -> None:
    assert sample().num_classes == 2
    assert ImageSet.from_arrays(IMAGES, [0, 5, 0, 0]).num_classes == 6
    assert ImageSet.from_arrays(IMAGES, [0, 0, 0, 0], ["a", "b", "c"]).num_classes == 3


def test_fingerprint_is_of_pixels_labels_ids_order_and_class_names() -> None:
    base = sample()
    other_pixel = IMAGES.copy()
    other_pixel[3, 2, 7, 7] ^= 1
    others = [
        base.with_images(other_pixel),
        replace(base, ids=("a", "b", "c", "e")),
        replace(base, labels=np.array([0, 1, 1, 1])),
        replace(base, labels=None),
        replace(base, class_names=None),
        base[::-1],
        base.with_images(IMAGES.reshape(4, 3, 4, 16)),
        replace(base, ids=("a", "b", "c\nd", "")),
        replace(base, ids=("a", "b", "c", "d\n")),
        replace(base, ids=("a", "b", "c", "\udcff")),  # a file name that is not UTF-8
    ]
    prints = {images.fingerprint() for images in [base, *others]}
    assert len(prints) == 1 + len(others)
    assert base.with_images(np.asfortranarray(IMAGES)).fingerprint() == base.fingerprint()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"images": IMAGES.astype(np.float32)}, "images are float32 of shape (4, 3, 8, 8); expected uint8"),
        ({"images": IMAGES[0]}, "images are uint8 of shape (3, 8, 8); expected uint8 (N, C, H, W)"),
        ({"ids": ("a", "b")}, "2 ids for 4 images"),
        ({"labels": np.array([0, 1])}, "labels are int64 of shape (2,)"),
        ({"labels": np.array([[0], [1], [1], [0]])}, "labels are int64 of shape (4, 1)"),
        ({"labels": np.array([0, 1, 1, 0.5])}, "labels are float64 of shape (4,); expected whole numbers"),
        ({"labels": np.array([0, 1, -1, 0])}, "label -1; expected 0 or more"),
        ({"labels": np.array([0, 1, 2, 0])}, "label 2; expected less than 2, the number of class names"),
    ],
)
def test_sets_that_cannot_be_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(EclipseError) as caught:
        ImageSet(**{"images": IMAGES, "ids": tuple("abcd"), "class_names": ("cat", "dog"), **options})
    assert words in one_sentence(caught.value)


def test_labels_that_are_no_numbers_of_classes_are_refused() -> None:
    for labels in ([0.5, 1, 1, 0], ["cat", "dog", "dog", "cat"]):
        with pytest.raises(EclipseError, match="expected whole numbers"):
            ImageSet.from_arrays(IMAGES, labels)  # type: ignore[arg-type]


def test_missing_labels_are_asked_for_by_purpose() -> None:
    with pytest.raises(EclipseError) as caught:
        ImageSet.from_arrays(IMAGES).require_labels("the demo")
    assert one_sentence(caught.value).startswith("the demo needs labels, and this data set has none")


@pytest.mark.parametrize(
    "images",
    [
        ImageSet(some_images(3), ("a", "b/c", "ü"), np.array([0, 1, 0]), ("cat", "dog")),
        ImageSet(some_images(2), ("1", "0")),
        ImageSet.from_arrays(some_images(0), [], []),
    ],
)
def test_a_saved_set_is_read_as_it_was(images: ImageSet, tmp_path: Path) -> None:
    images.save(tmp_path / "set.npz")
    assert ImageSet.load(tmp_path / "set.npz").fingerprint() == images.fingerprint()


def test_a_saved_set_is_a_data_set_for_every_command(tmp_path: Path) -> None:
    images = ImageSet.from_arrays(some_images(4), [0, 1, 0, 1], ["cat", "dog"])
    images.save(tmp_path / "set.npz")
    assert load_imageset(open_source(tmp_path / "set.npz"), "this test").fingerprint() == images.fingerprint()


def test_a_set_that_was_not_saved_whole_is_refused(tmp_path: Path) -> None:
    ImageSet.from_arrays(some_images(4)).save(tmp_path / "set.npz")
    (tmp_path / "set.npz").write_bytes((tmp_path / "set.npz").read_bytes()[:-100])
    with pytest.raises(EclipseError, match=r"set.npz cannot be read"):
        ImageSet.load(tmp_path / "set.npz")


# Pixels


def test_every_level_survives_the_way_to_floats_and_back() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    unit = to_unit(levels)
    assert unit.dtype == torch.float32
    assert (unit[0], unit[255]) == (0.0, 1.0)
    torch.testing.assert_close(unit.double(), torch.arange(256).double() / 255, rtol=0, atol=1e-7)
    assert torch.equal(quantize(unit), levels)
    assert torch.equal(levels, torch.arange(256, dtype=torch.uint8))


def test_quantization_rounds_and_clips() -> None:
    x = torch.tensor([-0.2, 0.0, 0.49 / 255, 0.51 / 255, 99.4 / 255, 99.6 / 255, 254.6 / 255, 1.0, 3.0])
    assert quantize(x).tolist() == [0, 0, 0, 1, 99, 100, 255, 255, 255]
    before = x.clone()
    quantize(x)
    assert torch.equal(x, before)


def test_quantization_does_not_darken() -> None:
    x = torch.linspace(0.1, 0.9, 100_000)
    assert ((to_unit(quantize(x)) - x).mean() * 255).abs() < 0.01
