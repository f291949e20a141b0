"""KL-annealing weights and teacher-forcing ratios as pure functions of progress.

Progress ``t`` is the fraction of a run's iterations already done, 0 <= t <= 1, so one schedule fits 20 epochs and 300.
A schedule returns a factor in [0, 1]: KL weights multiply ``beta``, teacher-forcing ratios multiply ``tfr``.
Having no state, a schedule cannot disagree with a resumed run.

>>> Cyclical(cycles=3, ramp=0.5)(1 / 6)   # end of the first cycle's ramp
1.0
>>> Step(at=0.5)(0.5)
0.0
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Protocol, cast

from cvae.errors import UserError, require

__all__ = [
    "Constant",
    "Cosine",
    "Cyclical",
    "Exponential",
    "InverseSigmoid",
    "LearningRate",
    "Linear",
    "Monotonic",
    "Schedule",
    "Sigmoid",
    "Step",
    "settled",
]


class Schedule(Protocol):
    """Anything that maps progress in [0, 1] to a factor in [0, 1]."""

    def __call__(self, t: float) -> float: ...


def _number(default: float, low: float = 0.0, high: float = 1.0, *, above: bool = False) -> float:
    """A field whose value lies in [low, high]; ``above`` excludes ``low`` itself."""
    checked: float = field(default=default, metadata={"low": low, "high": high, "above": above})
    return checked


class _Checked:
    """Checks the fields of a schedule: config groups are untyped in Hydra, so ``cycles=abc`` arrives here as a string."""

    def __post_init__(self) -> None:
        for each in fields(cast(Any, self)):
            value, (low, high, above) = getattr(self, each.name), each.metadata.values()
            within = isinstance(value, (int, float)) and low <= value <= high and math.isfinite(value)
            if isinstance(value, bool) or not within or (above and value == low):
                bracket = f"{'(' if above else '['}{low:g}, {high:g}{')' if math.isinf(high) else ']'}"
                raise UserError(f"{type(self).__name__}.{each.name} is {value!r}: give a number in {bracket}")


# --- KL annealing -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Monotonic(_Checked):
    """One ramp from 0 to 1 over the first ``ramp`` of the run, then 1 (Bowman et al. 2016)."""

    ramp: float = _number(0.5)

    def __call__(self, t: float) -> float:
        return _ramp(t, self.ramp)


@dataclass(frozen=True)
class Cyclical(_Checked):
    """``cycles`` equal cycles; in each the first ``ramp`` rises from 0 to 1, the rest stays at 1 (Fu et al. 2019).

    At t = 1 it is 1: the run ends at full weight, not at the start of a cycle that never comes.
    """

    cycles: float = _number(3, high=math.inf, above=True)
    ramp: float = _number(0.5)

    def __call__(self, t: float) -> float:
        return 1.0 if t >= 1 else _ramp(t * self.cycles % 1.0, self.ramp)


@dataclass(frozen=True)
class Sigmoid(_Checked):
    """1 / (1 + exp(-steepness * (t - midpoint))) (Bowman et al. 2016)."""

    steepness: float = _number(20.0, high=500, above=True)
    midpoint: float = _number(0.25)

    def __call__(self, t: float) -> float:
        return 1 / (1 + math.exp(-self.steepness * (t - self.midpoint)))


@dataclass(frozen=True)
class Cosine(_Checked):
    """Half a cosine from 0 to 1 over the first ``ramp`` of the run, then 1."""

    ramp: float = _number(0.5)

    def __call__(self, t: float) -> float:
        return (1 - math.cos(math.pi * _ramp(t, self.ramp))) / 2


@dataclass(frozen=True)
class Constant(_Checked):
    """The same factor throughout."""

    value: float = _number(1.0)

    def __call__(self, t: float) -> float:
        return float(self.value)


def _ramp(t: float, length: float) -> float:
    return 1.0 if t >= length else t / length


# --- teacher forcing --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step(_Checked):
    """1 until ``at``, then 0: the report's sudden end of teacher forcing (at epoch 150 of 300)."""

    at: float = _number(0.5)

    def __call__(self, t: float) -> float:
        return 1.0 if t < self.at else 0.0


