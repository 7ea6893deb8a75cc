"""The defenses that change the training itself: UEraser, adversarial training, DP-SGD and its control."""

import math
import random
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from kit.tiny import one_sentence, some_images
from torch import Tensor, nn
from torch.nn import functional as F

from eclipse.classifiers.classifier import CLASSIFIERS, Classifier, make_classifier
from eclipse.classifiers.fit import Recipe, accuracy, descend, fit
from eclipse.classifiers.small import SmallNet
from eclipse.data.imageset import ImageSet
from eclipse.defenses import DEFENSES, make_defense
from eclipse.defenses.at import AT, USUAL
from eclipse.defenses.defense import Defense
from eclipse.defenses.dp_sgd import DPSGD, GroupNormOnly
from eclipse.defenses.ueraser import UEraser
from eclipse.errors import EclipseError
from eclipse.parameters import parameters
from eclipse.runs.state import pack, unpack

SLOW_AND_STEADY = Recipe(epochs=2, batch=16, lr=0.05, pad=1)
ALL = ("aa", "aa-lite", "aa-max", "at", "at-l2", "dp-sgd", "group-norm")


class Linear(Classifier):
    """One layer, and no norm that would hide a huge input."""

    def __init__(self, values: int, num_classes: int = 3) -> None:
        super().__init__()
        self.head = nn.Linear(values, num_classes)

    def embed(self, x: Tensor) -> Tensor:
        return x.flatten(1)


class Dark(nn.Module):
    """The darker an image, the surer it is of class 0."""

    def forward(self, x: Tensor) -> Tensor:
        brightness = x.mean(dim=(1, 2, 3))
        return torch.stack([-brightness, brightness], dim=1)


def batch(n: int = 12, channels: int = 3, side: int = 16) -> tuple[Tensor, Tensor]:
    return torch.rand(n, channels, side, side), torch.arange(n) % 3


def some_set(n: int = 32) -> ImageSet:
    return ImageSet.from_arrays(some_images(n, 16, 16), [i % 3 for i in range(n)])


def small(classes: int = 3) -> SmallNet:
    torch.manual_seed(0)
    return SmallNet(classes)


# --- UEraser ----------------------------------------------------------------------------------------------


def copies_of(x: Tensor, seed: int, number: int) -> Tensor:
    torch.manual_seed(seed)
    return torch.stack([UEraser(copies=1).adversary(Dark(), x, torch.zeros(len(x)), 0.0) for _ in range(number)])


def test_aa_takes_the_copy_with_the_largest_loss_image_by_image() -> None:
    x, _ = batch()
    y, copies = torch.arange(len(x)) % 2, copies_of(x, 3, 5)
    torch.manual_seed(3)
    chosen = UEraser().adversary(Dark(), x, y, progress=0.0)
    brightness = copies.mean(dim=(2, 3, 4))
    extreme = torch.where(y == 0, brightness.max(0).values, brightness.min(0).values)
    assert torch.equal(chosen.mean(dim=(1, 2, 3)), extreme)
    picks = torch.where(y == 0, brightness.argmax(0), brightness.argmin(0))
    assert torch.equal(chosen, copies[picks, torch.arange(len(x))]) and len(picks.unique()) > 2


def augmented(color: list[float], p: float) -> Tensor:
    """The middles of 400 images of one color after the policy, which draws one of its parts for each 20."""
    x = torch.tensor(color).view(1, -1, 1, 1).expand(20, -1, 32, 32).contiguous()
    policy = UEraser(copies=1, p=p)
    return torch.cat([policy.adversary(Dark(), x, torch.zeros(20), 0.0) for _ in range(20)])[:, :, 13:19, 13:19]


@pytest.mark.parametrize(("p", "share"), [(0.0, 0.0), (UEraser.p, 0.5), (1.0, 1.0)])
def test_aa_shades_half_of_the_images_unevenly(p: float, share: float) -> None:
    assert (augmented([0.5], p).std(dim=(1, 2, 3)) > 1e-3).float().mean().item() == pytest.approx(share, abs=0.1)


def test_aa_shuffles_the_channels_of_half_of_the_images() -> None:
    order = augmented([0.3, 0.5, 0.7], 0.0).mean(dim=(2, 3)).argsort(1)
    changed = (order != torch.arange(3)).any(1).float().mean().item()
    assert 0.3 < changed < 0.6, "five of six orders are others, and some parts turn an order around"


