"""EM, REM and ADP, and the driver that alternates between their surrogate and their noise."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit.tiny import one_sentence
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from eclipse.attacks import adp, make_attack
from eclipse.attacks.adp import compensated
from eclipse.attacks.attack import Attack
from eclipse.attacks.crafting import alternating
from eclipse.attacks.crafting.alternating import Alternation, Moves, Rounds, as_it_is, min_min
from eclipse.attacks.crafting.perturbation import bound
from eclipse.attacks.crafting.transforms import crop_flip
from eclipse.classifiers.fit import Recipe
from eclipse.classifiers.pgd import PGD, gradient
from eclipse.data.changes import measure
from eclipse.data.imageset import ImageSet
from eclipse.data.pixels import to_unit
from eclipse.diffusion.presets import PAPER
from eclipse.errors import EclipseError
from eclipse.purification.compensation import Compensate
from eclipse.runs.state import StageStep, State, Work

SHAPE = (3, 16, 16)
RECIPE = Recipe(epochs=3, batch=4, lr=0.1)

TINY: dict[str, Callable[[], Attack]] = {
    "em": lambda: make_attack("em", scale="small", batch=8, max_rounds=2, train_steps=4),
    "em class-wise": lambda: make_attack("em", scale="small", batch=8, max_rounds=2, train_steps=4, class_wise=True),
    "rem": lambda: make_attack("rem", scale="small", batch=8, visits=1.0),
    "adp": lambda: make_attack("adp", scale="small", batch=8, max_rounds=2, train_steps=4, steps=3),
}
every_attack = pytest.mark.parametrize("attack", [make() for make in TINY.values()], ids=list(TINY))


def smooth_set(n: int, shape: tuple[int, ...] = SHAPE, classes: int = 5, low: int = 30, high: int = 226) -> ImageSet:
    """Images of 4x4 patches of random colors, which their labels have nothing to do with."""
    rng = np.random.default_rng(3)
    patches = rng.integers(low, high, (n, shape[0], shape[1] // 4, shape[2] // 4), dtype=np.uint8)
    names = [f"class {i}" for i in range(classes)]
    return ImageSet.from_arrays(patches.repeat(4, axis=2).repeat(4, axis=3), np.arange(n) * 7 % classes, names)


def change(clean: ImageSet, poisoned: ImageSet) -> NDArray[np.int16]:
    return poisoned.images.astype(np.int16) - clean.images


def unit(data: ImageSet) -> tuple[Tensor, Tensor]:
    return to_unit(torch.tensor(data.images)), torch.tensor(data.require_labels("test"))


def crafted(attack: Attack, clean: ImageSet, folder: Path) -> tuple[ImageSet, nn.Module]:
    """The poisoned set, and the surrogate as the crafting left it."""
    poisoned = attack.craft(clean, Work(state=State(folder)))
    network, found = attack.surrogate(clean, Work()), State(folder).load("surrogate")
    assert network is not None and found is not None
    state = {name.removeprefix("network."): value for name, value in found[0].items() if name.startswith("network.")}
    network.load_state_dict(state)
    return poisoned, network.eval()


def score(network: nn.Module, data: ImageSet, view: Callable[[Tensor], Tensor] = as_it_is) -> tuple[float, float]:
    """Loss and accuracy."""
    x, y = unit(data)
    with torch.no_grad():
        logits = network(view(x))
    return float(F.cross_entropy(logits, y)), float((logits.argmax(1) == y).float().mean())


# --- the contract -----------------------------------------------------------------------------------------


@every_attack
def test_the_bound_holds_after_rounding_and_labels_and_order_stay(attack: Attack) -> None:
    clean = smooth_set(20, low=0, high=256)
    before = clean.fingerprint()
    poisoned = attack.poison(clean, seed=0)
    assert clean.fingerprint() == before
    assert poisoned.ids == clean.ids and poisoned.class_names == clean.class_names
    assert np.array_equal(poisoned.require_labels("test"), clean.require_labels("test"))
    sizes = measure(clean.images, poisoned.images, "Linf")
    assert bound(attack.norm, attack.radius, SHAPE) == 8 / 255
    assert sizes.max() <= 8 / 255 and sizes.min() > 1 / 255


@every_attack
def test_the_seed_decides_every_byte_and_the_global_generator_none(attack: Attack) -> None:
    clean = smooth_set(10)
    first = attack.poison(clean, seed=0).images
    torch.manual_seed(7)
    assert np.array_equal(first, attack.poison(clean, seed=0).images)
    assert (first != attack.poison(clean, seed=1).images).mean() > 0.2


@every_attack
def test_gray_images_of_a_hundred_classes_are_poisoned(attack: Attack) -> None:
    clean = smooth_set(20, (1, 16, 20), 100)
    poisoned = attack.poison(clean, seed=0)
    assert poisoned.images.shape == clean.images.shape
    sizes = measure(clean.images, poisoned.images, "Linf")
    assert sizes.min() > 1 / 255 and sizes.max() <= 8 / 255


class Killed(Exception):
    pass


class Killer(State):
    """A crafting that dies at the k-th thing that it saves or tells, before that is saved."""

    def __init__(self, folder: Path, k: int) -> None:
        super().__init__(folder, lambda step: self.count())
        self.left = k

    def count(self) -> None:
        self.left -= 1
        if not self.left:
            raise Killed

    def save(self, stage: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        self.count()
        super().save(stage, tensors, facts)


@every_attack
def test_a_crafting_killed_again_and_again_ends_with_the_same_bytes(
    attack: Attack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alternating, "ROWS", 8)
    monkeypatch.setattr(alternating, "SAVE", 3)
    clean, kills = smooth_set(10), 0
    undisturbed = attack.poison(clean, seed=0).images
    while True:
        try:
            poisoned = attack.craft(clean, Work(state=Killer(tmp_path, 1 + kills % 6)))
            break
        except Killed:
            kills += 1
            assert kills < 100, "no progress"
    assert np.array_equal(poisoned.images, undisturbed) and kills > 2


@every_attack
def test_a_finished_crafting_is_not_done_again(attack: Attack, tmp_path: Path) -> None:
    clean, told = smooth_set(10), list[StageStep]()
    first = attack.craft(clean, Work(state=State(tmp_path))).images
    assert np.array_equal(attack.craft(clean, Work(state=State(tmp_path, told.append))).images, first)
    assert "surrogate" not in [step.stage for step in told], "it trained"


@pytest.mark.parametrize("name", ["em", "rem", "adp"])
def test_labels_of_two_classes_are_required(name: str) -> None:
    images = smooth_set(4).images
    with pytest.raises(EclipseError, match=f"{name.upper()} needs labels"):
        make_attack(name, scale="small").poison(ImageSet.from_arrays(images), seed=0)
    with pytest.raises(EclipseError, match=f"{name.upper()} of a set with 1 class"):
        make_attack(name, scale="small").poison(ImageSet.from_arrays(images, [2] * 4), seed=0)


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("em", {"radius": 8.0}, "EM radius of 2040 levels"),
        ("em", {"steps": 0}, "steps 0; expected at least 1"),
        ("em", {"step": 0.0}, "step of 0 levels"),
        ("em", {"train_steps": 0}, "train_steps 0; expected at least 1"),
        ("em", {"batch": 1}, "batch 1; expected at least 2"),
        ("em", {"max_rounds": 0}, "max_rounds 0; expected at least 1"),
        ("em", {"target": 99.0}, "target 99; expected more than 0 and at most 1"),
        ("em", {"share": 0.0}, "share 0; expected more than 0"),
        ("rem", {"radius": 0.0}, "REM radius of 0 levels"),
        ("rem", {"adversary_radius": 4.0}, "REM adversary radius of 1020 levels"),
        ("rem", {"adversary_steps": 0}, "steps 0; expected at least 1"),
        ("rem", {"draws": 0}, "draws 0; expected at least 1"),
        ("rem", {"visits": 0.0}, "visits 0; expected more than 0"),
        ("rem", {"batch": 0}, "batch 0; expected at least 2"),
        ("rem", {"pad": -1}, "pad -1; expected 0 or more"),
        ("adp", {"radius": -1.0}, "ADP radius of -255 levels"),
        ("adp", {"p": 2.0}, "grayscale probability 2"),
        ("adp", {"q": -1.0}, "noise probability -1"),
        ("adp", {"lr": 0.0}, "lr 0; expected more than 0"),
        ("adp", {"arch": "compakt"}, "U-Net 'compakt'; did you mean 'compact'"),
    ],
)  # fmt: skip
def test_mistakes_are_explained(name: str, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(EclipseError, match=words) as error:
        make_attack(name, **fields)
    one_sentence(error.value)


def test_the_passes_are_those_that_the_papers_schedules_take() -> None:
    assert make_attack("rem").passes() == pytest.approx(12.8 * 561 + 550, abs=1)
    assert make_attack("rem", scale="small").passes() == pytest.approx(78, abs=1)
    assert make_attack("em", max_rounds=10).passes() == pytest.approx(210, abs=5)
    assert make_attack("em", class_wise=True, max_rounds=10).passes() < 15
    for name in ("em", "rem", "adp"):
        assert make_attack(name, scale="small").passes() <= 100


# --- EM ---------------------------------------------------------------------------------------------------


def test_em_brings_the_surrogates_loss_to_near_zero_by_its_noise(tmp_path: Path) -> None:
    clean = smooth_set(80)
    poisoned, network = crafted(make_attack("em", scale="small", batch=32, target=1.0), clean, tmp_path)
    loss, accuracy = score(network, poisoned)
    assert loss < 0.05 and accuracy > 0.95
    assert score(network, clean)[0] > 10 * loss, "without the noise it has learned little"


def test_class_wise_em_is_one_noise_for_a_class_that_the_surrogate_learns(tmp_path: Path) -> None:
    clean = smooth_set(60)
    attack = make_attack("em", scale="small", batch=16, class_wise=True, share=0.5, max_rounds=30)
    poisoned, network = crafted(attack, clean, tmp_path)
    delta = change(clean, poisoned).reshape(12, 5, -1)
    assert np.all(delta == delta[0])
    assert len({noise.tobytes() for noise in delta[0]}) == 5
    loss, accuracy = score(network, poisoned)
    assert accuracy > 0.9 and score(network, clean)[0] > 2 * loss


def test_positive_only_em_drops_and_truncates_as_the_authors_code_does() -> None:
    clean = smooth_set(20)
    signed = change(clean, make_attack("em", scale="small", max_rounds=2).poison(clean, seed=0))
    positive = change(clean, make_attack("em", scale="small", max_rounds=2, positive_only=True).poison(clean, seed=0))
    assert not positive[signed <= 0].any()
    assert set(np.unique((signed - positive)[signed > 0])) == {0, 1}
    assert np.array_equal(positive == 8, signed == 8), "whole levels are not cut"


# --- REM --------------------------------------------------------------------------------------------------


def test_rem_brings_the_surrogates_loss_to_near_zero_under_crops_and_flips(tmp_path: Path) -> None:
    clean, lengths = (
        smooth_set(64, classes=4),
        {"radius": 32 / 255, "step": 20 / 255, "adversary_radius": 2 / 255, "adversary_step": 8 / 3 / 255},
    )
    attack = make_attack("rem", scale="small", steps=2, adversary_steps=1, pad=1, batch=32, visits=24.0, **lengths)
    poisoned, network = crafted(attack, clean, tmp_path)
    loss, accuracy = score(network, poisoned, crop_flip(1))
    assert loss < 0.05 and accuracy > 0.95
    assert score(network, clean, crop_flip(1))[0] > 10 * loss, "without the noise it has learned little"


def test_rem_starts_anew_each_time_and_trains_on_an_adversary_within_its_radius() -> None:
    clean = smooth_set(8)
    attack = make_attack("rem", scale="small", pad=0)
    network = attack.surrogate(clean, Work())
    assert network is not None
    network.eval().requires_grad_(False)
    moves: Moves = attack.moves(network)  # type: ignore[attr-defined]
    x, y = unit(clean)
    torch.manual_seed(5)
    noise = moves.renew(x, y, torch.full_like(x, 9.0))
    torch.manual_seed(5)
    assert torch.equal(noise, moves.renew(x, y, torch.zeros_like(x))), "the noise so far plays no part"
    torch.manual_seed(5)
    lesson = moves.lesson(x, y, torch.zeros_like(x))
    torch.manual_seed(5)
    moves.renew(x, y, torch.zeros_like(x))
    seen = moves.view(x + noise)
    assert (lesson - seen).abs().amax() <= 4 / 255 + 1e-6
    assert F.cross_entropy(network(lesson), y) > F.cross_entropy(network(seen), y), "it raises the loss"
    assert F.cross_entropy(network(seen), y) < F.cross_entropy(network(x), y), "the noise lowers it"


# --- ADP --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("float32")
def test_the_shortcut_of_adp_survives_grayscale_and_noise_in_its_surrogate(tmp_path: Path) -> None:
    clean, lengths = smooth_set(40, classes=4), {"radius": 24 / 255, "step": 8 / 255}
    attack = make_attack("adp", scale="small", batch=40, train_steps=20, lr=5e-3, steps=3, max_rounds=5, **lengths)
    poisoned, network = crafted(attack, clean, tmp_path)
    for p in (0.0, 0.4, 1.0):
        torch.manual_seed(1)
        assert score(network, poisoned, Compensate(p, 0.05))[1] > 0.9, p
    assert score(network, clean, Compensate(0.4, 0.05))[1] < 0.6


def test_the_view_of_adp_is_the_compensation() -> None:
    x = torch.rand(400, 3, 8, 8)
    assert torch.allclose(compensated(1.0, 0.0)(x), Compensate(1.0, 0.0)(x), atol=1e-6)
    gray = (compensated(0.4, 0.0)(x) != x).flatten(1).any(dim=1)
    assert gray.float().mean() == pytest.approx(0.4, abs=0.1)  # 4 standard errors
    noise = compensated(0.0, 0.05)(torch.full_like(x, 0.5)) - 0.5
    assert noise.std() == pytest.approx(0.05, rel=0.02) and abs(noise.mean()) < 1e-3
    noisy = (compensated(0.0, 0.05, 0.3)(x) != x).flatten(1).any(dim=1)
    assert noisy.float().mean() == pytest.approx(0.3, abs=0.1)
    edge = compensated(0.5, 0.1)(x.round())
    assert edge.min() > -1e-6 and edge.max() < 1 + 1e-6


def test_the_gradient_passes_the_clamp_of_the_view() -> None:
    x = torch.rand(6, 3, 8, 8).round()  # noise carries half of the pixels out of [0, 1]
    slope = gradient(x, lambda seen: seen.flatten(1).sum(1), transform=compensated(0.0, 0.1))
    assert torch.equal(slope, torch.ones_like(x))
    gray = gradient(x, lambda seen: seen.flatten(1).sum(1), transform=compensated(1.0, 0.1))
    assert torch.allclose(gray[0, :, 0, 0] / 3, torch.tensor([0.299, 0.587, 0.114]))


@pytest.fixture
def small_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"channels": 32, "multipliers": [1, 1], "blocks": 1, "attention": [], "dropout": 0.3}
    monkeypatch.setattr(adp, "PAPER", replace(PAPER, denoiser=replace(PAPER.denoiser, options=options)))


@pytest.mark.parametrize(("arch", "channels"), [("unet", 3), ("unet", 1), ("compact", 3), ("compact", 1)])
def test_the_surrogate_of_adp_is_a_u_net_whose_fresh_last_layer_gives_classes(
    arch: str, channels: int, small_paper: None
) -> None:
    clean = smooth_set(6, (channels, 16, 16), classes=3)
    network = make_attack("adp", arch=arch).surrogate(clean, Work())
    assert network is not None
    logits = network(unit(clean)[0])
    assert logits.shape == (6, 3) and logits.std(dim=0).min() > 0, "a last layer of zeros would give zeros"


def test_adp_crafts_with_the_papers_u_net_and_refuses_sizes_that_it_does_not_take(small_paper: None) -> None:
    attack = make_attack("adp", steps=2, batch=4, max_rounds=1, train_steps=2)
    clean = smooth_set(6)
    sizes = measure(clean.images, attack.poison(clean, seed=0).images, "Linf")
    assert sizes.max() <= 8 / 255 and sizes.min() > 0
    with pytest.raises(EclipseError, match="images of 16x15; ADP with the paper's U-Net takes multiples of 2"):
        attack.poison(clean.with_images(clean.images[:, :, :, :15].copy()), seed=0)


# --- the driver -------------------------------------------------------------------------------------------


class Pooled(nn.Module):
    """The smallest network there is."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.layer = nn.Linear(3, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layer(x.mean(dim=(2, 3)))
        return logits


