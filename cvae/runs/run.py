"""One run as it lies on the disk, whatever state it is in: finished, going on, cut off, damaged or of another version."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cvae import __version__
from cvae.cli import resume_command
from cvae.config import identity
from cvae.console import short
from cvae.metrics import Metric, from_record
from cvae.process import Process
from cvae.training.recorder import read_metrics

Row = dict[str, float]

# What decides nothing of what a run learns, beside what ``identity`` leaves out.
_MINOR = ("sample_every", "compile")
_DIALS = ("seed", "epochs", "n_past", "n_future")  # whole numbers without which nothing can be said of a run
DATA = "data.fingerprint"  # of what it saw: the folder's name says nothing, and is no setting
# Seconds after which a run counts as stopped: without a new row (or three times a row's own seconds), without a first one.
_SILENT, _FIRST = 120.0, 1800.0


@dataclass(frozen=True)
class Run:
    """One run folder.

    ``settings`` are flat, ``model.latent_dim``; a group's ``_target_`` stands as the group itself: ``kl_schedule: cyclical``;
    the data's fingerprint is among them.
    ``rows`` are those of metrics.jsonl, an epoch each; ``record`` is run.json, and ``metrics`` the table of metrics in it;
    ``state`` is finished, running, stopped, pruned, failed or diverged, and ``note`` says more where there is more to say.
    """

    folder: Path
    name: str
    settings: dict[str, Any]
    rows: list[Row]
    record: dict[str, Any]
    metrics: tuple[Metric, ...]
    objective: str
    state: str
    note: str
    overrides: list[str]
    sweep: str | None  # its study's or multirun's name
    storage: str  # of its study, without a password; empty outside sweeps
    trial: int | None

    @property
    def epochs(self) -> int:
        """How many it is to have."""
        return int(self.settings["epochs"])

    @property
    def seed(self) -> int:
        return int(self.settings["seed"])

    @property
    def study(self) -> tuple[str, str] | None:
        """What tells its study from others: two of one name may lie in two storages."""
        return (self.sweep, self.storage) if self.sweep is not None and self.trial is not None else None

    def best(self, key: str) -> tuple[float, int] | None:
        """A metric's best value and its epoch."""
        rows, metric = [row for row in self.rows if key in row], self.metric(key)
        best = min(rows, key=lambda row: metric.rank(row[key]), default=None)  # the first of equals
        return (best[key], int(best["epoch"])) if best else None

    def metric(self, key: str) -> Metric:
        """The row of a metric; one without a direction where the table has none."""
        return next((metric for metric in self.metrics if metric.key == key), Metric(key, key))

    def last(self, key: str) -> float | None:
        """The latest value of a metric."""
        return next((row[key] for row in reversed(self.rows) if key in row), None)

    def series(self, key: str) -> dict[int, float]:
        """A metric by epoch, where it was taken."""
        return {int(row["epoch"]): row[key] for row in self.rows if key in row}

    @property
    def repeat(self) -> str:
        """The command that runs it once more, as a single run."""
        words = [word for word in self.overrides if not word.lstrip("+").startswith(("trial.", "hydra."))]
        if any(word.startswith("experiment=") for word in words) and self.sweep is not None:
            words.append("hydra.mode=RUN")  # an experiment may be a multirun
        return shlex.join(["python", "-m", "cvae.train", *words])

    @property
    def resume(self) -> str:
        """The command that goes on with it; empty where there is nothing to go on with."""
        going_on = self.state == "stopped" and (self.folder / "checkpoints" / "last.pt").exists()
        return resume_command(Path(short(self.folder))) if going_on else ""

    @property
    def film(self) -> Path | None:
        """Its latest sample video."""
        return max(self.folder.glob("samples/epoch_*.gif"), default=None)


# --- reading ----------------------------------------------------------------------------------------------------------


class Broken(Exception):
    """Why a folder is not shown among the runs."""


