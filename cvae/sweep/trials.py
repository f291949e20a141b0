"""What is kept with a trial and what it is worth: its attributes, which trials count, and which are best."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

# Attributes of a trial, the system's:
CLAIM, STOP, ATTEMPTS = "cvae:claim", "cvae:stop", "cvae:attempts"
SEEDS = "cvae:seeds"  # the values of its finished jobs (seeds, cases), by index
RECORDED = "cvae:recorded"  # and the facts that each of them recorded
PLACE = "cvae:sweep_dir"  # the folder that holds its jobs' folders
FIRST, BEFORE = "failed_trial", "retry_history"  # of one that retries others: the first and all of them, as Optuna names them
# and the user's:
FOLDER, FAILURE, FACTS = "folder", "failure", "facts"
DATA = "data"  # the fingerprint of the data that it ran on
OF = "of"  # the number of the trial that this one repeats

CONSTRAINTS = "cvae:constraints"  # of a study, the user's: what its last start asked of recorded facts
STUDY_DATA = "cvae:data"  # of a study, the user's: the fingerprint of the data that all its trials ran on

FIXED = "fixed_params"  # Optuna's: of a trial that was enqueued
_RECORD = 10_000_000  # bytes; a run.json has some thousand
GRID = ("grid_id", "search_space")  # Optuna's: the point of a grid


@dataclass(frozen=True)
class Limits:
    """What a recorded fact may be."""

    least: float
    most: float

    def excess(self, fact: float) -> float:
        """How far a fact is out of its limits; zero or less if it keeps them. NaN keeps none."""
        return 1e300 if math.isnan(fact) else max(self.least - fact, fact - self.most)


def retried(trials: Sequence[FrozenTrial]) -> dict[int, int]:
    """The failed trials that were queued anew, each with the number of the trial that retries it.

    Nothing can be written to a trial that is finished, so the newer one tells of it.
    """
    return {before[-1]: trial.number for trial in trials if (before := trial.system_attrs.get(BEFORE))}


def counted(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that count: not those that were queued anew."""
    gone = retried(trials)
    return [trial for trial in trials if trial.number not in gone]


def again(trial: FrozenTrial) -> FrozenTrial:
    """A trial to queue in place of a failed one: with its parameters, in its folder, with what its finished jobs told."""
    known = {key: trial.system_attrs[key] for key in (PLACE, SEEDS, RECORDED, *GRID) if key in trial.system_attrs}
    fixed = {**trial.system_attrs.get(FIXED, {}), **trial.params}
    own: dict[str, Any] = {key: value for key, value in trial.user_attrs.items() if key not in (FAILURE, FACTS, DATA)}
    return create_trial(
        state=TrialState.WAITING,
        user_attrs=own,
        system_attrs={
            **known,
            **({FIXED: fixed} if fixed else {}),
            FIRST: trial.system_attrs.get(FIRST, trial.number),
            BEFORE: [*trial.system_attrs.get(BEFORE, []), trial.number],
        },
        # A job that goes on from a checkpoint does not report again what was before it.
        intermediate_values=dict(trial.intermediate_values),
    )


