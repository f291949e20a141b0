"""A sweep read back, finished or still running: its trials, its best settings, and figures of them."""

from __future__ import annotations

import contextlib
import functools
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from cvae import files, integrity
from cvae.console import short
from cvae.errors import UserError
from cvae.strangers import pasteable, said
from cvae.sweep.board import counts, numbers, settings
from cvae.sweep.figures import Figure, drawn
from cvae.sweep.journal import Journal
from cvae.sweep.locks import owned
from cvae.sweep.storage import absolute, read_journal
from cvae.sweep.top import kept_top, on_fresh_seeds
from cvae.sweep.trials import BEFORE, FAILURE, OF, SEEDS, counted, failure, ranked, retried

# Of a journal: bytes, bytes of a line, trials, and seconds to read them. A few hostile lines can take hours: the time that
# Optuna needs for one grows with those before it.
_BYTES, _LINE, _TRIALS, _SECONDS = 1 << 24, 1 << 20, 20_000, 2.0
_RECORD, _ENTRIES = 1 << 21, 10_000  # of a sweep.json: bytes and trials
_CREATE_TRIAL = 4  # Optuna's operation
_TEXT = 1000  # letters of what is shown of a trial


@dataclass(frozen=True)
class SweepRecord:
    """A study, read and never changed."""

    name: str
    storage: str
    study: optuna.Study
    objective: str
    command: str  # that completes it; empty while its first sweep is running, and if it may not be shown
    winner: tuple[int, str] | None  # the best trial on fresh seeds, by its number and in words, if there were such runs
    left_out: str = ""  # what the command lacks, in a sentence
    whole: bool = True  # whether it holds every trial: a sweep.json is older than the runs of a sweep that goes on

    @property
    def key(self) -> tuple[str, str]:
        """What distinguishes it from other studies."""
        return self.name, self.storage

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials; the index of each is its number."""
        return self.study.get_trials(deepcopy=False)

    def knows(self, number: int) -> bool:
        """Whether it has a trial of this number, or may have one that is younger than its sweep.json."""
        return not self.whole or number < len(self.trials)

    def awaits(self, number: int) -> bool:
        """Whether it holds every trial, has no result of this one, not of one of its jobs, and nobody works on it."""
        trial = self.trials[self.newest(number)]
        begun = trial.system_attrs.get(SEEDS) or trial.system_attrs.get(BEFORE)  # or it is queued anew
        return self.whole and not trial.state.is_finished() and not begun and not owned(trial)

    def newest(self, number: int) -> int:
        """The number of the last trial that retries this one, in the same folder; of one that is not retried its own."""
        while number in self._retried:
            number = self._retried[number]
        return number

    @functools.cached_property
    def _retried(self) -> dict[int, int]:
        """The failed trials that were queued anew, each with the number of a later one."""
        return {old: new for old, new in retried(self.trials).items() if new > old}

    def ending(self, number: int) -> tuple[str, str]:
        """``pruned`` or ``failed`` for a trial that ended so, with the reason; ``running`` while it has an owner."""
        number = self.newest(number)
        for trial in self.trials[number : number + 1]:
            if trial.state == TrialState.FAIL:
                return "failed", failure(trial)[:_TEXT]
            if trial.state == TrialState.PRUNED:
                return "pruned", ""
            if trial.state == TrialState.RUNNING and owned(trial):
                return "running", ""
        return "", ""

    @property
    def summary(self) -> str:
        """How many trials are complete, pruned, failed and running."""
        running = sum(trial.state == TrialState.RUNNING for trial in counted(self.trials))
        return counts(self.trials) + (f", {running} running" if running else "")

    @property
    def best(self) -> str:
        """Its best trial in words; empty if there is none, or no single one because of several objectives.

        It is empty too for a study that runs the best trials again: its best trial has only a lucky seed.
        """
        if self.winner:
            return self.winner[1]
        if self.best_trial is None:
            return ""
        trial = self.trials[self.best_trial]
        return f"trial {trial.number}, {self.objective} {numbers(trial.values)} ({settings(trial.params)})"[:_TEXT]

    @property
    def best_trial(self) -> int | None:
        """The number of the trial that ``best`` describes."""
        if self.winner:
            return self.winner[0]
        if any(OF in trial.user_attrs for trial in self.trials):
            return None
        return next((trial.number for trial in ranked(self.study)), None)

    def figures(self, curves: Mapping[int, Mapping[int, float]]) -> list[Figure]:
        """History, parameters against values, importances, and every trial's curve.

        Args:
            curves: each trial's objective by epoch.
        """
        return drawn(self.study, counted(self.trials), self.objective, curves)


# --- reading ----------------------------------------------------------------------------------------------------------


Problem = tuple[Path, str]
"""A file that cannot be read, and the reason."""


def read_sweep(
    name: str, storage: str, folders: Sequence[Path], objective: str, programs: Sequence[Sequence[str]]
) -> tuple[SweepRecord | None, list[Problem]]:
    """A study by its name, and what of its files is damaged; None if neither its journal nor a sweep.json can be read.

    While a sweep is running, its journal is ahead of sweep.json. A database is not asked: it may be far away or gone.

    Args:
        folders: where its sweep.json may be.
        objective: what its runs call their value, if there is no sweep.json that says so.
        programs: how a command may begin that is shown as the sweep's own. A sweep.json may come from a stranger, and people
            paste what is shown.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # it announces every study, also one in memory
    problems: list[Problem] = []
    record: Mapping[str, Any] = {}
    for folder in folders:
        found = _sweep_json(folder, name, problems)
        record = record or found
    objective = str(record.get("objective") or objective)[:_TEXT]
    command, left_out = _command(record, programs)
    rest = (command, _winner(record, objective), left_out)
    if (study := _from_journal(name, storage, problems)) is not None:
        try:
            return _shown(SweepRecord(name, storage, study, objective, *rest)), problems
        except Exception:  # whatever a line leads to that Optuna took
            problems.append((Path(storage.removeprefix("journal://")), "it is damaged: its trials cannot be shown"))
    if record:
        try:
            study = _from_record(record)
            return _shown(SweepRecord(name, storage, study, objective, *rest, whole=False)), problems
        except Exception:  # a damaged sweep.json leads Optuna to errors of many kinds
            problems.append((folders[0] / "sweep.json", "it is damaged: its trials cannot be shown"))
    return None, problems


