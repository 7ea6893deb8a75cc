import numpy as np
import pytest
from kit import golden

from eclipse.diffusion.schedule import NoiseSchedule, successors, transition
from eclipse.errors import EclipseError

COSINE = NoiseSchedule("cosine", 4000)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("betas", "betas"),
        ("abar", "alphas_cumprod"),
        ("posterior_variance", "posterior_variance"),
        ("posterior_log_variance_clipped", "posterior_log_variance_clipped"),
        ("posterior_mean_coef1", "posterior_mean_coef1"),
        ("posterior_mean_coef2", "posterior_mean_coef2"),
    ],
)
def test_cosine_tables_equal_those_of_improved_diffusion(ours: str, theirs: str) -> None:
    table = getattr(COSINE, ours)
    assert table.dtype == np.float64
    reference = golden.results()
    np.testing.assert_allclose(table[reference["rows"]], reference[theirs], rtol=0, atol=1e-12)


def test_linear_schedule_keeps_its_noise_when_the_number_of_steps_changes() -> None:
    thousand, four = NoiseSchedule("linear", 1000), NoiseSchedule("linear", 4000)
    assert thousand.betas[[0, -1]] == pytest.approx([1e-4, 0.02])
    assert four.betas[[0, -1]] == pytest.approx([0.25e-4, 0.005])
    assert four.sigma(2000) == pytest.approx(thousand.sigma(500), rel=1e-2)


@pytest.mark.parametrize(("index", "levels"), [(99, 6.4), (199, 11.4), (399, 21.3)])
def test_noise_levels_in_8_bit_levels(index: int, levels: float) -> None:
    assert COSINE.sigma(index) * 255 == pytest.approx(levels, abs=0.05)
    assert COSINE.index(levels / 255) == pytest.approx(index, abs=1)


def test_index_is_the_inverse_of_sigma() -> None:
    indices = range(0, 3900, 7)  # at the very end neighbors differ by less than a float
    assert [COSINE.index(COSINE.sigma(i)) for i in indices] == list(indices)


@pytest.mark.parametrize("sigma", [0.0, -0.1, 0.6, float("nan")])
def test_noise_level_out_of_range_is_refused(sigma: float) -> None:
    with pytest.raises(EclipseError, match="out of range; expected "):
        COSINE.index(sigma)


def test_unknown_schedule_is_refused_with_a_suggestion() -> None:
    with pytest.raises(EclipseError, match="'cosin'; did you mean 'cosine'"):
        NoiseSchedule("cosin", 4000)
    with pytest.raises(EclipseError, match="expected 2 to"):
        NoiseSchedule("cosine", 1)


def test_spaced_indices_run_from_the_start_to_zero() -> None:
    assert COSINE.spaced(99, 100) == tuple(range(99, -1, -1))
    assert COSINE.spaced(99, 1) == (99,)
    assert COSINE.spaced(99, 2) == (99, 0)
    assert COSINE.spaced(3, 50) == (3, 2, 1, 0)
    twenty = COSINE.spaced(99, 20)
    assert len(twenty) == 20
    assert twenty[0] == 99
    assert twenty[-1] == 0
    assert set(np.diff(twenty)) == {-5, -6}


def test_zero_steps_are_refused() -> None:
    with pytest.raises(EclipseError, match="expected at least 1"):
        COSINE.spaced(99, 0)


def test_single_transitions_are_the_tables() -> None:
    for t in (0, 1, 57, 99, 2000, 3999):
        expected = (
            COSINE.posterior_mean_coef1[t],
            COSINE.posterior_mean_coef2[t],
            COSINE.posterior_variance[t],
            COSINE.betas[t],
        )
        np.testing.assert_allclose(transition(COSINE, t, t - 1), expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(("t", "s"), [(99, 80), (399, 0), (3000, 1000)])
def test_long_transitions_follow_from_bayes(t: int, s: int) -> None:
    # q(x_s | x_t, x_0) is proportional to q(x_t | x_s) q(x_s | x_0); precisions add up.
    ratio, abar_s = COSINE.abar[t] / COSINE.abar[s], COSINE.abar[s]
    variance = 1 / (ratio / (1 - ratio) + 1 / (1 - abar_s))
    coef_x0 = variance * np.sqrt(abar_s) / (1 - abar_s)
    coef_xt = variance * np.sqrt(ratio) / (1 - ratio)
    np.testing.assert_allclose(transition(COSINE, t, s), (coef_x0, coef_xt, variance, 1 - ratio), rtol=1e-9)


def test_transition_to_x0_forgets_x_t() -> None:
    assert transition(COSINE, 399, -1) == pytest.approx((1.0, 0.0, 0.0, 1 - COSINE.abar[399]))


def test_successors_end_in_x0() -> None:
    assert successors((9, 5, 0)) == (5, 0, -1)


@pytest.mark.parametrize("indices", [[], [1, 2], [2, 2], [2, -1]])
def test_lists_that_do_not_descend_are_refused(indices: list[int]) -> None:
    with pytest.raises(EclipseError, match="strictly descending"):
        successors(indices)
