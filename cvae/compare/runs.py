"""Runs as they lie on the disk, whatever state they are in: finished, going on, cut off, damaged or of another version."""

from __future__ import annotations

import contextlib
import glob
import json
import math
import os
import re
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from cvae import __version__
from cvae.cli import resume_command
from cvae.config import identity
from cvae.console import short
from cvae.errors import UserError, expanded
from cvae.sweep.records import SweepRecord, read_sweep
from cvae.training.recorder import read_metrics

Row = dict[str, float]

# What decides nothing of what a run learns, beside what ``identity`` leaves out.
_MINOR = ("sample_every", "compile")
_DIALS = ("seed", "epochs", "n_past", "n_future")  # whole numbers without which nothing can be said of a run
_SILENT = 120.0  # seconds without a new row, and three times a row's own, after which a run counts as stopped


@dataclass(frozen=True)
class Run:
    """One run folder.

    ``settings`` are flat, ``model.latent_dim``; a group's ``_target_`` stands as the group itself: ``kl_schedule: cyclical``.
    ``rows`` are those of metrics.jsonl, an epoch each; ``record`` is run.json; ``state`` is finished, running, stopped,
    pruned, failed or diverged, and ``note`` says more where there is more to say.
    """

    folder: Path
    name: str
    settings: dict[str, Any]
    rows: list[Row]
    record: dict[str, Any]
    objective: str
    state: str
    note: str
    overrides: list[str]
    sweep: str | None  # its study's or multirun's name
    trial: int | None

    @property
    def epochs(self) -> int:
        """How many it is to have."""
        return int(self.settings["epochs"])

    @property
    def seed(self) -> int:
        return int(self.settings["seed"])

    @property
    def best(self) -> tuple[float, int] | None:
        """The objective's best value and its epoch."""
        rows = [row for row in self.rows if self.objective in row]
        best = max(rows, key=lambda row: row[self.objective], default=None)  # the first of equals
        return (best[self.objective], int(best["epoch"])) if best else None

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


@dataclass(frozen=True)
class Collection:
    """Runs to compare, what could not be read, and the sweeps that they belong to."""

    runs: list[Run]
    broken: list[tuple[Path, str]]
    sweeps: list[SweepRecord] = field(default_factory=list)


def collect(places: Sequence[str]) -> Collection:
    """Read all runs below some folders.

    Args:
        places: run folders, multirun folders, folders of such, or globs of them.

    Raises:
        UserError: a place does not exist or holds no run, be it a broken one.
    """
    if not places:
        raise UserError("runs=[] names no folder: give run folders or multirun folders; they are in multirun/")
    folders: dict[Path, None] = {}
    for place in places:
        found = [folder for root in _expand(place) for folder in _run_folders(root)]
        if not found:
            raise UserError(f"runs={place} holds no run: give run folders or multirun folders; they are in multirun/")
        folders |= dict.fromkeys(found)
    runs, broken = [], []
    for folder in folders:
        try:
            runs.append(_read(folder))
        except _Broken as error:
            broken.append((folder, str(error)))
        except OSError as error:
            broken.append((folder, f"it cannot be read, or went away ({_brief(error)})"))
        except RecursionError:
            broken.append((folder, "its files are nested beyond all reason"))
    sweeps = list(_sweeps(runs))
    return Collection([_judged(run, sweeps) for run in _named(runs)], broken, sweeps)


def touched(places: Sequence[str]) -> dict[Path, int]:
    """When the files that runs are read from were last written: a cheap look at whether anything is new."""
    folders = [folder for place in places for root in _expand(place) for folder in _run_folders(root)]
    paths = [folder / name for folder in folders for name in (".hydra", "run.json", "metrics.jsonl", "samples", "eval")]
    times: dict[Path, int] = {}
    for path in paths:
        with contextlib.suppress(OSError):  # not there yet, or not any more
            times[path] = path.stat().st_mtime_ns
    return times


def _expand(place: str) -> list[Path]:
    path = expanded(place, "runs")
    if path.exists():
        return [path]
    if not glob.has_magic(place):
        raise UserError(f"runs={place} does not exist: give run folders or multirun folders; they are in multirun/")
    return sorted(Path("/").glob(str(path).lstrip("/")), key=lambda hit: natural(str(hit)))


