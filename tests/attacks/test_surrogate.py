"""TAP, SEP, EFP and HYPO: attacks that train a surrogate first and then run PGD against it."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit.tiny import one_sentence
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from eclipse.attacks import make_attack, tap
from eclipse.attacks.attack import Attack
from eclipse.attacks.crafting import surrogate as crafting_module
from eclipse.attacks.crafting.objectives import centroids, feature_distance, present_classes
from eclipse.attacks.crafting.perturbation import add_noise
from eclipse.attacks.crafting.transforms import flip_shift
from eclipse.attacks.efp import distance_to_nearest_other
from eclipse.classifiers.classifier import Classifier
from eclipse.classifiers.fit import Recipe
from eclipse.classifiers.pgd import PGD, Loss, adversary, cross_entropy
from eclipse.data.changes import measure
from eclipse.data.imageset import ImageSet
from eclipse.data.pixels import to_unit
from eclipse.errors import EclipseError
from eclipse.runs.state import StageStep, State, Work

QUICK = Recipe(epochs=6, batch=8, lr=0.02, pad=0, flip=False)
HASTY = Recipe(epochs=2, batch=8, lr=0.05)
HASTIER = {
    "tap": {"steps": 2, "restarts": 2},
    "sep": {"steps": 2, "checkpoints": 2},
    "sep fa": {"steps": 2, "checkpoints": 2, "variant": "fa"},
    "sep fa-vr": {"steps": 2, "checkpoints": 2, "variant": "fa-vr", "inner": 3},
    "efp": {"steps": 2, "reference_steps": 1},
    "efp pull": {"steps": 2, "reference_steps": 1, "variant": "pull"},
    "hypo": {"steps": 2, "surrogate_steps": 1},
}
"""Every attack and variant with next to no work."""


def tinted(n: int, classes: int = 4, amplitude: int = 8) -> ImageSet:
    """Noise of 16x16 in which a class lifts a channel of its own by some levels, and class 3 none."""
    images = np.random.default_rng(0).integers(80, 170, (n, 3, 16, 16))
    labels = np.arange(n) % classes
    for label in range(3):
        images[labels == label, label] += amplitude
    return ImageSet.from_arrays(images.astype(np.uint8), labels)


def clipped(n: int, classes: int = 10, channels: int = 3) -> ImageSet:
    """Images whose pixels are at both ends of the range here and there."""
    images = np.random.default_rng(1).integers(-60, 316, (n, channels, 16, 16)).clip(0, 255).astype(np.uint8)
    return ImageSet.from_arrays(images, np.arange(n) % classes)


def hasty(name: str, **changes: Any) -> Attack:
    return make_attack(name.split()[0], scale="small", **{"recipe": HASTY, **HASTIER[name], **changes})


def pixels(data: ImageSet) -> Tensor:
    return to_unit(torch.from_numpy(data.images.copy()))


def labels_of(data: ImageSet) -> Tensor:
    return torch.from_numpy(data.require_labels("a test"))


def change(clean: ImageSet, poisoned: ImageSet) -> NDArray[np.int16]:
    return poisoned.images.astype(np.int16) - clean.images


class Poisoned:
    """An attack on 64 images that a surrogate can tell apart, and its surrogates at the epochs that were kept."""

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        amplitude: int = 8,
        pad: int = 0,
        epochs: tuple[int, ...] = (6,),
        seed: int = 0,
        **fields: Any,
    ) -> None:
        self.clean = tinted(64, amplitude=amplitude)
        self.attack = make_attack(name, scale="small", recipe=replace(QUICK, pad=pad), **fields)
        self.after = self.attack.craft(self.clean, Work(seed, state=State(folder)))
        self.surrogates = [self._kept(folder, epoch) for epoch in epochs]

    def _kept(self, folder: Path, epoch: int) -> Classifier:
        found = State(folder).load(f"surrogate {epoch}")
        network = self.attack.surrogate(self.clean, Work())
        assert found is not None and isinstance(network, Classifier)
        network.load_state_dict(found[0])
        return network.eval().requires_grad_(False)


@pytest.fixture(autouse=True)
def _small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Craft the noise in several groups even of few images."""
    monkeypatch.setattr(crafting_module, "ROWS", 8)


