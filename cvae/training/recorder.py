"""What a run leaves behind: its folder, run.json, metrics.jsonl, pictures; and the views of it (terminal, W&B)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cvae import pictures
from cvae.console import command, console, say, short, warn
from cvae.errors import UserError, write_whole, writing
from cvae.metrics import BUILT_IN, Metric, as_record, panels
from cvae.model.objective import Losses
from cvae.process import Process

__all__ = ["NoMirror"]

_HINT = "free some space or choose another run folder"
_PACKAGES = ("cvae", "torch", "torchvision", "numpy", "hydra-core", "omegaconf", "optuna", "wandb", "pillow")
_REFRESH = 0.5  # seconds between reads of a loss by the live bar, each of which waits for the device

Advance = Callable[[Losses], None]
"""Called once an iteration with its losses."""


@dataclass(frozen=True)
class RunInfo:
    """A run's identity and how views should file it."""

    id: str
    folder: Path
    group: str | None
    name: str
    tags: list[str]
    config: dict[str, Any]
    metrics: Sequence[Metric] = BUILT_IN


class Mirror(Protocol):
    """A second place that shows a run. None of its methods may raise, block or slow training."""

    def start(self, info: RunInfo) -> None: ...
    def log(self, row: dict[str, Any]) -> None: ...
    def sample(self, gif: Path, epoch: int) -> None: ...
    def finish(self, exit_code: int, state: str | None = None) -> None: ...


class NoMirror(Mirror):
    """``logger=none``."""


class Recorder:
    """Writes a run's folder. metrics.jsonl is the truth; terminal, pictures and the mirror are views of it.

    ``metrics`` is the run's table, by which all of them show it.
    """

    def __init__(self, folder: Path, mirror: Mirror, metrics: Sequence[Metric] = BUILT_IN) -> None:
        self.folder, self.mirror, self.metrics = folder, mirror, metrics

    def start(
        self,
        *,
        signature: str,
        config: dict[str, Any],
        facts: dict[str, Any],
        group: str | None,
        name: str,
        tags: list[str],
    ) -> None:
        """Write run.json for a new run, or keep a resumed run's, and start the mirror.

        Raises:
            UserError: the folder cannot be written to, or a resumed run's run.json is damaged.
        """
        path = self.folder / "run.json"
        with writing(self.folder, "choose another run folder"):
            self.folder.mkdir(parents=True, exist_ok=True)
        if path.exists():
            record = _read_record(path)
            again = {"command": command(), "at": _now(), "process": asdict(Process.of()), **facts}
            record["resumed"] = [*record.get("resumed", []), again]
        else:
            nonce = secrets.token_hex(8)
            record = {
                "id": hashlib.sha256(f"{signature} {nonce}".encode()).hexdigest()[:12],
                "signature": signature,
                "nonce": nonce,
                "command": command(),
                "started": _now(),
                "group": group,
                "host": platform.node(),
                "process": asdict(Process.of()),
                "python": platform.python_version(),
                "versions": _versions(),
                **_git(),
                **facts,
                "metrics": as_record(self.metrics),
            }
        write_whole(path, json.dumps(record, indent=2) + "\n", _HINT)
        config = {**config, "signature": record["signature"]}
        self.mirror.start(RunInfo(record["id"], self.folder, record["group"], name, tags, config, self.metrics))

    def truncate(self, epoch: int) -> None:
        """Drop rows after ``epoch`` and a last line that was cut off: a resumed run writes them again, identically."""
        path = self.folder / "metrics.jsonl"
        rows = [row for row in read_metrics(path) if row["epoch"] <= epoch]
        write_whole(path, "".join(json.dumps(row) + "\n" for row in rows), _HINT)

    def epoch(self, row: dict[str, Any], epochs: int, best: bool) -> None:
        """Add an epoch's line to metrics.jsonl, on the disk before the checkpoint that follows it, and show it.

        Raises:
            UserError: the line could not be written.
        """
        path = self.folder / "metrics.jsonl"
        with writing(path), path.open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        _epoch_line(row, self.metrics, epochs, best)
        self.mirror.log(row)

    def sample(self, epoch: int, true_STHWC: np.ndarray, predicted_STHWC: np.ndarray, n_past: int, names: list[str]) -> None:
        """Write samples/epoch_XXXX.png and .gif: truth above prediction.

        Raises:
            UserError: they could not be written.
        """
        stem = self.folder / "samples" / f"epoch_{epoch:04d}"
        with writing(stem.parent):
            stem.parent.mkdir(exist_ok=True)
            pictures.strip(true_STHWC, predicted_STHWC, n_past, names, stem.with_suffix(".png"))
            pictures.gif(true_STHWC, predicted_STHWC, n_past, names, stem.with_suffix(".gif"))
        self.mirror.sample(stem.with_suffix(".gif"), epoch)

    def finish(self, exit_code: int, state: str | None = None) -> None:
        """Draw curves.png from metrics.jsonl, close the mirror (with a trial's state), and say where everything is."""
        rows = read_metrics(self.folder / "metrics.jsonl")
        try:
            if rows:
                drawn = [[(metric.key, metric.title) for metric in together] for together in panels(self.metrics)]
                pictures.curves(rows, drawn, self.folder / "curves.png")
        except OSError as error:  # the run itself may be complete, or end with an error that says more
            warn(f"curves.png was not drawn ({error.strerror})")
        self.mirror.finish(exit_code, state)
        say(f"run folder  {short(self.folder)}")


class SilentRecorder(Recorder):
    """Records nothing: for a process that is not the run's first, which records for all."""

    def start(self, **_: Any) -> None: ...
    def truncate(self, epoch: int) -> None: ...
    def epoch(self, row: dict[str, Any], epochs: int, best: bool) -> None: ...
    def sample(self, *_: Any) -> None: ...
    def finish(self, exit_code: int, state: str | None = None) -> None: ...


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


def _epoch_line(row: dict[str, Any], metrics: Sequence[Metric], epochs: int, best: bool) -> None:
    """Print an epoch's row: the metrics that have a short name, and a star if it is the best epoch so far."""
    parts = [f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}"]
    # What not every epoch has comes last, so that lines stay in columns.
    for metric in sorted(metrics, key=lambda metric: metric.key.startswith("val/")):
        if metric.short and metric.key in row:
            parts.append(f"{metric.short} {metric.text(row[metric.key]):>5} {metric.unit}".rstrip())
    say("  ".join([*parts, f"{row['seconds']:.1f} s"]) + ("  *" if best else ""))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; lines that were cut off are left out, a missing file has none."""
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = []
    for line in path.read_text().splitlines():
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text())
        record["id"], record["signature"], record["group"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): restore it from a copy, or start a new run") from error
    return dict(record)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _git() -> dict[str, Any]:
    """Commit of the checkout that the code runs from, and whether it has uncommitted changes; None outside one."""

    def git(*words: str) -> str | None:
        try:
            command = ["git", "--no-optional-locks", "-C", str(Path(__file__).parent), *words]
            return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return None

    tracked = git("ls-files", "--error-unmatch", __file__) is not None
    status = git("status", "--porcelain") if tracked else None
    return {"git_sha": git("rev-parse", "HEAD") if tracked else None, "dirty": None if status is None else bool(status)}
