"""Intervals against a table of Student's t."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cvae.evaluation.intervals import mean_interval, quantile, runs_needed

# Two-sided 95 % points of Student's t by degrees of freedom, from a printed table.
T975 = {1: 12.706, 2: 4.303, 4: 2.776, 9: 2.262}


@pytest.mark.parametrize("freedom", T975)
def test_interval_is_the_mean_and_its_standard_error_times_t(freedom: int) -> None:
    values = [(7 * i) % 5 + 0.1 * i for i in range(freedom + 1)]
    mean = sum(values) / len(values)
    error = math.sqrt(sum((v - mean) ** 2 for v in values) / freedom / len(values))
    expected = mean, mean - T975[freedom] * error, mean + T975[freedom] * error
    assert mean_interval(values) == pytest.approx(expected, abs=1e-3)


def test_one_value_has_no_interval() -> None:
    mean, low, high = mean_interval([3.0])
    assert mean == 3.0
    assert math.isnan(low)
    assert math.isnan(high)


@pytest.mark.parametrize(("mean", "deviation"), [(1.0, 1.0), (0.5, 1.0), (-0.3, 0.2)])
def test_so_many_values_as_needed_leave_the_threshold_out_in_four_of_five_studies(mean: float, deviation: float) -> None:
    offset = deviation / math.sqrt(2)
    needed = runs_needed([1 + mean - offset, 1 + mean + offset], threshold=1.0)
    assert needed is not None
    studies = np.random.default_rng(0).normal(mean, deviation, (4000, needed))
    half = quantile(needed) * studies.std(axis=1, ddof=1) / math.sqrt(needed)
    assert (abs(studies.mean(axis=1)) > half).mean() == pytest.approx(0.8, abs=0.08)


def test_what_too_few_values_cannot_tell() -> None:
    assert runs_needed([1.0]) is None
    assert runs_needed([1.0, -1.0]) is None
    assert all(map(math.isnan, mean_interval([])))
