"""Schedules against their formulas, and the teacher-forcing coin that their ratios toss."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch

from cvae.errors import UserError
from cvae.schedules import (
    Constant,
    Cosine,
    Cyclical,
    Exponential,
    InverseSigmoid,
    LearningRate,
    Linear,
    Monotonic,
    Schedule,
    Sigmoid,
    Step,
)
from cvae.training.step import draw_forced

GRID = [i / 600 for i in range(601)]


def cyclical(t: float, cycles: float, ramp: float) -> float:
    """tau = frac(t * cycles), 1 at t = 1; min(1, tau / ramp). Exact, for grids that hit the ends of cycles and ramps."""
    tau = Fraction(1) if t == 1 else (Fraction(t).limit_denominator(10_000) * Fraction(cycles)) % 1
    return float(min(Fraction(1), tau / Fraction(ramp)))


def linear(t: float, start: float, end: float, floor: float) -> float:
    return max(floor, min(1, 1 + (floor - 1) * (t - start) / (end - start)))


FORMULAS: list[tuple[Schedule, Callable[[float], float]]] = [
    (Monotonic(0.5), lambda t: min(1, t / 0.5)),
    (Monotonic(0.1), lambda t: min(1, t / 0.1)),
    (Monotonic(1), lambda t: t),
    (Monotonic(0), lambda t: 1),
    (Cyclical(), lambda t: cyclical(t, 3, 0.5)),
    (Cyclical(4, 0.5), lambda t: cyclical(t, 4, 0.5)),
    (Cyclical(3, 0.25), lambda t: cyclical(t, 3, 0.25)),
    (Cyclical(5, 1), lambda t: cyclical(t, 5, 1)),
    (Cyclical(2.5, 0.5), lambda t: cyclical(t, 2.5, 0.5)),
    (Sigmoid(20, 0.25), lambda t: 1 / (1 + math.exp(-20 * (t - 0.25)))),
    (Sigmoid(5, 0.5), lambda t: 1 / (1 + math.exp(-5 * (t - 0.5)))),
    (Cosine(0.5), lambda t: (1 - math.cos(math.pi * min(1, t / 0.5))) / 2),
    (Cosine(1), lambda t: (1 - math.cos(math.pi * t)) / 2),
    (Constant(), lambda t: 1),
    (Constant(0.3), lambda t: 0.3),
    (Step(), lambda t: 1 if t < 0.5 else 0),
    (Step(0.2), lambda t: 1 if t < 0.2 else 0),
    (Linear(), lambda t: 1 - t),
    (Linear(0.25, 0.75, 0.2), lambda t: linear(t, 0.25, 0.75, 0.2)),
    (Exponential(0.95), lambda t: 0.95 ** (100 * t)),
    (Exponential(0.5), lambda t: 0.5 ** (100 * t)),
]


@pytest.mark.parametrize(("schedule", "formula"), FORMULAS, ids=[str(schedule) for schedule, _ in FORMULAS])
def test_schedule_equals_its_formula(schedule: Schedule, formula: Callable[[float], float]) -> None:
    assert [schedule(t) for t in GRID] == pytest.approx([formula(t) for t in GRID], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("midpoint", [0.05, 0.3, 0.5, 1])
def test_inverse_sigmoid_is_its_formula_through_one_half_at_the_midpoint(midpoint: float) -> None:
    schedule = InverseSigmoid(midpoint)
    assert schedule(midpoint) == pytest.approx(0.5, abs=1e-9)
    # f = k / (k + e^(i/k)) with i = 100 t: f(0) = k / (k + 1) tells which k it is.
    k = schedule(0) / (1 - schedule(0))
    assert k * math.log(k) == pytest.approx(100 * midpoint, rel=1e-9)
    assert [schedule(t) for t in GRID] == pytest.approx([k / (k + math.exp(100 * t / k)) for t in GRID], rel=1e-9)


RISING: list[Schedule] = [Monotonic(r) for r in (0, 1e-9, 0.5, 1)] + [Cosine(r) for r in (0, 1e-9, 0.5, 1)]
RISING += [Sigmoid(k, m) for k in (1e-9, 20, 500) for m in (0, 0.5, 1)]
FALLING: list[Schedule] = [Step(at) for at in (0, 0.5, 1)] + [Exponential(b) for b in (0, 0.5, 0.95, 1)]
FALLING += [InverseSigmoid(m) for m in (1e-6, 0.05, 0.5, 1)]
FALLING += [Linear(), Linear(0.5, 0.5, 0), Linear(0, 0, 1), Linear(1, 1, 0.5), Linear(0.2, 0.9, 0.1)]
OTHER: list[Schedule] = [Cyclical(c, r) for c in (1e-9, 0.5, 3, 1000) for r in (0, 1e-9, 0.5, 1)]
OTHER += [Constant(v) for v in (0, 0.5, 1)]


@pytest.mark.parametrize("schedule", RISING + FALLING + OTHER, ids=str)
def test_schedule_stays_within_0_and_1(schedule: Schedule) -> None:
    assert all(0 <= schedule(t) <= 1 for t in GRID)  # false for NaN


@pytest.mark.parametrize(
    ("schedule", "sign"), [(s, 1) for s in RISING] + [(s, -1) for s in FALLING], ids=[str(s) for s in RISING + FALLING]
)
def test_schedule_never_turns_back(schedule: Schedule, sign: int) -> None:
    values = [sign * schedule(t) for t in GRID]
    assert values == sorted(values)


@pytest.mark.parametrize("cycles", [3, 4])
@pytest.mark.parametrize(("epochs", "epoch_size"), [(3, 60), (20, 60), (300, 600), (7, 13)])
def test_cyclical_rises_to_full_weight_in_each_cycle_and_ends_there(epochs: int, epoch_size: int, cycles: int) -> None:
    schedule, total = Cyclical(cycles), epochs * epoch_size
    assert schedule(1) == 1
    assert schedule((total - 1) / total) == 1
    for cycle in range(cycles):
        done = range(-(-total * cycle // cycles), -(-total * (cycle + 1) // cycles))
        weights = [schedule(i / total) for i in done]
        assert weights[0] <= 2 * cycles / total  # starts at 0, or less than an iteration after
        full = weights.index(1)
        assert weights[:full] == sorted(set(weights[:full]))
        assert full / len(weights) == pytest.approx(0.5, abs=cycles / total)
        assert set(weights[full:]) == {1}


@pytest.mark.parametrize("schedule", [Exponential(0.95), InverseSigmoid(0.3)], ids=str)
@pytest.mark.parametrize("epochs", [20, 300])
def test_decay_has_the_shape_of_a_hundred_steps_whatever_the_runs_length(schedule: Schedule, epochs: int) -> None:
    """Values at the same fraction of a run, for the paper's i = 0 .. 100 of k^i and of k / (k + exp(i/k))."""
    k = next(x / 1e4 for x in range(10_000, 200_000) if x / 1e4 * math.log(x / 1e4) >= 30)
    paper = {Exponential: lambda i: 0.95**i, InverseSigmoid: lambda i: k / (k + math.exp(i / k))}[type(schedule)]
    for i in (0, 10, 25, 50, 75, 100):
        done = epochs * 600 * i // 100
        assert schedule(done / (epochs * 600)) == pytest.approx(paper(i), rel=1e-2)


