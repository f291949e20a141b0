"""Read one run folder in any state: finished, running, stopped, damaged, or written by another version."""

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
from cvae.cli import quoted
from cvae.config import flat, identity
from cvae.console import short
from cvae.metrics import Metric, from_record
from cvae.process import Process
from cvae.start import resume_command
from cvae.strangers import pasteable, said
from cvae.training.recorder import read_metrics

Row = dict[str, float]

_IGNORED = ("sample_every", "compile")  # like the keys that ``identity`` leaves out, they do not change what a run learns
_SURROUNDINGS = re.compile(r"\+*(trial\.|hydra[./](run|sweep|sweeper|job|mode|launcher|output_subdir|verbose|job_logging)\b)")
_REQUIRED = ("seed", "epochs", "n_past", "n_future")  # whole numbers that every report needs
DATA = "data.fingerprint"  # added to the settings: a hash of the content of the data, since their folder's name says nothing
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# A run without a new row for so many seconds, or three times the seconds of its last epoch, counts as stopped.
_NEXT_ROW = 120.0
_FIRST_ROW = 1800.0  # nothing says how long the first epoch takes


@dataclass(frozen=True)
class Run:
    """What a run folder holds.

    ``settings`` is the flat config: ``model.latent_dim: 32``. The choice of a group stands under the group's name,
    ``kl_schedule: cyclical``, and the fingerprint of the data under ``data.fingerprint``.
    ``rows`` are the rows of metrics.jsonl, one for each epoch. ``record`` is run.json, ``metrics`` the table of metrics in it.
    ``state`` is finished, running, stopped, pruned, failed or diverged; ``note`` adds a reason where one is known.
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
    sweep: str | None  # the name of its study or multirun
    storage: str  # the storage of its study, without a password; empty outside of sweeps
    trial: int | None

    @property
    def epochs(self) -> int:
        """The number of epochs when it is finished."""
        return int(self.settings["epochs"])

    @property
    def seed(self) -> int:
        return int(self.settings["seed"])

    @property
    def study(self) -> tuple[str, str] | None:
        """The name and the storage of its study: two studies in two storages may have the same name."""
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
        """The command that repeats it as a single run, without what a folder must not say: ``left_out``."""
        words, _ = pasteable(self._words)
        if any(word.startswith("experiment=") for word in words) and self.sweep is not None:
            words.append("hydra.mode=RUN")  # an experiment may be a multirun
        return shlex.join(["python", "-m", "cvae.train", *words])

    @property
    def left_out(self) -> str:
        """What the command to repeat it lacks, in a sentence; empty if nothing."""
        return said(pasteable(self._words)[1])

    @property
    def _words(self) -> list[str]:
        """Its overrides without those that only say where it ran."""
        return [word for word in self.overrides if not _SURROUNDINGS.match(word)]

    @property
    def resume(self) -> str:
        """The command that resumes it; empty if it has not stopped or has no checkpoint."""
        resumable = self.state == "stopped" and (self.folder / "checkpoints" / "last.pt").exists()
        return resume_command(Path(short(self.folder))) if resumable else ""

    @property
    def video(self) -> Path | None:
        """Its latest sample video."""
        return max(self.folder.glob("samples/epoch_*.gif"), default=None)


# --- reading ----------------------------------------------------------------------------------------------------------


class UnreadableRun(Exception):
    """A folder cannot be read as a run; the message gives the reason."""


def read_text(path: Path) -> str:
    """The text of a regular file. A pipe would block: it counts as missing.

    Raises:
        FileNotFoundError: there is no regular file.
    """
    if not path.is_file():
        raise FileNotFoundError(path)
    return path.read_text()


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        UnreadableRun: the folder holds no run, or a file in it is damaged.
    """
    config = _config(folder / ".hydra" / "config.yaml")
    settings = flat_settings(config)
    for key in _REQUIRED:
        if not isinstance(settings.get(key), int):
            raise UnreadableRun(f".hydra/config.yaml is not a config of cvae.train: {key} is {settings.get(key)!r}"[:200])
    record = _record(folder / "run.json")
    rows = _rows(folder / "metrics.jsonl")
    objectives = config.get("objective")
    objective = next(iter(objectives), None) if isinstance(objectives, list) else objectives
    trial = config["trial"] if isinstance(config.get("trial"), dict) else {}
    number = trial.get("number")
    return Run(
        folder=folder,
        name=folder.name,
        settings={key: value for key, value in settings.items() if key not in _IGNORED} | {DATA: str(record.get("dataset"))},
        rows=rows,
        record=record,
        metrics=from_record(record.get("metrics")),
        objective=str(objective or "val/psnr"),
        state=_state(folder, rows, settings["epochs"], record),
        note=_note(record),
        overrides=[*_search_path(folder), *_overrides(folder)],
        sweep=str(record["group"]) if record.get("group") else None,
        storage=str(trial.get("storage") or ""),
        trial=number if isinstance(number, int) else None,
    )


