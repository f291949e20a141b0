"""Figures of a study for the report: Optuna's own, and every trial's curve."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from cvae.sweep.trials import ranked

_CURVES = 200  # drawn at most, the best trials first
_CELLS = 50_000  # parameters of all trials: figures of more take minutes
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


def drawn(
    study: optuna.Study, trials: Sequence[FrozenTrial], objective: str, curves: Mapping[int, Mapping[int, float]]
) -> list[Figure]:
    """History, parameters against values, importances, and every trial's curve.

    Args:
        trials: those of the study that count.
        curves: each trial's objective by epoch.
    """
    complete = sum(trial.state == TrialState.COMPLETE for trial in trials)
    if not complete:
        return []
    if len(study.directions) > 1:
        about = "Red trials are those that no other one beats in all objectives."
        found = [_drawn(study, "Trade-off", about, "plot_pareto_front", target_names=objective.split(", "))]
    else:
        few = sum(len(trial.params) for trial in trials) <= _CELLS
        chosen = [each for each in _FIGURES if few and (each[0] != "Importances" or complete > 3)]
        found = [_drawn(study, *each, target_name=objective) for each in chosen] + [_curves(study, trials, objective, curves)]
    return [figure for figure in found if figure]


def _drawn(study: optuna.Study, title: str, about: str, function: str, **names: Any) -> Figure | None:
    """One of Optuna's figures; None if it has nothing to draw."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            drawn = getattr(optuna.visualization, function)(study, **names)
            figure = json.loads(_QUOTED.sub(r'"\1"', drawn.to_json()))
    except Exception:  # too few or too unusual trials; the other figures are still drawn
        return None
    figure["layout"].pop("template", None)
    figure["layout"].pop("title", None)
    return Figure(title, about, figure)


def _curves(
    study: optuna.Study, trials: Sequence[FrozenTrial], objective: str, curves: Mapping[int, Mapping[int, float]]
) -> Figure | None:
    """Every trial's reports. Optuna's own plot does not tell which trials were pruned."""
    traces = []
    best = {trial.number: rank for rank, trial in enumerate(ranked(study))}
    chosen = sorted(trials, key=lambda trial: best.get(trial.number, len(trials)))[:_CURVES]
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
    layout = {"xaxis": {"title": {"text": "epoch"}}, "yaxis": {"title": {"text": objective}}}
    return Figure(
        "Curves", "Every trial's reports; a pruned one is orange and ends in a dot.", {"data": traces, "layout": layout}
    )
