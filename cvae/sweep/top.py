"""The best trials of a sweep once more, on seeds that the sweep has not used: the best of many is partly luck."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

import optuna
from optuna.distributions import IntDistribution
from optuna.trial import FrozenTrial, TrialState

from cvae.console import say
from cvae.evaluation.intervals import mean_interval
from cvae.sweep.plan import Plan, open_study
from cvae.sweep.space import Space
from cvae.sweep.study import SweepStudy
from cvae.sweep.trials import FACTS, OF, PLACE, RECORDED, Limits, ranked, together


@dataclass(frozen=True)
class Top:
    """The values that each of the best trials scored on fresh seeds, the winner first.

    A trial that keeps the constraints on the mean over its seeds comes before one that does not, and one with a value for each
    seed before one that failed or diverged on some.
    """

    seeds: list[int]
    values: dict[int, list[float | None]]  # by trial, a value for each seed
    facts: dict[int, dict[str, float]] = field(default_factory=dict)  # means of what only these runs recorded; none is ranked
    broken: dict[int, dict[str, float]] = field(default_factory=dict)  # means of the constrained facts that are out of limits

    @property
    def winner(self) -> int | None:
        """The first trial; None if that breaks a constraint, or has no value."""
        first = next(iter(self.values), None)
        return None if first is None or first in self.broken or not any_of(self.values[first]) else first

    def lines(self, objective: str) -> list[str]:
        """A line a trial, the winner first."""
        ranked = []
        for number, values in self.values.items():
            name = "winner" if number == self.winner else ""
            ranked.append(f"{name:10} trial {number}: {on_fresh_seeds(objective, values)}")
            if number in self.broken:
                ranked[-1] += f"; breaks {_said(self.broken[number])} on the mean"
        return ranked + [
            f"{'recorded':10} trial {number}: {_said(self.facts[number])}" for number in self.values if self.facts.get(number)
        ]

    def record(self) -> dict[str, Any]:
        """What sweep.json holds of it."""
        return {"seeds": self.seeds, "values": self.values, "recorded": self.facts, "broken": self.broken}


def any_of(values: Sequence[float | None]) -> list[float]:
    """Those that there are."""
    return [value for value in values if value is not None]


def _said(facts: Mapping[str, float]) -> str:
    return ", ".join(f"{key} {value:.4g}" for key, value in facts.items())


def on_fresh_seeds(objective: str, values: Sequence[float | None]) -> str:
    """The mean of an objective's values with its interval, in words."""
    there = any_of(values)
    of = f"{len(values)}" if len(there) == len(values) else f"{len(there)} of {len(values)}"
    if not there:
        return f"{objective} has no value on {len(values)} fresh seeds"
    middle, low, high = mean_interval(there)
    interval = f" [{low:.4g}, {high:.4g}]" if len(there) > 1 else ""
    return f"{objective} {middle:.4g}{interval} on {of} fresh seeds"


def kept_top(record: Mapping[str, Any]) -> Top | None:
    """The ``Top`` that a sweep.json holds; None if there is none that can be read."""
    with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError, ArithmeticError):
        top = record["top_k"]
        values = {int(number): [None if each is None else float(each) for each in row] for number, row in top["values"].items()}
        facts, broken = (
            {int(number): {str(key): float(each) for key, each in row.items()} for number, row in (top.get(name) or {}).items()}
            for name in ("recorded", "broken")
        )
        return Top([int(seed) for seed in top["seeds"]], values, facts, broken)
    return None


def run_top(plan: Plan, study: SweepStudy, complete: Callable[[Plan, SweepStudy], None]) -> Top:
    """Run the best trials on fresh seeds.

    They are trials of a second study beside the sweep's own, so that they are claimed, retried and resumed as all trials are.

    Args:
        complete: runs the missing trials of a study.
    """
    best = ranked(study.study)[: plan.top_k]
    first = plan.seed + plan.seeds_per_trial
    seeds = list(range(first, first + plan.top_k_seeds))
    pairs = [(trial, seed) for trial in best for seed in seeds]
    if not pairs:
        return Top(seeds, {})
    again = _plan(plan, pairs)
    repeats = open_study(again)
    points = [{**trial.params, "seed": seed} for trial, seed in pairs]
    places = [trial.system_attrs.get(PLACE) for trial, _ in pairs]
    repeats.enqueue([{} for _ in points], places, values=points, of=[trial.number for trial, _ in pairs])
    say(f"the best {len(best)} once more, on {len(seeds)} fresh seeds each")
    complete(again, repeats)
    values: dict[int, dict[int, float]] = {trial.number: {} for trial in best}
    recorded: dict[int, list[dict[str, float]]] = {trial.number: [] for trial in best}
    for trial in repeats.finished():
        if trial.state == TrialState.COMPLETE and (of := trial.user_attrs[OF]) in values:
            values[of][int(trial.user_attrs["values"]["seed"])] = trial.values[0]
            jobs = trial.system_attrs.get(RECORDED) or {"0": trial.user_attrs.get(FACTS) or {}}
            recorded[of].append(together(jobs, plan.constraints))
    known = {trial.number: trial.user_attrs.get(FACTS) or {} for trial in best}
    facts = {number: _means(each, known[number]) for number, each in recorded.items()}
    broken = {number: out for number, each in recorded.items() if (out := _broken(_means(each, {}), plan.constraints))}
    sign = -1 if plan.directions == ["maximize"] else 1

    def rank(number: int) -> tuple[bool, int, float]:
        there = values[number].values()
        return number in broken, -len(there), sign * mean(there) if there else 0.0

    ordered = {number: [values[number].get(seed) for seed in seeds] for number in sorted(values, key=rank)}
    return Top(seeds, ordered, facts, broken)


def _broken(means: Mapping[str, float], constraints: Mapping[str, Limits]) -> dict[str, float]:
    """The means that are out of their limits; of a fact that a run did not record nothing can be said."""
    return {key: means[key] for key, limits in constraints.items() if key in means and limits.excess(means[key]) > 0}


def _means(recorded: Sequence[Mapping[str, float]], known: Mapping[str, float]) -> dict[str, float]:
    """The means over runs of the facts that all of them recorded, and the trial that they repeat did not."""
    first = recorded[0] if recorded else {}
    keys = [key for key in first if key not in known and all(key in each for each in recorded)]
    return {key: mean(each[key] for each in recorded) for key in keys}


def _plan(plan: Plan, pairs: list[tuple[FrozenTrial, int]]) -> Plan:
    """A sweep over given trials and seeds."""
    digest = hashlib.sha256(repr([(trial.number, seed) for trial, seed in pairs]).encode()).hexdigest()[:8]
    distributions = {key: each for trial, _ in pairs for key, each in trial.distributions.items()}
    distributions["seed"] = IntDistribution(pairs[0][1], pairs[-1][1])
    identity: dict[str, Any] = {"of": {key: value for key, value in plan.identity.items() if key != "data"}}
    if plan.data is not None:
        identity["data"] = plan.data
    sampler = optuna.samplers.RandomSampler()
    return dataclasses.replace(
        plan,
        space=Space(distributions, {key: word for key, word in plan.space.fixed.items() if key != "seed"}),
        identity=identity,
        study_name=f"{plan.study_name}-top-{digest}",
        sampler=sampler,
        sampler_of=lambda start: sampler,
        pruner=optuna.pruners.NopPruner(),
        extend=None,
        constraints={},
        enqueue=[],
        seeds_per_trial=1,
        n_trials=len(pairs),
    )
