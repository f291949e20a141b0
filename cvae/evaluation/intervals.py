"""How sure a mean is."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

_RESAMPLES = 10_000
_AT_ONCE = 1 << 20  # values drawn at a time, 8 MiB of them


@functools.cache
def quantile(count: int) -> float:
    """Student's t for the 95 % interval of a mean of ``count`` values, at least 2: its 97.5 % point."""
    return float(stats.t.ppf(0.975, count - 1))


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and the ends of its 95 % interval by Student's t; what too few values leave unknown is NaN.

    For a difference between two settings give the differences of paired runs, one a seed: what the seeds have in common
    cancels.
    """
    array = np.asarray(values, float)
    mean = float(array.mean()) if len(array) else math.nan
    half = quantile(len(array)) * float(array.std(ddof=1)) / math.sqrt(len(array)) if len(array) > 1 else math.nan
    return mean, mean - half, mean + half


def bootstrap(values_N: ArrayLike, seed: int, resamples: int = _RESAMPLES) -> tuple[float, float, float]:
    """Mean over videos and the ends of its 95 % interval by bootstrap; what too few values leave unknown is NaN.

    Videos are drawn anew with replacement, and the interval holds the middle 95 % of the means (Efron 1979). It assumes no
    normal distribution. Equal values and an equal seed give equal bytes.
    """
    values = np.asarray(values_N, np.float64)
    if len(values) < 2 or not np.isfinite(values).all():
        mean = float(values.mean()) if len(values) else math.nan
        return mean, math.nan, math.nan
    low, high = np.quantile(_resampled_means(values, seed, resamples), [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def _resampled_means(values_N: NDArray[np.float64], seed: int, resamples: int) -> NDArray[np.float64]:
    generator, count = np.random.default_rng(seed), len(values_N)
    means = []
    for start in range(0, resamples, step := max(1, _AT_ONCE // count)):
        rows = generator.integers(0, count, (min(step, resamples - start), count))
        means.append(values_N[rows].mean(axis=1))
    return np.concatenate(means)


@dataclass(frozen=True)
class Paired:
    """The mean difference over the same videos, the ends of its 95 % interval, and a p-value of no difference."""

    mean: float
    low: float
    high: float
    p: float


def paired(first_N: ArrayLike, second_N: ArrayLike, seed: int) -> Paired:
    """First minus second, video by video: bootstrap interval of the mean, and the two-sided Wilcoxon signed-rank test.

    What videos have in common, such as how hard each is, cancels. The test (Wilcoxon 1945) asks whether the differences lie
    symmetrically around 0; differences of exactly 0 are left out, and if there are no others p is 1. A value that is not
    finite leaves interval and p unknown, NaN.

    Raises:
        ValueError: the two are not of the same number of videos.
    """
    first, second = np.asarray(first_N, np.float64), np.asarray(second_N, np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"values of the same videos are needed, not of {first.shape} and {second.shape}")
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        differences = first - second
    mean, low, high = bootstrap(differences, seed)
    if not len(differences) or not np.isfinite(differences).all():
        return Paired(mean, low, high, math.nan)
    return Paired(mean, low, high, float(stats.wilcoxon(differences).pvalue) if differences.any() else 1.0)


def seed_differences(first: Mapping[int, float], second: Mapping[int, float]) -> dict[int, float]:
    """Differences of two settings by seed, for the seeds that both have."""
    return {seed: first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())}


def runs_needed(values: Sequence[float], threshold: float = 0.0, most: int = 1000) -> int | None:
    """How many values it takes for the interval to leave ``threshold`` out in four of five studies, if these are typical.

    That is a t-test's size for 80 % power, by the usual sum of two quantiles. None if it takes more than ``most``, or if a
    single value leaves the deviation unknown.
    """
    array = np.asarray(values, float)
    if len(array) < 2:
        return None
    distance, deviation = abs(float(array.mean()) - threshold), float(array.std(ddof=1))
    counts = np.arange(2, most + 1)
    reach = (stats.t.ppf(0.975, counts - 1) + stats.t.ppf(0.8, counts - 1)) * deviation
    enough = counts[reach < distance * np.sqrt(counts)]
    return int(enough[0]) if len(enough) else None
