"""How sure a mean is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and the ends of its 95 % interval by Student's t; with one value the interval is unknown (NaN).

    For a difference between two settings give the differences of paired runs, one a seed: what the seeds have in common
    cancels.
    """
    array = np.asarray(values, float)
    mean = float(array.mean())
    if len(array) < 2:
        return mean, float("nan"), float("nan")
    half = float(stats.t.ppf(0.975, len(array) - 1) * array.std(ddof=1) / np.sqrt(len(array)))
    return mean, mean - half, mean + half
