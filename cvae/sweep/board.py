"""What a sweep shows while it runs: a line for every finished trial, and in a terminal a table of the running ones."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any

from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from cvae.console import console, say
from cvae.sweep.distributions import Value, written
from cvae.sweep.locks import JOB, SWEEPER
from cvae.sweep.plan import Plan
from cvae.sweep.study import SweepStudy
from cvae.sweep.trials import OF, counted, failure, ranked, retried

_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.WAITING: "queued again",
    TrialState.RUNNING: "runs elsewhere",
}


def in_process(launcher: Any) -> bool:
    """Whether a launcher runs its jobs in this process, which can run one at a time."""
    name = type(launcher).__name__
    if name != "JoblibLauncher":
        return name == "BasicLauncher"
    import joblib

    # For one job at a time joblib starts no second process.
    return bool(joblib.effective_n_jobs(launcher.joblib.get("n_jobs", -1)) == 1)


class Board:
    """Shows a study's progress; as a context manager it draws a table."""

    def __init__(self, plan: Plan, study: SweepStudy, launcher: Any) -> None:
        self.plan, self.study = plan, study
        self._began, self._before = time.monotonic(), len(study.finished())
        self._stack = contextlib.ExitStack()
        self._live: Any = None
        self._said_waiting = False
        self._table = console().is_terminal and type(launcher).__name__ not in ("BasicLauncher", "JoblibLauncher")

    def __enter__(self) -> Board:
        if self._table:
            from rich.live import Live

            self._live = self._stack.enter_context(Live(console=console(), auto_refresh=False, transient=True))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def refresh(self, running: Mapping[int, float]) -> None:
        """Draw the table of running trials, given by number and time of their start; only in a terminal."""
        if self._live is None:
            return
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False)
        for column in ("trial", "step", self.plan.objective, "best", "minutes", "settings"):
            table.add_column(column, justify="left" if column == "settings" else "right")
        trials = self.study.trials
        for number, began in sorted(running.items()):
            table.add_row(*_row(trials[number], self.study.study.directions[0], (time.monotonic() - began) / 60))
        self._live.update(Group(Text(self._headline()), table), refresh=True)

    def waiting(self) -> None:
        """Say once that only other processes' trials are missing, and where they run."""
        if self._said_waiting:
            return
        self._said_waiting = True
        for trial in self.study.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            owner = trial.system_attrs.get(JOB) or trial.system_attrs.get(SWEEPER) or {}
            host = str(owner.get("host", "?")).split()[0]
            say(f"waiting for trial {trial.number}, which process {owner.get('pid')} of {host} runs")

    def trial(self, trial: FrozenTrial, values: Mapping[str, Value]) -> None:
        """Say how a trial ended."""
        of = trial.user_attrs.get(OF)
        parts = [f"trial {trial.number}" if of is None else f"trial {of} again", _STATES[trial.state]]
        if trial.state == TrialState.PRUNED and trial.last_step is not None:
            parts.append(f"at {trial.last_step}")
        if trial.state.is_finished() and trial.values:
            parts.append(f"{self.plan.objective} {numbers(trial.values)}")
        if failure(trial) and trial.state != TrialState.COMPLETE:
            parts.append(f"({failure(trial)})")
        parts.append(settings(values))
        say("  ".join(parts), style="red" if trial.state == TrialState.FAIL else None)
        if trial.state.is_finished() and self._live is None:
            say("         " + self._headline())

    def _headline(self) -> str:
        finished = self.study.finished()
        parts = [f"{len(finished)} of {self.plan.n_trials} done", counts(self.study.trials)]
        for best in [each for each in ranked(self.study.study)[:1] if OF not in each.user_attrs]:  # those are no contest
            parts.append(f"best {numbers(best.values)} (trial {best.number})")
        here, missing = len(finished) - self._before, self.plan.n_trials - len(finished)
        if here > 0 and missing > 0:
            parts.append(f"about {_span(missing * (time.monotonic() - self._began) / here)} left")
        return "  ".join(parts)


def counts(trials: list[FrozenTrial]) -> str:
    """How many are complete, pruned, failed; and how many failed ones were queued anew and do not count, if any."""
    states = [trial.state for trial in counted(trials)]
    parts = [f"{states.count(state)} {name}" for state, name in _STATES.items() if state.is_finished()]
    again = len(retried(trials))
    return ", ".join([*parts, f"{again} retried"] if again else parts)


def numbers(values: list[float]) -> str:
    """Values to four digits."""
    return ", ".join(f"{value:.4g}" for value in values)


def settings(values: Mapping[str, Value]) -> str:
    """Parameters in a short form."""
    return " ".join(
        f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={written(value)}" for key, value in values.items()
    )


def _row(trial: FrozenTrial, direction: StudyDirection, minutes: float) -> list[str]:
    reports = trial.intermediate_values
    step, now, best = "", "", ""
    if reports:
        last = max(reports)
        choose = max if direction == StudyDirection.MAXIMIZE else min
        step, now, best = str(last), f"{reports[last]:.4g}", f"{choose(reports.values()):.4g}"
    return [str(trial.number), step, now, best, f"{minutes:.1f}", settings(trial.params)]


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
