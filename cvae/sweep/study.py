"""One study that any number of processes and hosts work on: who runs which trial, and what becomes of it if they die.

A trial is claimed under a lock, together with a lease that names its owner. An owner on this host is looked up by process
id and start time; one on another host counts as dead when its lease has run out. A trial without a live owner is put
back in the queue as it is, with its number, parameters, reports and run folder, until it has been tried often enough.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.storages import JournalStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from cvae.errors import UserError
from cvae.sweep.storage import absolute, hidden, open_storage

LEASE = 90.0  # seconds that an owner may be silent; it speaks up every third of that
_LEASE_KEY, _ATTEMPTS_KEY, _IDENTITY_KEY = "cvae:lease", "cvae:attempts", "cvae:identity"


@dataclass(frozen=True)
class Owner:
    """A process: ``started`` tells it from a later one with the same id."""

    host: str
    pid: int
    started: float

    @classmethod
    def of(cls, pid: int | None = None) -> Owner:
        process = psutil.Process(pid)
        return cls(platform.node(), process.pid, process.create_time())

    def alive(self, until: float) -> bool:
        """Whether it lives: seen at once on this host, by its lease's end on another."""
        if self.host != platform.node():
            return time.time() < until
        try:
            process = psutil.Process(self.pid)
            return bool(process.create_time() == self.started and process.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False


class SweepStudy:
    """An Optuna study with claims.

    Args:
        name, url: where it lives; it is created if it is not there.
        identity: what makes results comparable (search space, fixed overrides); a study of the same name with another one
            is refused.
        directions: ``maximize`` or ``minimize``, one an objective.
        retry: how often a trial whose owner died is tried again.

    Raises:
        UserError: the storage cannot be opened, or the study is of another identity or direction.
    """

    def __init__(
        self,
        name: str,
        url: str,
        identity: dict[str, Any],
        directions: Sequence[str],
        sampler: optuna.samplers.BaseSampler | None = None,
        pruner: optuna.pruners.BasePruner | None = None,
        retry: int = 1,
    ) -> None:
        wrong = [direction for direction in directions if direction not in ("maximize", "minimize")]
        if wrong or not directions:
            raise UserError(f"hydra.sweeper.direction is {wrong or 'empty'}: choose maximize or minimize, one an objective")
        self.name, self.url, self.retry = name, absolute(url), retry
        self.storage = open_storage(self.url)
        with self._locked():
            self.study = optuna.create_study(
                study_name=name,
                storage=self.storage,
                directions=[StudyDirection[direction.upper()] for direction in directions],
                sampler=sampler,
                # Optuna takes None for a median pruner.
                pruner=pruner or optuna.pruners.NopPruner(),
                load_if_exists=True,
            )
            self._identify(identity, directions)

    def claim(self, n_trials: int) -> Trial | None:
        """The next trial to run, leased to this process; None if ``n_trials`` are finished or running.

        Trials that lost their owner come first, then enqueued ones, then new ones.
        """
        with self._locked():
            self.reconcile()
            trials = self.study.get_trials(deepcopy=False)
            begun = sum(trial.state.is_finished() or trial.state == TrialState.RUNNING for trial in trials)
            if begun >= n_trials:
                return None
            trial = self.study.ask()
            self.lease(trial, Owner.of())
            return trial

    def lease(self, trial: Trial | FrozenTrial, owner: Owner) -> None:
        """Say that ``owner`` runs a trial, from now for ``LEASE`` seconds."""
        lease = {**asdict(owner), "until": time.time() + LEASE}
        self.storage.set_trial_system_attr(trial._trial_id, _LEASE_KEY, lease)

    def reconcile(self) -> list[int]:
        """Queue or fail the running trials whose owner is dead; return their numbers. Call it under the lock only."""
        lost = [
            trial for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)) if not self._owned(trial)
        ]
        for trial in lost:
            attempts = int(trial.system_attrs.get(_ATTEMPTS_KEY, 1))
            if attempts > self.retry:
                self.storage.set_trial_user_attr(trial._trial_id, "failure", f"its process died {attempts} times")
                self.storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            else:
                self.storage.set_trial_system_attr(trial._trial_id, _ATTEMPTS_KEY, attempts + 1)
                self.storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
        return [trial.number for trial in lost]

    def running(self) -> list[FrozenTrial]:
        """Trials with a live owner."""
        return [trial for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)) if self._owned(trial)]

    def finished(self) -> list[FrozenTrial]:
        """Trials that are complete, pruned, or failed for good."""
        return [trial for trial in self.study.get_trials(deepcopy=False) if trial.state.is_finished()]

    def _owned(self, trial: FrozenTrial) -> bool:
        lease = trial.system_attrs.get(_LEASE_KEY)
        return lease is not None and Owner(lease["host"], lease["pid"], lease["started"]).alive(lease["until"])

    def _identify(self, identity: dict[str, Any], directions: Sequence[str]) -> None:
        given = json.loads(json.dumps({**identity, "directions": list(directions)}, sort_keys=True))
        known = self.study.user_attrs.get(_IDENTITY_KEY)
        if known is None:
            self.study.set_user_attr(_IDENTITY_KEY, given)
        elif known != given:
            raise UserError(
                f"study {self.name} in {hidden(self.url)} searches something else ({_difference(known, given)}): "
                "give this sweep another hydra.sweeper.study_name, or the study's own settings"
            )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold what all who claim in this study wait for. It is let go when its holder dies."""
        if isinstance(self.storage, JournalStorage):
            path = Path(self.url.removeprefix("journal://"))
        elif isinstance(self.storage, RDBStorage) and self.storage.engine.dialect.name == "sqlite":
            path = Path(self.storage.engine.url.database or "")
        else:
            yield from self._locked_in_database()
            return
        with path.with_name(path.name + ".claim").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _locked_in_database(self) -> Iterator[None]:
        assert isinstance(self.storage, RDBStorage)
        from sqlalchemy import text

        locks = {
            "postgresql": ("SELECT pg_advisory_lock(hashtext(:name))", "SELECT pg_advisory_unlock(hashtext(:name))"),
            "mysql": ("SELECT GET_LOCK(:name, -1)", "SELECT RELEASE_LOCK(:name)"),
        }
        dialect = self.storage.engine.dialect.name
        if dialect not in locks:
            raise UserError(f"storage={hidden(self.url)}: {dialect} is not supported; use postgresql, mysql, sqlite or journal")
        take, release = locks[dialect]
        name = {"name": f"cvae {self.name}"[:64]}
        with self.storage.engine.connect() as connection:
            connection.execute(text(take), name)
            try:
                yield
            finally:
                connection.execute(text(release), name)


def _difference(known: dict[str, Any], given: dict[str, Any]) -> str:
    """Which keys differ, theirs before ours, in one line."""
    flat = [dict(_leaves(each)) for each in (known, given)]
    keys = sorted(key for key in flat[0].keys() | flat[1].keys() if flat[0].get(key) != flat[1].get(key))
    return "; ".join(f"{key}: {flat[0].get(key, 'nothing')} there, {flat[1].get(key, 'nothing')} here" for key in keys)


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, below in value.items():
            yield from _leaves(below, f"{prefix} {key}".strip())
    else:
        yield prefix, value
