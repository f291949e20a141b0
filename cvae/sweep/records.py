"""A sweep read back, finished or still running: its trials, its best settings, and figures of them."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shlex
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from cvae.sweep.board import counts, numbers, settings
from cvae.sweep.locks import owned
from cvae.sweep.storage import read_journal
from cvae.sweep.top import on_fresh_seeds
from cvae.sweep.trials import BEFORE, FAILURE, OF, counted, failure, ranked

_CURVES = 200  # drawn at most, the best trials first
_QUOTED = re.compile(r"\"'([^'\"\\]*)'\"")  # slices show a category by its repr
_UNPRUNED, _PRUNED = "#8b949e", "#d1602a"
_FIGURES = (
    ("History", "Every complete trial's value, and the best so far.", "plot_optimization_history"),
    ("Parallel coordinates", "A line a trial, from its settings to its value.", "plot_parallel_coordinate"),
    ("Slices", "Value against one setting at a time; the colour tells which trials came later.", "plot_slice"),
    (
        "Importances",
        "The part of the values' variance that each setting explains; rough under 30 trials.",
        "plot_param_importances",
    ),
)


@dataclass(frozen=True)
class Figure:
    """A Plotly figure as JSON, with a sentence on how to read it."""

    title: str
    about: str
    figure: dict[str, Any]


@dataclass(frozen=True)
class SweepRecord:
    """A study, read and never changed."""

    name: str
    storage: str
    study: optuna.Study
    objective: str
    command: str  # that completes it; empty while its first sweep is running, and if it may not be shown
    winner: tuple[int, str] | None  # the best trial on fresh seeds, by its number and in words, if there were such runs

    @property
    def key(self) -> tuple[str, str]:
        """What distinguishes it from other studies."""
        return self.name, self.storage

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials; the index of each is its number."""
        return self.study.get_trials(deepcopy=False)

    def ending(self, number: int) -> tuple[str, str]:
        """``pruned`` or ``failed`` for a trial that ended so, with the reason; ``running`` while it has an owner."""
        for trial in self.trials[number : number + 1]:
            if trial.state == TrialState.FAIL:
                return "failed", failure(trial)
            if trial.state == TrialState.PRUNED:
                return "pruned", ""
            if trial.state == TrialState.RUNNING and owned(trial):
                return "running", ""
        return "", ""

    @property
    def summary(self) -> str:
        """How many trials are complete, pruned, failed and running."""
        running = sum(trial.state == TrialState.RUNNING for trial in self.trials)
        return counts(self.trials) + (f", {running} running" if running else "")

    @property
    def best(self) -> str:
        """Its best trial in words; empty if there is none, or no single one because of several objectives.

        It is empty too for a study that runs the best trials again: its best trial has only a lucky seed.
        """
        if self.winner:
            return self.winner[1]
        if self.best_trial is None:
            return ""
        trial = self.trials[self.best_trial]
        return f"trial {trial.number}, {self.objective} {numbers(trial.values)} ({settings(trial.params)})"

    @property
    def best_trial(self) -> int | None:
        """The number of the trial that ``best`` describes."""
        if self.winner:
            return self.winner[0]
        if any(OF in trial.user_attrs for trial in self.trials):
            return None
        return next((trial.number for trial in ranked(self.study)), None)

    def figures(self, curves: Mapping[int, Mapping[int, float]]) -> list[Figure]:
        """History, parameters against values, importances, and every trial's curve.

        Args:
            curves: each trial's objective by epoch.
        """
        complete = sum(trial.state == TrialState.COMPLETE for trial in self.trials)
        if not complete:
            return []
        if len(self.study.directions) > 1:
            about = "Red trials are those that no other one beats in all objectives."
            found = [self._drawn("Trade-off", about, "plot_pareto_front", target_names=self.objective.split(", "))]
        else:
            drawn = [each for each in _FIGURES if each[0] != "Importances" or complete > 3]
            found = [self._drawn(*each, target_name=self.objective) for each in drawn] + [self._curves(curves)]
        return [figure for figure in found if figure]

    def _drawn(self, title: str, about: str, function: str, **names: Any) -> Figure | None:
        """One of Optuna's figures; None if it has nothing to draw."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                drawn = getattr(optuna.visualization, function)(self.study, **names)
                figure = json.loads(_QUOTED.sub(r'"\1"', drawn.to_json()))
        except Exception:  # too few or too unusual trials; the other figures are still drawn
            return None
        figure["layout"].pop("template", None)
        figure["layout"].pop("title", None)
        return Figure(title, about, figure)

    def _curves(self, curves: Mapping[int, Mapping[int, float]]) -> Figure | None:
        """Every trial's reports. Optuna's own plot does not tell which trials were pruned."""
        traces = []
        best = {trial.number: rank for rank, trial in enumerate(ranked(self.study))}
        chosen = sorted(counted(self.trials), key=lambda trial: best.get(trial.number, len(self.trials)))[:_CURVES]
        for trial in sorted(chosen, key=lambda trial: (trial.state == TrialState.PRUNED, trial.number)):
            points = trial.intermediate_values or curves.get(trial.number, {})
            points = {step: value for step, value in points.items() if math.isfinite(value)}
            if not points:
                continue
            pruned = trial.state == TrialState.PRUNED
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers" if pruned else "lines",
                    "x": list(points),
                    "y": list(points.values()),
                    "name": f"trial {trial.number}" + (", pruned" if pruned else ""),
                    "line": {"color": _PRUNED if pruned else _UNPRUNED, "width": 1.2},
                    "marker": {"size": [0] * (len(points) - 1) + [7], "color": _PRUNED},
                    "showlegend": False,
                }
            )
        if not traces:
            return None
        layout = {"xaxis": {"title": {"text": "epoch"}}, "yaxis": {"title": {"text": self.objective}}}
        return Figure(
            "Curves", "Every trial's reports; a pruned one is orange and ends in a dot.", {"data": traces, "layout": layout}
        )


# --- reading ----------------------------------------------------------------------------------------------------------


def read_sweep(
    name: str, storage: str, folders: Iterable[Path], objective: str, programs: Sequence[Sequence[str]]
) -> SweepRecord | None:
    """A study by its name; None if neither its journal nor a sweep.json can be read.

    While a sweep is running, its journal is ahead of sweep.json. A database is not asked: it may be far away or gone.

    Args:
        folders: where its sweep.json may be.
        objective: what its runs call their value, if there is no sweep.json that says so.
        programs: how a command may begin that is shown as the sweep's own. A sweep.json may come from a stranger, and people
            paste what is shown.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # it announces every study, also one in memory
    record = next(filter(None, (_sweep_json(folder / "sweep.json", name) for folder in folders)), {})
    study = _from_journal(name, storage) or (_from_record(record) if record else None)
    if study is None:
        return None
    objective = str(record.get("objective") or objective)
    return SweepRecord(name, storage, study, objective, _command(record, programs), _winner(record, objective))