@lru_cache
def undisturbed(name: str) -> tuple[ImageSet, tuple[str, ...]]:
    """A crafting of ``clipped(20)`` with seed 0 that keeps no state, and the stages of its steps."""
    stages: list[str] = []
    state = State(on_step=lambda step: stages.append(step.stage))
    return hasty(name).craft(clipped(20), Work(state=state)), tuple(stages)


@pytest.fixture
def poisoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Poisoned]:
    monkeypatch.setattr(crafting_module, "ROWS", 64)
    return lambda name, **fields: Poisoned(tmp_path, name, **fields)


def share(network: Classifier, data: ImageSet, labels: Tensor) -> float:
    return (network(pixels(data)).argmax(1) == labels).float().mean().item()


# --- the contract -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HASTIER)
def test_no_pixel_moves_by_more_than_8_levels_as_stored(name: str) -> None:
    clean = clipped(12)
    poisoned = hasty(name, steps=12).poison(clean, seed=0)
    sizes = measure(clean.images, poisoned.images, "Linf")
    assert (sizes * 255).round(6).tolist() == [8] * 12
    assert np.abs(change(clean, poisoned)).mean() > 2


@pytest.mark.parametrize("name", HASTIER)
def test_labels_ids_and_order_stay_and_the_input_is_not_written(name: str) -> None:
    clean = clipped(20)
    clean.images.setflags(write=False)
    before = clean.fingerprint()
    poisoned = hasty(name).poison(clean, seed=1)
    assert clean.fingerprint() == before
    assert poisoned.ids == clean.ids and torch.equal(labels_of(poisoned), labels_of(clean))
    assert poisoned.images.dtype == np.uint8 and poisoned.images.shape == clean.images.shape
    assert (poisoned.images != undisturbed(name)[0].images).mean() > 0.3, "another seed"


@pytest.mark.parametrize("name", HASTIER)
def test_the_seed_alone_decides_every_byte(name: str) -> None:
    expected, _ = undisturbed(name)
    torch.rand(5)
    generator = torch.get_rng_state()
    assert np.array_equal(hasty(name).poison(clipped(20), seed=0).images, expected.images)
    assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize("name", HASTIER)
def test_many_classes_of_gray_images_are_poisoned_though_classes_are_missing(name: str) -> None:
    classes = 60
    full = clipped(classes, classes, channels=1)
    clean = ImageSet(full.images, full.ids, 2 * labels_of(full).numpy() + 1, tuple(map(str, range(2 * classes + 1))))
    delta = change(clean, hasty(name, recipe=replace(HASTY, batch=32)).poison(clean, seed=0))
    assert 0 < np.abs(delta).max() <= 8
    assert np.abs(delta).reshape(classes, -1).max(axis=1).min() > 0, "every image"


# --- kill and resume --------------------------------------------------------------------------------------


class Killed(Exception):
    pass


def killed(name: str, folder: Path, step: int) -> int:
    """Run a crafting that dies when this many of its steps are done; return how many are done."""
    told: list[StageStep] = []

    def on_step(event: StageStep) -> None:
        told.append(event)
        if len(told) == step:
            raise Killed

    with pytest.raises(Killed):
        hasty(name).craft(clipped(20), Work(state=State(folder, on_step)))
    return len(told)


@pytest.mark.parametrize("name", ["tap", "sep fa-vr", "efp pull", "hypo"])
def test_a_crafting_killed_anywhere_and_run_again_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    expected, stages = undisturbed(name)
    assert len(stages) >= 5 and len(set(stages)) >= 2, "both stages, in several parts"
    for step in (1, len(stages) - 1):
        killed(name, tmp_path / str(step), step)
        again = hasty(name).craft(clipped(20), Work(state=State(tmp_path / str(step))))
        assert np.array_equal(again.images, expected.images), stages[step - 1]