def _run_folders(root: Path) -> Iterator[Path]:
    """The run folders at or below a folder, in the order in which people count."""
    for place, below, files in os.walk(root):
        if ".hydra" in below or {"run.json", "metrics.jsonl"} & set(files):
            yield Path(place)
            below.clear()
        else:
            below[:] = sorted((name for name in below if not name.startswith(".")), key=natural)


def natural(text: str) -> list[tuple[int, str]]:
    """A sort key under which 10 comes after 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]


# --- one folder -------------------------------------------------------------------------------------------------------


class _Broken(Exception):
    """Why a folder is not shown among the runs."""


def _read(folder: Path) -> Run:
    config = _yaml(folder / ".hydra" / "config.yaml")
    settings = flat_settings(config)
    for dial in _DIALS:
        if not isinstance(settings.get(dial), int):
            raise _Broken(f"its .hydra/config.yaml is no config of cvae.train: {dial} is {settings.get(dial)!r}"[:200])
    try:
        record = json.loads((folder / "run.json").read_text())
        if not isinstance(record, dict):
            raise ValueError("it holds no record")
    except FileNotFoundError:
        raise _Broken("no run.json: it has not begun, or died before it did") from None
    except (OSError, ValueError) as error:
        raise _Broken(f"run.json is damaged ({_brief(error)})") from None
    rows = _rows(folder / "metrics.jsonl")
    objectives = config.get("objective")
    objective = next(iter(objectives), None) if isinstance(objectives, list) else objectives
    trial = config.get("trial") if isinstance(config.get("trial"), dict) else {}
    number = trial.get("number")
    return Run(
        folder=folder,
        name=folder.name,
        settings={key: value for key, value in settings.items() if key not in _MINOR},
        rows=rows,
        record=record,
        objective=str(objective or "val/psnr"),
        state=_state(folder, rows, settings["epochs"]),
        note=_note(record),
        overrides=_overrides(folder),
        sweep=str(record["group"]) if record.get("group") else None,
        trial=number if isinstance(number, int) else None,
    )


def _yaml(path: Path) -> Any:
    try:
        content = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except FileNotFoundError:
        raise _Broken(f"no {path.parent.name}/{path.name}") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise _Broken(f"{path.parent.name}/{path.name} cannot be read ({_brief(error)})") from None
    if not isinstance(content, dict):
        raise _Broken(f"{path.parent.name}/{path.name} holds no settings")
    return content


def _brief(error: BaseException) -> str:
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
            flat[key] = node

    walk(identity(config), "")
    return flat


def _rows(path: Path) -> list[Row]:
    """The rows of metrics.jsonl that are whole; of an epoch written twice the later one."""
    try:
        found = read_metrics(path)
    except (OSError, ValueError) as error:
        raise _Broken(f"metrics.jsonl cannot be read ({_brief(error)})") from None
    rows: dict[int, Row] = {}
    for row in found:
        if isinstance(row, dict) and isinstance(row.get("epoch"), int):
            numbers = {key: value for key, value in row.items() if isinstance(value, (int, float)) and abs(value) < math.inf}
            with contextlib.suppress(OverflowError):  # a whole number that no float holds
                rows[row["epoch"]] = {str(key): float(value) for key, value in numbers.items()}
    return [rows[epoch] for epoch in sorted(rows)]


def _state(folder: Path, rows: Sequence[Row], epochs: int) -> str:
    if rows and rows[-1]["epoch"] >= epochs:
        return "finished"
    if (folder / "checkpoints" / "diverged.pt").exists():
        return "diverged"
    touched = max(path.stat().st_mtime for path in (folder / "run.json", folder / "metrics.jsonl") if path.exists())
    patience = max(_SILENT, 3 * (rows[-1].get("seconds", 0.0) if rows else 0.0))
    return "running" if time.time() - touched < patience else "stopped"


def _note(record: Mapping[str, Any]) -> str:
    version = record.get("versions", {}).get("cvae") if isinstance(record.get("versions"), dict) else None
    return "" if version in (None, __version__) else f"written by cvae {version}"


def _overrides(folder: Path) -> list[str]:
    with contextlib.suppress(OSError, ValueError, yaml.YAMLError):
        words = yaml.load((folder / ".hydra" / "overrides.yaml").read_text(), Loader=yaml.SafeLoader)
        if isinstance(words, list):
            return [str(word) for word in words]
    return []


# --- all of them ------------------------------------------------------------------------------------------------------


def _named(runs: Sequence[Run]) -> list[Run]:
    """With names that are as short as they can be and still differ: paths below what the folders have in common."""
    if len(runs) < 2:
        return list(runs)
    common = os.path.commonpath([run.folder.parent for run in runs])
    return [replace(run, name=os.path.relpath(run.folder, common)) for run in runs]


def _sweeps(runs: Iterable[Run]) -> Iterator[SweepRecord]:
    """The studies that runs belong to: from sweep.json beside them, or where the sweep goes on, from its journal."""
    seen: set[str] = set()
    for run in runs:
        if run.trial is None or run.sweep is None or run.sweep in seen:
            continue
        seen.add(run.sweep)
        config = _yaml(run.folder / ".hydra" / "config.yaml")
        storage, beside = str(config["trial"].get("storage") or ""), [run.folder.parent, run.folder.parent.parent]
        record = read_sweep(run.sweep, storage, beside, run.objective)
        if record is not None:
            yield record


def _judged(run: Run, sweeps: Sequence[SweepRecord]) -> Run:
    """With what its sweep knows of it: pruned and failed trials are not just unfinished."""
    sweep = next((each for each in sweeps if each.name == run.sweep), None)
    if sweep is None or run.trial is None or run.state == "finished":
        return run
    state, reason = sweep.ending(run.trial)
    return replace(run, state=state or run.state, note="; ".join(filter(None, [run.note, reason])))


# --- results ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """What a run scored under a named protocol: eval/<protocol>.json. Unknown numbers are NaN, and ``note`` says why."""

    protocol: str
    videos: int = 0
    psnr: float = math.nan
    low: float = math.nan
    high: float = math.nan
    copy: float = math.nan
    note: str = ""


def results_of(run: Run) -> list[Result]:
    """A run's results, by protocol."""
    return [_result(path) for path in sorted(run.folder.glob("eval/*.json"))]