def _shown(record: SweepRecord) -> SweepRecord:
    """The record, after a look at all that is shown of it, so that nothing fails later on."""
    _ = record.best, record.summary
    for trial in record.trials:
        if trial.state == TrialState.RUNNING:
            owned(trial)
        if not all(isinstance(value, (int, float)) for value in trial.intermediate_values.values()):
            raise ValueError(f"trial {trial.number} reports what is no number")
    return record


def _command(record: Mapping[str, Any], programs: Sequence[Sequence[str]]) -> tuple[str, str]:
    """The sweep's command with all its words quoted, so that a shell runs this one command and nothing else.

    What could run code is left out; the second text says so.
    """
    with contextlib.suppress(ValueError):
        words = shlex.split(str(record.get("command") or ""))
        for program in programs:
            if words[: len(program)] == list(program):
                kept, left_out = pasteable(words[len(program) :])
                return shlex.join([*program, *kept]), said(left_out)
    return "", ""


def _winner(record: Mapping[str, Any], objective: str) -> tuple[int, str] | None:
    top = kept_top(record)
    if top is None or top.winner is None:
        return None
    return top.winner, f"trial {top.winner}, {on_fresh_seeds(objective, top.values[top.winner])}"


def _sweep_json(folder: Path, name: str, problems: list[Problem]) -> dict[str, Any]:
    try:
        record = files.read_json(folder, "sweep.json", _RECORD)
        if not isinstance(record, dict) or "study" not in record:
            raise files.Unreadable("sweep.json is damaged (it holds no study)")
        integrity.check_record(record)
        return record if record["study"] == name else {}
    except files.Unreadable as error:
        problems.append((folder, str(error)))
    except integrity.Damaged as error:
        problems.append((folder, f"sweep.json is damaged ({error}): the sweep's command writes it anew"))
    except FileNotFoundError:
        pass
    return {}


