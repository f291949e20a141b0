"""One study that any number of processes and hosts work on: who runs which trial, and what becomes of it if they die.

A sweeper claims a trial under a lock and holds a lease on it; the job that it starts holds a second lease. A trial has an owner
as long as one of these two processes lives: on this host their process ids and start times tell it, on another host the time
at which the lease ends. A trial without an owner goes back into the queue with its number, parameters, reports and run folder,
until it has been tried often enough. Each claim has a token: it tells a late job that its trial was given to another one.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import secrets
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from cvae.config import flat
from cvae.errors import UserError, named
from cvae.process import Process
from cvae.sweep.storage import absolute, hidden, open_storage, patient

LEASE = 120.0  # seconds after which an owner that did not renew its lease has lost it
_IDENTITY = "cvae:identity"
_QUEUED = "enqueued"
# Attributes of a trial, the system's:
CLAIM, STOP, ATTEMPTS = "cvae:claim", "cvae:stop", "cvae:attempts"
SWEEPER, JOB = "cvae:sweeper", "cvae:job"  # the two leases
SEEDS = "cvae:seeds"  # the values of its finished seeds, by index
PLACE = "cvae:sweep_dir"  # the folder that holds its jobs' folders
# and the user's:
FOLDER, FAILURE, FACTS = "folder", "failure", "facts"
OF = "of"  # the number of the trial that this one repeats


class SweepStudy:
    """An Optuna study whose trials are claimed.

    Args:
        name, url: of the study; it is created if it does not exist.
        identity: what makes results comparable: search space and fixed settings. A study of the same name with another
            identity is refused.
        directions: ``maximize`` or ``minimize``, one an objective.
        retry: how often a trial that failed or was interrupted is tried again.
        objectives: their names, for the dashboard and for tables; none if the app declares none.

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
        objectives: Sequence[str] = (),
    ) -> None:
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
            self._name_objectives(objectives)

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials; the index of each is its number. They must not be changed."""
        return self.study.get_trials(deepcopy=False)

    def finished(self) -> list[FrozenTrial]:
        """Trials that are complete, pruned, or failed for good."""
        return [trial for trial in self.trials if trial.state.is_finished()]

    # --- claims -----------------------------------------------------------------------------------------------------------

    @patient
    def claim(self, n_trials: int) -> Trial | None:
        """The next trial to run, leased to this process; None if ``n_trials`` are finished or running.

        Trials that lost their owner come first, then enqueued ones, then new ones.
        """
        with self._locked():
            self._reconcile()
            if sum(trial.state != TrialState.WAITING for trial in self.trials) >= n_trials:
                return None
            trial = self.study.ask()
            # Clear what an earlier attempt left.
            for key in {STOP, JOB} & self.storage.get_trial_system_attrs(trial._trial_id).keys():
                self.storage.set_trial_system_attr(trial._trial_id, key, None)
            if FAILURE in trial.user_attrs:
                trial.set_user_attr(FAILURE, None)
            self.storage.set_trial_system_attr(trial._trial_id, CLAIM, secrets.token_hex(4))
            self.lease(trial._trial_id, SWEEPER)
            return trial

    def enqueue(self, points: Sequence[dict[str, Any]], **attributes: Sequence[Any]) -> None:
        """Queue trials with given parameters and attributes. Each is queued once, also if several sweepers ask for it."""
        with self._locked():
            for index, point in enumerate(points):
                own = {key: values[index] for key, values in attributes.items()}
                if not any(trial.user_attrs.get(_QUEUED) == index for trial in self.trials):
                    self.study.enqueue_trial(point, user_attrs={_QUEUED: index, **own})

    def lease(self, trial_id: int, role: str, owner: Process | None = None) -> None:
        """Give ``owner`` (default: this process) a running trial for ``LEASE`` seconds, as its ``SWEEPER`` or its ``JOB``."""
        self.storage.set_trial_system_attr(trial_id, role, lease_of(owner or Process.of()))

    @patient
    def give_up(self, number: int, claim: str, reason: str, attempt: bool) -> None:
        """Queue a claimed trial that its job left unfinished; fail it if this was the last ``attempt`` that it may have.

        A job that still runs, although its launcher lost it, keeps its trial: else two jobs would run the same trial.
        """
        with self._locked():
            trial = self.trials[number]
            if trial.system_attrs.get(CLAIM) != claim or trial.state.is_finished():
                return
            job, me = trial.system_attrs.get(JOB), Process.of()
            if job and (job["host"], job["pid"]) != (me.host, me.pid) and _lives(job):
                self.storage.set_trial_system_attr(trial._trial_id, SWEEPER, None)
            else:
                self._queue_or_fail(trial, reason, attempt)

    def stop(self, trial_ids: Sequence[int]) -> None:
        """Ask the jobs of running trials to save and end."""
        for trial_id in trial_ids:
            with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
                self.storage.set_trial_system_attr(trial_id, STOP, True)

    def job_lost(self, number: int) -> bool:
        """Whether a trial's job had begun and does not renew its lease any more, while its launcher still waits for it."""
        lease = self.trials[number].system_attrs.get(JOB)
        return lease is not None and time.time() > lease["until"] and not _lives(lease)

    def _reconcile(self) -> None:
        """Queue or fail the running trials without an owner."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if not owned(trial):
                self._queue_or_fail(trial, "its process died", attempt=_counts(trial))

    def _queue_or_fail(self, trial: FrozenTrial, reason: str, attempt: bool) -> None:
        attempts = int(trial.system_attrs.get(ATTEMPTS, 0)) + attempt
        self.storage.set_trial_system_attr(trial._trial_id, ATTEMPTS, attempts)
        if attempts > self.retry:
            if trial.state == TrialState.WAITING:
                self.storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
            reason = trial.user_attrs.get(FAILURE) or reason  # the job's own reason says more
            text = reason if attempts <= 1 else f"tried {attempts} times; {reason}"
            self.storage.set_trial_user_attr(trial._trial_id, FAILURE, text)
            self.storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        elif trial.state == TrialState.RUNNING:
            self.storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)

    # --- identity, names and lock -----------------------------------------------------------------------------------------

    def _identify(self, identity: dict[str, Any], directions: Sequence[str]) -> None:
        given = json.loads(json.dumps({**identity, "directions": list(directions)}, sort_keys=True))
        known = self.study.user_attrs.get(_IDENTITY)
        if known is None:
            self.study.set_user_attr(_IDENTITY, given)
        elif known != given:
            raise UserError(
                f"study {self.name} in {hidden(self.url)} searches something else ({_difference(known, given)}): "
                "give this sweep another hydra.sweeper.study_name, or the study's own settings"
            )

    def _name_objectives(self, names: Sequence[str]) -> None:
        """Keep the objectives' names with the study. They are an extra: a storage that refuses them does no harm."""
        if len(names) == len(self.study.directions) and self.study.metric_names is None:
            with warnings.catch_warnings(), contextlib.suppress(Exception):
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                self.study.set_metric_names(list(names))

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        return locked(self.url, self.name)


