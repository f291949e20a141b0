"""What a run leaves behind: its folder, run.json, metrics.jsonl, pictures; and the views of it (terminal, W&B)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cvae import charts, integrity, pictures
from cvae.console import command, say, short, warn
from cvae.damage import first_lines, read_rows
from cvae.errors import FAILURE, UserError, brief, whole, writing
from cvae.integrity import LINES, Damaged, Lines
from cvae.metrics import BUILT_IN, Metric, as_record, panels
from cvae.options import chosen
from cvae.owner import held
from cvae.process import Process
from cvae.repeat import own_command
from cvae.run_record import known_nonce, read_record, settings_hashes, write_record
from cvae.training.provenance import git, versions
from cvae.training.terminal import epoch_line

__all__ = ["NoMirror"]

_HINT = "free some space or choose another run folder"


@dataclass(frozen=True)
class RunInfo:
    """A run's identity and how views should file it. ``record`` is its run.json."""

    id: str
    folder: Path
    group: str | None
    name: str
    tags: list[str]
    config: dict[str, Any]
    metrics: Sequence[Metric] = BUILT_IN
    record: dict[str, Any] = field(default_factory=dict, compare=False)

    def step(self, epoch: int) -> int:
        """Where a view puts an epoch: at its number, or at its last iteration where validations within epochs lie between."""
        return epoch * int(self.config["epoch_size"]) if self.config.get("validate_at") else epoch


class Mirror(Protocol):
    """A second place that shows a run. None of its methods may raise, block or slow training."""

    def start(self, info: RunInfo) -> None: ...
    def log(self, row: dict[str, Any]) -> None: ...
    def sample(self, gif: Path, epoch: int) -> None: ...
    def finish(self, exit_code: int, state: str | None = None) -> None: ...


class NoMirror(Mirror):
    """``logger=none``."""


class Mirrors(Mirror):
    """Several at once, of anybody's: one that raises is left out from then on, and training goes on."""

    def __init__(self, each: Sequence[Mirror]) -> None:
        self.each = [*each]

    def _tell(self, name: str, *given: Any) -> list[Any]:
        found = []
        for mirror in [*self.each]:
            method = getattr(mirror, name, None)
            try:
                found += [] if method is None else [method(*given)]
            except Exception as error:
                if name == "start" and isinstance(error, UserError):  # it says what to do, before anything is trained
                    raise
                self.each.remove(mirror)
                what = f"{type(mirror).__module__}.{type(mirror).__name__}.{name}"
                warn(f"logger: {what} raises {type(error).__name__} ({brief(error)}): the run goes on without it")
        return found

    def start(self, info: RunInfo) -> None:
        self._tell("start", info)

    def log(self, row: dict[str, Any]) -> None:
        self._tell("log", dict(row))

    def sample(self, gif: Path, epoch: int) -> None:
        self._tell("sample", gif, epoch)

    def finish(self, exit_code: int, state: str | None = None) -> None:
        self._tell("finish", exit_code, state)

    def validation(self, row: dict[str, Any]) -> None:
        """Show a validation inside an epoch, in those mirrors that have a method for it."""
        self._tell("validation", dict(row))

    def settle(self, record: dict[str, Any]) -> dict[str, Any]:
        """What run.json should keep of where the run is shown; of the mirrors that have something to keep."""
        return {key: value for kept in self._tell("settle", record) for key, value in (kept or {}).items()}