def test_dp_sgd_has_the_weakest_noise_and_the_middle_bound_of_the_usual_sweep() -> None:
    assert make_defense("dp-sgd").settings() == {"max_grad_norm": 4.0, "noise_multiplier": 0.01}


def test_aa_raises_the_loss_over_that_of_a_single_copy() -> None:
    network, (x, y) = small().eval(), batch(48)
    hardest, single = (
        F.cross_entropy(network(UEraser(copies=n).adversary(network, x, y, 0.0)), y).item() for n in (5, 1)
    )
    assert hardest > single + 0.01


@pytest.mark.parametrize(("name", "progress", "copies"), [
    ("aa-lite", 0.0, 1), ("aa", 0.0, 5), ("aa", 0.29, 5), ("aa", 0.3, 1), ("aa", 0.9, 1), ("aa-max", 0.999, 5),
])  # fmt: skip
def test_lite_makes_one_copy_and_the_others_five_until_the_choice_ends(name: str, progress: float, copies: int) -> None:
    seen: list[int] = []

    class Counting(Dark):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(len(x))
            return super().forward(x)

    x, y = batch()
    torch.manual_seed(1)
    out = make_defense(name).adversary(Counting(), x, y % 2, progress)
    assert seen == ([12] * copies if copies > 1 else [])
    assert not torch.equal(out, x)
    if copies == 1:
        assert torch.equal(out, copies_of(x, 1, 1)[0])


def test_the_policy_draws_from_torchs_global_generator_alone() -> None:
    x, y = batch()

    def draw(seed: int, other: int) -> Tensor:
        torch.manual_seed(seed)
        random.seed(other)
        np.random.seed(other)
        return torch.stack([UEraser(copies=2).adversary(Dark(), x, y % 2, 0.0) for _ in range(6)])

    first = draw(1, 2)
    assert torch.equal(first, draw(1, 3)) and not torch.equal(first, draw(2, 2))


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 17, 24), (4, 16, 16), (1, 3, 3)])
def test_aa_takes_images_of_any_shape_and_stays_within_the_unit_range(shape: tuple[int, ...]) -> None:
    x, y = torch.rand(6, *shape), torch.zeros(6, dtype=torch.int64)
    for _ in range(20):  # all twelve operations of TrivialAugment, most likely
        out = UEraser(copies=1).adversary(Dark(), x, y, 0.0)
        assert out.shape == x.shape and out.min() >= 0 and out.max() <= 1 and not out.requires_grad


def test_aa_compares_labels_that_are_probabilities() -> None:
    x, _ = batch()
    mixed = torch.full((12, 2), 0.5)
    mixed[:6] = torch.tensor([1.0, 0.0])
    torch.manual_seed(1)
    by_share = UEraser().adversary(Dark(), x, mixed, 0.0)
    torch.manual_seed(1)
    by_label = UEraser().adversary(Dark(), x, torch.zeros(12, dtype=torch.int64), 0.0)
    assert torch.equal(by_share[:6], by_label[:6])


def test_the_jpeg_switch_compresses_each_copy_and_is_off_by_default() -> None:
    y = torch.arange(12)
    x = torch.linspace(0.1, 0.9, 32).expand(12, 3, 32, 32)
    plain, jpeg = UEraser(copies=1), UEraser(copies=1, jpeg=True)
    assert not UEraser().jpeg
    outs = []
    for defense in (plain, jpeg):
        torch.manual_seed(4)
        outs.append(defense.adversary(Dark(), x, y % 2, 0.0))
    change = (outs[0] - outs[1]).abs()
    assert 0.003 < change.mean() < 0.1, "the same copies, compressed"
    levels = outs[1] * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4)


