"""A run in the terminal: a bar over its iterations and a line an epoch."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import numpy as np

from cvae.console import console, say
from cvae.metrics import Metric
from cvae.model.objective import Losses

_REFRESH = 0.5  # seconds between reads of a loss by the live bar, each of which waits for the device
_SLOWER = 1.0  # what a free-running iteration takes more than a forced one, before both were seen: docs/results.md
_TRUSTED = 5.0  # how much that counts against what is measured, in iterations of both kinds
_POINTS = 2000  # of the schedule of forcing that are looked at

Advance = Callable[[Losses, int], None]
"""Called once an iteration with its losses and its number of frames."""
Work = Callable[[float], tuple[float, float]]


class TimeLeft:
    """The seconds that a run still takes: an iteration takes longer the longer its windows, and the more steps run free.

    A line is fitted to the seconds a whole window's iteration over its share of free steps; both are told beforehand.
    Validations count with the iterations before them.

    Args:
        iterations: of the run.
        done: how many of them were done before now.
        work: by progress in [0, 1], what an iteration has of a whole window's steps, and of its free-running ones.
    """

    def __init__(self, iterations: int, done: int, work: Work) -> None:
        at = np.linspace(0, iterations, min(iterations, _POINTS) + 1)
        shares_T2 = np.array([work(each / max(1, iterations)) for each in (at[1:] + at[:-1]) / 2]).reshape(-1, 2)
        self._at = at
        self._steps_until, self._free_until = np.cumsum(np.vstack([[0.0, 0.0], shares_T2 * np.diff(at)[:, None]]), axis=0).T
        self._iterations, self._done = iterations, done
        self._sums = np.zeros(5)  # of 1, x, x^2, y, x y over whole windows; x is the share of free steps, y the seconds

    def note(self, step: int, seconds: float) -> None:
        """``step`` iterations are done, those since the last note in so many seconds."""
        if step > self._done:
            count, free = self._between(self._done, step)
            x, y = free / count, seconds / count
            self._sums += count * np.array([1, x, x * x, y, x * y])
            self._done = step

    @property
    def seconds(self) -> float | None:
        """None before the first note."""
        count, x, xx, y, xy = self._sums
        if not count:
            return None
        x, y = x / count, y / count
        usual = _SLOWER * y / (1 + _SLOWER * x)
        slope = max(0.0, (xy - count * x * y + _TRUSTED * usual) / (xx - count * x * x + _TRUSTED))
        forced = max(0.0, y - slope * x)
        steps, free = self._between(self._done, self._iterations)
        return float(forced * steps + slope * free)

    def _between(self, first: float, last: float) -> tuple[float, float]:
        """How many whole windows' worth of steps, and of free-running ones, there are between two iterations."""
        steps, free = (np.interp([first, last], self._at, until) for until in (self._steps_until, self._free_until))
        return float(steps[1] - steps[0]), float(free[1] - free[0])


@contextlib.contextmanager
def live_bar(iterations: int, done: int, work: Work) -> Iterator[Advance]:
    """A bar over a run's iterations: MSE, KL, speed, time left. Without a terminal, nothing.

    ``work`` is what an iteration has to do, by progress; see ``TimeLeft``.
    """
    if not console().is_terminal:
        yield lambda losses, frames: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[values]}"),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=console(), transient=True) as bar:
        task = bar.add_task("train", total=iterations, completed=done, values="", left="")
        began, step, left = time.monotonic(), done, TimeLeft(iterations, done, work)
        shown, noted, seen = began - _REFRESH, began, 0

        def advance(losses: Losses, frames: int) -> None:
            nonlocal shown, noted, step, seen
            step, seen = step + 1, seen + frames
            now = time.monotonic()
            if now - shown > _REFRESH:
                left.note(step, now - noted)
                shown = noted = now
                speed = seen / (now - began)
                values = f"MSE {losses.mse.item():.4f}  KL {losses.kld.item():.2f}  {speed:.0f} frames/s"
                bar.update(task, completed=step, values=values, left=_clock(left.seconds))

        yield advance


def _clock(seconds: float | None) -> str:
    return "" if seconds is None else f"{timedelta(seconds=round(seconds))} left"


def epoch_line(row: dict[str, Any], metrics: Sequence[Metric], epochs: int, best: bool) -> None:
    """Print an epoch's row: the metrics that have a short name, and a star if it is the best epoch so far."""
    parts = [f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}"]
    # What not every epoch has comes last, so that lines stay in columns.
    for metric in sorted(metrics, key=lambda metric: metric.key.startswith("val/")):
        if metric.short and metric.key in row:
            parts.append(f"{metric.short} {metric.text(row[metric.key]):>5} {metric.unit}".rstrip())
    say("  ".join([*parts, f"{row['seconds']:.1f} s"]) + ("  *" if best else ""))