def _result(path: Path) -> Result:
    try:
        found = json.loads(path.read_text())
        low, high = found["psnr"]["ci95"]
        mean, copy = found["psnr"]["mean"], found["baselines"]["copy_last"]["psnr"]["mean"]
        return Result(path.stem, int(found["videos"]), float(mean), float(low), float(high), float(copy))
    except KeyError as error:
        return Result(path.stem, note=f"eval/{path.name} has no {error}")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        return Result(path.stem, note=f"eval/{path.name} cannot be read ({_brief(error)})")


# --- what differs -----------------------------------------------------------------------------------------------------


def differing(runs: Sequence[Run]) -> list[str]:
    """The settings in which runs differ, those that a choice brings along left out.

    ``kl_schedule.cycles`` is absent from a monotonic run because its ``kl_schedule`` is another one; it differs only if
    cyclical runs differ in it.
    """
    keys: dict[str, None] = {}
    for run in runs:
        keys |= dict.fromkeys(run.settings)
    found = []
    for key in keys:
        having = [run for run in runs if key in run.settings]
        values = {_shown(run.settings[key]) for run in having}
        explained = len(having) < len(runs) and _group_differs(key, having, [run for run in runs if key not in run.settings])
        if len(values) > 1 or (len(having) < len(runs) and not explained):
            found.append(key)
    return sorted(found, key=_dials_first)


def _group_differs(key: str, having: Sequence[Run], lacking: Sequence[Run]) -> bool:
    """Whether the runs without a key chose otherwise, in one of the groups that it lies below, than those with it."""
    parts = key.split(".")
    groups = [".".join(parts[:end]) for end in range(1, len(parts))]

    def chosen(some: Sequence[Run], group: str) -> set[str]:
        return {_shown(run.settings.get(group)) for run in some}

    return any(chosen(having, group).isdisjoint(chosen(lacking, group)) for group in groups)


def _dials_first(key: str) -> tuple[bool, int]:
    order = ("lr", "kl_schedule", "tf_schedule", "tfr", "beta", "likelihood", "model", "prior", "data")
    return key == "seed", order.index(key) if key in order else len(order)


def _shown(value: Any) -> str:
    return json.dumps(value, default=str)