# --- AT ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "scale"), [("at", "paper"), ("at-l2", "paper"), ("at", "small"), ("at-l2", "small")])
def test_at_stays_in_ball_and_box_and_raises_the_loss(name: str, scale: str) -> None:
    defense, network = make_defense(name, scale=scale), small().eval()
    assert isinstance(defense, AT)
    x, y = batch(24)
    x = (x * 1.4 - 0.2).clamp(0, 1)  # some pixels at the ends of the box
    harder = defense.adversary(network, x, y, 0.0)
    radius = 8 / 255 if defense.norm == "Linf" else 0.5 * math.sqrt(16 * 16 / 32 / 32)
    delta = (harder - x).flatten(1)
    sizes = delta.abs().amax(1) if defense.norm == "Linf" else delta.norm(dim=1)
    assert 0.9 * radius < sizes.max() <= radius * (1 + 1e-5)
    assert harder.min() >= 0 and harder.max() <= 1 and not harder.requires_grad
    before, after = (F.cross_entropy(network(images), y, reduction="none") for images in (x, harder))
    assert (after > before).float().mean() > 0.95 and after.mean() > before.mean() + 0.01


def test_at_has_the_published_numbers_of_each_norm() -> None:
    l2, linf = AT().how((3, 32, 32)), AT(norm="Linf").how((3, 32, 32))
    assert (l2.radius, l2.step, l2.steps) == pytest.approx((0.5, 0.1, 7))
    assert (linf.radius, linf.step, linf.steps) == pytest.approx((8 / 255, 2 / 255, 10))
    assert l2.ascend and linf.ascend and {l2.norm, linf.norm} == {"L2", "Linf"}
    assert make_defense("at") == AT(norm="Linf") and make_defense("at-l2") == AT(norm="L2")


def test_people_give_the_linf_radius_of_at_in_levels_and_that_of_l2_as_it_is() -> None:
    four = DEFENSES.asked("at", "small", ["eps=4"])
    assert four == AT(norm="Linf", radius=4 / 255, steps=3, step_share=0.5)
    assert str(parameters(four)["eps"]) == "4" and str(parameters(AT(radius=0.25))["eps"]) == "0.25"
    assert DEFENSES.asked("at-l2", "small", ["eps=0.25"]) == AT(radius=0.25, steps=3, step_share=0.5)
    for norm, settings in USUAL.items():
        told = AT(norm=norm).settings()
        assert (told["radius"], told["steps"]) == (settings.radius, settings.steps), "what stands for None is told"


def test_an_l2_radius_of_at_grows_with_the_image_and_an_linf_one_does_not() -> None:
    assert AT(radius=1.0).how((3, 64, 64)).radius == pytest.approx(2.0)
    assert AT(radius=1.0).how((3, 64, 64)).step == pytest.approx(0.4)
    assert AT(norm="Linf", radius=0.1).how((3, 64, 64)).radius == 0.1


def test_at_starts_at_a_random_place_of_its_ball() -> None:
    x, y = torch.full((8, 3, 32, 32), 0.5), torch.zeros(8, dtype=torch.int64)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2))
    nn.init.zeros_(flat[1].weight)  # no gradient: where it starts is where it stays
    starts = {norm: (AT(norm=norm).adversary(flat, x, y, 0.0) - x).flatten(1) for norm in ("L2", "Linf")}
    assert starts["L2"].norm(dim=1).tolist() == pytest.approx([0.5] * 8, rel=1e-4)
    assert (starts["Linf"].abs() <= 8 / 255 + 1e-7).all()
    assert starts["Linf"].std() == pytest.approx(8 / 255 / math.sqrt(3), rel=0.02), "uniform"


# --- DP-SGD -----------------------------------------------------------------------------------------------


def change(network: nn.Module, defense: Defense, x: Tensor, y: Tensor, recipe: Recipe) -> Tensor:
    """What one step at learning rate 1 subtracts from the weights: the gradient that the optimizer followed."""
    optimizer = defense.optimizer(network, recipe)
    before = nn.utils.parameters_to_vector(network.parameters()).detach().clone()
    network.train()
    descend(network, optimizer, x, y)
    return before - nn.utils.parameters_to_vector(network.parameters()).detach()


ONE = Recipe(epochs=1, batch=128, lr=1.0, momentum=0.0)


def test_one_huge_gradient_moves_the_weights_by_no_more_than_c_over_the_batch() -> None:
    torch.manual_seed(0)
    x, y = batch(8, side=2)
    x[0] *= 1e4
    plain = change(Linear(12), Defense(), x, y, ONE)
    bounded = DPSGD(max_grad_norm=0.1, noise_multiplier=0.0)
    network = bounded.adapt(Linear(12))
    clipped = change(network, bounded, x, y, ONE)
    assert plain.norm() > 100
    assert 0.01 < clipped.norm() <= 0.1 * (1 + 1e-5)


