"""The best trials of a sweep once more, on seeds that the sweep has not used: the best of many is partly luck."""

from __future__ import annotations

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
from cvae.sweep.trials import FACTS, OF, ranked


@dataclass(frozen=True)
class Top:
    """The values that each of the best trials scored on fresh seeds, best mean first."""

    seeds: list[int]
    values: dict[int, list[float]]  # by trial
    facts: dict[int, dict[str, float]] = field(default_factory=dict)  # means of what only these runs recorded; none is ranked

    def lines(self, objective: str) -> list[str]:
        """A line a trial, the winner first."""
        lines = [f"trial {number}: {on_fresh_seeds(objective, values)}" for number, values in self.values.items()]
        ranked = [f"{'' if index else 'winner':10} {line}" for index, line in enumerate(lines)]
        return ranked + [
            f"{'recorded':10} trial {number}: {', '.join(f'{key} {value:.4g}' for key, value in self.facts[number].items())}"
            for number in self.values
            if self.facts.get(number)
        ]


def on_fresh_seeds(objective: str, values: Sequence[float]) -> str:
    """The mean of an objective's values with its interval, in words."""
    middle, low, high = mean_interval(values)
    return f"{objective} {middle:.4g} [{low:.4g}, {high:.4g}] on {len(values)} fresh seeds"


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
    repeats.enqueue([{} for _ in points], values=points, of=[trial.number for trial, _ in pairs])
    say(f"the best {len(best)} once more, on {len(seeds)} fresh seeds each")
    complete(again, repeats)
    values: dict[int, list[float]] = {}
    recorded: dict[int, list[dict[str, float]]] = {}
    for trial in repeats.finished():
        if trial.state == TrialState.COMPLETE:
            values.setdefault(trial.user_attrs[OF], []).append(trial.values[0])
            recorded.setdefault(trial.user_attrs[OF], []).append(trial.user_attrs.get(FACTS) or {})
    known = {trial.number: trial.user_attrs.get(FACTS) or {} for trial in best}
    facts = {number: _means(each, known[number]) for number, each in recorded.items()}
    order = sorted(values.items(), key=lambda each: mean(each[1]), reverse=plan.directions == ["maximize"])
    return Top(seeds, dict(order), facts)


def _means(recorded: Sequence[Mapping[str, float]], known: Mapping[str, float]) -> dict[str, float]:
    """The means over runs of the facts that all of them recorded, and the trial that they repeat did not."""
    keys = [key for key in recorded[0] if key not in known and all(key in each for each in recorded)]
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
