"""What attacks with a surrogate stand on: the PGD loop, its transformations, and a crafting that can be killed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit.tiny import one_sentence, some_images
from torch import Tensor, nn
from torch.nn import functional as F

from eclipse.attacks.crafting import surrogate as crafting_module
from eclipse.attacks.crafting.surrogate import craft_rows, new_surrogate, train_surrogate
from eclipse.attacks.crafting.transforms import crop_flip, flip_shift
from eclipse.classifiers.classifier import Classifier
from eclipse.classifiers.fit import Recipe, fit, make_optimizer
from eclipse.classifiers.pgd import PGD, gradient, pgd, project
from eclipse.classifiers.small import SmallNet
from eclipse.data.imageset import ImageSet
from eclipse.errors import EclipseError
from eclipse.runs.state import StageStep, State, Work

RADIUS = 8 / 255
SHAPE = (3, 5, 4)


def some_x(n: int = 6) -> Tensor:
    """Images with pixels at both ends of the box."""
    return (torch.rand(n, *SHAPE) * 1.4 - 0.2).clamp(0, 1)


def slope(weights: Tensor) -> Callable[[Tensor], Tensor]:
    """A loss with the same gradient everywhere."""
    return lambda x: (x * weights).flatten(1).sum(1)


def lengths(values: Tensor) -> Tensor:
    return values.flatten(1).norm(dim=1)


# --- projection -------------------------------------------------------------------------------------------


def test_linf_projection_is_the_nearest_perturbation_in_ball_and_box() -> None:
    x, delta = some_x(), torch.randn(6, *SHAPE) * 2 * RADIUS
    low, high = torch.maximum(-x, torch.tensor(-RADIUS)), torch.minimum(1 - x, torch.tensor(RADIUS))
    nearest = torch.minimum(torch.maximum(delta, low), high)
    assert torch.allclose(project(delta, x, "Linf", RADIUS), nearest, atol=1e-7)
    assert (nearest != delta).any() and (nearest.abs() < 0.99 * RADIUS).any(), "the test can fail"


def test_l2_projection_shortens_along_the_line_and_then_clips() -> None:
    x, delta = torch.full((4, *SHAPE), 0.5), torch.randn(4, *SHAPE)
    delta = delta / lengths(delta).view(-1, 1, 1, 1) * torch.tensor([0.1, 0.2, 0.4, 3.0]).view(-1, 1, 1, 1)
    out = project(delta, x, "L2", 0.2)
    assert lengths(out).tolist() == pytest.approx([0.1, 0.2, 0.2, 0.2], rel=1e-5)
    assert F.cosine_similarity(out.flatten(1), delta.flatten(1)).tolist() == pytest.approx([1] * 4)
    dark = project(delta, torch.zeros(4, *SHAPE), "L2", 0.2)
    assert torch.allclose(dark, out.clamp_min(0), atol=1e-7)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_perturbation_never_leaves_ball_or_box(norm: str) -> None:
    x, radius = some_x(), {"Linf": RADIUS, "L2": 0.3}[norm]
    for start in ("zero", "uniform", "normal"):
        how = PGD(radius, radius / 3, steps=5, norm=norm, start=start)
        delta = pgd(x, slope(torch.randn(6, *SHAPE)), how)
        assert (x + delta).min() >= 0 and (x + delta).max() <= 1
        size = delta.abs().max() if norm == "Linf" else lengths(delta).max()
        assert 0.9 * radius < size <= radius * (1 + 1e-5)


# --- steps ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ascend", [False, True])
def test_an_linf_step_follows_the_sign_of_the_gradient(ascend: bool) -> None:
    x, weights = torch.full((2, *SHAPE), 0.5), torch.randn(2, *SHAPE)
    delta = pgd(x, slope(weights), PGD(RADIUS, 0.01, steps=1, ascend=ascend))
    assert torch.allclose(delta, (0.01 if ascend else -0.01) * weights.sign(), atol=1e-7)


@pytest.mark.parametrize("ascend", [False, True])
def test_an_l2_step_has_the_length_of_the_step_whatever_the_gradient(ascend: bool) -> None:
    x, weights = torch.full((3, *SHAPE), 0.5), torch.randn(3, *SHAPE) * torch.tensor([1e-3, 1, 1e3]).view(3, 1, 1, 1)
    delta = pgd(x, slope(weights), PGD(1.0, 0.01, steps=2, norm="L2", ascend=ascend))
    expected = (0.02 if ascend else -0.02) * weights / lengths(weights).view(3, 1, 1, 1)
    assert torch.allclose(delta, expected, atol=1e-6)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_no_gradient_is_no_step_and_no_nan(norm: str) -> None:
    delta = pgd(some_x(), lambda x: (0 * x).flatten(1).sum(1), PGD(1.0, 0.1, steps=2, norm=norm))
    assert not delta.any()


def test_the_optimum_of_a_slope_is_the_corner_of_ball_and_box() -> None:
    x, weights = some_x(), torch.randn(6, *SHAPE)
    for ascend, sign in ((False, -1), (True, 1)):
        delta = pgd(x, slope(weights), PGD(RADIUS, RADIUS / 4, steps=10, start="normal", ascend=ascend))
        corner = (x + sign * RADIUS * weights.sign()).clamp(0, 1) - x
        assert torch.allclose(delta, corner, atol=1e-6)


def test_images_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    network, x, labels = linear_model(), some_x(), torch.arange(6) % 4

    def towards(rows: slice) -> Tensor:
        return pgd(x[rows], lambda v: F.cross_entropy(network(v), labels[rows], reduction="none"), how)

    how = PGD(RADIUS, RADIUS / 3, steps=4)
    alone = torch.cat([towards(slice(i, i + 1)) for i in range(6)])
    assert torch.allclose(towards(slice(0, 6)), alone, atol=1e-7)


# --- gradients --------------------------------------------------------------------------------------------


def linear_model() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 5 * 4, 4))


def test_the_gradient_of_a_linear_model_is_its_formula() -> None:
    network, x, labels = linear_model(), some_x(), torch.arange(6) % 4
    weights = network[1].weight
    surprise = network(x).softmax(1) - F.one_hot(labels, 4)
    expected = (surprise @ weights).view(6, *SHAPE)
    found = gradient(x, lambda v: F.cross_entropy(network(v), labels, reduction="none"))
    assert torch.allclose(found, expected, atol=1e-6)
    assert weights.grad is None, "the weights take no part"


def test_a_gradient_is_the_mean_over_its_draws_each_through_its_own_transformation() -> None:
    x, weights, drawn = some_x(), torch.randn(6, *SHAPE), []

    def scale(v: Tensor) -> Tensor:
        drawn.append(len(drawn) + 1.0)
        return drawn[-1] * v

    found = gradient(x, slope(weights), draws=4, transform=scale)
    assert drawn == [1, 2, 3, 4]
    assert torch.allclose(found, 2.5 * weights, atol=1e-5)


def test_every_step_draws_anew() -> None:
    calls: list[Tensor] = []

    def note(v: Tensor) -> Tensor:
        calls.append(v.detach().clone())
        return v

    pgd(some_x(), slope(torch.randn(6, *SHAPE)), PGD(RADIUS, RADIUS / 4, steps=3, draws=2), transform=note)
    assert len(calls) == 6
    assert torch.equal(calls[0], calls[1]) and not torch.equal(calls[1], calls[2])


# --- starts -----------------------------------------------------------------------------------------------


def started(start: str, x: Tensor) -> Tensor:
    """Where a perturbation starts: one step along no gradient."""
    return pgd(x, lambda v: (0 * v).flatten(1).sum(1), PGD(RADIUS, 1e-3, steps=1, start=start))


def test_starts_are_what_their_names_say() -> None:
    x = torch.full((50, 3, 16, 16), 0.5)
    assert not started("zero", x).any()
    uniform, normal = (started(name, x) / RADIUS for name in ("uniform", "normal"))
    assert uniform.std().item() == pytest.approx(3**-0.5, abs=0.01) and uniform.abs().max() < 1.00001
    assert (normal.abs() > 0.9999).float().mean().item() == pytest.approx(0.3173, abs=0.01), "P(|N| > 1)"
    assert (normal.abs() < 0.5).float().mean().item() == pytest.approx(0.3829, abs=0.01)


def test_a_given_start_is_gone_on_from_within_the_ball() -> None:
    x = torch.full((2, *SHAPE), 0.5)
    given = torch.full((2, *SHAPE), 0.5 * RADIUS)
    given[1] = 5 * RADIUS
    delta = pgd(x, lambda v: (0 * v).flatten(1).sum(1), PGD(RADIUS, 0.01, 1, start="normal"), delta=given)
    assert torch.allclose(delta[0], given[0], atol=1e-7)
    assert delta[1].unique().tolist() == pytest.approx([RADIUS], abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"radius": 0.0}, "radius of 0 levels; expected more than 0"),
        ({"step": -1 / 255}, "step of -1 levels; expected more than 0"),
        ({"steps": 0}, "steps 0; expected at least 1"),
        ({"draws": 0}, "draws 0; expected at least 1"),
        ({"norm": "l2"}, "unknown norm 'l2'; known: L2, Linf"),
        ({"start": "normall"}, "unknown start 'normall'; did you mean 'normal'"),
    ],
)
def test_a_pgd_that_cannot_be_meant_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(EclipseError) as caught:
        replace(PGD(RADIUS, RADIUS / 10, 3), **changes)
    assert words in one_sentence(caught.value)


# --- transformations --------------------------------------------------------------------------------------


def ramps(n: int, height: int = 20, width: int = 26) -> Tensor:
    """Images whose channels are the row, the column and 1."""
    y, x = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    return torch.stack([y, x, torch.ones_like(x)]).expand(n, 3, height, width)


def places(moved: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shift down, shift right and mirroring of ramps, read from their middle."""
    _, _, height, width = moved.shape
    row, column = height // 2, width // 2
    down = moved[:, 0, row, column] - row
    mirrored = moved[:, 1, row, column + 1] < moved[:, 1, row, column]
    right = moved[:, 1, row, column] - torch.where(mirrored, width - 1 - column, column)
    return down, right, mirrored


