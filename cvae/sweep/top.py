"""The best trials of a sweep once more, on seeds that the sweep has not used: the best of many is partly luck."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import optuna
from optuna.distributions import IntDistribution
from optuna.trial import FrozenTrial, TrialState

from cvae.console import say
from cvae.evaluation.intervals import mean_interval
from cvae.sweep.plan import Plan, open_study
from cvae.sweep.space import Space
from cvae.sweep.study import OF, SweepStudy, ranked


@dataclass(frozen=True)
class Top:
    """The values that each of the best trials scored on fresh seeds, best mean first."""

    seeds: list[int]
    values: dict[int, list[float]]  # by trial

    def lines(self, objective: str) -> list[str]:
        """A line a trial, the winner first."""
        lines: list[str] = []
        for number, values in self.values.items():
            mean, low, high = mean_interval(values)
            name = "          " if lines else "winner    "
            lines.append(f"{name} trial {number}: {objective} {mean:.4g} [{low:.4g}, {high:.4g}] on {len(values)} fresh seeds")
        return lines


def run_top(plan: Plan, study: SweepStudy, complete: Callable[[Plan, SweepStudy], None]) -> Top:
    """Run the best trials on fresh seeds.

    They are trials of a second study beside the sweep's own, so that they are claimed, retried and resumed as all trials are.

    Args:
        complete: runs the missing trials of a study.
    """
    best = ranked(study.study.get_trials(deepcopy=False), study.study.directions)[: plan.top_k]
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
    for trial in repeats.finished():
        if trial.state == TrialState.COMPLETE:
            values.setdefault(trial.user_attrs[OF], []).append(trial.values[0])
    sign = 1 if plan.directions[0] == "maximize" else -1
    order = sorted(values, key=lambda number: -sign * sum(values[number]) / len(values[number]))
    return Top(seeds, {number: values[number] for number in order})


def _plan(plan: Plan, pairs: list[tuple[FrozenTrial, int]]) -> Plan:
    """A sweep over given trials and seeds."""
    digest = hashlib.sha256(repr([(trial.number, seed) for trial, seed in pairs]).encode()).hexdigest()[:8]
    distributions = {key: each for trial, _ in pairs for key, each in trial.distributions.items()}
    distributions["seed"] = IntDistribution(pairs[0][1], pairs[-1][1])
    return dataclasses.replace(
        plan,
        space=Space(distributions, {key: word for key, word in plan.space.fixed.items() if key != "seed"}),
        identity={"of": plan.identity},
        study_name=f"{plan.study_name}-top-{digest}",
        sampler=optuna.samplers.RandomSampler(),
        pruner=None,
        extend=None,
        constraints={},
        enqueue=[],
        seeds_per_trial=1,
        n_trials=len(pairs),
    )