@pytest.mark.usefixtures("float32")
@pytest.mark.parametrize("c", [0.5, 1e6])
def test_without_noise_a_step_is_the_mean_of_clipped_gradients_image_by_image(c: float) -> None:
    """Six images under a recipe of 128: the division must be by the images at hand."""
    x, y = batch(6)
    reference = GroupNormOnly().adapt(small())
    parameters = list(reference.parameters())
    gradients, norms = [], []
    for i in range(len(x)):
        loss = F.cross_entropy(reference(x[i : i + 1]), y[i : i + 1])
        gradient = torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)])
        norms.append(gradient.norm().item())
        gradients.append(gradient * min(1.0, c / norms[-1]))
    assert c > 1e5 or sum(norm > c for norm in norms) > 3
    defense = DPSGD(max_grad_norm=c, noise_multiplier=0.0)
    step = change(defense.adapt(small()), defense, x, y, ONE)
    assert torch.allclose(step, torch.stack(gradients).mean(0), atol=2e-6)


def test_the_noise_has_the_asked_standard_deviation() -> None:
    x, y = batch(6)
    steps = []
    for noise in (0.0, 0.3, 0.3):
        defense = DPSGD(max_grad_norm=2.0, noise_multiplier=noise)
        steps.append(change(defense.adapt(small()), defense, x, y, ONE))
    added = steps[1] - steps[0]
    assert added.std().item() == pytest.approx(0.3 * 2.0 / 6, rel=0.01)
    assert abs(added.mean().item()) < 0.3 * 2.0 / 6 * 4 / math.sqrt(len(added))


def test_the_noise_comes_from_torchs_global_generator() -> None:
    x, y = batch(6)

    def step(seed: int) -> Tensor:
        defense = DPSGD(noise_multiplier=1.0)
        network = defense.adapt(small())
        torch.manual_seed(seed)
        return change(network, defense, x, y, ONE)

    assert torch.equal(step(1), step(1)) and not torch.equal(step(1), step(2))


def test_the_learning_rate_and_momentum_of_the_recipe_reach_the_optimizer() -> None:
    defense, recipe = DPSGD(), Recipe(epochs=1, batch=8, lr=0.3, momentum=0.7, weight_decay=0.01, nesterov=True)
    group = defense.optimizer(defense.adapt(small()), recipe).param_groups[0]
    assert [group[k] for k in ("lr", "momentum", "weight_decay", "nesterov")] == [0.3, 0.7, 0.01, True]


def test_the_network_of_dp_sgd_computes_what_that_of_its_control_does() -> None:
    x, _ = batch()
    private, control = DPSGD().adapt(small()), GroupNormOnly().adapt(small())
    assert torch.equal(private(x), control(x))


@pytest.mark.parametrize("arch", sorted(CLASSIFIERS.names()))
def test_no_batch_norm_is_left_in_any_classifier(arch: str) -> None:
    from opacus.validators import ModuleValidator

    network = make_classifier(arch, 3, side=32)
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    parameters = sum(parameter.numel() for parameter in network.parameters())
    adapted = GroupNormOnly().adapt(network)
    modules = list(adapted.modules())
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in modules)
    groups = [module for module in modules if isinstance(module, nn.GroupNorm)]
    assert len(groups) == norms and {m.num_groups for m in groups} <= {8, 16, 32}
    assert sum(parameter.numel() for parameter in adapted.parameters()) == parameters
    assert ModuleValidator.is_valid(adapted.train())


@pytest.mark.parametrize("arch", ["small", "resnet18"])
def test_a_step_of_dp_sgd_reaches_every_weight(arch: str) -> None:
    defense = DPSGD(noise_multiplier=0.0)
    x, y = batch(2)
    network = defense.adapt(make_classifier(arch, 3, side=16))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        change(network, defense, x, y, ONE)
    assert not [name for name, value in network.state_dict().items() if torch.equal(value, before[name])]


def test_the_control_of_dp_sgd_does_without_opacus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opacus", None)
    GroupNormOnly().adapt(small())


# --- in the training loop ---------------------------------------------------------------------------------