def test_a_crafting_can_be_killed_again_and_again(tmp_path: Path) -> None:
    expected, _ = undisturbed("hypo")
    for _ in range(2):
        killed("hypo", tmp_path, 1)
    again = hasty("hypo").craft(clipped(20), Work(state=State(tmp_path)))
    assert np.array_equal(again.images, expected.images)


# --- TAP --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("float32")
def test_tap_makes_the_surrogate_see_the_next_class(poisoned: Callable[..., Poisoned]) -> None:
    found = poisoned("tap", steps=20)
    (network,), labels = found.surrogates, labels_of(found.clean)
    assert share(network, found.clean, labels) > 0.6
    assert share(network, found.after, (labels + 1) % 4) > 0.7 > 0.3 > share(network, found.clean, (labels + 1) % 4)


def test_tap_takes_the_next_class_that_the_set_has(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Tensor] = []

    def note(network: Classifier, labels: Tensor) -> Loss:
        asked.append(labels)
        return cross_entropy(network, labels)

    monkeypatch.setattr(tap, "cross_entropy", note)
    clean = tinted(12, classes=3)
    gaps = ImageSet(clean.images, clean.ids, np.array([1, 4, 6])[labels_of(clean)])
    hasty("tap", restarts=1).poison(gaps, seed=0)
    assert torch.cat(asked).tolist() == [4, 6, 1] * 4


@pytest.mark.usefixtures("float32")
def test_tap_keeps_the_restart_of_lowest_mean_loss(
    poisoned: Callable[..., Poisoned], monkeypatch: pytest.MonkeyPatch
) -> None:
    restarts: list[ImageSet] = []

    def noted(*args: Any) -> ImageSet:
        restarts.append(add_noise(*args))
        return restarts[-1]

    monkeypatch.setattr(tap, "add_noise", noted)
    monkeypatch.setattr(tap, "flip_shift", lambda fill: lambda x: x)
    monkeypatch.setattr(crafting_module, "ROWS", 24)  # the last group of 64 is smaller
    found = poisoned("tap", restarts=4, steps=1, seed=1)
    (network,), targets = found.surrogates, (labels_of(found.clean) + 1) % 4
    losses = [F.cross_entropy(network(pixels(restart)), targets).item() for restart in restarts]
    best = int(np.argmin(losses))
    assert len(losses) == 4 and best != 0 and len(set(losses)) == 4
    assert found.after.fingerprint() == restarts[best].fingerprint()


# --- SEP --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["sep", "fa", "fa-vr"])
def test_sep_makes_every_checkpoint_see_the_class_half_of_them_further(
    variant: str, poisoned: Callable[..., Poisoned]
) -> None:
    found = poisoned("sep", epochs=(3, 6), checkpoints=2, variant=variant, steps=6)
    labels = labels_of(found.clean)
    for network in found.surrogates:
        before = share(network, found.clean, (labels + 2) % 4)
        assert share(network, found.after, (labels + 2) % 4) > max(0.7, before + 0.5)


def sep_gradient(network: Classifier, x: Tensor, clean: ImageSet, variant: str) -> Tensor:
    """The gradient of one checkpoint, written independently."""
    labels = labels_of(clean)
    goal = (labels + 2) % 4
    x = x.clone().requires_grad_()
    if variant == "sep":
        loss = F.cross_entropy(network(x), goal, reduction="sum")
    else:
        embedding = network.embed(pixels(clean))
        means = torch.stack([embedding[labels == label].mean(0) for label in range(4)])
        loss = sum(F.mse_loss(features, means[to]) for features, to in zip(network.embed(x), goal, strict=True))
    return torch.autograd.grad(loss, x)[0]