@pytest.mark.parametrize("at", [0.2, 0.5, 0.9])
def test_step_drops_at_its_epoch(at: float) -> None:
    assert [Step(at)(epoch / 300) for epoch in range(300)] == [1.0] * round(300 * at) + [0.0] * (300 - round(300 * at))


@pytest.mark.parametrize(("end", "floor"), [(1, 0), (0.5, 0), (0.5, 0.3), (0, 0.2)])
def test_linear_decays_to_its_floor_and_stays(end: float, floor: float) -> None:
    assert [Linear(0, end, floor)(t) for t in GRID if t >= end] == pytest.approx([floor] * sum(t >= end for t in GRID))


FIELDS = {
    Monotonic: {"ramp": 1.5},
    Cyclical: {"cycles": 0, "ramp": 1.5},
    Sigmoid: {"steepness": 1e4, "midpoint": 1.5},
    Cosine: {"ramp": 1.5},
    Constant: {"value": 1.5},
    Step: {"at": 1.5},
    Linear: {"start": 1.5, "end": 1.5, "floor": 1.5},
    Exponential: {"base": 1.5},
    InverseSigmoid: {"midpoint": 0},
}
BAD = [
    (schedule, field, value)
    for schedule, fields in FIELDS.items()
    for field, outside in fields.items()
    for value in ("abc", math.nan, math.inf, -0.1, True, None, outside)
]


