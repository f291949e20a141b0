"""One study that any number of processes and hosts work on: who runs which trial, and what becomes of it if they die.

A sweeper claims a trial under a lock and holds a lease on it; the job that it starts holds a second lease. A trial has an owner
as long as one of these two processes lives: on this host their process ids and start times tell it, on another host the time
at which the lease ends. A trial without an owner goes back into the queue with its number, parameters, reports and run folder,
until it has been tried often enough. Each claim has a token: it tells a late job that its trial was given to another one.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
import warnings
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from cvae.config import flat
from cvae.errors import UserError
from cvae.process import Process
from cvae.sweep.locks import JOB, SWEEPER, lease_of, lives, locked, owned
from cvae.sweep.storage import absolute, file_of, hidden, open_storage, patient
from cvae.sweep.trials import (
    ATTEMPTS,
    BEFORE,
    CLAIM,
    FAILURE,
    FIXED,
    PLACE,
    SEEDS,
    STOP,
    STUDY_DATA,
    again,
    counted,
    grid_attributes,
    recorded_data,
    retried,
    tied,
)

_IDENTITY = "cvae:identity"
_STARTS = "cvae:starts"  # how many sweepers have begun to sample for it
_QUEUED = "enqueued"
_TAKEN_OVER = "taken_over"  # a trial that another study ran


class SweepStudy:
    """An Optuna study whose trials are claimed. ``fresh``: it did not exist before.

    Args:
        name, url: of the study; it is created if it does not exist.
        identity: what makes results comparable: search space, fixed settings and, where it is known, the fingerprint of the
            ``data``. A study of the same name with another identity is refused.
        directions: ``maximize`` or ``minimize``, one an objective.
        retry: how often a trial that failed or was interrupted is tried again.
        objectives: their names, for the dashboard and for tables; none if the app declares none.
        one_data: whether all its trials run on the same data: they may be searched.

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
        one_data: bool = True,
    ) -> None:
        self.name, self.url, self.retry, self._one_data = name, absolute(url), retry, one_data
        self.storage = open_storage(self.url)
        identity = dict(identity)
        data = identity.pop("data", None)
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
            self.fresh = not self.trials and _IDENTITY not in self.study.user_attrs
            self._identify({**identity, "directions": list(directions)}, data)
            self._name_objectives(objectives)

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials; the index of each is its number. They must not be changed."""
        return self.study.get_trials(deepcopy=False)

    def finished(self) -> list[FrozenTrial]:
        """Trials that are complete, pruned, or failed for good; not those that were queued anew."""
        return [trial for trial in counted(self.trials) if trial.state.is_finished()]

    # --- the beginning of a sweep -----------------------------------------------------------------------------------------

    @patient
    def retry_failed(self) -> dict[int, int]:
        """Queue each failed trial anew, as a trial of its own; return the old numbers with the new ones."""
        with self._locked():
            trials = self.trials
            gone = retried(trials)
            for trial in trials:
                if trial.state == TrialState.FAIL and trial.number not in gone:
                    self.study.add_trial(again(trial))  # this one write is both the new trial and the old one's mark
            return {old: new for old, new in retried(self.trials).items() if old not in gone}

    @patient
    def next_start(self) -> int:
        """The number of this start: of all sweepers that sample for this study none has the same; the first has 0."""
        with self._locked():
            known = self.study.user_attrs.get(_STARTS)
            if known is None:  # an earlier version did not count
                known = int(any(trial.state != TrialState.WAITING for trial in self.trials))
            self.study.set_user_attr(_STARTS, known + 1)
            return int(known)

    def sampling(self) -> contextlib.AbstractContextManager[None]:
        """The context in which to suggest a trial's values: one at a time where the sampler counts them in the study."""
        quasi_random = isinstance(self.study.sampler, optuna.samplers.QMCSampler)
        return self._locked() if quasi_random else contextlib.nullcontext()

    # --- claims -----------------------------------------------------------------------------------------------------------

    @patient
    def claim(self, n_trials: int) -> Trial | None:
        """The next trial to run, leased to this process; None if ``n_trials`` are finished or running.

        Trials that lost their owner come first, then enqueued ones, then new ones.
        """
        with self._locked():
            self._reconcile()
            if sum(trial.state != TrialState.WAITING for trial in counted(self.trials)) >= n_trials:
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

    @patient
    def take_over(self, trials: Sequence[FrozenTrial]) -> int:
        """Add finished trials that ran elsewhere, or here; return how many were new. Each is in the study once."""
        with self._locked():
            known = {_outcome(trial) for trial in self.trials}
            new = {outcome: trial for trial in trials if (outcome := _outcome(trial)) not in known}
            for trial in new.values():
                trial.set_user_attr(_TAKEN_OVER, True)
                trial.system_attrs = {**trial.system_attrs, **grid_attributes(self.study, trial.params)}
                self.study.add_trial(trial)
            return len(new)

    def enqueue(self, points: Sequence[dict[str, Any]], places: Sequence[str | None] = (), **attributes: Sequence[Any]) -> None:
        """Queue trials with given parameters and attributes, in given sweep folders. Each is queued once, whoever asks for it.

        A point that a trial from elsewhere has tried is not queued.
        """
        with self._locked():
            tried = [trial.params.items() for trial in self.trials if _TAKEN_OVER in trial.user_attrs]
            first = [trial for trial in self.trials if _QUEUED in trial.user_attrs and BEFORE not in trial.system_attrs]
            queued = [trial.system_attrs.get(FIXED) for trial in first]
            for index, point in enumerate(points):
                if point and any(point.items() <= params for params in tried):
                    continue
                if queued.count(point) <= points[:index].count(point):  # a point may stand there several times
                    place = {PLACE: places[index]} if places and places[index] else {}
                    system = {FIXED: point, **place, **grid_attributes(self.study, point)}
                    attrs = {_QUEUED: index, **{key: values[index] for key, values in attributes.items()}}
                    self.study.add_trial(create_trial(state=TrialState.WAITING, system_attrs=system, user_attrs=attrs))

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
            if job and (job["host"], job["pid"]) != (me.host, me.pid) and lives(job):
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
        return lease is not None and time.time() > lease["until"] and not lives(lease)

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

    def _identify(self, identity: dict[str, Any], data: str | None) -> None:
        """Make this the study of ``identity`` and ``data``, or refuse it if it is of something else. The study is locked."""
        given = json.loads(json.dumps(identity, sort_keys=True))
        known, here = self.study.user_attrs.get(_IDENTITY), self.data() if self._one_data else None
        other_data = None not in (data, here) and data != here and tied(self.trials)
        if known is None:
            self.study.set_user_attr(_IDENTITY, given)
        elif known != given or other_data:
            both = ({**known, "data": here}, {**given, "data": data}) if other_data else (known, given)
            raise UserError(
                f"study {self.name} in {hidden(self.url)} searches something else ({_difference(*both)}): "
                "give this sweep another hydra.sweeper.study_name, or the study's own settings"
                + (" and data" if other_data else "")
            )
        if (settled := data or here) and settled != self.study.user_attrs.get(STUDY_DATA):
            self.study.set_user_attr(STUDY_DATA, settled)

    def data(self) -> str | None:
        """The fingerprint of the data that its trials ran on; None if nothing tells it."""
        known: str | None = self.study.user_attrs.get(STUDY_DATA)
        return recorded_data(self.name, self.trials) if known is None else known

    def _name_objectives(self, names: Sequence[str]) -> None:
        """Keep the objectives' names with the study. They are an extra: a storage that refuses them does no harm."""
        if len(names) == len(self.study.directions) and self.study.metric_names is None:
            with warnings.catch_warnings(), contextlib.suppress(Exception):
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                self.study.set_metric_names(list(names))

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        return locked(self.url, self.name)


