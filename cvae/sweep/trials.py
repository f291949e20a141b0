"""What is kept with a trial and what it is worth: its attributes, which trials count, and which are best."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

# Attributes of a trial, the system's:
CLAIM, STOP, ATTEMPTS = "cvae:claim", "cvae:stop", "cvae:attempts"
SEEDS = "cvae:seeds"  # the values of its finished jobs (seeds, cases), by index
PLACE = "cvae:sweep_dir"  # the folder that holds its jobs' folders
FIRST, BEFORE = "failed_trial", "retry_history"  # of one that retries others: the first and all of them, as Optuna names them
# and the user's:
FOLDER, FAILURE, FACTS = "folder", "failure", "facts"
DATA = "data"  # the fingerprint of the data that it ran on
OF = "of"  # the number of the trial that this one repeats

STUDY_DATA = "cvae:data"  # of a study, the user's: the fingerprint of the data that all its trials ran on

_FIXED = "fixed_params"  # Optuna's: of a trial that was enqueued
_RECORD = 10_000_000  # bytes; a run.json has some thousand
_GRID = ("grid_id", "search_space")  # Optuna's: the point of a grid


@dataclass(frozen=True)
class Limits:
    """What a recorded fact may be."""

    least: float
    most: float

    def excess(self, fact: float) -> float:
        """How far a fact is out of its limits; zero or less if it keeps them."""
        return max(self.least - fact, fact - self.most)


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
    """A trial to queue in place of a failed one: with its parameters, in its folder, with the seeds that it had finished."""
    known = {key: trial.system_attrs[key] for key in (PLACE, SEEDS, *_GRID) if key in trial.system_attrs}
    fixed = {**trial.system_attrs.get(_FIXED, {}), **trial.params}
    own: dict[str, Any] = {key: value for key, value in trial.user_attrs.items() if key not in (FAILURE, FACTS, DATA)}
    return create_trial(
        state=TrialState.WAITING,
        user_attrs=own,
        system_attrs={
            **known,
            **({_FIXED: fixed} if fixed else {}),
            FIRST: trial.system_attrs.get(FIRST, trial.number),
            BEFORE: [*trial.system_attrs.get(BEFORE, []), trial.number],
        },
        # A job that goes on from a checkpoint does not report again what was before it.
        intermediate_values=dict(trial.intermediate_values),
    )


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


def ranked(study: optuna.Study) -> list[FrozenTrial]:
    """The complete trials that keep all constraints, best first; none of a study with several objectives."""
    if len(study.directions) > 1:
        return []
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    feasible = [trial for trial in complete if all(value <= 0 for value in trial.constraints.values())]
    return sorted(feasible, key=lambda trial: trial.values[0], reverse=study.direction == StudyDirection.MAXIMIZE)


def failure(trial: FrozenTrial) -> str:
    """The last line of the reason why a trial failed; empty if there is none."""
    return "".join(str(trial.user_attrs.get(FAILURE) or "").strip().splitlines()[-1:])