def sampled(x: Tensor, down: Tensor, right: Tensor, mirrored: Tensor) -> Tensor:
    """The same by torch's bilinear sampler."""
    theta = torch.zeros(len(x), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = 1 - 2 * mirrored.float(), 1
    theta[:, 0, 2], theta[:, 1, 2] = 2 * right / (x.shape[3] - 1), 2 * down / (x.shape[2] - 1)
    grid = F.affine_grid(theta, list(x.shape), align_corners=True)
    return F.grid_sample(x, grid, align_corners=True)


@pytest.mark.parametrize(
    ("transform", "spread"), [(flip_shift(), 8 / 12**0.5), (crop_flip(4), (80 / 12) ** 0.5)], ids=["shift", "crop"]
)
def test_images_are_moved_as_the_bilinear_sampler_moves_them(
    transform: Callable[[Tensor], Tensor], spread: float
) -> None:
    moved = transform(ramps(300))
    down, right, mirrored = places(moved)
    assert torch.allclose(moved, sampled(ramps(300), down, right, mirrored), atol=1e-3)
    assert 0.4 < mirrored.float().mean() < 0.6
    for shift in (down, right):
        assert shift.abs().max() < 4.001 and shift.std().item() == pytest.approx(spread, abs=0.2)
    assert abs(np.corrcoef(down, right)[0, 1]) < 0.2


def test_crops_are_whole_and_shifts_are_not() -> None:
    crops, shifts = (places(t(ramps(200)))[0].round(decimals=3).unique() for t in (crop_flip(2), flip_shift(2)))
    assert crops.tolist() == [-2, -1, 0, 1, 2]
    assert len(shifts) > 150


def test_a_whole_crop_changes_no_value() -> None:
    values = torch.rand(50, 3, 9, 9)
    moved = crop_flip(4)(values)
    assert set(moved.flatten().tolist()) <= set(values.flatten().tolist()) | {0.0}


def test_no_shift_and_no_pad_only_mirror() -> None:
    x = torch.rand(40, 1, 7, 6)
    for transform in (flip_shift(0), crop_flip(0)):
        moved = transform(x)
        same, mirrored = ((moved == y).flatten(1).all(1) for y in (x, x.flip(3)))
        assert (same ^ mirrored).all() and same.any() and mirrored.any()


def test_what_comes_into_view_has_the_color_of_the_filling() -> None:
    fill = torch.tensor([0.1, 0.5, 0.9]).view(1, 3, 1, 1)
    plain = fill.expand(30, 3, 8, 8)
    assert torch.allclose(flip_shift(fill=fill)(plain), plain, atol=1e-6)
    assert flip_shift()(plain).min() == 0


@pytest.mark.parametrize("transform", [flip_shift(3), crop_flip(3)], ids=["flip_shift", "crop_flip"])
def test_gradients_pass_the_transformations(transform: Callable[[Tensor], Tensor]) -> None:
    x, weights = torch.rand(8, 2, 7, 9, requires_grad=True), torch.randn(8, 2, 7, 9)
    out = (transform(x) * weights).sum()
    back = torch.autograd.grad(out, x)[0]
    assert (back * x).sum().item() == pytest.approx(out.item(), rel=1e-4), "a linear map equals its gradient"
    assert back.abs().sum() > 0


# --- the state of a crafting ------------------------------------------------------------------------------


def test_a_stage_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    state = State(tmp_path / "state")
    tensors = {"a": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last), "b": torch.tensor(7)}
    assert state.load("noise 0") is None
    state.save("noise 0", tensors, {"epoch": 3, "best": 0.5})
    found = State(tmp_path / "state").load("noise 0")
    assert found is not None and found[1] == {"epoch": 3, "best": 0.5}
    assert all(torch.equal(found[0][name], tensors[name]) for name in tensors) and len(found[0]) == 2
    assert state.load("noise 1") is None