def _command(record: Mapping[str, Any], programs: Sequence[Sequence[str]]) -> str:
    """The sweep's command with all its words quoted, so that a shell runs this one command and nothing else."""
    with contextlib.suppress(ValueError):
        words = [word for word in shlex.split(str(record.get("command") or "")) if "trust_study" not in word]
        if any(words[: len(program)] == list(program) for program in programs):
            return shlex.join(words)
    return ""


def _winner(record: Mapping[str, Any], objective: str) -> tuple[int, str] | None:
    with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError, StopIteration):
        number, values = next(iter(record["top_k"]["values"].items()))
        return int(number), f"trial {int(number)}, {on_fresh_seeds(objective, [float(value) for value in values])}"
    return None


def _sweep_json(path: Path, name: str) -> dict[str, Any] | None:
    with contextlib.suppress(OSError, ValueError, RecursionError):
        record = json.loads(path.read_text()) if path.is_file() else None
        if isinstance(record, dict) and record.get("study") == name:
            return record
    return None


def _from_journal(name: str, storage: str) -> optuna.Study | None:
    if not storage.startswith("journal://"):
        return None
    try:
        study = optuna.load_study(study_name=name, storage=read_journal(storage))
        study.get_trials(deepcopy=False)
    except Exception:  # Optuna raises errors of many kinds for a damaged journal; sweep.json may still be readable
        return None
    return study


def _from_record(record: Mapping[str, Any]) -> optuna.Study | None:
    """A study in memory with the trials of a sweep.json."""
    try:
        study = optuna.create_study(directions=record["directions"])
        entries = sorted(record["trials"], key=lambda entry: int(entry["number"]))
        keys = dict.fromkeys(key for entry in entries for key in entry["params"])
        spaces = {key: _distribution(key, entries, str(record["space"].get(key, ""))) for key in keys}
        for entry in _with_retried(entries, record):  # unfinished ones too, so that all keep their numbers
            state = TrialState[entry["state"].upper()]
            trial = optuna.trial.create_trial(
                state=state if state.is_finished() else TrialState.WAITING,
                values=entry["values"] if entry["state"] == "complete" else None,
                params=entry["params"],
                distributions={key: spaces[key] for key in entry["params"]},
                user_attrs={FAILURE: entry["failure"]} if entry.get("failure") else {},
                system_attrs={BEFORE: [entry["retries"]]} if "retries" in entry else {},
            )
            study.add_trial(trial)
    except Exception:  # a damaged sweep.json leads Optuna to errors of many kinds
        return None
    return study


def _with_retried(entries: Sequence[dict[str, Any]], record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All trials of a sweep.json by their numbers, with those that were queued anew, which it lists by themselves."""
    again = {int(each["number"]): int(each["retried_by"]) for each in record.get("retried", [])}
    retries = {new: {"retries": old} for old, new in again.items()}
    gone: list[dict[str, Any]] = [{"number": number, "state": "fail", "params": {}, "values": None} for number in again]
    marked = ({**entry, **retries.get(int(entry["number"]), {})} for entry in [*entries, *gone])
    return sorted(marked, key=lambda entry: int(entry["number"]))


def _distribution(key: str, entries: Sequence[Mapping[str, Any]], space: str) -> BaseDistribution:
    values = [entry["params"][key] for entry in entries if key in entry["params"]]
    if space.startswith("choice(") or not all(isinstance(value, (int, float)) for value in values):
        return CategoricalDistribution(list(dict.fromkeys(values)))
    return FloatDistribution(min(values), max(values), log=" log" in space and min(values) > 0)
