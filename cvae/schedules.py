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
from dataclasses import dataclass, field, fields
from numbers import Real
from typing import Any, Protocol, cast

from cvae.errors import BadArgument, UserError, first_line, require

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
    "Target",
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
            if not each.metadata:
                continue
            value, (low, high, above) = getattr(self, each.name), each.metadata.values()
            within = isinstance(value, (int, float)) and low <= value <= high and math.isfinite(value)
            if isinstance(value, bool) or not within or (above and value == low):
                bracket = f"{'(' if above else '['}{low:g}, {high:g}{')' if math.isinf(high) else ']'}"
                raise BadArgument(self, each.name, f"is {value!r}: give a number in {bracket}")


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


@dataclass(frozen=True)
class Target(_Checked):
    """A weight that follows the KL: it settles where the KL is ``nats`` a step (ControlVAE, Shao et al. 2020).

    As a function of progress it is a monotonic ramp to 1. From ``start`` on, a run multiplies that by a factor of its own
    (``cvae.training.control.KLControl``). ``start`` is a progress, or ``forcing``: where teacher forcing has fallen to half and
    the ramp has risen to half. A step that is fed the true frame needs its latent less, and a weight that is lowered for it
    teaches the nets to lean on the latent.

    ``side``: ``both`` holds the KL at ``nats``; ``above`` only raises the weight, where the KL is above; ``below`` only lowers
    it, where the KL is below.
    """

    nats: float = _number(1.0, high=1e4, above=True)
    side: str = "both"
    ramp: float = _number(0.25)
    start: float | str = "forcing"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.side not in ("both", "above", "below"):
            raise UserError(f"Target.side is {self.side!r}: choose both, above or below")
        number = isinstance(self.start, (int, float)) and not isinstance(self.start, bool) and 0 <= self.start < 1
        if not (number or self.start == "forcing"):
            raise BadArgument(self, "start", f"is {self.start!r}: give a number in [0, 1), or forcing")

    def __call__(self, t: float) -> float:
        return _ramp(t, self.ramp)


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

GRID = [step / 1000 for step in range(1001)]  # where a schedule is looked at


def checked(key: str, schedule: Schedule) -> Schedule:
    """A schedule whose values have been looked at, over a whole run.

    Raises:
        UserError: it is none: a value is no number in [0, 1], or it raises; ``key`` is named.
    """
    for t in GRID:
        try:
            value = schedule(t)
            valid = isinstance(value, Real) and -1e-9 <= value <= 1 + 1e-9  # rounding is no fault
        except Exception as error:  # whatever a schedule of the user's raises
            raised = f"{type(error).__name__}: {first_line(error)}"
            raise UserError(f"{key}({t:g}) raises {raised}; it takes a progress in [0, 1]") from error
        if not valid:
            raise UserError(f"{key}({t:g}) is {value!r}: a schedule returns a number in [0, 1] for each progress in [0, 1]")
    return schedule


# --- learning rate ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LearningRate:
    """The factor on ``lr``: a linear warm-up over the first ``warmup`` of the run, then flat, or a cosine down to 0.

    Over ``rewarm`` of the run after the progress ``switch``, where teacher forcing ends, a second linear warm-up multiplies it.
    """

    warmup: float = 0.0
    decay: str = "none"
    rewarm: float = 0.0
    switch: float | None = None

    def __post_init__(self) -> None:
        for key, value in (("lr_warmup", self.warmup), ("lr_rewarm", self.rewarm)):
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1
            require(number, key, value, "give a fraction of the run in [0, 1), 0 for none")
        require(self.decay in ("none", "cosine"), "lr_decay", self.decay, "choose none or cosine")
        hint = "forcing does not end in this run: give a tf_schedule that does, as tf_schedule=step, or lr_rewarm=0"
        require(not self.rewarm or self.switch is not None, "lr_rewarm", self.rewarm, hint)

    def __call__(self, t: float) -> float:
        flat = 1.0 if self.decay == "none" else (1 + math.cos(math.pi * (t - self.warmup) / (1 - self.warmup))) / 2
        factor = t / self.warmup if t < self.warmup else flat
        if self.rewarm and self.switch is not None and 0 <= t - self.switch < self.rewarm:
            factor *= (t - self.switch) / self.rewarm
        return factor
