"""The figures of the course study: every seed thin, the mean of a cell thick."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cvae.pages.plots import COLOURS, png
from cvae.runs.run import Run
from cvae.study.course import Factorial, series

_NAMES = {"step": "sudden end", "linear": "linear decay", "cyclical": "cyclical KL", "monotonic": "monotonic KL"}
_LEAST_KL = 1e-6  # nats: less is rounding


def course_curves(part: Factorial) -> bytes:
    """A part's cells, a column for each learning rate: PSNR around the end of forcing, then PSNR and KL over the whole run."""
    near = _around(part)
    figure = Figure(figsize=(11, 9.5), layout="constrained", dpi=100)
    panels = figure.subplots(3, 2, sharey="row", squeeze=False)
    for column, lr in zip(panels.T, part.lrs, strict=True):
        for colour, level in zip(COLOURS, part.levels, strict=False):
            runs = list(part.cells[(lr, level)].values())
            _lines(column[0], runs, "val/psnr", colour, _NAMES[level], near)
            _lines(column[1], runs, "val/psnr", colour, "", (0, part.iterations))
            _lines(column[2], runs, "train/kld", colour, "", (0, part.iterations))
        column[0].set_title(f"lr {lr:g}", fontsize=10)
        column[2].set_yscale("log")
        column[2].set_xlabel("iteration")
        for axes in column:
            axes.axvline(part.forced, color="#8b949e", linewidth=0.8, linestyle=":")
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    for axes, title in zip(panels[:, 0], ("validation PSNR, dB", "validation PSNR, dB", "KL a step, nats"), strict=True):
        axes.set_ylabel(title)
    panels[2, 0].set_ylim(bottom=max(_LEAST_KL, panels[2, 0].get_ylim()[0]))
    if panels[0, 0].get_legend_handles_labels()[1]:
        panels[0, 0].legend(frameon=False, fontsize=8)
    return png(figure)


def _around(part: Factorial) -> tuple[int, int]:
    """The iterations around the end of forcing that were looked at more closely than the rest; at least a tenth of a run."""
    dense = [int(row["step"]) for run in part.runs for row in run.inside]
    near = [step for step in dense if abs(step - part.forced) <= part.iterations / 5]
    room = part.iterations // 20
    return min([*near, part.forced - room]), max([*near, part.forced + room])


def _lines(axes: Axes, runs: Sequence[Run], key: str, colour: str, name: str, span: tuple[int, int]) -> None:
    """Each run's curve within ``span``, and their mean where all of them were measured."""
    begin, end = span
    curves = [{step: value for step, value in series(run, key).items() if begin <= step <= end} for run in runs]
    for curve in curves:
        axes.plot(list(curve), list(curve.values()), color=colour, linewidth=0.7, alpha=0.5)
    common = sorted(set.intersection(*map(set, curves))) if curves else []
    means = [sum(curve[step] for curve in curves) / len(curves) for step in common]
    if common:
        axes.plot(common, means, color=colour, linewidth=2.2, label=name or None)