def grid_attributes(study: optuna.Study, params: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a trial with given parameters count as a point of the study's grid, of several that fit as a fresh one.

    Nothing where the sampler is another, or no point fits.
    """
    sampler = study.sampler
    if not isinstance(sampler, optuna.samplers.GridSampler):
        return {}
    points = [dict(zip(sampler._param_names, values, strict=True)) for values in sampler._all_grids]
    fitting = [number for number, point in enumerate(points) if params.items() <= point.items()]
    taken = {trial.system_attrs.get(GRID[0]) for trial in study.get_trials(deepcopy=False)}
    for number in sorted(fitting, key=taken.__contains__)[:1]:
        return dict(zip(GRID, (number, sampler._search_space), strict=True))
    return {}


def tied(trials: Sequence[FrozenTrial], but: int | None = None) -> bool:
    """Whether some trial, ``but`` one, has a result or a state on the data of its study. A failed one has neither."""
    ends = (TrialState.COMPLETE, TrialState.PRUNED)
    others = (trial for trial in trials if trial.number != but and trial.state != TrialState.FAIL)
    return any(trial.state in ends or DATA in trial.user_attrs for trial in others)


def recorded_data(study: str, trials: Iterable[FrozenTrial]) -> str | None:
    """The fingerprint of the data of a study of an earlier version, which did not keep it: a trial's run recorded it."""
    for trial in trials:
        folder = Path(str(trial.user_attrs.get(FOLDER) or ""))
        for path in (folder / "run.json", Path(*folder.parts[-3:]) / "run.json"):  # there, or below here if it was moved
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
                record = json.loads(path.read_text()) if path.is_file() and path.stat().st_size < _RECORD else {}
                if record["group"] == study:
                    return str(record["dataset"])
    return None


def hold_to(study: optuna.Study, constraints: Mapping[str, Limits]) -> None:
    """Keep with a study what its present start asks of recorded facts: its finished trials are held to it too."""
    asked = {key: [str(limits.least), str(limits.most)] for key, limits in constraints.items()}
    if study.user_attrs.get(CONSTRAINTS) != asked:
        study.set_user_attr(CONSTRAINTS, asked)


def limits_of(study: optuna.Study) -> dict[str, Limits] | None:
    """The constraints of a study's last start; None of a study of before they were kept."""
    kept = study.user_attrs.get(CONSTRAINTS)
    return None if kept is None else {key: Limits(float(least), float(most)) for key, (least, most) in kept.items()}


def together(jobs: Mapping[str, Mapping[str, float]], constraints: Mapping[str, Limits]) -> dict[str, float]:
    """The facts of a trial by those of its jobs: the last job's, and of those that are constrained the worst."""
    merged = {key: value for facts in jobs.values() for key, value in facts.items()}
    for key in constraints.keys() & merged.keys():
        merged[key] = max((facts[key] for facts in jobs.values() if key in facts), key=constraints[key].excess)
    return merged


def _keeps(trial: FrozenTrial, constraints: Mapping[str, Limits] | None) -> bool:
    """Whether a trial keeps constraints; where none are known those of its own time."""
    if constraints is None:
        return all(value <= 0 for value in trial.constraints.values())
    jobs = trial.system_attrs.get(RECORDED) or {"0": trial.user_attrs.get(FACTS) or {}}
    facts = together(jobs, constraints)
    return all(key in facts and limits.excess(facts[key]) <= 0 for key, limits in constraints.items())


def feasible(study: optuna.Study) -> list[FrozenTrial]:
    """The complete trials that keep all constraints."""
    complete, limits = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)), limits_of(study)
    return [trial for trial in complete if _keeps(trial, limits)]


def ranked(study: optuna.Study) -> list[FrozenTrial]:
    """The feasible trials, best first; none of a study with several objectives."""
    if len(study.directions) > 1:
        return []
    return sorted(feasible(study), key=lambda trial: trial.values[0], reverse=study.direction == StudyDirection.MAXIMIZE)


def front(study: optuna.Study) -> list[FrozenTrial]:
    """The feasible trials that no other one beats in an objective without losing in another (the Pareto front)."""
    signs = [-1 if direction == StudyDirection.MAXIMIZE else 1 for direction in study.directions]
    losses = [(trial, [sign * value for sign, value in zip(signs, trial.values, strict=True)]) for trial in feasible(study)]

    def beaten(own: list[float]) -> bool:
        return any(other != own and all(a <= b for a, b in zip(other, own, strict=True)) for _, other in losses)

    return [trial for trial, own in losses if not beaten(own)]


def failure(trial: FrozenTrial) -> str:
    """The last line of the reason why a trial failed; empty if there is none."""
    return "".join(str(trial.user_attrs.get(FAILURE) or "").strip().splitlines()[-1:])
