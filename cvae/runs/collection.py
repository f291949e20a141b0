"""Find the runs below some folders, and add what their sweeps know of them."""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cvae import files
from cvae.console import natural_order, short
from cvae.errors import FAILURE, UserError, brief, expanded
from cvae.metrics import BUILT_IN, Metric
from cvae.runs.run import DATA, FailedStart, Run, read_run
from cvae.sweep.records import SweepRecord, read_sweep

_HINT = "give run folders or multirun folders; they are in multirun/"
_MARKS = (".hydra", "run.json", "metrics.jsonl", FAILURE)  # one of them makes a folder a run's
_MOST, _DEPTH = 20_000, 40  # entries of a folder of runs, and folders within folders
_FINGERPRINT, _DATA_SETS = 64, 6  # letters, and data sets that are named
_PROGRAMS = (("python", "-m", "cvae.train"), ("cvae-train",))  # whose sweeps have commands that are shown


@dataclass(frozen=True)
class Collection:
    """Runs to compare and their sweeps; what could not be read, and starts that failed, each with its reason."""

    runs: list[Run]
    unreadable: list[tuple[Path, str]] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)
    sweeps: list[SweepRecord] = field(default_factory=list)

    @property
    def counts(self) -> str:
        """The number of runs, in all and in each state, in words."""
        states = [run.state for run in self.runs]
        words = [f"{len(states)} runs" if len(states) != 1 else "1 run"]
        words += [f"{states.count(state)} {state}" for state in dict.fromkeys(states)] if len(set(states)) > 1 else []
        words += [f"{len(self.failed)} failed to start"] * bool(self.failed)
        return ", ".join(words + [f"{len(self.unreadable)} unreadable"] * bool(self.unreadable))

    @property
    def problems(self) -> list[str]:
        """A line for each folder or file that cannot be read, and for each run of which something is damaged."""
        lines = [f"{short(folder)} failed to start: {reason}" for folder, reason in self.failed]
        lines += [f"{short(path)}: {reason}" for path, reason in self.unreadable]
        for run in self.runs:
            found = [*run.problems, *(each.problem for each in run.evaluations if each.problem)]
            lines += [f"{short(run.folder)}: {'; '.join(found)}"] * bool(found)
        return lines


def collect(places: Sequence[str]) -> Collection:
    """Read all runs below some folders.

    Args:
        places: run folders, multirun folders, folders that hold such folders, or globs of them.

    Raises:
        UserError: a place does not exist, or there is no run folder below it, readable or not.
    """
    folders, unreadable = _found("runs", places)
    runs, failed = [], []
    for real, folder in folders.items():
        try:
            runs.append(read_run(folder))
        except FailedStart as error:
            failed.append((folder, str(error)))
        except files.Unreadable as error:
            unreadable[real] = (folder, str(error))
        except Exception as error:  # whatever a folder leads to, or one that is removed now, costs its own line alone
            unreadable[real] = (folder, f"it cannot be read, or was removed ({brief(error)})")
    sweeps, closed = _sweeps(runs)
    shown = [_with_sweep_state(_with_option_names(run), sweeps) for run in _with_short_names(runs)]
    return Collection(shown, [*unreadable.values(), *closed], failed, sweeps)


def run_folders(words: Sequence[str]) -> list[Path]:
    """The run folders that ``run=`` names: run folders, multirun folders, folders that hold such folders, or globs of them.

    Raises:
        UserError: a place does not exist, or there is no run folder below it.
    """
    folders, unreadable = _found("run", words)
    if unreadable:
        folder, reason = next(iter(unreadable.values()))
        raise UserError(f"run={short(folder)}: {reason}")
    return list(folders.values())


def modification_times(places: Sequence[str]) -> dict[Path, int]:
    """When the files of the runs below some folders were last written: much faster than to read them."""
    folders = [folder for place in places for folder in _run_folders(place)[0]]
    paths = [folder / name for folder in folders for name in (*_MARKS, "samples", "eval")]
    times: dict[Path, int] = {}
    for path in paths:
        with contextlib.suppress(OSError):  # not written yet, or removed
            times[path] = path.stat().st_mtime_ns
    return times


def _found(key: str, places: Sequence[str]) -> tuple[dict[str, Path], dict[str, tuple[Path, str]]]:
    """The run folders at or below the places of ``key``, and the folders that cannot be looked into, by their real paths."""
    if not places:
        raise UserError(f"{key}=[] names no folder: {_HINT}")
    folders: dict[str, Path] = {}
    unreadable: dict[str, tuple[Path, str]] = {}
    for place in places:
        found, closed = _run_folders(place, key)
        if not found and not closed:
            raise UserError(f"{key}={place} holds no run: {_HINT}")
        for folder in found:
            folders.setdefault(os.path.realpath(folder), folder)  # places may overlap
        unreadable |= {os.path.realpath(folder): (folder, reason) for folder, reason in closed}
    return folders, unreadable


