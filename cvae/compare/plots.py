"""Curves as PNG, for papers and pull requests."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cvae.compare.course import Reading
from cvae.compare.run import Run
from cvae.evaluation.intervals import mean_interval

# Okabe and Ito's palette: told apart by colour-blind readers.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8b949e")
_DASHES = ("-", "--", ":", "-.")
_METRICS = {
    "val/psnr": "validation PSNR, dB",
    "train/mse": "MSE a step",
    "train/kld": "KL a step, nats",
    "kl_weight": "KL weight",
    "tf_ratio": "teacher forcing",
    "lr": "learning rate",
}


def group_curves(groups: Mapping[str, Sequence[Run]]) -> bytes | None:
    """A panel a metric: each group's mean over its seeds, with the 95 % interval where it has several; None without any."""
    keys = [key for key in _METRICS if any(run.series(key) for runs in groups.values() for run in runs)]
    if not keys:
        return None
    columns = min(3, len(keys))
    lines = -(-len(keys) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.2 * lines + 0.3 + 0.22 * -(-len(groups) // 2)), layout="constrained", dpi=110)
    panels = np.atleast_1d(figure.subplots(lines, columns)).flat
    for axes, key in zip(panels, keys, strict=False):
        for index, (name, runs) in enumerate(groups.items()):
            _band(
                axes,
                _seed_curves(runs, key),
                _COLOURS[index % len(_COLOURS)],
                name,
                _DASHES[index // len(_COLOURS) % len(_DASHES)],
            )
        _dress(axes, _METRICS.get(key, key))
    for axes in list(panels)[len(keys) :]:
        axes.set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return _png(figure)


def course_curves(reading: Reading) -> bytes:
    """The report's four runs side by side: PSNR, MSE, KL and schedules; a thin line a seed, the mean, its 95 % interval."""
    low, high = reading.lrs
    columns = [
        (low, "cyclical", "step"),
        (high, "cyclical", "step"),
        (high, "monotonic", "step"),
        (high, "monotonic", "linear"),
    ]
    figure = Figure(figsize=(13, 9.5), layout="constrained", dpi=100)
    panels = figure.subplots(4, 4, sharex=True, sharey="row")
    for column, cell in zip(panels.T, columns, strict=True):
        runs = list(reading.cells[cell].values())
        column[0].set_title(f"lr {cell[0]:g}, {cell[1]} KL, {'sudden' if cell[2] == 'step' else 'linear'} end", fontsize=10)
        for axes, key, colour in zip(column, ("val/psnr", "train/mse", "train/kld"), _COLOURS, strict=False):
            for run in runs:
                axes.plot(list(run.series(key)), list(run.series(key).values()), color=colour, linewidth=0.6, alpha=0.45)
            _band(axes, [run.series(key) for run in runs], colour, "")
        _schedules(column[3], runs[:1], reading.beta or 1.0)
        for axes in column:
            axes.axvline(reading.forced + 0.5, color="#8b949e", linewidth=0.8, linestyle=":")
            _dress(axes, "")
        column[3].set_xlabel("epoch")
    for axes, title in zip(panels[:, 0], ("validation PSNR, dB", "MSE a step", "KL a step, nats", "schedules"), strict=True):
        axes.set_ylabel(title)
    panels[3, 0].legend(frameon=False, fontsize=8)
    panels[2, 0].set_yscale("log")
    for line, key in zip(panels, ("val/psnr", "train/mse", "train/kld"), strict=False):
        _fit(line[0], [value for cell in columns for run in reading.cells[cell].values() for value in run.series(key).values()])
    return _png(figure)


def _schedules(axes: Axes, runs: Sequence[Run], beta: float) -> None:
    for run in runs:
        weight, ratio = run.series("kl_weight"), run.series("tf_ratio")
        axes.plot(list(weight), [value / beta for value in weight.values()], color=_COLOURS[2], label="KL weight / beta")
        axes.plot(list(ratio), list(ratio.values()), color=_COLOURS[4], label="teacher forcing")
    axes.set_ylim(-0.05, 1.05)


def _fit(axes: Axes, values: Sequence[float]) -> None:
    """Show what the runs did; the intervals of few runs may reach far beyond."""
    if axes.get_yscale() == "log":
        values = [value for value in values if value > 0]
        if values:
            axes.set_ylim(min(values) / 1.5, max(values) * 1.5)
    elif values:
        margin = 0.06 * (max(values) - min(values)) or 1.0
        axes.set_ylim(min(values) - margin, max(values) + margin)


def _seed_curves(runs: Sequence[Run], key: str) -> list[dict[int, float]]:
    """A curve a seed, the mean of its runs."""
    found: dict[int, dict[int, list[float]]] = {}
    for run in runs:
        for epoch, value in run.series(key).items():
            found.setdefault(run.seed, {}).setdefault(epoch, []).append(value)
    return [{epoch: sum(values) / len(values) for epoch, values in curve.items()} for curve in found.values()]


def _band(axes: Axes, series: Sequence[Mapping[int, float]], colour: str, name: str, dash: str = "-") -> None:
    """A mean over seeds and its interval, at the epochs that any of them has."""
    epochs = sorted({epoch for each in series for epoch in each})
    if not epochs:
        return
    values = [[each[epoch] for each in series if epoch in each] for epoch in epochs]
    mean, low, high = np.array([mean_interval(each) for each in values]).T
    axes.plot(epochs, mean, dash, color=colour, linewidth=1.8, label=name.replace("$", r"\$") or None)  # no mathematics
    axes.fill_between(epochs, low, high, color=colour, alpha=0.15, linewidth=0)


def _dress(axes: Axes, title: str) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if title:
        axes.set(xlabel="epoch", ylabel=title)


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