@dataclass(frozen=True)
class Linear(_Checked):
    """1 until ``start``, then straight down to ``floor``, reached at ``end``."""

    start: float = _number(0.0)
    end: float = _number(1.0)
    floor: float = _number(0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.end < self.start:
            raise UserError(f"Linear.end is {self.end:g}, before start {self.start:g}: give an end in [start, 1]")

    def __call__(self, t: float) -> float:
        if t < self.start:
            return 1.0
        if t >= self.end:
            return float(self.floor)
        return 1 - (1 - self.floor) * (t - self.start) / (self.end - self.start)


@dataclass(frozen=True)
class Exponential(_Checked):
    """``base ** (100 t)`` (Bengio et al. 2015, scheduled sampling).

    The exponent counts percents of the run, not iterations, so the curve's shape does not depend on its length.
    """

    base: float = _number(0.95)

    def __call__(self, t: float) -> float:
        return float(self.base ** (100 * t))


@dataclass(frozen=True)
class InverseSigmoid(_Checked):
    """``k / (k + exp(100 t / k))`` (Bengio et al. 2015), through 1/2 at ``midpoint``.

    The curve crosses 1/2 where 100 t = k ln k; ``k`` is solved from the midpoint, which is what people mean. k = 1 puts
    that crossing at t = 0, so every midpoint in (0, 1] has one k > 1. At t = 0 the ratio is k / (k + 1), not quite 1.
    """

    midpoint: float = _number(0.5, above=True)

    @property
    def k(self) -> float:
        low, high = 1.0, 101.0  # 101 ln 101 > 100 >= 100 * midpoint
        for _ in range(60):
            k = (low + high) / 2
            low, high = (k, high) if k * math.log(k) < 100 * self.midpoint else (low, k)
        return (low + high) / 2

    def __call__(self, t: float) -> float:
        k = self.k
        return k / (k + math.exp(100 * t / k))


# --- both -------------------------------------------------------------------------------------------------------------


def settled(kl_schedule: Schedule, tf_schedule: Schedule) -> float:
    """The progress at which two schedules are past their middle: KL has weighed half its most, forcing is at half or less.

    From there on runs under the same schedules can be compared while they train; before, those that will be good after the
    end of forcing look no better than others.
    """
    grid = [step / 1000 for step in range(1001)]
    most = max(kl_schedule(t) for t in grid)
    kl_end = next(t for t in grid if kl_schedule(t) >= most / 2)
    ratios = [tf_schedule(t) for t in grid]
    if min(ratios) > max(ratios) / 2:
        return kl_end  # forcing does not end
    return max(kl_end, next(t for t, ratio in zip(grid, ratios, strict=True) if ratio <= max(ratios) / 2))


# --- learning rate ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LearningRate:
    """The factor on ``lr``: a linear warm-up over the first ``warmup`` of the run, then flat, or a cosine down to 0."""

    warmup: float = 0.0
    decay: str = "none"

    def __post_init__(self) -> None:
        number = isinstance(self.warmup, (int, float)) and not isinstance(self.warmup, bool) and 0 <= self.warmup < 1
        require(number, "lr_warmup", self.warmup, "give a fraction of the run in [0, 1), 0 for none")
        require(self.decay in ("none", "cosine"), "lr_decay", self.decay, "choose none or cosine")

    def __call__(self, t: float) -> float:
        if t < self.warmup:
            return t / self.warmup
        if self.decay == "none":
            return 1.0
        return (1 + math.cos(math.pi * (t - self.warmup) / (1 - self.warmup))) / 2


# --- of a whole run ---------------------------------------------------------------------------------------------------

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