class Table(Pooled):
    """Is right of every image whose first pixel holds its label, in eighths."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 0 + F.one_hot((x[:, 0, 0, 0] * 8).round().long(), 9)[:, :5]


def alternation(
    rounds: Rounds, moves: Moves | None = None, clean: ImageSet | None = None, network: nn.Module | None = None
) -> tuple[Alternation, list[StageStep]]:
    """A crafting that is not done yet, and what it will tell."""
    network, told = network or Pooled(), list[StageStep]()
    moves = moves or min_min(network, PGD(8 / 255, 2 / 255, 2))
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    return Alternation(
        network, optimizer, clean or smooth_set(11), rounds, moves, Work(state=State(None, told.append))
    ), told


def still(x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
    return noise


def plain(x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
    return x


def test_every_row_is_renewed_once_a_round_and_gets_the_noise_of_its_own_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(alternating, "ROWS", 4)

    def renew(x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
        return noise + x / 64 + y[:, None, None, None] / 8

    clean = smooth_set(11)
    noise = alternation(Rounds(RECIPE, train_steps=2), Moves(renew, plain, as_it_is), clean)[0].craft()
    x, y = unit(clean)
    assert noise.dtype == np.float16
    assert torch.allclose(torch.tensor(noise).float(), 3 * (x / 64 + y[:, None, None, None] / 8), rtol=2e-3)


def test_the_surrogate_is_trained_on_all_images_in_random_order_with_their_labels_and_noise() -> None:
    clean, seen = smooth_set(12), list[Tensor]()
    x, y = unit(clean)

    def renew(x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
        return x / 64

    def lesson(images: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
        rows = (images[:, None] == x).all(dim=(2, 3, 4)).nonzero()[:, 1]
        assert torch.equal(labels, y[rows])
        assert torch.allclose(noise, images / 64 if len(seen) >= 3 else torch.zeros(()), rtol=2e-3)
        seen.append(rows)
        return images

    alternation(Rounds(RECIPE, train_steps=3), Moves(renew, lesson, as_it_is), clean)[0].craft()
    assert len(seen) == 9
    passes = torch.stack(seen).reshape(3, 12)
    assert torch.equal(passes.sort(dim=1).values, torch.arange(12).expand(3, 12))
    assert not torch.equal(passes[0], passes[1]) and not torch.equal(passes[0], torch.arange(12))


def test_what_the_surrogate_is_trained_on_is_the_lesson() -> None:
    network = Pooled()
    before = network.layer.weight.detach().clone()
    dark = Moves(still, lambda x, y, noise: torch.zeros_like(x), as_it_is)
    alternation(Rounds(RECIPE, train_steps=1), dark, network=network)[0].craft()
    assert torch.equal(network.layer.weight, before), "black images have no gradient for the weights"


def test_moves_meet_a_frozen_surrogate_in_evaluation_mode_and_training_goes_on() -> None:
    network, modes = Pooled(), set[tuple[bool, bool]]()

    def look(x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
        modes.add((network.training, network.layer.weight.requires_grad))
        return noise

    before = network.layer.weight.detach().clone()
    moves = Moves(look, lambda x, y, noise: x + look(x, y, noise), as_it_is)
    alternation(Rounds(RECIPE, train_steps=2), moves, network=network)[0].craft()
    assert modes == {(False, False)}
    assert not torch.equal(network.layer.weight, before)


def test_rounds_end_at_the_target_and_at_the_latest_at_their_number() -> None:
    def reveal(x: Tensor, y: Tensor, noise: Tensor) -> Tensor:  # half of the classes each round
        done = noise.amax(dim=(1, 2, 3), keepdim=True) > 0
        label = y[:, None, None, None]
        return torch.where(done | (label % 2 == 0), (label + 0.1) / 8 - x, 0 * x)

    def rounds_until(target: float) -> list[StageStep]:
        clean = ImageSet.from_arrays(np.full((10, 3, 16, 16), 255, np.uint8), np.arange(10) % 5)
        rounds = Rounds(replace(RECIPE, epochs=4), train_steps=1, target=target)
        crafting, told = alternation(rounds, Moves(reveal, plain, as_it_is), clean, Table())
        crafting.craft()
        return [step for step in told if step.stage == "rounds"]

    assert [step.facts["accuracy"] for step in rounds_until(0.6)] == [0.6]
    assert [(step.done, step.total) for step in rounds_until(0.7)] == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_the_accuracy_is_that_through_the_view() -> None:
    clean = ImageSet.from_arrays(np.zeros((10, 3, 16, 16), np.uint8), [3] * 6 + [0, 1, 2, 4])
    moves = Moves(still, plain, lambda x: x + 3 / 8)
    crafting, told = alternation(Rounds(RECIPE, train_steps=1), moves, clean, Table())
    crafting.craft()
    assert told[-1].facts["accuracy"] == 0.6


def test_each_lesson_each_renewal_of_a_group_and_each_look_draws_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alternating, "ROWS", 4)
    draws: list[float] = []

    def draw(x: Tensor, *_: Tensor) -> Tensor:
        draws.append(float(torch.rand(())))
        return x

    alternation(Rounds(RECIPE, train_steps=2), Moves(draw, draw, draw))[0].craft()
    assert len(draws) == 3 * (2 + 3 + 3) and len(set(draws)) == len(draws)


def test_the_learning_rate_follows_the_recipe_over_all_rounds() -> None:
    rates: list[float] = []

    def lesson(x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
        rates.append(crafting.optimizer.param_groups[0]["lr"])
        return x

    recipe = replace(RECIPE, epochs=2, milestones=(0.4, 0.8))
    crafting, _ = alternation(Rounds(recipe, train_steps=5), Moves(still, lesson, as_it_is))
    crafting.craft()
    assert rates == pytest.approx([0.1] * 4 + [0.01] * 4 + [0.001] * 2)


def test_class_wise_noise_is_the_mean_over_a_share_of_each_class() -> None:
    clean, counts = smooth_set(40), list[int]()
    x, y = unit(clean)

    def renew(images: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
        counts.append(int((labels == 0).sum()))
        return images / 64

    rounds = Rounds(replace(RECIPE, epochs=1, batch=40), 1, class_wise=True)
    for share, count in ((1.0, 8), (0.3, 3), (0.01, 1)):
        noise = alternation(replace(rounds, share=share), Moves(renew, plain, as_it_is), clean)[0].craft()
        assert counts.pop() == count
        own = np.stack([noise[y == c] for c in range(5)])
        assert noise.shape == clean.images.shape and np.all(own == own[:, :1])
        mean = torch.stack([x[y == c].mean(dim=0) for c in range(5)]) / 64
        assert torch.allclose(torch.tensor(own[:, 0]).float(), mean, rtol=2e-3) == (share == 1)


def test_class_wise_noise_goes_on_from_batch_to_batch() -> None:
    def renew(x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
        return noise + 1 / 64

    clean = smooth_set(40, classes=2)
    rounds = Rounds(replace(RECIPE, epochs=1, batch=10), 1, class_wise=True)
    noise = alternation(rounds, Moves(renew, plain, as_it_is), clean)[0].craft()
    assert np.all(noise == 4 / 64)


def test_a_set_smaller_than_a_batch_is_trained_on_whole() -> None:
    sizes: list[int] = []

    def lesson(x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
        sizes.append(len(x))
        return x

    alternation(Rounds(replace(RECIPE, batch=128), train_steps=2), Moves(still, lesson, as_it_is))[0].craft()
    assert sizes == [11] * 6


def test_a_class_without_images_is_left_alone() -> None:
    clean = ImageSet.from_arrays(smooth_set(8).images, [0, 2] * 4, ["a", "b", "c"])
    rounds = Rounds(RECIPE, train_steps=1, class_wise=True)
    moves = Moves(lambda x, y, noise: torch.ones_like(x), plain, as_it_is)
    noise = alternation(rounds, moves, clean, Pooled(3))[0].craft()
    assert np.all(noise == 1)