def known_data(url: str, name: str) -> str | None:
    """The fingerprint of a study's data, empty if nothing tells it; None if there is no such study. Nothing is created."""
    if (path := file_of(url)) is not None and not path.is_file():
        return None
    storage = open_storage(url)
    try:
        study = storage.get_study_id_from_name(name)
    except KeyError:
        return None
    known = storage.get_study_user_attrs(study).get(STUDY_DATA)
    return known or recorded_data(name, storage.get_all_trials(study, deepcopy=False)) or ""


def _counts(trial: FrozenTrial) -> bool:
    """Whether a lost trial counts as an attempt: its job had begun, and nobody asked it to stop."""
    return bool(trial.system_attrs.get(JOB)) and not trial.system_attrs.get(STOP)


def _difference(known: dict[str, Any], given: dict[str, Any]) -> str:
    """Which keys differ, in one line: the study's value, then the sweep's."""
    theirs, ours = flat(known), flat(given)
    keys = sorted(key for key in theirs.keys() | ours.keys() if theirs.get(key) != ours.get(key))
    return "; ".join(f"{key}: {theirs.get(key, 'nothing')} there, {ours.get(key, 'nothing')} here" for key in keys)


def _outcome(trial: FrozenTrial) -> str:
    """What two trials share if they are the same, in two studies: no number, and no time."""
    values = trial.state is TrialState.COMPLETE and trial.values  # Optuna gives a pruned trial its last report for a value
    return json.dumps([trial.state.name, trial.params, values, trial.system_attrs.get(SEEDS)], sort_keys=True)
