"""The trial of a job: opened from its storage, leased, reported to, and told how it ended."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from statistics import mean
from typing import Any

import optuna
from omegaconf import DictConfig
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from cvae.errors import UserError
from cvae.process import Process
from cvae.sweep.locks import JOB, LEASE, SWEEPER, lease_of, locked, owned
from cvae.sweep.storage import absolute, open_storage, patient, revealed
from cvae.sweep.trials import CLAIM, DATA, FACTS, FAILURE, OF, RECORDED, SEEDS, STOP, STUDY_DATA, Limits, tied, together
from cvae.trial import NoTrial

_POLL = 2.0  # seconds between two looks for a request to stop


@dataclass(frozen=True)
class Job:
    """What a sweeper gives to its jobs, besides a trial each. It travels pickled.

    Args:
        task: the app's function; it returns its objective (several: a list), or ``{"state": "pruned" | "complete", "value":
            ...}``.
        pruner: the study's.
        constraints: recorded fact to what it may be.
        jobs: how many a trial has, one a seed and case; its value is their mean.
        one_data: whether all trials of the study run on the same data.
    """

    task: Callable[[DictConfig], Any]
    pruner: optuna.pruners.BasePruner = field(default_factory=optuna.pruners.NopPruner)
    constraints: Mapping[str, Limits] = field(default_factory=dict)
    jobs: int = 1
    one_data: bool = True


class JobTrial(NoTrial):
    """The trial of a job, opened from its storage, with a lease that a thread renews. ``open`` makes one.

    Args:
        place: ``number study storage claim`` as the sweeper passed them, and ``steps`` as the app declares them.
        study, frozen: the study, and the trial as it is stored.
    """

    def __init__(self, job: Job, place: DictConfig, study: optuna.Study, frozen: FrozenTrial) -> None:
        super().__init__()
        self._url, self._claim = absolute(revealed(place.storage)), str(place.claim)
        self.job, self.study, self.number = job, study, frozen.number
        self.params = dict(frozen.user_attrs["values"] if OF in frozen.user_attrs else frozen.params)
        self.again = OF in frozen.user_attrs
        self.steps, self.index, self.case = place.get("steps"), int(place.get("seed_index") or 0), place.get("case")
        self._trial = optuna.Trial(study, frozen._trial_id)
        self._storage, self._id = study._storage, frozen._trial_id
        self._reported = set(frozen.intermediate_values)
        self._facts: dict[str, float] = {}
        self._by_seed = isinstance(study.pruner, optuna.pruners.WilcoxonPruner)
        self._closed = threading.Event()
        self._me = Process.of()
        self.polled = self._stopping = False  # polled: the app has looked at ``stopping``
        self.signum = 0  # the last signal to stop
        sweeper = frozen.system_attrs.get(SWEEPER) or {}
        self.in_sweeper = (sweeper.get("host"), sweeper.get("pid")) == (self._me.host, self._me.pid)
        self._renew()
        threading.Thread(target=self._keep_lease, name="trial-lease", daemon=True).start()

    @property
    def stopping(self) -> bool:
        self.polled = True
        return self._stopping

    def stop(self) -> None:
        """Ask the app to save and end."""
        self._stopping = True

    @classmethod
    @patient
    def open(cls, job: Job, place: DictConfig) -> JobTrial | None:
        """The trial at ``place``; None if it is finished, was stopped before it began, or was given to another job.

        Raises:
            UserError: its storage cannot be opened, or has no such study.
        """
        url = absolute(revealed(place.storage))
        # A trial calls its sampler when it is made, and only the sweeper's sampler has work to do.
        sampler = optuna.samplers.RandomSampler()
        try:
            study = optuna.load_study(study_name=place.study, storage=open_storage(url), sampler=sampler, pruner=job.pruner)
            # Nobody else may claim the trial between the test of its claim and the job's own lease.
            with locked(url, study.study_name):
                frozen = study.get_trials(deepcopy=False)[place.number]
                if frozen.state != TrialState.RUNNING or frozen.system_attrs.get(CLAIM) != place.claim:
                    return None
                if frozen.system_attrs.get(STOP):  # its sweep was stopped while it waited for a slot or a scheduler
                    return None
                return cls(job, place, study, frozen)
        except (KeyError, IndexError):
            raise UserError(f"trial.storage={place.storage} has no trial {place.number} of a study {place.study}") from None

    # --- while it runs ----------------------------------------------------------------------------------------------------

    def report(self, step: int, value: float) -> bool:
        if self._by_seed or len(self.study.directions) > 1 or not math.isfinite(value):
            return False  # Optuna takes reports for one objective only
        self._report((self.steps or 0) * self.index + step, value)
        last = self.steps is not None and step >= self.steps
        self.pruned = not last and self._should_prune()
        return self.pruned

    def _should_prune(self) -> bool:
        answer = self._trial.should_prune()
        if answer not in (True, False):
            raise UserError(f"hydra.sweeper.pruner answers {answer!r}: its prune() returns true or false")
        return bool(answer)

    def record(self, facts: Mapping[str, float]) -> None:
        for key, value in facts.items():
            if not isinstance(value, Real):
                raise UserError(f"a trial records numbers, and its fact {key} is {value!r}: record a number")
        self._facts |= facts

    @patient
    def use_data(self, fingerprint: str) -> None:
        if self.job.one_data:
            with locked(self._url, self.study.study_name):
                known = self.study.user_attrs.get(STUDY_DATA)
                if known != fingerprint and known is not None and tied(self.study.get_trials(deepcopy=False), self.number):
                    raise UserError(
                        f"study {self.study.study_name} ran on other data ({known} there, {fingerprint} here): "
                        "put its data back, or give this sweep another hydra.sweeper.study_name"
                    )
                self.study.set_user_attr(STUDY_DATA, fingerprint)
        self.note(DATA, fingerprint)

    def note(self, key: str, value: Any) -> None:
        """Keep something for people to read with the trial."""
        self._storage.set_trial_user_attr(self._id, key, value)

    def _report(self, step: int, value: float) -> None:
        if step not in self._reported:  # an earlier attempt's report of the same step is the same
            self._reported.add(step)
            self._trial.report(value, step)

    # --- its end ----------------------------------------------------------------------------------------------------------

    def finish(self, returned: Any) -> dict[str, Any]:
        """Tell the study what the task returned."""
        state, value = TrialState.PRUNED if self.pruned else TrialState.COMPLETE, returned
        if isinstance(returned, Mapping):
            value, said = returned.get("value"), returned.get("state", "complete")
            if str(said).lower() not in ("complete", "pruned"):
                return self.tell(TrialState.FAIL, reason=f"the job returned the state {said!r}: give complete or pruned")
            if str(said).lower() == "pruned":
                state = TrialState.PRUNED
        if state == TrialState.PRUNED:
            return self.tell(state)
        values = list(value) if isinstance(value, (list, tuple)) else [value]
        wanted = len(self.study.directions)
        try:
            numbers = [float(each) for each in values]
        except (TypeError, ValueError):
            numbers = []
        if len(numbers) == wanted and not all(map(math.isfinite, numbers)):
            return self.tell(TrialState.PRUNED, reason=f"the job returned {value!r}: it diverged")
        if len(numbers) != wanted:
            what = "a number" if wanted == 1 else f"{wanted} numbers"
            return self.tell(TrialState.FAIL, reason=f"the job returned {value!r}, but the study needs {what}")
        return self._one_of_several(numbers) if self.job.jobs > 1 else self.tell(state, numbers)

    def _one_of_several(self, numbers: list[float]) -> dict[str, Any]:
        told = self._keep_result(numbers)
        if told is None:
            return {"state": "taken over", "value": None}
        if len(told) == self.job.jobs:
            return self.tell(TrialState.COMPLETE, [mean(column) for column in zip(*told.values(), strict=True)])
        if self._by_seed and self._should_prune():
            return self.tell(TrialState.PRUNED)
        self.release(queue=False)
        return {"state": "running", "value": numbers[0] if len(numbers) == 1 else numbers}

    @patient
    def _keep_result(self, numbers: list[float]) -> dict[str, list[float]] | None:
        """Keep what one of several jobs recorded and returned; the values of all finished ones, None if it was taken over.

        Its values come last: without them it runs again, and nothing of it is missing.
        """
        with self._ours() as ours:
            trial = self._storage.get_trial(self._id)
            if not ours or trial.state.is_finished():
                return None
            own = dict(self._facts)
            if self.case is not None:
                own |= {f"{self.case}/{key}": value for key, value in own.items()}
            recorded = {**trial.system_attrs.get(RECORDED, {}), str(self.index): own}
            self._storage.set_trial_system_attr(self._id, RECORDED, recorded)
            facts = together(recorded, self.job.constraints)
            self.note(FACTS, facts)
            if self._by_seed:
                self._report(self.index, numbers[0])
            told = {**trial.system_attrs.get(SEEDS, {}), str(self.index): numbers}
            self._storage.set_trial_system_attr(self._id, SEEDS, told)
        self._facts = facts
        return told

    @patient
    def tell(self, state: TrialState, values: Sequence[float] | None = None, reason: str | None = None) -> dict[str, Any]:
        """Tell the study the trial's last state and what was recorded. A second call, after a lost answer, changes nothing."""
        with self._ours() as ours:
            if not ours:
                return {"state": "taken over", "value": None}
            try:
                if self._facts:
                    self.note(FACTS, self._facts)
                if missing := self._constrain(state):
                    state, values, reason = TrialState.FAIL, None, missing
                if reason is not None:
                    self.note(FAILURE, reason)
                self.study.tell(self._trial.number, values, state, skip_if_finished=True)
            except UpdateFinishedTrialError:
                pass
        shown = None if values is None else values[0] if len(values) == 1 else list(values)
        return {"state": state.name.lower(), "value": shown}

    def _constrain(self, state: TrialState) -> str | None:
        """Compare recorded facts with their limits; return what is missing from a complete trial."""
        for key, limits in self.job.constraints.items():
            if key in self._facts:
                self._trial.set_constraint(key, limits.excess(self._facts[key]))
            elif state == TrialState.COMPLETE:
                known = ", ".join(sorted(self._facts)) or "nothing"
                return f"hydra.sweeper.constraints.{key}: the job records no {key}; it records {known}"
        return None

    @contextlib.contextmanager
    def _ours(self) -> Iterator[bool]:
        """Whether the trial is still this job's, neither queued nor claimed again. Inside this context that cannot change."""
        with locked(self._url, self.study.study_name):
            trial = self._storage.get_trial(self._id)
            yield trial.state != TrialState.WAITING and trial.system_attrs.get(CLAIM) == self._claim

    @patient
    def release(self, queue: bool, reason: str | None = None) -> None:
        """Leave it unfinished: to the sweeper that waits for this job, or to the scheduler, which may start the job again.

        Args:
            queue: put it back into the queue if that sweeper does not live any more.
            reason: of a failed attempt.
        """
        with self._ours() as ours, contextlib.suppress(UpdateFinishedTrialError):
            if not ours:
                return
            if reason is not None:
                self.note(FAILURE, reason)
            self._storage.set_trial_system_attr(self._id, JOB, None)
            if queue and not owned(self._storage.get_trial(self._id)):
                self._storage.set_trial_state_values(self._id, TrialState.WAITING)

    # --- the lease --------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop renewing the lease."""
        self._closed.set()

    def _renew(self) -> None:
        self._storage.set_trial_system_attr(self._id, JOB, lease_of(self._me))

    def _keep_lease(self) -> None:
        renewed = time.monotonic()
        while not self._closed.wait(_POLL):
            try:
                attributes = self._storage.get_trial_system_attrs(self._id)
                if attributes.get(CLAIM) != self._claim:  # this host slept, say, and another one runs the trial
                    return self.stop()
                if attributes.get(STOP):
                    self.stop()
                if time.monotonic() - renewed > LEASE / 4 and not self._closed.is_set():
                    self._renew()
                    renewed = time.monotonic()
            except UpdateFinishedTrialError:
                return
            except (optuna.exceptions.OptunaError, OSError, UserError):
                continue  # the storage does not answer; the job itself notices when it reports