def _run_folders(place: str, key: str = "runs") -> tuple[list[Path], list[tuple[Path, str]]]:
    """The run folders at or below a place, and the folders into which nobody can look, with the reason for each."""
    found, closed = [], []
    for root in _expand(place, key):
        for folder, reason in _walk(root):
            if reason:
                closed.append((folder, reason))
            else:
                found.append(folder)
    return found, closed


def _expand(place: str, key: str) -> list[Path]:
    path = expanded(place, key)
    if path.exists():
        return [path]
    if not glob.has_magic(place):
        raise UserError(f"{key}={place} does not exist: {_HINT}")
    return sorted(Path("/").glob(str(path).lstrip("/")), key=lambda found: natural_order(str(found)))


def _walk(root: Path) -> Iterator[tuple[Path, str]]:
    """The run folders at or below a folder, in natural order, and those that cannot be looked into with a reason.

    Symbolic links are followed.
    """
    seen: set[str] = set()
    waiting = [(root, 0)] if root.is_dir() else []
    while waiting:
        folder, depth = waiting.pop()
        if (real := os.path.realpath(folder)) in seen:  # links may form a circle
            continue
        seen.add(real)
        if any(os.path.lexists(folder / name) for name in _MARKS):
            yield folder, ""
            continue
        try:
            entries = files.entries(folder, _MOST)
        except files.Unreadable as error:
            yield folder, str(error)
            continue
        below = [entry.name for entry in entries if not entry.name.startswith(".") and _is_folder(entry)]
        if below and depth == _DEPTH:
            yield folder, f"it is nested too deeply: give the folders below it with runs={short(folder)}"
            continue
        waiting += [(folder / name, depth + 1) for name in sorted(below, key=natural_order, reverse=True)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    with contextlib.suppress(OSError):  # a link to itself
        return entry.is_dir()
    return False


def _with_short_names(runs: Sequence[Run]) -> list[Run]:
    """The runs, named by their paths below the folder that all of them are in."""
    if len(runs) < 2:
        return list(runs)
    common = os.path.commonpath([run.folder.parent for run in runs])
    return [replace(run, name=os.path.relpath(run.folder, common)) for run in runs]


def _with_option_names(run: Run) -> Run:
    """The run with the choice of each group by the name that its command has for it: ``model: tiny``."""
    return replace(run, settings=run.settings | {key: name for key, name in run.options.items() if key in run.settings})


def _sweeps(runs: Iterable[Run]) -> tuple[list[SweepRecord], list[tuple[Path, str]]]:
    """The studies of the runs, each read from its journal or from the sweep.json beside its runs, and what cannot be read."""
    firsts: dict[tuple[str, str], Run] = {}
    for run in runs:
        if run.study is not None:
            firsts.setdefault(run.study, run)
    found = []
    problems: dict[tuple[Path, str], None] = {}  # two studies may stand in one file
    for (name, storage), run in firsts.items():
        folders = [run.folder.parent, run.folder.parent.parent]
        record, closed = read_sweep(name, storage, folders, run.objective, _PROGRAMS)
        problems |= dict.fromkeys(closed)
        found += [record] if record is not None else []
    return found, [*problems]


def _with_sweep_state(run: Run, sweeps: Sequence[SweepRecord]) -> Run:
    """The run with the state that its sweep knows: its folder does not say that a trial was pruned or has failed."""
    sweep = next((each for each in sweeps if each.key == run.study), None)
    if sweep is None or run.trial is None:
        return run
    lacks = "" if sweep.knows(run.trial) else "does not know this run"
    if not lacks and run.state == "finished" and sweep.awaits(run.trial):
        lacks = "has no result of this run, which is complete"
    if lacks:
        problem = f"the study {sweep.name} {lacks}: its journal, {Path(sweep.storage).name}, may be cut"
        return replace(run, problems=[*run.problems, problem], note="; ".join(filter(None, [run.note, problem])))
    if run.state in ("finished", "damaged"):
        return run
    state, reason = sweep.ending(run.trial)
    known = not reason or reason in run.note
    return replace(run, state=state or run.state, note=run.note if known else "; ".join(filter(None, [run.note, reason])))


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


def other_data(runs: Sequence[Run]) -> str:
    """A warning that runs are on different data, so that their levels do not compare; empty if they are not."""
    counts: dict[str, list[str]] = {}
    for run in runs:
        if fingerprint := run.record.get("dataset"):
            counts.setdefault(str(fingerprint)[:_FINGERPRINT], []).append(str(run.settings.get("data", "data")))
    if len(counts) < 2:
        return ""
    named = [f"{len(names)} on {names[0]} ({DATA}={fingerprint})" for fingerprint, names in counts.items()]
    shown = "; ".join(named[:_DATA_SETS]) + ("; ..." if len(named) > _DATA_SETS else "")
    return f"These runs are on {len(counts)} different data sets, whose levels do not compare: {shown}."