def test_a_crafting_without_a_folder_keeps_nothing() -> None:
    state = State()
    state.save("noise", {"a": torch.zeros(1)}, {})
    assert state.load("noise") is None


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"\xff" * len(b)])
def test_a_damaged_state_is_named_with_the_remedy(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    state = State(tmp_path)
    state.save("noise", {"a": torch.zeros(100)}, {})
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(EclipseError) as caught:
        state.load("noise")
    assert f"{file} cannot be read" in str(caught.value) and f"delete {tmp_path} to start anew" in str(caught.value)


# --- the surrogate ----------------------------------------------------------------------------------------

QUICK = Recipe(epochs=4, batch=8, lr=0.05, momentum=0.9, weight_decay=1e-3, milestones=(0.5,), warmup=0.2, pad=2)


def labelled(n: int = 20) -> ImageSet:
    return ImageSet.from_arrays(some_images(n, 16, 16), np.arange(n) % 3)


def weights(network: nn.Module) -> bytes:
    return b"".join(w.contiguous().numpy().tobytes() for w in network.state_dict().values())


class Killed(Exception):
    pass


def dies_after(count: int) -> Callable[[StageStep], None]:
    left = [count]

    def on_step(step: StageStep) -> None:
        left[0] -= 1
        if not left[0]:
            raise Killed

    return on_step


def noisy(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x + 0.1 * torch.randn_like(x), y


def shaken(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return x + 0.05 * torch.randn_like(x).sign()


def surrogates(state: State, **changes: Any) -> list[Classifier]:
    options = {"augment": noisy, "adversary": shaken, "keep": (1, 3)} | changes
    return train_surrogate(new_surrogate("small", labelled(), Work()), labelled(), QUICK, Work(state=state), **options)


@pytest.mark.parametrize("epochs", [1, 2, 3, 4])
def test_a_training_killed_after_any_epoch_ends_with_the_same_checkpoints(tmp_path: Path, epochs: int) -> None:
    expected = surrogates(State())
    with pytest.raises(Killed):
        surrogates(State(tmp_path, dies_after(epochs)))
    told: list[int] = []
    found = surrogates(State(tmp_path, lambda step: told.append(step.done)))
    assert [weights(f) for f in found] == [weights(f) for f in expected]
    assert told == list(range(epochs + 1, 5)), "what was done is not done again"


def test_checkpoints_are_the_network_after_their_epochs_and_the_last_by_default() -> None:
    network = new_surrogate("small", labelled(), Work())
    states = [weights(network) for _ in fit(network, labelled(), QUICK, seed=0, augment=noisy, adversary=shaken)]
    assert [weights(f) for f in surrogates(State(), keep=(1, 3))] == [states[0], states[2]]
    assert [weights(f) for f in surrogates(State(), keep=())] == [states[3]]
    assert len(set(states)) == 4


def test_surrogates_are_frozen_and_told_of() -> None:
    told: list[StageStep] = []
    for network in surrogates(State(on_step=told.append)):
        assert not network.training and not any(p.requires_grad for p in network.parameters())
    assert [(step.stage, step.done, step.total) for step in told] == [("surrogate", i, 4) for i in (1, 2, 3, 4)]
    assert all(0 <= step.facts["accuracy"] <= 1 for step in told)


def test_the_seed_alone_decides_a_fresh_surrogate() -> None:
    first = weights(new_surrogate("small", labelled(), Work()))
    torch.rand(3)
    assert weights(new_surrogate("small", labelled(), Work())) == first
    assert weights(new_surrogate("small", labelled(), Work(1))) != first


# --- the noise of all rows --------------------------------------------------------------------------------


def draw(rows: slice) -> Tensor:
    return torch.rand(rows.stop - rows.start, 3, 16, 16)


def rows_of(state: State, craft: Callable[[slice], Tensor] = draw, seed: int = 0, stage: str = "noise") -> bytes:
    noise = craft_rows(labelled(20), Work(seed, state=state), craft, stage=stage)
    assert noise.dtype == np.float16 and noise.shape == (20, 3, 16, 16)
    return noise.tobytes()


@pytest.fixture
def groups_of_8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crafting_module, "ROWS", 8)


@pytest.mark.usefixtures("groups_of_8")
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_noise_killed_after_any_group_ends_with_the_same_bytes(tmp_path: Path, groups: int) -> None:
    with pytest.raises(Killed):
        rows_of(State(tmp_path, dies_after(groups)))
    seen: list[int] = []

    def note(rows: slice) -> Tensor:
        seen.append(rows.start)
        return draw(rows)

    assert rows_of(State(tmp_path), note) == rows_of(State())
    assert seen == [0, 8, 16][groups:]


@pytest.mark.usefixtures("groups_of_8")
def test_a_group_draws_by_seed_stage_and_place_alone() -> None:
    def greedy(rows: slice) -> Tensor:
        part = draw(rows)
        torch.rand(rows.stop)
        return part

    first = rows_of(State())
    assert rows_of(State(), greedy) == first
    assert len({first, rows_of(State(), seed=1), rows_of(State(), stage="restart 1")}) == 3
    noise = np.frombuffer(first, np.float16).reshape(20, -1)
    assert not np.array_equal(noise[:8], noise[8:16])


@pytest.mark.usefixtures("groups_of_8")
def test_stages_are_kept_apart_and_told_of(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    state = State(tmp_path, lambda step: told.append((step.stage, step.done, step.total)))
    kept = [rows_of(state, stage=stage) for stage in ("restart 1", "restart 2")]
    assert told == [(stage, done, 20) for stage in ("restart 1", "restart 2") for done in (8, 16, 20)]
    assert kept == [rows_of(State(), stage=stage) for stage in ("restart 1", "restart 2")]


# --- the hooks of training --------------------------------------------------------------------------------


def rates(monkeypatch: pytest.MonkeyPatch, recipe: Recipe) -> list[float]:
    """The learning rate of every step."""
    seen: list[float] = []
    step = torch.optim.SGD.step

    def note(self: torch.optim.SGD, *args: Any) -> Any:
        seen.append(self.param_groups[0]["lr"])
        return step(self, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", note)
    list(fit(SmallNet(3), labelled(), recipe, seed=0))
    return seen


def test_each_milestone_takes_the_learning_rate_to_a_tenth(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(epochs=5, batch=10, lr=0.1, milestones=(2 / 5, 4 / 5))
    assert rates(monkeypatch, recipe) == pytest.approx([0.1] * 4 + [0.01] * 4 + [0.001] * 2)


def test_warmup_grows_from_zero_and_multiplies_the_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(epochs=4, batch=5, lr=0.1, warmup=1 / 4)
    assert rates(monkeypatch, recipe) == pytest.approx([0, 0.025, 0.05, 0.075] + [0.1] * 12)
    triangle = replace(recipe, schedule="triangle", warmup=0.0)
    plain = [triangle.rate(p / 10) for p in range(11)]
    warm = [replace(triangle, warmup=0.5).rate(p / 10) for p in range(11)]
    assert warm == pytest.approx([rate * min(1.0, p / 5) for p, rate in enumerate(plain)])


def test_gradients_are_clipped_at_their_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    step = torch.optim.SGD.step

    def note(self: torch.optim.SGD, *args: Any) -> Any:
        gradients = [p.grad.flatten() for p in self.param_groups[0]["params"]]
        norms.append(torch.cat(gradients).norm().item())
        return step(self, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", note)
    recipe = Recipe(epochs=1, batch=5, lr=1e-3)
    for clip in (None, 0.1):
        list(fit(SmallNet(3), labelled(), replace(recipe, clip=clip), seed=0))
    assert min(norms[:4]) > 0.2
    assert norms[4:] == pytest.approx([0.1] * 4, rel=1e-3)


def test_the_adversary_comes_last_and_meets_the_network_in_evaluation_mode() -> None:
    network, seen, trained_on = SmallNet(3), [], []
    network.register_forward_pre_hook(lambda module, inputs: trained_on.append((module.training, inputs[0].detach())))

    def invert(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        assert net is network and not net.training
        seen.append((x.clone(), y.clone()))
        return 1 - x

    def darken(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x / 4, (y + 1) % 3

    list(fit(network, labelled(), Recipe(1, 10, 0.1, pad=0), seed=0, augment=darken, adversary=invert))
    assert [mode for mode, _ in trained_on] == [True, True]
    for (x, y), (_, used) in zip(seen, trained_on, strict=True):
        assert x.max() <= 0.25 and torch.equal(used, 1 - x)
        assert y.shape == (10,)


def test_what_an_adversary_computes_leaves_no_gradient_behind() -> None:
    def prying(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        F.cross_entropy(net(x), y).backward()  # type: ignore[no-untyped-call]
        return x

    found = []
    for adversary in (None, prying):
        torch.manual_seed(0)
        network = SmallNet(3)
        list(fit(network, labelled(), QUICK, seed=0, adversary=adversary))
        found.append(weights(network))
    assert found[0] == found[1]


@pytest.mark.parametrize("done", [1, 2, 3])
def test_training_goes_on_from_any_epoch_to_the_same_bytes(done: int) -> None:
    network = new_surrogate("small", labelled(), Work())
    optimizer = make_optimizer(network, QUICK)
    epochs = fit(network, labelled(), QUICK, seed=0, augment=noisy, optimizer=optimizer)
    for _ in range(done):
        next(epochs)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    momentum = {i: {k: v.clone() for k, v in s.items()} for i, s in optimizer.state_dict()["state"].items()}
    list(epochs)
    other = SmallNet(3)
    other.load_state_dict(state)
    again = make_optimizer(other, QUICK)
    again.load_state_dict({**again.state_dict(), "state": momentum})
    rest = list(fit(other, labelled(), QUICK, seed=0, augment=noisy, optimizer=again, done=done))
    assert [epoch.epoch for epoch in rest] == list(range(done + 1, 5))
    assert weights(other) == weights(network)