@contextlib.contextmanager
def locked(url: str, name: str) -> Iterator[None]:
    """Hold the lock under which trials of this study are claimed. It is released when its process dies."""
    storage = open_storage(url)
    if isinstance(storage, JournalStorage):
        path = Path(url.removeprefix("journal://"))
    elif isinstance(storage, RDBStorage) and storage.engine.dialect.name == "sqlite":
        path = Path(storage.engine.url.database or "")
    else:
        yield from _locked_in_database(storage, url, name)
        return
    with path.with_name(path.name + ".claim").open("a") as file:
        with named(file.name):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _locked_in_database(storage: BaseStorage, url: str, study: str) -> Iterator[None]:
    assert isinstance(storage, RDBStorage)
    from sqlalchemy import text
    from sqlalchemy.exc import SQLAlchemyError

    locks = {
        "postgresql": ("SELECT pg_advisory_lock(hashtext(:name))", "SELECT pg_advisory_unlock(hashtext(:name))"),
        "mysql": ("SELECT GET_LOCK(:name, -1)", "SELECT RELEASE_LOCK(:name)"),
    }
    dialect = storage.engine.dialect.name
    if dialect not in locks:
        raise UserError(f"storage={hidden(url)}: {dialect} is not supported; use postgresql, mysql, sqlite or journal")
    take, release = locks[dialect]
    name = {"name": f"cvae {study}"[:64]}
    with storage.engine.connect() as connection:
        connection.execute(text(take), name)
        try:
            yield
        finally:
            # A server that was restarted has released the lock already.
            with contextlib.suppress(SQLAlchemyError):
                connection.execute(text(release), name)


def lease_of(owner: Process) -> dict[str, Any]:
    """A lease that begins now, as it is kept with a trial."""
    return {**asdict(owner), "until": time.time() + LEASE}


def _counts(trial: FrozenTrial) -> bool:
    """Whether a lost trial counts as an attempt: its job had begun, and nobody asked it to stop."""
    return bool(trial.system_attrs.get(JOB)) and not trial.system_attrs.get(STOP)


def owned(trial: FrozenTrial) -> bool:
    """Whether its sweeper or its job lives."""
    return any(_lives(lease) for role in (SWEEPER, JOB) if (lease := trial.system_attrs.get(role)))


def _lives(lease: dict[str, Any]) -> bool:
    alive = Process(lease["host"], lease["pid"], lease["started"]).alive()
    return bool(time.time() < lease["until"]) if alive is None else alive


def _difference(known: dict[str, Any], given: dict[str, Any]) -> str:
    """Which keys differ, in one line: the study's value, then the sweep's."""
    theirs, ours = flat(known), flat(given)
    keys = sorted(key for key in theirs.keys() | ours.keys() if theirs.get(key) != ours.get(key))
    return "; ".join(f"{key}: {theirs.get(key, 'nothing')} there, {ours.get(key, 'nothing')} here" for key in keys)


# --- what a trial is worth --------------------------------------------------------------------------------------------


def ranked(study: optuna.Study) -> list[FrozenTrial]:
    """The complete trials that keep all constraints, best first; none of a study with several objectives."""
    if len(study.directions) > 1:
        return []
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    feasible = [trial for trial in complete if all(value <= 0 for value in trial.constraints.values())]
    return sorted(feasible, key=lambda trial: trial.values[0], reverse=study.direction == StudyDirection.MAXIMIZE)


def failure(trial: FrozenTrial) -> str:
    """The last line of the reason why a trial failed; empty if there is none."""
    return "".join(str(trial.user_attrs.get(FAILURE) or "").strip().splitlines()[-1:])