def trained(name: str, seed: int, interrupted: bool = False) -> tuple[nn.Module, dict[str, Tensor]]:
    def begin() -> tuple[Defense, nn.Module, torch.optim.Optimizer]:
        defense = make_defense(name, scale="small")
        network = defense.adapt(small())
        return defense, network, defense.optimizer(network, SLOW_AND_STEADY)

    defense, network, optimizer = begin()
    done = 0
    if interrupted:
        next(epochs_of(defense, network, optimizer, seed, 0))
        state = {key: value.clone() for key, value in pack(network, optimizer).items()}
        torch.manual_seed(99)
        defense, network, optimizer = begin()
        unpack(state, network, optimizer)
        done = 1
    assert len(list(epochs_of(defense, network, optimizer, seed, done))) == 2 - done
    return network, pack(network, optimizer)


def epochs_of(defense: Defense, network: nn.Module, optimizer: torch.optim.Optimizer, seed: int, done: int) -> Any:
    adversary: Callable[..., Tensor] = lambda network, x, y: defense.adversary(network, x, y, 0.0)  # noqa: E731
    return fit(network, some_set(), SLOW_AND_STEADY, seed=seed, adversary=adversary, optimizer=optimizer, done=done)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize("name", ["aa", "at", "at-l2", "dp-sgd", "group-norm"])
def test_the_seed_decides_and_a_resumed_training_ends_with_the_same_bytes(name: str) -> None:
    network, state = trained(name, 1)
    assert any(key.startswith("optimizer.") for key in state)
    assert same(state, trained(name, 1)[1]) and same(state, trained(name, 1, interrupted=True)[1])
    assert not same(state, trained(name, 2)[1])
    assert 0 <= accuracy(network, some_set()) <= 1


@pytest.mark.parametrize("name", ALL)
def test_the_defense_works_on_the_network_in_evaluation_mode(name: str) -> None:
    modes: list[bool] = []

    class Telling(SmallNet):
        def forward(self, x: Tensor) -> Tensor:
            modes.append(self.training)
            return super().forward(x)

    defense = make_defense(name, scale="small")
    network = defense.adapt(Telling(3))
    adversary = lambda network, x, y: defense.adversary(network, x, y, 0.0)  # noqa: E731
    optimizer = defense.optimizer(network, SLOW_AND_STEADY)
    next(fit(network, some_set(16), SLOW_AND_STEADY, seed=0, adversary=adversary, optimizer=optimizer))
    looks = {"aa": 5, "aa-max": 5, "at": 3, "at-l2": 3}.get(name, 0)
    assert modes == [False] * looks + [True]


def test_costs_grow_with_the_work() -> None:
    cost = {name: make_defense(name).cost() for name in ALL}
    assert cost["group-norm"] == cost["aa-lite"] == 1 < cost["aa"] < cost["aa-max"] < cost["at-l2"] < cost["at"]
    assert make_defense("at", scale="small").cost() < cost["at-l2"] and cost["dp-sgd"] > 1


# --- values that cannot be meant --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters", "words"),
    [
        ("aa", {"copies": 0}, "UEraser copies 0; expected at least 1"),
        ("aa", {"until": 1.5}, "UEraser until 1.5; expected a share"),
        ("aa", {"until": float("nan")}, "UEraser until nan"),
        ("aa", {"p": -0.1}, "UEraser p -0.1; expected a share"),
        ("at", {"norm": "linf"}, "unknown norm of AT 'linf'; did you mean 'Linf'"),
        ("at", {"radius": 0.0}, "radius of 0 levels"),
        ("at", {"radius": 4.0}, "AT radius of 1020 levels; expected at most 255, such as 8"),
        ("at", {"steps": 0}, "steps 0; expected at least 1"),
        ("at", {"step_share": -1.0}, "step of -8 levels"),
        ("dp-sgd", {"max_grad_norm": 0.0}, "max_grad_norm 0; expected more than 0"),
        ("dp-sgd", {"max_grad_norm": float("nan")}, "max_grad_norm nan"),
        ("dp-sgd", {"noise_multiplier": -1.0}, "noise_multiplier -1; expected 0 or more"),
        ("dp-sgd", {"max_grad_norm": "four"}, "wrong type"),
        ("group-norm", {"groups": 2}, "unknown parameter of defense 'group-norm'"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(name: str, parameters: dict[str, Any], words: str) -> None:
    with pytest.raises(EclipseError, match=words.replace("(", r"\(")) as error:
        make_defense(name, **parameters)
    one_sentence(error.value)
