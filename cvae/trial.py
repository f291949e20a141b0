"""The trial that this process runs: what a training run reports its values to. It loads nothing of Optuna's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Protocol


class Trial(Protocol):
    """What a job may use of its trial."""

    number: int | None
    params: dict[str, Any]
    pruned: bool
    again: bool
    """Whether it repeats one of a sweep's best trials on a fresh seed: what a winner alone should do is done then."""

    @property
    def stopping(self) -> bool:
        """Whether this job was asked to stop: save what a later attempt can go on from, then leave by an exit.

        What is returned counts as the trial's value, be it early.
        """

    def report(self, step: int, value: float) -> bool:
        """Report the objective after ``step`` of the job; return whether the pruner says to stop here."""

    def record(self, facts: Mapping[str, float]) -> None:
        """Keep facts with the trial; ``hydra.sweeper.constraints`` holds them to limits."""

    def use_data(self, fingerprint: str) -> None:
        """Say on what data the job runs, once they are open.

        Raises:
            UserError: the study's trials ran on other data.
        """


class NoTrial:
    """Outside a sweep: nothing is kept and nothing is pruned."""

    number: int | None = None
    pruned = again = False

    def __init__(self) -> None:
        self.params: dict[str, Any] = {}

    @property
    def stopping(self) -> bool:
        return False

    def report(self, step: int, value: float) -> bool:
        return False

    def record(self, facts: Mapping[str, float]) -> None: ...

    def use_data(self, fingerprint: str) -> None: ...


_current: Trial = NoTrial()


def current_trial() -> Trial:
    """The trial of the job that runs in this process, or one that does nothing."""
    return _current


@contextlib.contextmanager
def running(trial: Trial) -> Iterator[None]:
    """Make ``trial`` the current one."""
    global _current
    before, _current = _current, trial
    try:
        yield
    finally:
        _current = before