@pytest.mark.parametrize("variant", ["sep", "fa", "fa-vr"])
def test_a_step_of_sep_follows_the_mean_gradient_of_all_checkpoints(
    variant: str, poisoned: Callable[..., Poisoned]
) -> None:
    found = poisoned("sep", epochs=(2, 4, 6), checkpoints=3, variant=variant, steps=1, inner=1)
    x = pixels(found.clean)
    each = torch.stack([sep_gradient(f, x, found.clean, variant) for f in found.surrogates])
    moved = torch.from_numpy(change(found.clean, found.after)).sign()
    agreement = (moved == -each.mean(0).sign()).float().mean().item()
    assert agreement > 0.999, "with one inner step, the correction of fa-vr gives the mean"
    assert all((moved == -g.sign()).float().mean() < 0.97 for g in each), "the test can fail"


def test_the_inner_steps_of_sep_add_up_gradients_along_the_way(poisoned: Callable[..., Poisoned]) -> None:
    found = poisoned("sep", checkpoints=1, variant="fa-vr", steps=1, inner=4)
    (network,), x = found.surrogates, pixels(found.clean)
    at, total = x, torch.zeros_like(x)
    for _ in range(4):
        total += sep_gradient(network, at, found.clean, "fa")
        at = (at - 2 / 255 * total.sign()).clamp(x - 8 / 255, x + 8 / 255).clamp(0, 1)
    moved = torch.from_numpy(change(found.clean, found.after)).sign()
    first = sep_gradient(network, x, found.clean, "fa")
    assert (moved == -total.sign()).float().mean() > 0.999 > (moved == -first.sign()).float().mean()


def test_the_checkpoints_of_sep_are_equally_spaced_and_as_many_as_published(tmp_path: Path) -> None:
    assert make_attack("sep").kept_epochs() == tuple(range(4, 121, 4))
    assert make_attack("sep", variant="fa-vr").kept_epochs() == tuple(range(8, 121, 8))
    hasty("sep", recipe=Recipe(epochs=5, batch=8, lr=0.05)).craft(clipped(20), Work(state=State(tmp_path)))
    assert sorted(file.stem for file in tmp_path.glob("surrogate-*")) == ["surrogate-2", "surrogate-5"]


# --- EFP --------------------------------------------------------------------------------------------------


def shifted(data: ImageSet) -> Tensor:
    """Images as PGD saw them, 8 times: flipped and shifted, the same for each set."""
    torch.manual_seed(5)
    return flip_shift()(pixels(data).repeat(8, 1, 1, 1))


def distances(network: Classifier, clean: ImageSet, data: ImageSet) -> Tensor:
    """From the shifted embeddings to the clean mean of each class, (N, 4)."""
    means = torch.stack([network.embed(pixels(clean))[labels_of(clean) == k].mean(0) for k in range(4)])
    return (network.embed(shifted(data))[:, None] - means).square().mean(2).view(8, len(data), 4).mean(0)


def test_efp_pushes_features_away_from_their_own_class(poisoned: Callable[..., Poisoned]) -> None:
    found = poisoned("efp", amplitude=16, pad=4, steps=20, reference_steps=1)
    (network,), own = found.surrogates, labels_of(found.clean)[:, None]
    before, after = (distances(network, found.clean, data).gather(1, own) for data in (found.clean, found.after))
    assert (after > before).float().mean() > 0.95
    assert after.mean() > 1.5 * before.mean()


def test_efp_pulls_features_to_the_nearest_other_class(poisoned: Callable[..., Poisoned]) -> None:
    found = poisoned("efp", amplitude=16, pad=4, variant="pull", steps=20, reference_steps=1)
    (network,), own = found.surrogates, labels_of(found.clean)[:, None]
    before, after = (
        distances(network, found.clean, data).scatter(1, own, torch.inf).amin(1) for data in (found.clean, found.after)
    )
    assert (after < before).float().mean() > 0.95
    assert after.mean() < 0.6 * before.mean()


