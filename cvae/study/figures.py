"""The figure of the course report, with all seeds."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cvae.pages.plots import COLOURS, band, png, style
from cvae.runs.run import Run
from cvae.study.course import Factorial


def course_curves(factorial: Factorial) -> bytes:
    """The report's four settings side by side: PSNR, MSE, KL and schedules; each seed, their mean and its 95 % interval."""
    low, high = factorial.lrs
    columns = [
        (low, "cyclical", "step"),
        (high, "cyclical", "step"),
        (high, "monotonic", "step"),
        (high, "monotonic", "linear"),
    ]
    figure = Figure(figsize=(13, 9.5), layout="constrained", dpi=100)
    panels = figure.subplots(4, 4, sharex=True, sharey="row")
    for column, cell in zip(panels.T, columns, strict=True):
        runs = list(factorial.cells[cell].values())
        column[0].set_title(f"lr {cell[0]:g}, {cell[1]} KL, {'sudden' if cell[2] == 'step' else 'linear'} end", fontsize=10)
        for axes, key, colour in zip(column, ("val/psnr", "train/mse", "train/kld"), COLOURS, strict=False):
            for run in runs:
                axes.plot(list(run.series(key)), list(run.series(key).values()), color=colour, linewidth=0.6, alpha=0.45)
            band(axes, [run.series(key) for run in runs], colour, "")
        _schedules(column[3], runs[:1], factorial.beta or 1.0)
        for axes in column:
            axes.axvline(factorial.forced + 0.5, color="#8b949e", linewidth=0.8, linestyle=":")
            style(axes, "")
        column[3].set_xlabel("epoch")
    for axes, title in zip(panels[:, 0], ("validation PSNR, dB", "MSE a step", "KL a step, nats", "schedules"), strict=True):
        axes.set_ylabel(title)
    panels[3, 0].legend(frameon=False, fontsize=8)
    panels[2, 0].set_yscale("log")
    for line, key in zip(panels, ("val/psnr", "train/mse", "train/kld"), strict=False):
        _fit(
            line[0], [value for cell in columns for run in factorial.cells[cell].values() for value in run.series(key).values()]
        )
    return png(figure)


def _schedules(axes: Axes, runs: Sequence[Run], beta: float) -> None:
    for run in runs:
        weight, ratio = run.series("kl_weight"), run.series("tf_ratio")
        axes.plot(list(weight), [value / beta for value in weight.values()], color=COLOURS[2], label="KL weight / beta")
        axes.plot(list(ratio), list(ratio.values()), color=COLOURS[4], label="teacher forcing")
    axes.set_ylim(-0.05, 1.05)


def _fit(axes: Axes, values: Sequence[float]) -> None:
    """Set the limits by the curves: the intervals of few runs may reach much further."""
    if axes.get_yscale() == "log":
        values = [value for value in values if value > 0]
        if values:
            axes.set_ylim(min(values) / 1.5, max(values) * 1.5)
    elif values:
        margin = 0.06 * (max(values) - min(values)) or 1.0
        axes.set_ylim(min(values) - margin, max(values) + margin)
