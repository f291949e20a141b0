"""Curves over epochs with intervals over seeds, drawn as PNG."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cvae.charts import literal
from cvae.evaluation.intervals import mean_interval
from cvae.metrics import panels
from cvae.runs.collection import all_metrics
from cvae.runs.run import Run

# The palette of Okabe and Ito, which colour-blind readers can distinguish.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8b949e")
_LETTERS = 58  # of a legend across one panel
_DASHES = ("-", "--", ":", "-.")


def group_curves(groups: Mapping[str, Sequence[Run]]) -> bytes | None:
    """One panel for each metric: the mean of each group over its seeds with its 95 % interval; None if there are no curves."""
    every = [run for runs in groups.values() for run in runs]
    metrics = [first for first, *_ in panels(all_metrics(every)) if any(run.series(first.key) for run in every)]
    if not metrics:
        return None
    columns = min(3, len(metrics))
    lines = -(-len(metrics) // columns)
    room = _LETTERS * columns  # of the legend's lines
    beside = 2 if columns > 1 and all(len(name) <= room // 2 for name in groups) else 1
    told = {name: textwrap.fill(name, room // beside) for name in groups}
    height = 3.2 * lines + 0.3 + 0.18 * sum(text.count("\n") + 1 for text in told.values()) / beside
    figure = Figure(figsize=(4.6 * columns, height + 0.2), layout="constrained", dpi=110)
    places = list(np.atleast_1d(figure.subplots(lines, columns)).flat)
    for axes, metric in zip(places, metrics, strict=False):
        for index, (name, runs) in enumerate(groups.items()):
            dash = _DASHES[index // len(COLOURS) % len(_DASHES)]
            band(axes, _seed_curves(runs, metric.key), COLOURS[index % len(COLOURS)], told[name], dash)
        style(axes, metric.title)
    for axes in places[len(metrics) :]:
        axes.set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside lower center", ncols=beside, frameon=False, fontsize=8)
    return png(figure)


def _seed_curves(runs: Sequence[Run], key: str) -> list[dict[int, float]]:
    """One curve for each seed, the mean of its runs."""
    found: dict[int, dict[int, list[float]]] = {}
    for run in runs:
        for epoch, value in run.series(key).items():
            found.setdefault(run.seed, {}).setdefault(epoch, []).append(value)
    return [{epoch: sum(values) / len(values) for epoch, values in curve.items()} for curve in found.values()]


def band(axes: Axes, series: Sequence[Mapping[int, float]], colour: str, name: str, dash: str = "-") -> None:
    """Draw the mean of some curves and its 95 % interval, at every epoch that one of them has."""
    epochs = sorted({epoch for each in series for epoch in each})
    if not epochs:
        return
    values = [[each[epoch] for each in series if epoch in each] for epoch in epochs]
    mean, low, high = np.array([mean_interval(each) for each in values]).T
    axes.plot(epochs, mean, dash, color=colour, linewidth=1.8, label=literal(name) or None)
    axes.fill_between(epochs, low, high, color=colour, alpha=0.15, linewidth=0)


def style(axes: Axes, title: str) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if title:
        axes.set(xlabel="epoch", ylabel=literal(title))


def png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
