"""A run in the terminal: a bar over its iterations and a line an epoch."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cvae.console import console, say
from cvae.metrics import Metric
from cvae.model.objective import Losses

_REFRESH = 0.5  # seconds between reads of a loss by the live bar, each of which waits for the device

Advance = Callable[[Losses], None]
"""Called once an iteration with its losses."""


@contextlib.contextmanager
def live_bar(iterations: int, done: int, frames: int) -> Iterator[Advance]:
    """A bar over a run's iterations, each of so many ``frames``: MSE, KL, speed, time left. Without a terminal, nothing."""
    if not console().is_terminal:
        yield lambda losses: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[values]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=console(), transient=True) as bar:
        task = bar.add_task("train", total=iterations, completed=done, values="")
        began, shown, step = time.monotonic(), 0.0, done

        def advance(losses: Losses) -> None:
            nonlocal shown, step
            step += 1
            now = time.monotonic()
            if now - shown > _REFRESH:
                shown = now
                speed = (step - done) * frames / (now - began)
                values = f"MSE {losses.mse.item():.4f}  KL {losses.kld.item():.2f}  {speed:.0f} frames/s"
                bar.update(task, completed=step, values=values)

        yield advance


def epoch_line(row: dict[str, Any], metrics: Sequence[Metric], epochs: int, best: bool) -> None:
    """Print an epoch's row: the metrics that have a short name, and a star if it is the best epoch so far."""
    parts = [f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}"]
    # What not every epoch has comes last, so that lines stay in columns.
    for metric in sorted(metrics, key=lambda metric: metric.key.startswith("val/")):
        if metric.short and metric.key in row:
            parts.append(f"{metric.short} {metric.text(row[metric.key]):>5} {metric.unit}".rstrip())
    say("  ".join([*parts, f"{row['seconds']:.1f} s"]) + ("  *" if best else ""))
