"""How sure a mean is."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats


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


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> dict[int, float]:
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