class Values(Classifier):
    """A network whose embedding is the image."""

    def embed(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def test_the_own_class_is_never_the_nearest_other_however_far_the_others_are() -> None:
    means = torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.0, 9.0]])
    x = torch.tensor([[0.1, 0.0], [0.0, 0.2], [5.0, 0.0], [0.0, 9.0]]).view(4, 1, 1, 2).requires_grad_()
    found = distance_to_nearest_other(Values(), means, torch.tensor([0, 0, 1, 2]))(x)
    assert found.tolist() == pytest.approx([4.9**2 / 2, (25 + 0.04) / 2, 12.5, 40.5])
    gradient = torch.autograd.grad(found.sum(), x)[0].view(4, 2)
    assert gradient.tolist() == [pytest.approx(row) for row in ([-4.9, 0], [-5, 0.2], [5, 0], [0, 9])]


# --- HYPO -------------------------------------------------------------------------------------------------


def test_hypo_lowers_the_loss_of_the_true_class(poisoned: Callable[..., Poisoned]) -> None:
    found = poisoned("hypo", amplitude=16, pad=4, steps=20, surrogate_steps=1)
    (network,), labels = found.surrogates, labels_of(found.clean)
    before, after = (
        F.cross_entropy(network(shifted(data)), labels.repeat(8), reduction="none").view(8, -1).mean(0)
        for data in (found.clean, found.after)
    )
    assert (after < before).float().mean() > 0.95
    assert after.mean() < 0.6 * before.mean()


# --- objectives -------------------------------------------------------------------------------------------


def test_an_adversary_finds_harder_images_within_its_radius(poisoned: Callable[..., Poisoned]) -> None:
    found = poisoned("tap", steps=1)
    (network,), x, y = found.surrogates, pixels(found.clean), labels_of(found.clean)
    how = PGD(4 / 255, 2 / 255, steps=3, start="uniform", ascend=True)
    harder = adversary(how)(network, x, y)
    assert (harder - x).abs().max() < 4.001 / 255 and harder.min() >= 0 and harder.max() <= 1
    before, after = (cross_entropy(network, y)(images) for images in (x, harder))
    assert (after > before).float().mean() > 0.95 and after.mean() > 1.3 * before.mean()


@pytest.mark.parametrize("name", ["efp", "hypo"])
def test_the_surrogate_is_trained_against_its_adversary(name: str, tmp_path: Path) -> None:
    field = {"efp": "reference_radius", "hypo": "surrogate_radius"}[name]
    accuracies: list[float] = []
    for radius in (1e-6, 60 / 255):
        told: list[StageStep] = []
        lengths = {field: radius, field[:-6] + "step": radius, field[:-6] + "steps": 1}
        attack = make_attack(name, scale="small", recipe=QUICK, steps=1, **lengths)
        attack.craft(tinted(64, amplitude=20), Work(state=State(on_step=told.append)))
        accuracies.append([step for step in told if step.stage == "surrogate"][-1].facts["accuracy"])
    assert accuracies[0] > 0.9 > 0.7 > accuracies[1], "nothing to learn in so large a ball"


def test_centroids_are_the_mean_embeddings_of_the_classes_there_are() -> None:
    clean = clipped(23, 3)
    gaps = ImageSet(clean.images, clean.ids, np.array([1, 4, 6])[labels_of(clean)])
    network = hasty("sep").surrogate(gaps, Work())
    assert isinstance(network, Classifier)
    embedding = network.eval().requires_grad_(False).embed(pixels(gaps))
    expected = torch.stack([embedding[labels_of(gaps) == label].mean(0) for label in (1, 4, 6)])
    assert torch.allclose(centroids(network, gaps, "cpu"), expected, atol=1e-5)
    classes, own = present_classes(gaps, "cpu")
    assert classes.tolist() == [1, 4, 6] and torch.equal(classes[own], labels_of(gaps))
    assert torch.allclose(
        feature_distance(network, expected[own])(pixels(gaps)), (embedding - expected[own]).square().mean(1), atol=1e-6
    )