def whole_text(path: Path) -> str:
    """A file's text; what is there and is no file, a pipe say, counts as not there."""
    if not path.is_file():
        raise FileNotFoundError(path)
    return path.read_text()


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        Broken: what is in it makes no run; the message says why.
    """
    config = _yaml(folder / ".hydra" / "config.yaml")
    _refuse_shared(config, set())
    settings = flat_settings(config)
    for dial in _DIALS:
        if not isinstance(settings.get(dial), int):
            raise Broken(f"its .hydra/config.yaml is no config of cvae.train: {dial} is {settings.get(dial)!r}"[:200])
    try:
        record = json.loads(whole_text(folder / "run.json"))
        if not isinstance(record, dict):
            raise ValueError("it holds no record")
    except FileNotFoundError:
        raise Broken("no run.json: it has not begun, or died before it did") from None
    except (OSError, ValueError) as error:
        raise Broken(f"run.json is damaged ({brief(error)})") from None
    rows = _rows(folder / "metrics.jsonl")
    objectives = config.get("objective")
    objective = next(iter(objectives), None) if isinstance(objectives, list) else objectives
    trial = config["trial"] if isinstance(config.get("trial"), dict) else {}
    number = trial.get("number")
    return Run(
        folder=folder,
        name=folder.name,
        settings={key: value for key, value in settings.items() if key not in _MINOR} | {DATA: str(record.get("dataset"))},
        rows=rows,
        record=record,
        metrics=from_record(record.get("metrics")),
        objective=str(objective or "val/psnr"),
        state=_state(folder, rows, settings["epochs"], record),
        note=_note(record),
        overrides=_overrides(folder),
        sweep=str(record["group"]) if record.get("group") else None,
        storage=str(trial.get("storage") or ""),
        trial=number if isinstance(number, int) else None,
    )


def _refuse_shared(node: Any, seen: set[int]) -> None:
    """Refuse YAML aliases: a few lines of them can stand for gigabytes."""
    if isinstance(node, (dict, list)):
        if id(node) in seen:
            raise Broken("its .hydra/config.yaml repeats parts by aliases, as no config of cvae.train does")
        seen.add(id(node))
        for below in node.values() if isinstance(node, dict) else node:
            _refuse_shared(below, seen)


def _yaml(path: Path) -> Any:
    try:
        content = yaml.load(whole_text(path), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except FileNotFoundError:
        raise Broken(f"no {path.parent.name}/{path.name}") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise Broken(f"{path.parent.name}/{path.name} cannot be read ({brief(error)})") from None
    if not isinstance(content, dict):
        raise Broken(f"{path.parent.name}/{path.name} holds no settings")
    return content


def brief(error: BaseException) -> str:
    """An error in a line."""
    return " ".join(str(error).split())[:120] or type(error).__name__


def flat_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config's settings by full key, interpolations as they stand; ``X._target_`` as ``X: class_name``."""
    flat: dict[str, Any] = {}

    def walk(node: Any, key: str) -> None:
        if isinstance(node, dict) and node:
            for name, below in node.items():
                walk(below, f"{key}.{name}" if key else str(name))
        elif key.endswith("._target_"):
            flat[key.removesuffix("._target_")] = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", str(node).rpartition(".")[2]).lower()
        else:
            flat[key] = node if node is None or isinstance(node, (bool, int, float, str)) else str(node)

    walk(identity(config), "")
    return flat


def _rows(path: Path) -> list[Row]:
    """The rows of metrics.jsonl that are whole; of an epoch written twice the later one."""
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is no file")
        found = read_metrics(path)
    except (OSError, ValueError) as error:
        raise Broken(f"metrics.jsonl cannot be read ({brief(error)})") from None
    rows: dict[int, Row] = {}
    for row in found:
        if isinstance(row, dict) and isinstance(row.get("epoch"), int):
            numbers = {key: value for key, value in row.items() if isinstance(value, (int, float)) and abs(value) < math.inf}
            with contextlib.suppress(OverflowError):  # a whole number that no float holds
                rows[row["epoch"]] = {str(key): float(value) for key, value in numbers.items()}
    return [rows[epoch] for epoch in sorted(rows)]


def _state(folder: Path, rows: Sequence[Row], epochs: int, record: Mapping[str, Any]) -> str:
    if rows and rows[-1]["epoch"] >= epochs:
        return "finished"
    touched = max((folder / "run.json").stat().st_mtime, _written(folder / "metrics.jsonl"))
    if _written(folder / "checkpoints" / "diverged.pt") >= touched:  # else it has been resumed since
        return "diverged"
    if _died(record):
        return "stopped"
    # A first epoch may take long, and nothing says how long.
    patience = max(_SILENT, 3 * rows[-1].get("seconds", 0.0)) if rows else _FIRST
    return "running" if time.time() - touched < patience else "stopped"


def _died(record: Mapping[str, Any]) -> bool:
    """Whether the process that last went on with a run is known to be gone; of one on another host nothing is known."""
    with contextlib.suppress(KeyError, TypeError, ValueError, OverflowError):
        last = (record.get("resumed") or [record])[-1]["process"]
        return Process(str(last["host"]), int(last["pid"]), float(last["started"])).alive() is False
    return False


def _written(path: Path) -> float:
    """When a file was last written; long ago if it is not there."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _note(record: Mapping[str, Any]) -> str:
    version = record.get("versions", {}).get("cvae") if isinstance(record.get("versions"), dict) else None
    return "" if version in (None, __version__) else f"written by cvae {version}"


def _overrides(folder: Path) -> list[str]:
    with contextlib.suppress(OSError, ValueError, yaml.YAMLError):
        words = yaml.load(whole_text(folder / ".hydra" / "overrides.yaml"), Loader=yaml.SafeLoader)
        if isinstance(words, list):
            return [str(word) for word in words]
    return []
