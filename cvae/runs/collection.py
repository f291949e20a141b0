"""Find the runs below some folders, add what their sweeps know of them, and list the settings in which they differ."""

from __future__ import annotations

import contextlib
import glob
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cvae.console import natural_order
from cvae.errors import UserError, expanded
from cvae.metrics import BUILT_IN, Metric
from cvae.runs.run import DATA, Run, UnreadableRun, brief, read_run
from cvae.sweep.records import SweepRecord, read_sweep

_HINT = "give run folders or multirun folders; they are in multirun/"
_PROGRAMS = (("python", "-m", "cvae.train"), ("cvae-train",))  # whose sweeps have commands that are shown


@dataclass(frozen=True)
class Collection:
    """Runs to compare, their sweeps, and the folders that could not be read with the reason for each."""

    runs: list[Run]
    unreadable: list[tuple[Path, str]]
    sweeps: list[SweepRecord] = field(default_factory=list)

    @property
    def counts(self) -> str:
        """The number of runs, in all and in each state, in words."""
        states = [run.state for run in self.runs]
        words = [f"{len(states)} runs" if len(states) != 1 else "1 run"]
        words += [f"{states.count(state)} {state}" for state in dict.fromkeys(states)] if len(set(states)) > 1 else []
        return ", ".join(words + ([f"{len(self.unreadable)} unreadable"] if self.unreadable else []))


def collect(places: Sequence[str]) -> Collection:
    """Read all runs below some folders.

    Args:
        places: run folders, multirun folders, folders that hold such folders, or globs of them.

    Raises:
        UserError: a place does not exist, or there is no run folder below it, readable or not.
    """
    if not places:
        raise UserError(f"runs=[] names no folder: {_HINT}")
    folders: dict[Path, Path] = {}
    for place in places:
        found = _run_folders(place)
        if not found:
            raise UserError(f"runs={place} holds no run: {_HINT}")
        for folder in found:
            folders.setdefault(folder.resolve(), folder)  # places may overlap
    runs, unreadable = [], []
    for folder in folders.values():
        try:
            runs.append(read_run(folder))
        except UnreadableRun as error:
            unreadable.append((folder, str(error)))
        except OSError as error:
            unreadable.append((folder, f"it cannot be read, or was removed ({brief(error)})"))
        except RecursionError:
            unreadable.append((folder, "its files are nested too deeply"))
    sweeps = list(_sweeps(runs))
    return Collection([_with_sweep_state(run, sweeps) for run in _with_short_names(runs)], unreadable, sweeps)


def modification_times(places: Sequence[str]) -> dict[Path, int]:
    """When the files of the runs below some folders were last written: much faster than to read them."""
    folders = [folder for place in places for folder in _run_folders(place)]
    paths = [folder / name for folder in folders for name in (".hydra", "run.json", "metrics.jsonl", "samples", "eval")]
    times: dict[Path, int] = {}
    for path in paths:
        with contextlib.suppress(OSError):  # not written yet, or removed
            times[path] = path.stat().st_mtime_ns
    return times


def _run_folders(place: str) -> list[Path]:
    return [folder for root in _expand(place) for folder in _walk(root)]


def _expand(place: str) -> list[Path]:
    path = expanded(place, "runs")
    if path.exists():
        return [path]
    if not glob.has_magic(place):
        raise UserError(f"runs={place} does not exist: {_HINT}")
    return sorted(Path("/").glob(str(path).lstrip("/")), key=lambda found: natural_order(str(found)))


