from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from kit import golden
from kit.ideal import IdealDenoiser
from torch import Tensor

from eclipse.diffusion.denoiser import Denoiser, Prediction
from eclipse.diffusion.improved_diffusion import import_checkpoint
from eclipse.diffusion.process import predict_eps, predict_x0, q_sample, reverse_step
from eclipse.diffusion.samplers import SAMPLERS, ancestral, ancestral_posterior, ddim, one_step
from eclipse.diffusion.schedule import NoiseSchedule
from eclipse.errors import EclipseError

COSINE = NoiseSchedule("cosine", 4000)
SUBSETS = [(399,), (399, 0), COSINE.spaced(399, 7), tuple(range(20, -1, -1))]


@pytest.fixture(scope="module")
def imported(checkpoint: Path) -> Denoiser:
    return import_checkpoint(checkpoint, image_size=16)


@pytest.fixture
def images() -> Tensor:
    """Eight images far apart, on [-1, 1]."""
    return torch.rand(8, 3, 4, 4) * 2 - 1


def seeded_noise(shape: Sequence[int], seed: int = 1) -> Callable[[int], Tensor]:
    return lambda t: torch.randn(*shape, generator=torch.Generator().manual_seed(seed * 10_000 + t))


def no_noise(t: int) -> Tensor:
    raise AssertionError(f"noise was asked for at index {t}")


# Parity with improved-diffusion