@pytest.mark.parametrize(("schedule", "field", "value"), BAD)
def test_bad_argument_is_refused_by_class_and_field(schedule: type, field: str, value: object) -> None:
    with pytest.raises(UserError, match=rf"^{schedule.__name__}\.{field} is "):
        schedule(**{field: value})


def test_linear_refuses_an_end_before_its_start() -> None:
    with pytest.raises(UserError, match=r"^Linear\.end is "):
        Linear(start=0.6, end=0.4)


# --- learning rate ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", ["none", "cosine"])
@pytest.mark.parametrize("warmup", [0, 0.1, 0.5])
def test_learning_rate_warms_up_linearly_then_stays_or_follows_a_cosine_to_0(warmup: float, decay: str) -> None:
    def formula(t: float) -> float:
        if t < warmup:
            return t / warmup
        return 1 if decay == "none" else (1 + math.cos(math.pi * (t - warmup) / (1 - warmup))) / 2

    assert [LearningRate(warmup, decay)(t) for t in GRID] == pytest.approx([formula(t) for t in GRID], abs=1e-12)
    assert LearningRate(warmup, decay)(1) == pytest.approx(0 if decay == "cosine" else 1, abs=1e-12)


@pytest.mark.parametrize("warmup", [0.1, 0.6])  # also where the first warm-up is not over
@pytest.mark.parametrize("decay", ["none", "cosine"])
def test_learning_rate_rises_from_0_once_more_after_the_end_of_forcing(decay: str, warmup: float) -> None:
    usual, again = LearningRate(warmup, decay), LearningRate(warmup, decay, rewarm=0.2, switch=0.5)
    rises = [min(1.0, max(0.0, (t - 0.5) / 0.2)) if t >= 0.5 else 1.0 for t in GRID]
    assert [again(t) for t in GRID] == pytest.approx([usual(t) * rise for t, rise in zip(GRID, rises, strict=True)], abs=1e-12)
    assert again(0.5) == 0
    assert LearningRate(rewarm=0.2, switch=0.9)(1) == pytest.approx(0.5)


def test_a_second_warm_up_needs_an_end_of_forcing() -> None:
    with pytest.raises(UserError, match=r"^lr_rewarm is 0\.1: forcing does not end"):
        LearningRate(rewarm=0.1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((field, value) for field in ("warmup", "rewarm") for value in ("abc", math.nan, -0.1, True, None, 1)),
        *(("decay", "linear"), ("decay", None)),
    ],
)
def test_bad_learning_rate_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(UserError, match=f"^lr_{field} is "):
        LearningRate(**{field: value})


# --- the coin ---------------------------------------------------------------------------------------------------------

LENGTH, BATCH = 12, 5
SHAPES = {"per_sequence": (LENGTH,), "per_step": (LENGTH,), "per_sample": (BATCH, LENGTH)}


def toss(ratio: float, coin: str, times: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.stack([draw_forced(ratio, coin, LENGTH, BATCH, generator) for _ in range(times)])


@pytest.mark.parametrize("ratio", [0, 1])
@pytest.mark.parametrize("coin", SHAPES)
def test_coin_of_certain_outcome_is_exact(coin: str, ratio: float) -> None:
    forced = toss(ratio, coin, times=200)
    assert forced.dtype == torch.bool
    assert forced.shape == (200, *SHAPES[coin])
    assert (forced == bool(ratio)).all()


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("coin", SHAPES)
def test_coin_falls_as_often_as_its_ratio(coin: str, ratio: float) -> None:
    forced = toss(ratio, coin, times=2000)
    # Five standard errors, at every step and for every sample.
    margin = 5 * math.sqrt(ratio * (1 - ratio) / 2000)
    assert ((forced.float().mean(dim=0) - ratio).abs() < margin).all()


@pytest.mark.parametrize("coin", SHAPES)
def test_coin_is_tossed_once_a_sequence_or_step_or_sample(coin: str) -> None:
    forced = toss(0.5, coin, times=2000).float().flatten(1)
    together = torch.corrcoef(forced.T)
    if coin == "per_sequence":
        assert (forced == forced[:, :1]).all()
    else:
        apart = together - torch.eye(len(together))
        assert (apart.abs() < 5 / math.sqrt(2000)).all()


def test_coin_depends_on_its_generator_alone() -> None:
    before = toss(0.5, "per_sample", times=3)
    torch.rand(7)
    assert torch.equal(before, toss(0.5, "per_sample", times=3))
    assert not torch.equal(before[0], before[1])