class _Bounded(Journal):
    """A journal that may come from a stranger."""

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        began, trials = time.thread_time(), 0
        for log in super().read_logs(log_number_from):
            trials += log["op_code"] == _CREATE_TRIAL
            spent = time.thread_time() - began
            if trials > _TRIALS or spent > min(0.3 + 3e-5 * self.at, _SECONDS):
                raise UserError("its trials are too many to be shown, or their lines take too long to read")
            yield log


def _from_journal(name: str, storage: str, problems: list[Problem]) -> optuna.Study | None:
    if not storage.startswith("journal://"):
        return None
    path = Path(storage.removeprefix("journal://"))
    try:
        path = Path(absolute(storage).removeprefix("journal://"))
        _refuse_long_lines(files.read(path.parent, path.name, _BYTES))
        study = optuna.load_study(study_name=name, storage=read_journal(storage, _Bounded))
        study.get_trials(deepcopy=False)
    except FileNotFoundError:  # the study ran elsewhere
        return None
    except files.Unreadable as error:
        problems.append((path.parent, str(error)))
    except KeyError:
        problems.append((path, f"it has no study {name}: it may be cut, or another's"))
    except Exception as error:  # Optuna's are of many kinds
        # Without the command that cuts it: the file is one that a run's config names, and that may be any.
        problems.append((path, str(error).partition(". Put a copy")[0].removeprefix(f"{short(path)} ")))
    else:
        return study
    return None


def _refuse_long_lines(content: bytes) -> None:
    at = 0
    while len(content) - at > _LINE:
        end = content.rfind(b"\n", at, at + _LINE)
        if end < 0:
            raise UserError("it is no journal: it has a line of more than a million letters")
        at = end + 1


def _from_record(record: Mapping[str, Any]) -> optuna.Study:
    """A study in memory with the trials of a sweep.json."""
    study = optuna.create_study(directions=record["directions"])
    entries = sorted(record["trials"][:_ENTRIES], key=lambda entry: int(entry["number"]))
    keys = dict.fromkeys(key for entry in entries for key in entry["params"])
    spaces = {key: _distribution(key, entries, str(record["space"].get(key, ""))) for key in keys}
    for entry in _with_retried(entries, record):  # unfinished ones too, so that all keep their numbers
        state = TrialState[entry["state"].upper()]
        trial = optuna.trial.create_trial(
            state=state if state.is_finished() else TrialState.WAITING,
            values=entry["values"] if entry["state"] == "complete" else None,
            params=entry["params"],
            distributions={key: spaces[key] for key in entry["params"]},
            user_attrs={FAILURE: entry["failure"]} if entry.get("failure") else {},
            system_attrs={BEFORE: [entry["retries"]]} if "retries" in entry else {},
        )
        study.add_trial(trial)
    return study


def _with_retried(entries: Sequence[dict[str, Any]], record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All trials of a sweep.json by their numbers, with those that were queued anew, which it lists by themselves."""
    again = {int(each["number"]): int(each["retried_by"]) for each in record.get("retried", [])}
    retries = {new: {"retries": old} for old, new in again.items()}
    gone: list[dict[str, Any]] = [{"number": number, "state": "fail", "params": {}, "values": None} for number in again]
    marked = ({**entry, **retries.get(int(entry["number"]), {})} for entry in [*entries, *gone])
    return sorted(marked, key=lambda entry: int(entry["number"]))


def _distribution(key: str, entries: Sequence[Mapping[str, Any]], space: str) -> BaseDistribution:
    values = [entry["params"][key] for entry in entries if key in entry["params"]]
    if space.startswith("choice(") or not all(isinstance(value, (int, float)) for value in values):
        return CategoricalDistribution(list(dict.fromkeys(values)))
    return FloatDistribution(min(values), max(values), log=" log" in space and min(values) > 0)