@torch.inference_mode()
def test_reverse_step_equals_improved_diffusion(imported: Denoiser) -> None:
    reference, t = golden.results(), golden.STEPS
    x_t = q_sample(COSINE, golden.images(), t, golden.noise("reverse step"))
    prediction = imported(x_t, t)
    assert prediction.v is not None
    step = reverse_step(COSINE, prediction, x_t, t.tolist(), (t - 1).tolist())
    sample = step.mean + (t > 0).view(-1, 1, 1, 1) * (0.5 * step.log_variance).exp() * golden.noise("z")
    computed = {
        "x_t": x_t,
        "model_output": torch.cat([prediction.eps, prediction.v], dim=1),
        "mean": step.mean,
        "variance": step.variance,
        "log_variance": step.log_variance,
        "pred_xstart": step.pred_x0,
        "sample": sample,
    }
    for name, value in computed.items():
        torch.testing.assert_close(value, reference[name], rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def chain(denoiser: Denoiser, start: Tensor, noise: Callable[[int], Tensor]) -> dict[str, Tensor]:
    """The states before some of 100 ancestral steps, and the last one."""
    states = {}

    def recorded(x: Tensor, t: Tensor) -> Prediction:
        states[f"before_{int(t[0])}"] = x
        return denoiser(x, t)

    states["final"] = ancestral(recorded, start, COSINE, range(99, -1, -1), noise)
    return states


def assert_equal_states(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert len(expected) == 5
    for name, state in expected.items():
        torch.testing.assert_close(found[name], state, rtol=0, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@torch.inference_mode()
def test_one_hundred_ancestral_steps_equal_improved_diffusion(imported: Denoiser) -> None:
    start = q_sample(COSINE, golden.images(), torch.tensor([99]), golden.noise("start"))
    states = chain(imported, start, lambda t: golden.noise(f"step {t}"))
    expected = {k: v for k, v in golden.results().items() if k.startswith("before") or k == "final"}
    assert_equal_states(states, expected)


@torch.inference_mode()
def test_one_hundred_ancestral_steps_equal_those_of_its_first_release(shared: Path) -> None:
    folder = shared / "golden"
    reference = {key: torch.from_numpy(value) for key, value in np.load(folder / "chain_100.npz").items()}
    # Images come in as (N, H, W, C), hence in channels-last layout, and so they did for the reference. With
    # weights this small the layout matters: torch's group norm sums otherwise in channels-last, 1e-3 apart.
    x0 = reference["x0_uint8"].permute(0, 3, 1, 2).float() / 127.5 - 1
    start = q_sample(COSINE, x0, torch.tensor([99]), reference["forward_noise"])
    states = chain(import_checkpoint(folder / golden.NAME), start, lambda t: reference["step_noise"][t])
    expected = {f"before_{t}": reference[f"after_{t + 1}"] for t in (98, 89, 49, 9)}
    assert_equal_states(states, expected | {"final": reference["final"]})


# Noising


def test_noising_of_a_mixed_batch_is_that_of_each_image(images: Tensor) -> None:
    t, noise = torch.tensor([0, 3, 99, 399, 1000, 2000, 3000, 3999]), torch.randn(8, 3, 4, 4)
    together = q_sample(COSINE, images, t, noise)
    for i in range(8):
        alone = q_sample(COSINE, images[i : i + 1], t[i : i + 1], noise[i : i + 1])
        assert torch.equal(together[i : i + 1], alone)


def test_noise_and_image_are_found_again_from_each_other(images: Tensor) -> None:
    noise = torch.randn(8, 3, 4, 4)
    x = q_sample(COSINE, images, torch.tensor([399]), noise)
    torch.testing.assert_close(predict_x0(COSINE, noise, x, [399]), images)
    torch.testing.assert_close(predict_eps(COSINE, images, x, [399]), noise, rtol=0, atol=1e-5)


def test_noise_level_on_unit_scale_is_the_schedules_sigma() -> None:
    x = q_sample(COSINE, torch.zeros(1, 1, 300, 300), torch.tensor([99]), torch.randn(1, 1, 300, 300))
    assert (x / 2).std().item() * 255 == pytest.approx(6.4, rel=0.02)


# The exact posterior mean of a tiny set


@pytest.mark.parametrize("t", [0, 99, 399, 1500, 3000])
def test_one_step_is_the_posterior_mean(images: Tensor, t: int) -> None:
    ideal = IdealDenoiser(images, COSINE)
    x = q_sample(COSINE, images, torch.tensor([t]), torch.randn(8, 3, 4, 4))
    torch.testing.assert_close(one_step(ideal, x, COSINE, (t, 0), no_noise), ideal.mean(x, t), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("name", "indices"), [*product(SAMPLERS, SUBSETS)])
def test_every_sampler_finds_the_only_image(images: Tensor, name: str, indices: tuple[int, ...]) -> None:
    only = images[:1]
    x = q_sample(COSINE, only, torch.tensor([indices[0]]), torch.randn_like(only))
    found = SAMPLERS[name](IdealDenoiser(only, COSINE), x, COSINE, indices, seeded_noise(x.shape))
    torch.testing.assert_close(found, only, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["ancestral", "ancestral-posterior", "ddim"])
def test_several_steps_end_at_an_image_where_one_step_ends_between(images: Tensor, name: str) -> None:
    ideal, start = IdealDenoiser(images, COSINE), 3400
    x = q_sample(COSINE, images, torch.tensor([start]), torch.randn(8, 3, 4, 4))

    def distance(x0: Tensor) -> Tensor:
        return torch.cdist(x0.flatten(1), images.flatten(1)).amin(1)

    found = SAMPLERS[name](ideal, x, COSINE, COSINE.spaced(start, 100), seeded_noise(x.shape))
    assert distance(found).max() < 1e-3
    assert distance(one_step(ideal, x, COSINE, (start,), no_noise)).median() > 0.5


@pytest.mark.parametrize("sampler", [ancestral, ancestral_posterior])
def test_ancestral_draws_images_as_often_as_bayes_says(sampler: Callable[..., Tensor]) -> None:
    pair = torch.tensor([-0.5, 0.5]).view(2, 1, 1, 1)
    ideal, start, n = IdealDenoiser(pair, COSINE), 2000, 1000
    x = torch.full((1, 1, 1, 1), 0.3)
    expected = ideal.weights(x, start)[0, 1].item()
    assert 0.6 < expected < 0.9

    class Batched(IdealDenoiser):  # the whole batch is at one index
        def __call__(self, x_t: Tensor, t: Tensor) -> Prediction:
            return Prediction(predict_eps(COSINE, self.mean(x_t, int(t[0])), x_t, [int(t[0])]), None)

    batch = x.expand(n, 1, 1, 1)
    found = sampler(Batched(pair, COSINE), batch, COSINE, COSINE.spaced(start, 200), seeded_noise(batch.shape))
    share = (found > 0).double().mean().item()
    assert share == pytest.approx(expected, abs=4 * (expected * (1 - expected) / n) ** 0.5)


def test_ddim_comes_nearer_to_its_limit_with_more_steps(images: Tensor) -> None:
    ideal, start = IdealDenoiser(images[:, :1, :2, :2], COSINE), 1200
    x = q_sample(COSINE, ideal.images, torch.tensor([start]), torch.randn(8, 1, 2, 2))
    states: dict[int, Tensor] = {}

    def at_400(steps: int) -> Tensor:
        # x_400 and not x_0: at the end all paths have reached an image and errors have shrunk to nothing.
        indices = np.linspace(start, 400, steps).round().astype(int).tolist()

        def recorded(x: Tensor, t: Tensor) -> Prediction:
            states[int(t[0])] = x
            return ideal(x, t)

        ddim(recorded, x, COSINE, indices, no_noise)
        return states[400]

    limit = at_400(801)
    errors = [(at_400(steps) - limit).abs().max().item() for steps in (6, 21, 101)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < 0.01


def test_ddim_keeps_the_noise_direction_of_a_known_image(images: Tensor) -> None:
    only, noise = images[:1], torch.randn(1, 3, 4, 4)
    x = q_sample(COSINE, only, torch.tensor([399]), noise)
    states = []

    def recorded(x: Tensor, t: Tensor) -> Prediction:
        states.append(x)
        return IdealDenoiser(only, COSINE)(x, t)

    ddim(recorded, x, COSINE, (399, 100, 3), no_noise)
    for state, t in zip(states, (399, 100, 3), strict=True):
        expected = q_sample(COSINE, only, torch.tensor([t]), noise)
        torch.testing.assert_close(state, expected, rtol=0, atol=1e-4)


# Noise and variance


@pytest.mark.parametrize(("name", "indices"), [*product(["ancestral", "ancestral-posterior"], SUBSETS)])
def test_noise_is_asked_for_at_every_index_but_the_last(images: Tensor, name: str, indices: tuple[int, ...]) -> None:
    asked = []

    def noise(t: int) -> Tensor:
        asked.append(t)
        return torch.zeros(8, 3, 4, 4)

    SAMPLERS[name](IdealDenoiser(images, COSINE), images, COSINE, indices, noise)
    assert asked == list(indices[:-1])


@pytest.mark.parametrize("sampler", [ddim, one_step])
def test_deterministic_samplers_never_ask_for_noise(images: Tensor, sampler: Callable[..., Tensor]) -> None:
    first, second = (sampler(IdealDenoiser(images, COSINE), images, COSINE, (399, 100, 0), no_noise) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(("t", "s"), [(99, 98), (399, 100)])
@pytest.mark.parametrize("v", [-1.0, 0.0, 1.0])
def test_learned_variance_lies_between_posterior_variance_and_beta(images: Tensor, v: float, t: int, s: int) -> None:
    ratio = COSINE.abar[t] / COSINE.abar[s]
    beta = 1 - ratio
    posterior = beta * (1 - COSINE.abar[s]) / (1 - COSINE.abar[t])
    step = reverse_step(COSINE, IdealDenoiser(images, COSINE, v)(images, torch.tensor([t] * 8)), images, [t], [s])
    expected = {-1.0: posterior, 0.0: np.sqrt(posterior * beta), 1.0: beta}[v]
    torch.testing.assert_close(step.variance, torch.full_like(images, expected), rtol=1e-4, atol=0)
    torch.testing.assert_close(step.log_variance.exp(), step.variance)


def test_posterior_sampler_ignores_the_learned_variance(images: Tensor) -> None:
    noise, indices = seeded_noise(images.shape), (3, 2)  # after few steps the draws still differ

    def state(sampler: Callable[..., Tensor], v: float | None) -> Tensor:
        states = []

        def recorded(x: Tensor, t: Tensor) -> Prediction:
            states.append(x)
            return IdealDenoiser(images, COSINE, v)(x, t)

        sampler(recorded, images, COSINE, indices, noise)
        return states[-1]

    plain = state(ancestral, None)
    assert torch.equal(state(ancestral_posterior, 1.0), plain)
    assert torch.equal(state(ancestral_posterior, None), plain)
    assert not torch.allclose(state(ancestral, 1.0), plain, atol=1e-4)
    torch.testing.assert_close(state(ancestral, -1.0), plain)


@pytest.mark.parametrize("name", SAMPLERS)
def test_results_stay_in_range_whatever_the_denoiser_says(name: str) -> None:
    x = torch.zeros(2, 3, 4, 4)
    wild = lambda x_t, t: Prediction(torch.full_like(x_t, -1e4), None)  # noqa: E731
    found = SAMPLERS[name](wild, x, COSINE, (399, 100), seeded_noise(x.shape))
    assert torch.equal(found, torch.ones_like(x))


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_image_does_not_depend_on_its_batch(images: Tensor, name: str) -> None:
    ideal, indices = IdealDenoiser(images, COSINE), COSINE.spaced(2500, 5)
    x = q_sample(COSINE, images, torch.tensor([2500]), torch.randn(8, 3, 4, 4))
    noise = seeded_noise(x.shape)
    together = SAMPLERS[name](ideal, x, COSINE, indices, noise)
    alone = SAMPLERS[name](ideal, x[2:3], COSINE, indices, lambda t: noise(t)[2:3])
    torch.testing.assert_close(alone, together[2:3])


@pytest.mark.parametrize("name", SAMPLERS)
def test_steps_that_do_not_descend_are_refused(images: Tensor, name: str) -> None:
    with pytest.raises(EclipseError, match="strictly descending"):
        SAMPLERS[name](IdealDenoiser(images, COSINE), images, COSINE, (), no_noise)
