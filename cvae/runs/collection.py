"""Runs beside each other: found below folders, named, with what their sweeps know of them, and compared by what differs."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cvae.errors import UserError, expanded
from cvae.metrics import BUILT_IN, Metric
from cvae.runs.run import DATA, Broken, Run, brief, read_run
from cvae.sweep.records import SweepRecord, read_sweep


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
    folders: dict[Path, Path] = {}
    for place in places:
        found = [folder for root in _expand(place) for folder in _run_folders(root)]
        if not found:
            raise UserError(f"runs={place} holds no run: give run folders or multirun folders; they are in multirun/")
        for folder in found:
            folders.setdefault(folder.resolve(), folder)  # one run, however many ways lead to it
    runs, broken = [], []
    for folder in folders.values():
        try:
            runs.append(read_run(folder))
        except Broken as error:
            broken.append((folder, str(error)))
        except OSError as error:
            broken.append((folder, f"it cannot be read, or went away ({brief(error)})"))
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
    """The run folders at or below a folder, links followed, in the order in which people count."""
    seen: set[str] = set()
    for place, below, files in os.walk(root, followlinks=True):
        if (real := os.path.realpath(place)) in seen:  # links may lead in circles
            below.clear()
            continue
        seen.add(real)
        if ".hydra" in below or {"run.json", "metrics.jsonl"} & set(files):
            yield Path(place)
            below.clear()
        else:
            below[:] = sorted((name for name in below if not name.startswith(".")), key=natural)


def natural(text: str) -> list[tuple[int, str]]:
    """A sort key under which 10 comes after 9."""
    parts = [(part.lstrip("0") if part.isdecimal() else None, part) for part in re.split(r"(\d+)", text)]
    return [(-1, part) if digits is None else (len(digits), digits) for digits, part in parts]


def in_order(value: Any) -> tuple[bool, float, list[tuple[int, str]]]:
    """A sort key for settings: numbers by size, then all others."""
    if isinstance(value, (int, float)):
        return False, float(value), []
    return True, 0.0, natural(str(value))


def _named(runs: Sequence[Run]) -> list[Run]:
    """With names that are as short as they can be and still differ: paths below what the folders have in common."""
    if len(runs) < 2:
        return list(runs)
    common = os.path.commonpath([run.folder.parent for run in runs])
    return [replace(run, name=os.path.relpath(run.folder, common)) for run in runs]


def _sweeps(runs: Iterable[Run]) -> Iterator[SweepRecord]:
    """The studies that runs belong to: from sweep.json beside them, or where the sweep goes on, from its journal."""
    firsts = {run.study: run for run in reversed(list(runs)) if run.study is not None}
    for (name, storage), run in reversed(firsts.items()):
        record = read_sweep(name, storage, [run.folder.parent, run.folder.parent.parent], run.objective)
        if record is not None:
            yield record


def _judged(run: Run, sweeps: Sequence[SweepRecord]) -> Run:
    """With what its sweep knows of it: pruned and failed trials are not just unfinished."""
    sweep = next((each for each in sweeps if each.key == run.study), None)
    if sweep is None or run.trial is None or run.state == "finished":
        return run
    state, reason = sweep.ending(run.trial)
    return replace(run, state=state or run.state, note="; ".join(filter(None, [run.note, reason])))


# --- what differs -----------------------------------------------------------------------------------------------------


def differing(runs: Sequence[Run]) -> list[str]:
    """The settings in which runs differ, those that a choice brings along left out.

    ``kl_schedule.cycles`` is absent from a monotonic run because its ``kl_schedule`` is another one; it differs only if
    cyclical runs differ in it. So does the data's fingerprint if no setting of the data says why.
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
    if DATA in found and _follows(DATA, [key for key in found if key != DATA and key.split(".")[0] == "data"], runs):
        found.remove(DATA)
    return sorted(found, key=_dials_first)


def _follows(key: str, others: Sequence[str], runs: Sequence[Run]) -> bool:
    """Whether a setting is the same wherever the others are."""
    values: dict[str, set[str]] = {}
    for run in runs:
        values.setdefault(_shown([run.settings.get(other) for other in others]), set()).add(_shown(run.settings[key]))
    return all(len(each) == 1 for each in values.values())


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
    return json.dumps(value)


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
    """A quantity of finished runs by their seed; several runs of one seed count as one, by their mean."""
    values: dict[int, list[float]] = {}
    for run in runs:
        if run.state == "finished" and (value := quantity(run)) is not None:
            values.setdefault(run.seed, []).append(value)
    return {seed: sum(each) / len(each) for seed, each in sorted(values.items())}


def commits(runs: Sequence[Run]) -> str:
    """A sentence on the commits that runs were made with."""
    shas = sorted({str(run.record.get("git_sha") or "unknown")[:10] for run in runs})
    changed = sum(bool(run.record.get("dirty")) for run in runs)
    return f"Commit {', '.join(shas)}" + (f", {changed} of {len(runs)} runs with uncommitted changes." if changed else ".")
