"""Charts of runs: schedules, and curves over epochs. Drawn without a display, and without state that runs could share."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cvae.run_schedules import Plan

_LINE = ("#1f6feb", "#db6d28", "#8250df")
_KL, _FORCING = "#8250df", "#b35900"  # of the two schedules
_MARK, _BEST = "#57606a", "#2ea043"
_STYLES = [(colour, style) for style in ("-", "--") for colour in (*_LINE[:2], _BEST, _LINE[2], _MARK)]
_FINE = 2000  # points of a schedule, beside the ends of its epochs
_WEIGHTS = ("kl_weight", "tf_ratio")  # columns of metrics.jsonl that a plan draws better
_LATE = 0.985  # of a run: what ends later ends with it
_COLUMNS = 4  # of schedules side by side


@dataclass(frozen=True)
class Chosen:
    """What the curves of a run are drawn with besides its rows."""

    plan: Plan
    objective: Callable[[dict[str, Any]], float | None]  # a row's place: the best row has the least
    title: str


def schedules(plans: Sequence[tuple[str, Plan]], path: Path) -> None:
    """Draw the KL weight and the teacher-forcing ratio over a run's epochs, a panel each title and plan, side by side."""
    columns = min(_COLUMNS, len(plans))
    lines = -(-len(plans) // columns)
    figure = Figure(figsize=(max(6.4, 4.2 * columns), 3.6 * lines), layout="constrained", dpi=110)
    places = figure.subplots(lines, columns, squeeze=False).flatten()
    most = max(_top(plan.kl_weight, plan) for _, plan in plans), max(_top(plan.tf_ratio, plan) for _, plan in plans)
    for axes, (title, plan) in zip(places, plans, strict=False):
        _both(axes, plan, most)
        _mark_end(axes, plan)
        axes.set_title(literal("\n".join(textwrap.fill(line, 48) for line in title.splitlines())), fontsize=9)
    for axes in places[len(plans) :]:
        axes.remove()
    _legends(figure, places[: len(plans)])
    figure.savefig(path)


def curves(
    rows: Sequence[dict[str, Any]],
    panels: Sequence[Sequence[tuple[str, str]]],
    path: Path,
    chosen: Chosen,
    inside: Sequence[dict[str, Any]] = (),
) -> None:
    """Draw a run's epochs.

    Args:
        rows: of metrics.jsonl.
        panels: each the curves that share it, as key and title; the first one's title is the axis's, and the others are dashed.
            Those of the two schedules become one panel, of the schedules' functions.
        path: of the PNG.
        chosen: the run's schedules, title, and what ranks its rows.
        inside: of validations.jsonl, which lie within epochs and join the same lines.
    """
    drawn = [panel for panel in panels if any(row.get(panel[0][0]) is not None for row in rows)]
    measured = [panel for panel in drawn or panels if panel[0][0] not in _WEIGHTS]
    columns = min(3, len(measured) + 1)
    lines = -(-(len(measured) + 1) // columns)
    figure = Figure(figsize=(4.8 * columns, 3.3 * lines + 0.5), layout="constrained", dpi=110)
    figure.suptitle(literal(textwrap.fill(chosen.title, 45 * columns)), fontsize=10)
    places = figure.subplots(lines, columns, squeeze=False).flatten()
    best = min(rows, key=lambda row: _rank(chosen.objective(row)), default=None)
    for axes, panel in zip(places, measured, strict=False):
        _plot(axes, sorted([*rows, *inside], key=lambda row: float(row["epoch"])), panel)
    plan = chosen.plan
    _both(places[len(measured)], plan, (_top(plan.kl_weight, plan), _top(plan.tf_ratio, plan)), rows)
    for axes in places[: len(measured) + 1]:
        axes.set_xlim(0, max(plan.epochs, rows[-1]["epoch"] if rows else 0) * 1.01)
        _mark_end(axes, plan)
        if best is not None and chosen.objective(best) is not None:
            axes.axvline(best["epoch"], color=_BEST, linewidth=3.5, alpha=0.4, label=f"best epoch, {best['epoch']}")
    for axes in places[len(measured) + 1 :]:
        axes.remove()
    _legends(figure, places[: len(measured) + 1])
    figure.savefig(path)


def _rank(value: float | None) -> float:
    return float("inf") if value is None or value != value else value


def _plot(axes: Axes, rows: Sequence[dict[str, Any]], panel: Sequence[tuple[str, str]]) -> None:
    for index, (key, title) in enumerate(panel):
        points = [(row["epoch"], row[key]) for row in rows if row.get(key) is not None]
        if points:
            marker = "." if len(points) <= 60 else None
            style, colour = "--" if index else "-", _LINE[index % len(_LINE)]
            axes.plot(*zip(*points, strict=True), style, color=colour, label=literal(title), linewidth=1.8, marker=marker)
    axes.set(xlabel="epoch", ylabel=literal(panel[0][1]))
    axes.ticklabel_format(axis="y", scilimits=(-3, 4), useOffset=False)
    _whole_epochs(axes)


def _both(axes: Axes, plan: Plan, most: tuple[float, float], rows: Sequence[dict[str, Any]] = ()) -> None:
    """Draw both schedules of a plan: the KL weight by the left axis and the forcing by the right, with one zero.

    From where a weight follows the KL, no function tells it: there the rows do, or a shade where there are none.
    """
    right = axes.twinx()
    follows = plan.follows
    recorded = [(row["epoch"], row["kl_weight"]) for row in rows if follows is not None and row["epoch"] >= follows]
    most = max(most[0], *(weight for _, weight in recorded), 0.0), most[1]
    names = ("KL weight", "teacher-forcing ratio")
    for each, function, name, colour, top in zip(
        (axes, right), (plan.kl_weight, plan.tf_ratio), names, (_KL, _FORCING), most, strict=True
    ):
        epochs, values = _sampled(function, plan)
        if each is axes and follows is not None:
            values = [value if epoch <= follows else math.nan for epoch, value in zip(epochs, values, strict=True)]
        each.plot(epochs, values, "-" if each is axes else "--", color=colour, linewidth=1.8, label=name)
        each.set_ylabel(name, color=colour)
        each.tick_params(axis="y", labelcolor=colour)
        each.set_ylim(-0.05 * top, 1.08 * top)
    if recorded:
        axes.plot(*zip(*recorded, strict=True), color=_KL, linewidth=1.8, marker=".", label="KL weight, epoch means")
    elif follows is not None:
        axes.axvspan(follows, plan.epochs, color=_KL, alpha=0.08, label="KL weight follows the KL")
    axes.ticklabel_format(axis="y", scilimits=(-3, 4))
    axes.set(xlabel="epoch", xlim=(0, plan.epochs))
    _whole_epochs(axes)


def _sampled(function: Callable[[float], float], plan: Plan) -> tuple[np.ndarray, list[float]]:
    """A schedule's function over all epochs, with the jumps where epochs end."""
    ends = np.arange(plan.epochs + 1.0) if plan.epochs <= _FINE else np.empty(0)
    epochs = np.unique(np.concatenate([np.linspace(0, plan.epochs, _FINE + 1), ends, ends[1:] - 1e-6]))
    return epochs, [function(float(epoch)) for epoch in epochs]


def _top(function: Callable[[float], float], plan: Plan) -> float:
    """The most that a schedule's function comes to; 1 for one that is 0 throughout."""
    return max(max(_sampled(function, plan)[1]), 0) or 1.0


def _mark_end(axes: Axes, plan: Plan) -> None:
    if (end := plan.forcing_ends) is not None and end < _LATE * plan.epochs:
        axes.axvline(end, color=_MARK, linewidth=1.2, linestyle=":", zorder=3, label="forcing ends")


def _whole_epochs(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)


def _legends(figure: Figure, places: Iterable[Axes]) -> None:
    """In a panel what tells its lines apart, and below all panels once what marks are the same in each."""
    marks: dict[str, Any] = {}
    for axes in places:
        found = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        own = {label: handle for label, handle in found.items() if not label.startswith(("best epoch, ", "forcing ends"))}
        marks |= {label: handle for label, handle in found.items() if label not in own}
        if len(own) > 1:
            axes.legend(own.values(), own.keys(), framealpha=0.8, edgecolor="none", fontsize=8)
    if marks:
        figure.legend(marks.values(), marks.keys(), loc="outside lower center", ncols=len(marks), frameon=False, fontsize=9)


def literal(text: str) -> str:
    """Text as Matplotlib takes it without finding a formula in it."""
    return text.replace("$", r"\$")


def frame_scores(title: str, n_past: int, lines: Mapping[str, Sequence[float]], path: Path) -> None:
    """Draw PSNR by predicted frame, a line for each way to predict; the first predicted frame is frame ``n_past``."""
    figure = Figure(figsize=(7.5, 4.2), layout="constrained", dpi=110)
    axes = figure.subplots()
    for (label, values), (colour, style) in zip(lines.items(), _STYLES, strict=False):
        frames = range(n_past, n_past + len(values))
        axes.plot(frames, values, style, color=colour, label=literal(label), linewidth=1.8, marker=".")
    axes.set(title=literal(title), xlabel="frame", ylabel="PSNR, dB")
    axes.title.set_fontsize(9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    axes.legend(framealpha=0.8, edgecolor="none", fontsize=8)
    figure.savefig(path, format="png", metadata={"Software": None})