def _walk(root: Path) -> Iterator[Path]:
    """The run folders at or below a folder, in natural order; symbolic links are followed."""
    seen: set[str] = set()
    for folder, below, files in os.walk(root, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:  # links may form a circle
            below.clear()
            continue
        seen.add(real)
        if ".hydra" in below or {"run.json", "metrics.jsonl"} & set(files):
            yield Path(folder)
            below.clear()
        else:
            below[:] = sorted((name for name in below if not name.startswith(".")), key=natural_order)


def _with_short_names(runs: Sequence[Run]) -> list[Run]:
    """The runs, named by their paths below the folder that all of them are in."""
    if len(runs) < 2:
        return list(runs)
    common = os.path.commonpath([run.folder.parent for run in runs])
    return [replace(run, name=os.path.relpath(run.folder, common)) for run in runs]


def _sweeps(runs: Iterable[Run]) -> Iterator[SweepRecord]:
    """The studies of the runs, each read from its journal or from the sweep.json beside its runs."""
    firsts: dict[tuple[str, str], Run] = {}
    for run in runs:
        if run.study is not None:
            firsts.setdefault(run.study, run)
    for (name, storage), run in firsts.items():
        record = read_sweep(name, storage, [run.folder.parent, run.folder.parent.parent], run.objective, _PROGRAMS)
        if record is not None:
            yield record


def _with_sweep_state(run: Run, sweeps: Sequence[SweepRecord]) -> Run:
    """The run with the state that its sweep knows: its folder does not say that a trial was pruned or has failed."""
    sweep = next((each for each in sweeps if each.key == run.study), None)
    if sweep is None or run.trial is None or run.state == "finished":
        return run
    state, reason = sweep.ending(run.trial)
    return replace(run, state=state or run.state, note="; ".join(filter(None, [run.note, reason])))


# --- settings that differ ---------------------------------------------------------------------------------------------


def differing(runs: Sequence[Run]) -> list[str]:
    """The settings in which runs differ, without those that follow from another choice.

    A monotonic run has no ``kl_schedule.cycles``, because its ``kl_schedule`` is another one: ``cycles`` differs only if it
    differs among the cyclical runs. The fingerprint of the data differs only if no setting of the data explains it.
    """
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    found = [key for key in keys if _differs(key, runs)]
    of_data = [key for key in found if key.split(".")[0] == "data" and key != DATA]
    if DATA in found and _determined(DATA, of_data, runs):
        found.remove(DATA)
    return sorted(found, key=_position)


def _differs(key: str, runs: Sequence[Run]) -> bool:
    having = [run for run in runs if key in run.settings]
    lacking = [run for run in runs if key not in run.settings]
    parts = key.split(".")
    groups = [".".join(parts[:end]) for end in range(1, len(parts))]
    explained = any(_values(group, having).isdisjoint(_values(group, lacking)) for group in groups)
    return len(_values(key, having)) > 1 or (bool(lacking) and not explained)


def _determined(key: str, others: Sequence[str], runs: Sequence[Run]) -> bool:
    """Whether runs that agree in the other settings always agree in this one."""
    combinations = {json.dumps([run.settings.get(other) for other in others]) for run in runs}
    with_key = {json.dumps([run.settings.get(other) for other in [*others, key]]) for run in runs}
    return len(combinations) == len(with_key)


def _values(key: str, runs: Sequence[Run]) -> set[str]:
    """The different values of a setting, as JSON."""
    return {json.dumps(run.settings.get(key)) for run in runs}


def _position(key: str) -> tuple[bool, int]:
    """A sort key of settings: the most important ones first, the seed last."""
    order = ("lr", "kl_schedule", "tf_schedule", "tfr", "beta", "likelihood", "model", "prior", "data")
    return key == "seed", order.index(key) if key in order else len(order)


def setting_order(value: Any) -> tuple[bool, float, Any]:
    """A sort key of a setting's values: numbers by size, then all others in natural order."""
    return (False, value, "") if isinstance(value, (int, float)) else (True, 0, natural_order(str(value)))


# --- summaries --------------------------------------------------------------------------------------------------------


def all_metrics(runs: Sequence[Run]) -> list[Metric]:
    """The metrics that runs have recorded, in the order of their tables; of two rows with one key the first run's."""
    recorded = {key for run in runs for row in run.rows for key in row}
    found = {metric.key: metric for run in reversed(runs) for metric in run.metrics}
    return [metric for key, metric in found.items() if key in recorded]


def main_objective(runs: Sequence[Run]) -> Metric:
    """The objective of most of the runs."""
    names = [run.objective for run in runs]
    name = max(names, key=names.count, default=BUILT_IN[0].key)
    rows = [metric for run in runs for metric in run.metrics] or BUILT_IN
    return next((metric for metric in rows if metric.key == name), Metric(name, name))


def by_seed(runs: Iterable[Run], quantity: Callable[[Run], float | None]) -> dict[int, float]:
    """A quantity of the finished runs by seed; several runs with one seed count as one, by their mean."""
    values: dict[int, list[float]] = {}
    for run in runs:
        if run.state == "finished" and (value := quantity(run)) is not None:
            values.setdefault(run.seed, []).append(value)
    return {seed: sum(each) / len(each) for seed, each in sorted(values.items())}


def commits(runs: Sequence[Run]) -> str:
    """A sentence that names the commits of the runs."""
    shas = sorted({str(run.record.get("git_sha") or "unknown")[:10] for run in runs})
    changed = sum(bool(run.record.get("dirty")) for run in runs)
    return f"Commit {', '.join(shas)}" + (f", {changed} of {len(runs)} runs with uncommitted changes." if changed else ".")
