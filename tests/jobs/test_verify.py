"""``eclipse verify``: every broken poison is found, and the figures are those of the authors' perturbations."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit.commands import Command, Said, refusal
from kit.sets import SPECTRA, gray_set, noisy_set
from kit.tiny import one_sentence
from numpy.typing import NDArray
from PIL import Image

from eclipse.attacks import make_attack
from eclipse.data.imageset import ImageSet
from eclipse.data.source import open_source
from eclipse.data.store import Source
from eclipse.errors import EclipseError
from eclipse.jobs.verify import Bound, Verification, resolve_bound, verify
from eclipse.runs.manifest import run_json

URP = Bound("Linf", 8 / 255, "urp")


def stored(path: Path, images: NDArray[np.uint8], labels: NDArray[np.int64] | None) -> Source:
    np.savez(path, images=images, **({} if labels is None else {"labels": labels}))
    return open_source(path)


def compared(folder: Path, clean: ImageSet, images: NDArray[np.uint8], bound: Bound | None = None) -> Verification:
    """Verify these images, stored, against a clean set, stored."""
    poisoned = stored(folder / "poisoned.npz", images, clean.labels)
    return verify(poisoned, stored(folder / "clean.npz", clean.images, clean.labels), bound)


def uniform_noise(n: int, side: int = 16) -> NDArray[np.float64]:
    return np.random.default_rng(4).uniform(-8, 8, (n, 3, side, side))


# --- the figures ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "l2", "most"),  # median L2 and largest change in levels, measured on the authors' perturbations
    [("urp", 0.999, 8), ("lsp", 1.294, 16), ("ar", 0.991, 41)],
)
def test_the_figures_are_those_of_the_authors_perturbations(name: str, l2: float, most: int, tmp_path: Path) -> None:
    clean, attack = gray_set(300), make_attack(name)
    bound = Bound(attack.norm, attack.radius, name)
    found = compared(tmp_path, clean, attack.poison(clean, seed=0).images, bound)
    assert found.holds and found.images == 300
    assert found.spectrum == pytest.approx(SPECTRA[name], abs=0.03)
    assert found.l2.median == pytest.approx(l2, rel=0.02)
    assert found.linf.most <= 1.1 * most and found.linf.most > 0.7 * most
    assert found.clipped == 0 and found.unchanged == 0
    assert found.class_constancy is not None
    assert found.class_constancy == 1 if name == "urp" else found.class_constancy < 0.95


def test_progress_is_told_and_ends_with_the_last_row(tmp_path: Path) -> None:
    clean = gray_set(230, (3, 8, 8))
    told: list[tuple[int, int]] = []
    source = stored(tmp_path / "clean.npz", clean.images, clean.labels)
    verify(source, source, tell=lambda step: told.append((step.done, step.total)))
    assert told == [(100, 230), (200, 230), (230, 230)]


def test_spreads_are_over_images(tmp_path: Path) -> None:
    clean = gray_set(4, (3, 8, 8))
    images = clean.images.copy()
    images[1, :, 0, 0] += 3
    images[2, 0, :2, :2] -= 5
    images[3, 1] += 7
    found = compared(tmp_path, clean, images)
    assert found.linf == replace(found.linf, least=0, median=4, most=7)
    assert found.l0 == replace(found.l0, least=0, median=2.5, most=64)
    assert found.l2.most == pytest.approx(7 * 8 / 255) and found.l2.least == 0
    assert found.unchanged == 0.25
    assert found.shift == pytest.approx((3 * 3 - 5 * 4 + 7 * 64) / (4 * 192))


def test_clipped_values_are_changed_ones_at_the_ends_of_the_range(tmp_path: Path) -> None:
    clean = gray_set(2, (1, 8, 8), classes=2)
    clean.images[0, 0, 0, :4] = (0, 255, 2, 250)
    images = clean.images.copy()
    images[0, 0, 0, :4] = (0, 255, 0, 255)
    images[1, 0, 0, :2] = (120, 130)
    assert compared(tmp_path, clean, images).clipped == 0.5


def test_noise_drawn_for_each_image_is_told_from_class_wise_noise(tmp_path: Path) -> None:
    clean = gray_set(200, (3, 16, 16))
    drawn = compared(tmp_path, clean, np.rint(128 + uniform_noise(200)).astype(np.uint8))
    assert drawn.class_constancy == pytest.approx(10 / 200, rel=0.05)
    shared = np.rint(128 + uniform_noise(10)[clean.labels])
    assert compared(tmp_path, clean, shared.astype(np.uint8)).class_constancy == pytest.approx(1)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (40, 96)])
def test_the_bands_grow_with_the_side(height: int, width: int, tmp_path: Path) -> None:
    clean = gray_set(10, (3, height, width))
    white = compared(tmp_path, clean, make_attack("urp").poison(clean, seed=0).images)
    assert white.spectrum == pytest.approx(SPECTRA["urp"], abs=0.03)
    wave = 20 * np.cos(2 * np.pi * 10 / 32 * np.arange(width)[:, None] * np.ones(height)).T
    images = np.rint(128 + wave)[None, None].repeat(10, 0).repeat(3, 1).astype(np.uint8)
    spectrum = compared(tmp_path, clean, images).spectrum
    assert spectrum is not None and spectrum[2] > 0.99, "10 cycles per 32 pixels"


def test_truncation_shows_as_a_shift_of_half_a_level(tmp_path: Path) -> None:
    clean = gray_set(50, (3, 16, 16))
    for quantize, shift in ((np.rint, 0.0), (np.floor, -0.5)):
        found = compared(tmp_path, clean, quantize(128 + uniform_noise(50)).astype(np.uint8), URP)
        assert found.shift == pytest.approx(shift, abs=0.1) and found.holds
        assert any("truncation" in note for note in found.notes()) == (shift != 0)


def test_sets_without_labels_are_compared_without_them(tmp_path: Path) -> None:
    images = gray_set(3, (3, 8, 8)).images
    bare = stored(tmp_path / "clean.npz", images, None)
    found = verify(stored(tmp_path / "poisoned.npz", images + np.uint8(1), None), bare)
    assert not found.labels_checked and found.class_constancy is None and found.spectrum is not None
    assert "has no labels" in one_sentence(found.notes()[-1])


def test_labels_of_the_poisoned_set_serve_where_the_clean_one_has_none(tmp_path: Path) -> None:
    clean = gray_set(20, (3, 8, 8))
    poisoned = stored(tmp_path / "poisoned.npz", make_attack("urp").poison(clean, seed=0).images, clean.labels)
    assert verify(poisoned, stored(tmp_path / "clean.npz", clean.images, None)).class_constancy == 1


def test_unchanged_sets_have_figures_too(tmp_path: Path) -> None:
    clean = gray_set(3, (3, 8, 8))
    found = compared(tmp_path, clean, clean.images, URP)
    assert (found.unchanged, found.shift, found.clipped) == (1, 0, 0)
    assert found.class_constancy is None and found.spectrum is None
    assert found.notes() == ["nothing was changed at all"]


# --- sizes and layouts ------------------------------------------------------------------------------------


def folder_of(root: Path, images: list[NDArray[np.uint8]], suffix: str = ".png") -> Source:
    """Images (H, W) or (H, W, 3) as files in two classes."""
    for i, image in enumerate(images):
        (root / f"class{i % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / f"class{i % 2}" / f"{i:03d}{suffix}")
    return open_source(root)


def test_images_of_several_sizes_have_norms_but_no_spectrum(tmp_path: Path) -> None:
    images = [np.full((side, 8, 3), 100, np.uint8) for side in (8, 8, 12, 8)]
    clean = folder_of(tmp_path / "clean", images, ".bmp")
    found = verify(folder_of(tmp_path / "poisoned", [image + np.uint8(2) for image in images]), clean, URP)
    assert found.holds and found.names_checked and found.linf.most == 2
    assert found.l0.most == 96 and found.l0.least == 64
    assert found.spectrum is None and found.class_constancy is None


def test_a_gray_image_counts_once(tmp_path: Path) -> None:
    clean = folder_of(tmp_path / "clean", [np.full((32, 32), 100, np.uint8)] * 2)
    gray = folder_of(tmp_path / "gray", [np.full((32, 32), 104, np.uint8)] * 2)
    assert verify(gray, clean).l2.most == pytest.approx(4 / 255 * 32)
    limit = Bound("L2", 4 / 255 * math.sqrt(3 * 32 * 32), "test")
    assert verify(gray, clean, limit).holds
    tight = verify(gray, clean, replace(limit, radius=limit.radius * 3.4 / 4))
    assert not tight.holds, "a gray image has a third of the values, and of the square of the radius"
    colored = folder_of(tmp_path / "colored", [np.full((32, 32, 3), 104, np.uint8)] * 2)
    assert verify(colored, clean).l2.most == pytest.approx(4 / 255 * math.sqrt(3) * 32)


def test_a_set_is_compared_across_layouts_and_slices(tmp_path: Path) -> None:
    clean = gray_set(6, (3, 8, 8), classes=2)
    poisoned = make_attack("urp").poison(clean, seed=0)
    stored(tmp_path / "clean.npz", clean.images, clean.labels)
    order = [0, 2, 4, 1, 3, 5]  # a folder lists its classes one after the other
    folder = folder_of(tmp_path / "poisoned", list(poisoned.images.transpose(0, 2, 3, 1)))
    again = stored(tmp_path / "again.npz", clean.images[order], clean.require_labels("test")[order])
    found = verify(folder, again, URP)
    assert found.holds and not found.names_checked
    part = stored(tmp_path / "part.npz", poisoned.images[2:4], clean.require_labels("test")[2:4])
    assert verify(part, open_source(f"{tmp_path / 'clean.npz'}[2:4]"), URP).holds


# --- broken poisons ---------------------------------------------------------------------------------------


@pytest.fixture
def clean() -> ImageSet:
    return noisy_set(40, (3, 16, 16))


@pytest.fixture
def poisoned(clean: ImageSet) -> NDArray[np.uint8]:
    return make_attack("urp").poison(clean, seed=0).images


def test_one_value_over_the_radius_is_found(clean: ImageSet, poisoned: NDArray[np.uint8], tmp_path: Path) -> None:
    assert compared(tmp_path, clean, poisoned, URP).holds
    poisoned[17, 2, 5, 5] = clean.images[17, 2, 5, 5] + np.where(clean.images[17, 2, 5, 5] > 99, -9, 9)
    (problem,) = compared(tmp_path, clean, poisoned, URP).problems
    assert (problem.kind, problem.rows, problem.first) == ("bound", 1, "poisoned.npz row 17")
    assert "9 levels, where rounding allows 8 levels" in one_sentence(problem.what)


@pytest.mark.parametrize("norm", ["L2", "L0"])
def test_other_norms_are_held_to_their_bounds(norm: str, clean: ImageSet, tmp_path: Path) -> None:
    attack = make_attack("ar" if norm == "L2" else "ops")
    images = attack.poison(clean, seed=0).images
    bound = Bound(norm, attack.radius, "test")
    assert compared(tmp_path, clean, images, bound).holds
    rows = np.flatnonzero((images != clean.images).any(axis=(1, 2, 3)))[:2]
    images[rows, 0, 3, 3] ^= 128
    assert [p.rows for p in compared(tmp_path, clean, images, bound).problems] == [2]


def test_a_radius_of_half_levels_allows_what_rounding_makes_of_it(tmp_path: Path) -> None:
    clean = gray_set(2, (3, 8, 8), classes=2)
    bound = Bound("Linf", 2.5 / 255, "test")
    assert compared(tmp_path, clean, clean.images + np.uint8(3), bound).holds
    assert not compared(tmp_path, clean, clean.images + np.uint8(4), bound).holds


def test_bounds_are_told_in_the_units_of_their_norm() -> None:
    bounds = {str(Bound(norm, radius, "x")) for norm, radius in (("Linf", 8 / 255), ("L2", 1.3), ("L0", 1))}
    assert bounds == {"Linf 8 levels (x)", "L2 1.3 at 3x32x32 (x)", "L0 1 pixel (x)"}
    assert str(Bound("none", math.inf, "x")) == "none (x)"


def test_an_unbounded_attack_breaks_no_bound(clean: ImageSet, tmp_path: Path) -> None:
    attack = make_attack("cuda")
    images = attack.poison(clean, seed=0).images
    assert compared(tmp_path, clean, images, Bound(attack.norm, attack.radius, "cuda")).holds
    assert not compared(tmp_path, clean, images, URP).holds


def test_truncated_noise_that_leaves_its_ball_is_found(tmp_path: Path) -> None:
    clean = gray_set(10, (3, 16, 16))
    noise = np.random.default_rng(5).normal(0, 8.2, (10, 3, 16, 16)).clip(-8.2, 8.2)
    bound = Bound("Linf", 8.2 / 255, "test")
    assert compared(tmp_path, clean, np.rint(128 + noise).astype(np.uint8), bound).holds
    broken = compared(tmp_path, clean, np.floor(128 + noise).astype(np.uint8), bound)
    assert [problem.kind for problem in broken.problems] == ["bound"]


def test_shuffled_rows_are_found(clean: ImageSet, poisoned: NDArray[np.uint8], tmp_path: Path) -> None:
    order = np.random.default_rng(6).permutation(40)
    labels = clean.require_labels("test")
    shuffled = stored(tmp_path / "poisoned.npz", poisoned[order], labels[order])
    found = verify(shuffled, stored(tmp_path / "clean.npz", clean.images, labels), URP)
    assert [problem.kind for problem in found.problems] == ["bound", "labels"]
    assert [problem.rows for problem in found.problems] == [
        (order != np.arange(40)).sum(),
        (labels[order] != labels).sum(),
    ]


def test_a_changed_label_is_found(clean: ImageSet, poisoned: NDArray[np.uint8], tmp_path: Path) -> None:
    labels = clean.require_labels("test").copy()
    labels[[8, 30]] = 3
    relabelled = stored(tmp_path / "poisoned.npz", poisoned, labels)
    (problem,) = verify(relabelled, stored(tmp_path / "clean.npz", clean.images, clean.labels), URP).problems
    assert (problem.kind, problem.rows, problem.first) == ("labels", 2, "poisoned.npz row 8")
    assert "row 8 with 3 instead of 8" in one_sentence(problem.what)


def test_lost_labels_are_found(clean: ImageSet, poisoned: NDArray[np.uint8], tmp_path: Path) -> None:
    bare = stored(tmp_path / "poisoned.npz", poisoned, None)
    (problem,) = verify(bare, stored(tmp_path / "clean.npz", clean.images, clean.labels), URP).problems
    assert problem.rows == 40 and "with None instead of 0" in problem.what


def test_classes_are_compared_by_name_where_both_sets_name_them(tmp_path: Path) -> None:
    images = gray_set(2, (3, 8, 8)).images
    for name, labels, names in (("clean", [0, 1], ["cat", "dog"]), ("poisoned", [1, 0], ["dog", "cat"])):
        np.savez(tmp_path / f"{name}.npz", images=images, labels=np.array(labels), class_names=np.array(names))
    poisoned, clean = (open_source(tmp_path / f"{name}.npz") for name in ("poisoned", "clean"))
    assert verify(poisoned, clean).holds
    np.savez(tmp_path / "poisoned.npz", images=images, labels=np.array([0, 1]), class_names=np.array(["dog", "cat"]))
    (problem,) = verify(open_source(tmp_path / "poisoned.npz"), clean).problems
    assert problem.rows == 2 and "dog instead of cat" in problem.what


def other_length(clean: Path, poisoned: Path) -> str:
    folder_of(clean, [np.full((8, 8, 3), 100, np.uint8)] * 3)
    folder_of(poisoned, [np.full((8, 8, 3), 100, np.uint8)] * 2)
    return "poisoned has 2 images and .*clean has 3; expected the set that was poisoned"


def other_size(clean: Path, poisoned: Path) -> str:
    folder_of(clean, [np.full((8, 8, 3), 100, np.uint8), np.full((8, 9, 3), 100, np.uint8)])
    folder_of(poisoned, [np.full((8, 8, 3), 100, np.uint8)] * 2)
    return "001.png is 8x8 and .*001.png is 9x8; expected images of the same size"


def other_order(clean: Path, poisoned: Path) -> str:
    folder_of(clean, [np.full((8, 8, 3), 100, np.uint8)] * 2)
    folder_of(poisoned, [np.full((8, 8, 3), 100, np.uint8)] * 2)
    (poisoned / "class1" / "001.png").rename(poisoned / "class1" / "002.png")
    return "002.png stands in .*poisoned where .*clean has .*001.png; expected the same images in the same order"


def no_image(clean: Path, poisoned: Path) -> str:
    folder_of(clean, [np.full((8, 8, 3), 100, np.uint8)])
    (poisoned / "class0").mkdir(parents=True)
    (poisoned / "class0" / "000.png").write_text("no image")
    return "000.png is not an image"


Unfit = Callable[[Path, Path], str]


@pytest.mark.parametrize("unfit", [other_length, other_size, other_order, no_image])
def test_sets_that_cannot_be_compared_are_refused(unfit: Unfit, tmp_path: Path) -> None:
    words = unfit(tmp_path / "clean", tmp_path / "poisoned")
    with pytest.raises(EclipseError, match=words) as refused:
        verify(open_source(tmp_path / "poisoned"), open_source(tmp_path / "clean"))
    one_sentence(refused.value)


# --- the bound --------------------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return stored(tmp_path / "poisoned.npz", gray_set(2, (3, 8, 8)).images, None)


def record(source: Source, settings: Any) -> Path:
    assert source.root is not None
    path = run_json(source.root)
    path.write_text(json.dumps({"settings": settings}))
    return path


@pytest.mark.parametrize(
    ("norm", "radius", "bound"),
    [("Linf", 8 / 255, 8 / 255), ("L2", 1, 1.0), ("none", None, math.inf), ("none", math.inf, math.inf)],
)
def test_the_bound_is_that_of_the_manifest(norm: str, radius: float | None, bound: float, source: Source) -> None:
    record(source, {"attack": {"name": "x", "scale": "small", "fields": {}, "norm": norm, "radius": radius}})
    assert resolve_bound(source) == Bound(norm, bound, "x")


def test_without_a_manifest_of_an_attack_no_bound_is_known(source: Source) -> None:
    assert resolve_bound(source) is None
    record(source, {"sigma": 6.4})
    assert resolve_bound(source) is None


@pytest.mark.parametrize("settings", [[], {"attack": {"norm": "Linf"}}, {"attack": "urp"}, None])
def test_a_manifest_that_makes_no_sense_is_refused(settings: Any, source: Source) -> None:
    record(source, settings)
    with pytest.raises(EclipseError, match=r"poisoned\.npz\.run\.json is not a manifest") as refused:
        resolve_bound(source)
    one_sentence(refused.value)


def test_options_come_before_the_manifest(source: Source) -> None:
    record(source, {"attack": {"name": "ar", "norm": "L2", "radius": 1.0}})
    assert resolve_bound(source, attack="urp") == URP
    assert resolve_bound(source, attack="urp", settings=["eps=4"]) == Bound("Linf", 4 / 255, "urp")
    assert resolve_bound(source, attack="urp", scale="small", settings=["gaussian=true"]) == URP
    assert resolve_bound(source, attack="lsp", settings=["eps=2"]) == Bound("L2", 2, "lsp")
    assert resolve_bound(source, attack="cuda") == Bound("none", math.inf, "cuda")
    assert resolve_bound(source, norm="Linf", radius=4) == Bound("Linf", 4 / 255, "as given")
    assert resolve_bound(source, norm="L0", radius=3) == Bound("L0", 3, "as given")
    assert resolve_bound(source, norm="none") == Bound("none", math.inf, "as given")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"attack": "upr"}, "unknown attack 'upr'; did you mean 'urp'"),
        ({"attack": "urp", "settings": ["esp=4"]}, "unknown parameter of urp 'esp'; did you mean 'eps'"),
        ({"attack": "urp", "settings": ["eps=256"]}, "256 levels; expected"),
        ({"attack": "urp", "scale": "smal"}, "'smal'; did you mean 'small'"),
        ({"attack": "urp", "radius": 8.0}, "--attack urp has a norm and a radius"),
        ({"scale": "small"}, "none is given; name it with --attack"),
        ({"norm": "Linf"}, "--norm alone is no bound"),
        ({"radius": 8.0}, "--radius alone is no bound"),
        ({"norm": "Lin", "radius": 8.0}, "unknown norm 'Lin'; did you mean 'Linf'"),
        ({"norm": "Linf", "radius": 0.0}, "radius 0; expected more than 0"),
        ({"norm": "L2", "radius": math.nan}, "radius nan; expected more than 0"),
    ],
)
def test_options_that_make_no_bound_are_refused(options: dict[str, Any], words: str, source: Source) -> None:
    with pytest.raises(EclipseError, match=words) as refused:
        resolve_bound(source, **options)
    one_sentence(refused.value)


# --- the command ------------------------------------------------------------------------------------------


@pytest.fixture
def ask(command: Command, clean: ImageSet, poisoned: NDArray[np.uint8], tmp_path: Path) -> Callable[..., Said]:
    """Run ``eclipse verify`` on a stored poison with more options."""
    stored(tmp_path / "clean.npz", clean.images, clean.labels)
    stored(tmp_path / "poisoned.npz", poisoned, clean.labels)
    return lambda *options: command("verify", tmp_path / "poisoned.npz", "--clean", tmp_path / "clean.npz", *options)


def test_a_poison_within_its_bound_ends_in_0(ask: Callable[..., Said]) -> None:
    said = ask("--attack", "urp")
    assert said.code == 0 and said.err == "verifying: 100%, 40 of 40\n" and "problem" not in said.out
    assert "Linf 8 levels (urp)" in said.out and "min 8, median 8, max 8" in said.out
    assert all(words in said.out for words in ("(1 is class-wise)", ">=12 0.5", "labels             kept"))


def test_a_broken_bound_ends_in_1_and_names_the_first_image(ask: Callable[..., Said]) -> None:
    said = ask("--norm", "Linf", "--radius", 7)
    assert said.code == 1 and said.err == "verifying: 100%, 40 of 40\n"
    assert "problem: 40 of 40 images break the bound Linf 7 levels (as given): the first is" in said.out
    assert "poisoned.npz row 0 with 8 levels, where rounding allows 7 levels at most" in said.out


def test_the_bound_of_the_manifest_is_used_by_the_command(ask: Callable[..., Said], tmp_path: Path) -> None:
    manifest = {"settings": {"attack": {"name": "urp", "norm": "Linf", "radius": 3 / 255}}}
    run_json(tmp_path / "poisoned.npz").write_text(json.dumps(manifest))
    assert ask().code == 1
    assert ask("--attack", "urp", "--set", "eps=8").code == 0


def test_all_findings_are_written_as_json(ask: Callable[..., Said], tmp_path: Path) -> None:
    said = ask("--attack", "cuda", "--json", "--findings", tmp_path / "new" / "found.json")
    assert said.code == 0 and json.loads(said.err.splitlines()[-1])["share"] == 1
    text = (tmp_path / "new" / "found.json").read_text()
    found = json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))
    assert found["holds"] is True and found["problems"] == []
    assert found["bound"] == {"norm": "none", "radius": None, "origin": "cuda"}
    assert found["linf"] == {"least": 8, "median": 8, "most": 8}
    assert set(found) == {*Verification.__dataclass_fields__, "holds"}


def test_without_a_bound_the_figures_come_with_a_note(ask: Callable[..., Said]) -> None:
    said = ask()
    assert said.code == 0 and "note: no bound is known; name the attack with --attack" in said.out


def test_mistakes_end_in_2_and_one_sentence(ask: Callable[..., Said], tmp_path: Path) -> None:
    assert "unknown attack 'upr'" in refusal(ask("--attack", "upr"))
    np.savez(tmp_path / "poisoned.npz", images=gray_set(39, (3, 16, 16)).images)
    assert "has 39 images" in refusal(ask("--findings", tmp_path / "found.json"))
    assert not (tmp_path / "found.json").exists()
