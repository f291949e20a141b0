"""What a run leaves behind: its folder, run.json, metrics.jsonl, pictures; and the views of it (terminal, W&B)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import secrets
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cvae import pictures
from cvae.console import command, say, short, warn
from cvae.damage import first_lines, read_record, settings_hashes, write_record
from cvae.errors import FAILURE, UserError, whole, writing
from cvae.integrity import Damaged, Lines
from cvae.metrics import BUILT_IN, Metric, as_record, panels
from cvae.owner import held
from cvae.process import Process
from cvae.training.terminal import epoch_line

__all__ = ["NoMirror"]

_HINT = "free some space or choose another run folder"
_PACKAGES = ("cvae", "torch", "torchvision", "numpy", "hydra-core", "omegaconf", "optuna", "wandb", "pillow")


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
        self.owner = held(folder)
        self._lines = Lines()
        self._known: dict[str, Any] = {}  # of the run, for its checkpoints

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
        with writing(self.folder, "choose another run folder"):
            self.folder.mkdir(parents=True, exist_ok=True)
        record, hashes = read_record(self.folder), settings_hashes(self.folder)
        self._known = {"config_sha256": hashes["config_sha256"], "dataset": facts.get("dataset")}
        if record is not None:
            facts = {key: value for key, value in facts.items() if key != "splits"}
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
                **hashes,
                "sealed": True,  # so are its checkpoints, all of them
                "metrics": as_record(self.metrics),
            }
        self.check()
        write_record(self.folder, record, _HINT)
        with writing(self.folder):
            (self.folder / FAILURE).unlink(missing_ok=True)
        config = {**config, "signature": record["signature"]}
        self.mirror.start(RunInfo(record["id"], self.folder, record["group"], name, tags, config, self.metrics))

    def check(self, look: bool = True) -> None:
        """Raise UserError if this process does not own the folder any more; see ``cvae.owner``."""
        if self.owner is not None:
            self.owner.check(look)

    def facts(self) -> dict[str, Any]:
        """What a checkpoint that is saved now knows of its run; see ``cvae.integrity``."""
        return {**self._known, **self._lines.facts()}

    def truncate(self, epoch: int) -> None:
        """Drop what follows the row of ``epoch``: a resumed run writes it again, identically.

        Raises:
            Damaged: a row up to it is lost or damaged.
            UserError: the file could not be written.
        """
        path = self.folder / "metrics.jsonl"
        try:
            content = first_lines(path, epoch)
        except FileNotFoundError:
            raise Damaged("it is missing") from None
        self._lines = Lines(content)
        if path.exists() and path.stat().st_size > len(content):
            with writing(path, _HINT), whole(path) as scratch:
                scratch.write_bytes(content)

    def epoch(self, row: dict[str, Any], epochs: int, best: bool) -> None:
        """Add an epoch's line to metrics.jsonl, on the disk before the checkpoint that follows it, and show it.

        Raises:
            UserError: the line could not be written.
        """
        self.check()
        path, line = self.folder / "metrics.jsonl", (json.dumps(row) + "\n").encode()
        with writing(path), path.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._lines.add(line)
        epoch_line(row, self.metrics, epochs, best)
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
            self.check()
            if rows:
                drawn = [[(metric.key, metric.title) for metric in together] for together in panels(self.metrics)]
                pictures.curves(rows, drawn, self.folder / "curves.png")
        except (OSError, UserError) as error:  # the run itself may be complete, or end with an error that says more
            warn(f"curves.png was not drawn ({getattr(error, 'strerror', error)})")
        self.mirror.finish(exit_code, state)
        say(f"run folder  {short(self.folder)}")


class SilentRecorder(Recorder):
    """Records nothing: for a process that is not the run's first, which records for all."""

    def start(self, **_: Any) -> None: ...
    def check(self, look: bool = True) -> None: ...
    def truncate(self, epoch: int) -> None: ...
    def epoch(self, row: dict[str, Any], epochs: int, best: bool) -> None: ...
    def sample(self, *_: Any) -> None: ...
    def finish(self, exit_code: int, state: str | None = None) -> None: ...


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; lines that are cut off or no rows are left out, a missing file has none."""
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = []
    for line in path.read_text().splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            if isinstance(row := json.loads(line), dict):
                rows.append(row)
    return rows


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