class Recorder:
    """Writes a run's folder. metrics.jsonl, and validations.jsonl for those inside epochs, are the truth; all else are views.

    ``metrics`` is the run's table, by which all of them show it. ``chosen`` is what curves.png shows besides its epochs.
    """

    def __init__(
        self, folder: Path, mirror: Mirror, metrics: Sequence[Metric] = BUILT_IN, chosen: charts.Chosen | None = None
    ) -> None:
        self.folder, self.mirror, self.metrics, self.chosen = folder, Mirrors([mirror]), metrics, chosen
        self.owner = held(folder)
        self._lines, self._validations = (Lines(name=name) for name in LINES)
        self._known: dict[str, Any] = {}  # of the run, for its checkpoints
        self._best_epoch = 0

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
            nonce = known_nonce(self.folder) or secrets.token_hex(8)
            record = {
                "id": _agents_id(group) or hashlib.sha256(f"{signature} {nonce}".encode()).hexdigest()[:12],
                "signature": signature,
                "nonce": nonce,
                "command": command(),
                "own_command": own_command(self.folder, group is not None),
                "started": _now(),
                "group": group,
                "options": chosen(self.folder),
                "host": platform.node(),
                "process": asdict(Process.of()),
                "python": platform.python_version(),
                "versions": versions(),
                **git(),
                **facts,
                **hashes,
                "sealed": True,  # so are its checkpoints, all of them
                "metrics": as_record(self.metrics),
            }
        self._known["run"] = record.get("nonce")
        self.check()
        record |= self.mirror.settle(record)
        write_record(self.folder, record, _HINT)
        with writing(self.folder):
            (self.folder / FAILURE).unlink(missing_ok=True)
        config = {**config, "signature": record["signature"]}
        self.mirror.start(RunInfo(record["id"], self.folder, record["group"], name, tags, config, self.metrics, record))

    def check(self, look: bool = True) -> None:
        """Raise UserError if this process does not own the folder any more; see ``cvae.owner``."""
        if self.owner is not None:
            self.owner.check(look)

    def facts(self) -> dict[str, Any]:
        """What a checkpoint that is saved now knows of its run; see ``cvae.integrity``."""
        lines = {**self._lines.facts(), **(self._validations.facts() if self._validations.count else {})}
        return {**self._known, "best_epoch": self._best_epoch, **lines}

    def truncate(self, epoch: int, steps: Sequence[int] = ()) -> None:
        """Drop the rows after those of ``epoch`` and of validations at ``steps``: a resumed run writes them again, identically.

        Raises:
            Damaged: a row up to them is lost or damaged.
            UserError: a file could not be written.
        """
        self._lines = self._cut("metrics.jsonl", "epoch", range(1, epoch + 1))
        self._validations = self._cut("validations.jsonl", "step", steps)
        with contextlib.suppress(OSError, Damaged):
            self._best_epoch = (integrity.facts(self.folder / "checkpoints" / "last.pt") or {}).get("best_epoch", 0)

    def _cut(self, name: str, key: str, numbers: Sequence[int]) -> Lines:
        path = self.folder / name
        try:
            content = first_lines(path, key, numbers)
        except FileNotFoundError:
            raise Damaged(f"{name} is missing") from None
        except Damaged as error:
            raise Damaged(f"{name} is damaged ({error})") from error
        if path.exists() and path.stat().st_size > len(content):
            with writing(path, _HINT), whole(path) as scratch:
                scratch.write_bytes(content)
        return Lines(content, name)

    def epoch(self, row: dict[str, Any], epochs: int, best: bool) -> None:
        """Add an epoch's line to metrics.jsonl, on the disk before the checkpoint that follows it, and show it.

        Raises:
            UserError: the line could not be written.
        """
        self._write("metrics.jsonl", row, self._lines)
        self._best_epoch = row["epoch"] if best else self._best_epoch
        epoch_line(row, self.metrics, epochs, best)
        self.mirror.log(row)

    def validation(self, row: dict[str, Any]) -> None:
        """Add the line of a validation inside an epoch to validations.jsonl.

        Raises:
            UserError: the line could not be written.
        """
        self._write("validations.jsonl", row, self._validations)
        self.mirror.validation(row)

    def _write(self, name: str, row: Mapping[str, Any], lines: Lines) -> None:
        self.check()
        path, line = self.folder / name, (json.dumps(row) + "\n").encode()
        with writing(path), path.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        lines.add(line)

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
        try:
            self.check()
            rows, between = (read_rows(self.folder / name) for name in LINES)
            if rows and self.chosen is not None:
                drawn = [[(metric.key, metric.title) for metric in together] for together in panels(self.metrics)]
                charts.curves(rows, drawn, self.folder / "curves.png", self.chosen, between)
        except Exception as error:  # the run itself may be complete, or end with an error that says more
            warn(f"curves.png was not drawn ({brief(error)})")
        self.mirror.finish(exit_code, state)
        say(f"run folder  {short(self.folder)}")


class SilentRecorder(Recorder):
    """Records nothing: for a process that is not the run's first, which records for all."""

    def start(self, **_: Any) -> None: ...
    def check(self, look: bool = True) -> None: ...
    def truncate(self, epoch: int, steps: Sequence[int] = ()) -> None: ...
    def epoch(self, row: dict[str, Any], epochs: int, best: bool) -> None: ...
    def validation(self, row: dict[str, Any]) -> None: ...
    def sample(self, *_: Any) -> None: ...
    def finish(self, exit_code: int, state: str | None = None) -> None: ...


def inside(row: Mapping[str, Any]) -> dict[str, Any]:
    """The scores of a validation inside an epoch by keys of their own: a view that has points by epochs keeps them apart."""
    return {f"inside/{key.removeprefix('val/')}": value for key, value in row.items() if key.startswith("val/")}


def _agents_id(group: str | None) -> str | None:
    """The id that an agent of W&B Sweeps gives to the run that it starts; the jobs of a multirun would share it."""
    name = os.environ.get("WANDB_RUN_ID", "")
    asked = "WANDB_SWEEP_ID" in os.environ and group is None
    return name if asked and re.fullmatch(r"[\w-]{1,64}", name) else None


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
