"""What both schedules of a run come to, epoch by epoch, and how they are told."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from typing import Any, cast

from cvae.schedules import GRID, Schedule, Target

_FREE = 0.01  # with less forcing than that a run is as good as free-running


@dataclass(frozen=True)
class Plan:
    """What a run's schedules come to at an epoch, counted in fractions: 1.5 is the middle of the second epoch."""

    kl_schedule: Schedule
    tf_schedule: Schedule
    beta: float
    tfr: float
    epochs: int
    schedule_step: str = "iteration"  # epoch: they keep still within an epoch

    def kl_weight(self, epoch: float) -> float:
        """What multiplies KL."""
        return self.beta * self.kl_schedule(self._progress(epoch))

    def tf_ratio(self, epoch: float) -> float:
        """The probability that a step is given the true frame."""
        return self.tfr * self.tf_schedule(self._progress(epoch))

    @property
    def follows(self) -> float | None:
        """The epoch from which on the KL weight follows the measured KL; None if it is the schedule's function throughout."""
        return follows_from(self.kl_schedule, self.tf_schedule) * self.epochs if isinstance(self.kl_schedule, Target) else None

    def _progress(self, epoch: float) -> float:
        done = epoch if self.schedule_step == "iteration" else min(math.floor(epoch + 1e-9), self.epochs - 1)
        return done / max(1, self.epochs)

    @property
    def forcing_ends(self) -> float | None:
        """The epoch from which on a run is free-running; None if it is from the beginning, or forcing does not end."""
        grid = [self.epochs * step / 1000 for step in range(1001)]
        grid = sorted({*grid, *map(float, range(self.epochs + 1))} if self.epochs <= 10_000 else grid)
        free = [self.tf_ratio(epoch) < _FREE for epoch in grid]
        last = max((index for index, each in enumerate(free) if not each), default=-1)
        if last < 0 or last + 1 >= len(grid):
            return None
        low, high = grid[last], grid[last + 1]
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (low, middle) if self.tf_ratio(middle) < _FREE else (middle, high)
        return high


def said_of(name: str, schedule: Schedule) -> str:
    """A schedule's option with its numbers, as ``cyclical (cycles 3, ramp 0.5)``."""
    own: Sequence[Any] = fields(cast(Any, schedule)) if is_dataclass(schedule) else ()
    numbers = ", ".join(f"{each.name} {getattr(schedule, each.name)}" for each in own)
    return f"{name} ({numbers})" if numbers else name


def as_call(schedule: Schedule) -> str:
    """A schedule with its numbers, as ``Cyclical(cycles=3, ramp=0.5)``; a function of the user's with what it is given."""
    if not isinstance(schedule, partial):
        return str(schedule) if is_dataclass(schedule) else type(schedule).__name__
    return f"{schedule.func.__name__}({', '.join(f'{key}={value}' for key, value in schedule.keywords.items())})"


def half_weight(kl_schedule: Schedule) -> float:
    """The progress at which a KL schedule first weighs half its most."""
    weights = [kl_schedule(t) for t in GRID]
    return next(t for t, weight in zip(GRID, weights, strict=True) if weight >= max(weights) / 2)


def settled(kl_schedule: Schedule, tf_schedule: Schedule) -> float:
    """The progress at which two schedules are past their middle: KL has weighed half its most, forcing is at half or less.

    From there on runs under the same schedules can be compared while they train; before, those that will be good after the
    end of forcing look no better than others.
    """
    kl_end = half_weight(kl_schedule)
    if isinstance(kl_schedule, Target) and not isinstance(kl_schedule.start, str):
        kl_end = max(kl_end, kl_schedule.start)
    ratios = [tf_schedule(t) for t in GRID]
    if min(ratios) > max(ratios) / 2:
        return kl_end  # forcing does not end
    return max(kl_end, next(t for t, ratio in zip(GRID, ratios, strict=True) if ratio <= max(ratios) / 2))


def follows_from(target: Target, tf_schedule: Schedule) -> float:
    """The progress from which on a target's weight follows the KL."""
    return settled(replace(target, start=0.0), tf_schedule) if isinstance(target.start, str) else float(target.start)