def _config(path: Path) -> dict[str, Any]:
    name = f"{path.parent.name}/{path.name}"
    try:
        text = read_text(path)
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=_LOADER)):
            # A few aliases can stand for gigabytes.
            raise UnreadableRun(f"{name} has YAML aliases, which a config of cvae.train never has")
        content = yaml.load(text, Loader=_LOADER)
    except FileNotFoundError:
        raise UnreadableRun(f"no {name}") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UnreadableRun(f"{name} cannot be read ({brief(error)})") from None
    if not isinstance(content, dict):
        raise UnreadableRun(f"{name} holds no settings")
    return content


def _record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(read_text(path))
    except FileNotFoundError:
        raise UnreadableRun("no run.json: the run has not started, or ended before it could") from None
    except (OSError, ValueError) as error:
        raise UnreadableRun(f"run.json is damaged ({brief(error)})") from None
    if not isinstance(record, dict):
        raise UnreadableRun("run.json is damaged (it holds no record)")
    return record


def brief(error: BaseException) -> str:
    """The message of an error in one short line."""
    return " ".join(str(error).split())[:120] or type(error).__name__


def flat_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a config by their full keys, interpolations unresolved; ``X._target_`` becomes ``X: class_name``."""
    settings: dict[str, Any] = {}
    for key, value in flat(identity(config)).items():
        if key.endswith("._target_"):
            name = str(value).rpartition(".")[2]
            settings[key.removesuffix("._target_")] = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
        else:
            settings[key] = value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
    return settings


def _rows(path: Path) -> list[Row]:
    """The complete rows of metrics.jsonl, by epoch; of an epoch written twice the later row."""
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is not a file")
        found = read_metrics(path)
    except (OSError, ValueError) as error:
        raise UnreadableRun(f"metrics.jsonl cannot be read ({brief(error)})") from None
    rows: dict[int, Row] = {}
    for row in found:
        if isinstance(row, dict) and isinstance(row.get("epoch"), int):
            numbers = {key: value for key, value in row.items() if isinstance(value, (int, float)) and abs(value) < math.inf}
            with contextlib.suppress(OverflowError):  # an integer too large for a float
                rows[row["epoch"]] = {str(key): float(value) for key, value in numbers.items()}
    return [rows[epoch] for epoch in sorted(rows)]


def _state(folder: Path, rows: Sequence[Row], epochs: int, record: Mapping[str, Any]) -> str:
    if rows and rows[-1]["epoch"] >= epochs:
        return "finished"
    written = max((folder / "run.json").stat().st_mtime, _modified(folder / "metrics.jsonl"))
    if _modified(folder / "checkpoints" / "diverged.pt") >= written:  # else it was resumed after it diverged
        return "diverged"
    if _process_ended(record):
        return "stopped"
    limit = max(_NEXT_ROW, 3 * rows[-1].get("seconds", 0.0)) if rows else _FIRST_ROW
    return "running" if time.time() - written < limit else "stopped"


def _process_ended(record: Mapping[str, Any]) -> bool:
    """Whether the last process of a run is known to have ended; a process on another host may be alive."""
    with contextlib.suppress(KeyError, TypeError, ValueError, OverflowError):
        last = (record.get("resumed") or [record])[-1]["process"]
        return Process(str(last["host"]), int(last["pid"]), float(last["started"])).alive() is False
    return False


def _modified(path: Path) -> float:
    """When a file was last written, in seconds since 1970; 0 if there is none."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _note(record: Mapping[str, Any]) -> str:
    version = record.get("versions", {}).get("cvae") if isinstance(record.get("versions"), dict) else None
    return "" if version in (None, __version__) else f"written by cvae {version}"


def _search_path(folder: Path) -> list[str]:
    """The override that names the config folders of the user's own that the run's command named, if any."""
    with contextlib.suppress(UnreadableRun, KeyError, TypeError):
        sources = _config(folder / ".hydra" / "hydra.yaml")["hydra"]["runtime"]["config_sources"]
        own = [quoted(f"{each['schema']}://{each['path']}") for each in sources if "command-line" in each["provider"]]
        return [f"hydra.searchpath=[{','.join(own)}]"] if own else []
    return []


def _overrides(folder: Path) -> list[str]:
    with contextlib.suppress(OSError, ValueError, yaml.YAMLError):
        words = yaml.load(read_text(folder / ".hydra" / "overrides.yaml"), Loader=_LOADER)
        if isinstance(words, list):
            return [str(word) for word in words]
    return []