# --- recipes ----------------------------------------------------------------------------------------------


def test_the_defaults_cost_what_the_papers_recipes_cost() -> None:
    costs = {name: make_attack(name).passes() for name in ("tap", "sep", "efp", "hypo")}
    assert costs == {"tap": 40 + 8 * 250, "sep": 120 + 30 * 30, "efp": 100 * 11 + 300, "hypo": 10 * 11 + 100}
    assert make_attack("sep", variant="fa-vr").passes() == 120 + 30 * (15 + 15)


def test_the_learning_rates_are_the_published_ones() -> None:
    def epochs_at(name: str) -> dict[float, int]:
        recipe = make_attack(name).recipe  # type: ignore[attr-defined]
        rates = [round(recipe.rate(epoch / recipe.epochs), 6) for epoch in range(recipe.epochs)]
        return {rate: rates.count(rate) for rate in rates}

    assert epochs_at("tap") == {0.1: 14, 0.01: 10, 0.001: 11, 0.0001: 5}
    assert epochs_at("sep") == {0.0: 1, 0.1: 74, 0.01: 15, 0.001: 30}
    assert epochs_at("efp") == {0.1: 75, 0.01: 15, 0.001: 10}
    assert epochs_at("hypo") == {0.1: 10}


@pytest.mark.parametrize("name", ["tap", "sep", "efp", "hypo"])
def test_small_is_small(name: str) -> None:
    attack = make_attack(name, scale="small")
    assert attack.passes() <= 100
    network = attack.surrogate(clipped(20), Work())
    assert network is not None and sum(p.numel() for p in network.parameters()) < 500_000


# --- mistakes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: make_attack("tap", radius=0), "TAP radius of 0 levels; expected more than 0"),
        (lambda: make_attack("sep", radius=8), "SEP radius of 2040 levels; expected more than 0 and at most 255"),
        (lambda: make_attack("efp", steps=0), "steps 0; expected at least 1"),
        (lambda: make_attack("hypo", surrogate_radius=0), "radius of 0 levels"),
        (lambda: make_attack("efp", reference_steps=0), "steps 0; expected at least 1"),
        (lambda: make_attack("tap", restarts=0), "TAP restarts 0; expected at least 1"),
        (lambda: make_attack("sep", variant="fa-rv"), "unknown variant of SEP 'fa-rv'; did you mean 'fa-vr'"),
        (lambda: make_attack("sep", checkpoints=121), "121 SEP checkpoints in 120 epochs; expected 1 to 120"),
        (lambda: make_attack("sep", inner=0), "0 inner steps of SEP; expected at least 1"),
        (lambda: make_attack("efp", variant="pul"), "unknown variant of EFP 'pul'; did you mean 'pull'"),
        (lambda: make_attack("hypo", arch="tiny").poison(clipped(20), seed=0), "unknown classifier 'tiny'"),
    ],
)  # fmt: skip
def test_mistakes_are_explained(call: Callable[[], object], words: str) -> None:
    with pytest.raises(EclipseError) as caught:
        call()
    assert words in one_sentence(caught.value)


@pytest.mark.parametrize("name", ["tap", "sep", "efp", "hypo"])
def test_sets_that_cannot_be_poisoned_are_refused(name: str) -> None:
    images = np.zeros((4, 3, 8, 8), np.uint8)
    for data, words in (
        (ImageSet.from_arrays(images), f"{name.upper()} needs labels"),
        (ImageSet.from_arrays(images, [2, 2, 2, 2]), f"{name.upper()} of a set with 1 class; expected at least 2"),
        (ImageSet.from_arrays(images, [0, 1, 2, 3]), "images of 8 pixels a side; this network takes 16 and up"),
    ):
        with pytest.raises(EclipseError) as caught:
            hasty(name).poison(data, seed=0)
        assert words in one_sentence(caught.value)
