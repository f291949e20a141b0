"""What a report shows of a sweep: the runs of its trials, and its figures as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from cvae.charts import literal
from cvae.pages.plots import COLOURS, png
from cvae.runs.run import Run
from cvae.sweep.records import SweepRecord

_TEXT = 40  # letters of a name


def trial_runs(sweep: SweepRecord, runs: Sequence[Run]) -> dict[int, int]:
    """The run of each trial, as its place in ``runs``. A trial that was retried has its folder's run for the newest one."""
    return {sweep.newest(run.trial or 0): index for index, run in enumerate(runs) if run.study == sweep.key}


def figures_of(sweep: SweepRecord, runs: Sequence[Run]) -> list[Any]:
    """Its figures; a damaged run is not drawn."""
    found = [(trial, runs[index]) for trial, index in trial_runs(sweep, runs).items()]
    return sweep.figures({trial: run.series(run.objective) for trial, run in found if run.state != "damaged"})


def sweep_png(sweep: SweepRecord, runs: Sequence[Run]) -> bytes | None:
    """Its figures below each other as a PNG, but for those of parallel coordinates; None if there are none.

    They are Plotly's, of which only lines, points and bars are drawn here: Plotly's own pictures need a browser.
    """
    shown = [each for each in figures_of(sweep, runs) if "ticktext" not in each.figure["layout"].get("xaxis", {})]
    if not shown:
        return None
    figure = Figure(figsize=(9.5, 3.1 * len(shown)), layout="constrained", dpi=110)
    for part, each in zip(figure.subfigures(len(shown), 1, squeeze=False).flatten(), shown, strict=True):
        layout, data = each.figure["layout"], each.figure["data"]
        axes = sorted({trace.get("xaxis", "x") for trace in data}, key=lambda name: (len(name), name))
        places = part.subplots(1, len(axes), squeeze=False, sharey="row").flatten()
        part.suptitle(literal(each.title), fontsize=10)
        for name, place in zip(axes, places, strict=True):
            _draw(place, [trace for trace in data if trace.get("xaxis", "x") == name], layout, name[1:])
    return png(figure)


def _draw(axes: Axes, traces: Sequence[Mapping[str, Any]], layout: Mapping[str, Any], number: str) -> None:
    for index, trace in enumerate(each for each in traces if each.get("x")):
        colour = trace.get("line", {}).get("color") or COLOURS[index % len(COLOURS)]
        label = _text(trace.get("name")) if trace.get("showlegend", True) and len(traces) > 1 else None
        x, y = ([_text(value) if isinstance(value, str) else value for value in trace[key]] for key in ("x", "y"))
        if trace.get("type") == "bar":
            axes.barh(y, x, color=colour)
        elif trace.get("mode") == "markers":
            axes.plot(x, y, "o", color=colour, markersize=4, label=label)
        else:
            pruned = trace.get("mode") == "lines+markers"
            axes.plot(x, y, "-o" if pruned else "-", color=colour, linewidth=1.2, markevery=[-1], markersize=4, label=label)
    for way in "xy":
        own = layout.get(f"{way}axis{number}", {})
        getattr(axes, f"set_{way}label")(_text(own.get("title", {}).get("text") or ""))
        if own.get("type") == "log":
            getattr(axes, f"set_{way}scale")("log")
        along = [value for trace in traces for value in trace.get(way) or []]
        _ticks(getattr(axes, f"{way}axis"), own.get("type") == "log", along)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, framealpha=0.8, edgecolor="none")


def _ticks(axis: Axis, logarithmic: bool, values: Sequence[object]) -> None:
    """Few numbers on a logarithmic axis, and no fractions of an epoch or a trial."""
    if logarithmic:
        numbers = [value for value in values if isinstance(value, (int, float)) and value > 0] or [1]
        wide = max(numbers) > 100 * min(numbers)
        axis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 3.0), numticks=5))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    elif values and all(isinstance(value, int) for value in values):
        axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _text(value: object) -> str:
    text = str(value)
    return literal(text if len(text) <= _TEXT else f"{text[: _TEXT - 1]}…")
