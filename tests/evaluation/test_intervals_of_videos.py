"""Bootstrap intervals over videos and paired differences, against scipy and against counting."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from cvae.evaluation.intervals import Paired, bootstrap, paired


def draws(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).gamma(2.0, 3.0, count)  # skewed, as scores of videos are


@pytest.mark.parametrize("count", [5, 24, 256])
def test_the_bootstrap_s_ends_are_scipy_s(count: int) -> None:
    values = draws(count, count)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile").confidence_interval
    mean, low, high = bootstrap(values, seed=3, resamples=20_000)
    noise = 0.15 * values.std() / math.sqrt(count)  # of both, since each draws its own videos: five deviations of it
    assert mean == values.mean()
    assert (low, high) == pytest.approx(tuple(theirs), abs=noise)


def test_the_interval_holds_the_true_mean_about_as_often_as_it_says() -> None:
    ends = [bootstrap(draws(seed, 60), seed, resamples=400)[1:] for seed in range(300)]
    assert np.mean([low <= 6 <= high for low, high in ends]) == pytest.approx(0.94, abs=0.04)


def test_the_same_seed_gives_the_same_interval_however_many_are_drawn_at_a_time(monkeypatch) -> None:
    values = draws(0, 100)
    whole = bootstrap(values, seed=1, resamples=500)
    monkeypatch.setattr("cvae.evaluation.intervals._AT_ONCE", 700)
    assert bootstrap(values, seed=1, resamples=500) == whole
    assert bootstrap(values, seed=2, resamples=500) != whole


def test_what_too_few_or_unknown_values_leave_unknown() -> None:
    assert np.isnan(bootstrap([], 0)).all()
    assert bootstrap([3.0], 0) == pytest.approx((3, math.nan, math.nan), nan_ok=True)
    assert np.isnan(bootstrap([3.0, math.nan], 0)).all()
    assert bootstrap([3.0, 3.0], 0) == (3, 3, 3)


def test_a_video_s_own_difficulty_cancels_in_paired_differences() -> None:
    hard, noise = 10 * draws(1, 80), np.random.default_rng(2).normal(0, 0.1, 80)
    difference = paired(hard + 0.5 + noise, hard, seed=0)
    assert difference.mean == pytest.approx(0.5 + noise.mean())
    assert difference.low < difference.mean < difference.high
    assert difference.high - difference.low < 0.06
    assert difference.p < 1e-10
    assert abs(bootstrap(hard + 0.5, 0)[0] - hard.mean()) < bootstrap(hard, 0)[2] - bootstrap(hard, 0)[1]  # unpaired: unseen


def test_the_other_way_round_it_is_minus_the_difference() -> None:
    one, other = draws(1, 30), draws(2, 30)
    there, back = paired(one, other, 5), paired(other, one, 5)
    assert (back.mean, back.low, back.high) == pytest.approx((-there.mean, -there.high, -there.low))
    assert back.p == pytest.approx(there.p)


def test_p_counts_signs_of_ranks() -> None:
    """Six differences of one sign: 2 of the 64 ways to sign them are as extreme. With the smallest turned round: 4."""
    assert paired([1, 2, 3, 4, 5, 6], np.zeros(6), 0).p == pytest.approx(2 / 64)
    assert paired([-1, 2, 3, 4, 5, 6], np.zeros(6), 0).p == pytest.approx(4 / 64)


def test_equal_videos_tell_nothing() -> None:
    values = draws(0, 20)
    assert paired(values, values, 0) == Paired(0, 0, 0, 1)
    assert paired([*values, 1, 2, 3, 4, 5, 6], [*values, 0, 0, 0, 0, 0, 0], 0).p == pytest.approx(2 / 64, abs=0.01)


def test_a_model_that_diverged_on_a_video_has_no_p() -> None:
    unknown = paired([1, math.inf, 2], [1, math.inf, 1], 0)
    assert np.isnan([unknown.mean, unknown.low, unknown.high, unknown.p]).all()
    assert math.isnan(paired([], [], 0).p)


def test_other_videos_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="the same videos"):
        paired([1, 2], [1, 2, 3], 0)
