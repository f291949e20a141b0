"""The trial of a job: re-opened from its storage, leased, reported to, and told its end."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean
from typing import TYPE_CHECKING, Any

import optuna
from omegaconf import DictConfig
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from cvae.errors import UserError
from cvae.process import Process
from cvae.sweep.storage import absolute, await_storage, patiently, revealed
from cvae.sweep.strategies import build_pruner
from cvae.sweep.study import CLAIM, FACTS, FAILURE, JOB, LEASE, STOP, SWEEPER, lease_of, locked, owned
from cvae.trial import NoTrial

if TYPE_CHECKING:
    from cvae.sweep.job import Job

_BEAT = 2.0  # seconds between looks for a request to stop
_SEEDS = "cvae:seeds"


class JobTrial(NoTrial):
    """The trial of a job, re-opened from its storage, with a lease that a thread renews.

    Args:
        job: what it is run by; ``place``: ``number study storage claim`` as the sweeper passed them, and ``steps`` as the app
            declares them; ``url``: the storage's.
    """

    def __init__(self, job: Job, place: DictConfig, study: optuna.Study, frozen: FrozenTrial, url: str) -> None:
        super().__init__()
        self._url, self._claim = url, str(place.claim)
        self.job, self.study, self.number, self.params = job, study, frozen.number, dict(frozen.params)
        self.steps, self.seed = place.get("steps"), int(place.get("seed_index") or 0)
        self._trial = optuna.Trial(study, frozen._trial_id)
        self._storage, self._id = study._storage, frozen._trial_id
        self._reported = set(frozen.intermediate_values)
        self._facts: dict[str, float] = {}
        self._by_seed = isinstance(study.pruner, optuna.pruners.WilcoxonPruner)
        self._closed = threading.Event()
        self._me = Process.of()
        self.heeds = self._stopping = False  # whether the app looks at ``stopping``
        self.heard = 0  # the last signal to stop
        sweeper = frozen.system_attrs.get(SWEEPER) or {}
        self.in_sweeper = (sweeper.get("host"), sweeper.get("pid")) == (self._me.host, self._me.pid)
        self._renew()
        threading.Thread(target=self._keep, name="trial-lease", daemon=True).start()

    @property
    def stopping(self) -> bool:
        self.heeds = True
        return self._stopping

    def stop(self) -> None:
        """Ask the app to save and end."""
        self._stopping = True

    @classmethod
    def open(cls, job: Job, place: DictConfig) -> JobTrial | None:
        """The trial at ``place``; None if it is finished, was stopped before it began, or was given to another job.

        Raises:
            UserError: its storage cannot be opened, or has no such study.
        """
        pruner = build_pruner(job.pruner, job.allow_targets)
        url = absolute(revealed(place.storage))
        storage = await_storage(url)
        try:
            # Constructing a trial calls its sampler; only the sweeper's has work to do.
            sampler = optuna.samplers.RandomSampler()
            study = optuna.load_study(study_name=place.study, storage=storage, sampler=sampler, pruner=pruner)
            return patiently(lambda: cls._take(job, place, study, url))
        except (KeyError, IndexError):
            raise UserError(f"trial.storage={place.storage} has no trial {place.number} of a study {place.study}") from None

    @classmethod
    def _take(cls, job: Job, place: DictConfig, study: optuna.Study, url: str) -> JobTrial | None:
        # From the look at the claim to the job's own lease nobody else may claim the trial.
        with locked(url, study.study_name):
            frozen = study.get_trials(deepcopy=False)[place.number]
            if frozen.state != TrialState.RUNNING or frozen.system_attrs.get(CLAIM) != place.claim:
                return None
            if frozen.system_attrs.get(STOP):  # it waited for a slot or a scheduler while its sweep was stopped
                return None
            return cls(job, place, study, frozen, url)

    # --- while it runs ----------------------------------------------------------------------------------------------------

    def report(self, step: int, value: float) -> bool:
        if self._by_seed or len(self.study.directions) > 1 or not math.isfinite(value):
            return False  # Optuna takes reports for one objective only
        self._report((self.steps or 0) * self.seed + step, value)
        last = self.steps is not None and step >= self.steps
        self.pruned = not last and self._trial.should_prune()
        return self.pruned

    def record(self, facts: Mapping[str, float]) -> None:
        self._facts |= facts

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
            value = returned.get("value")
            if str(returned.get("state", "complete")).lower() == "pruned":
                state = TrialState.PRUNED
        if state == TrialState.PRUNED:
            return self.tell(state)
        values = list(value) if isinstance(value, (list, tuple)) else [value]
        wrong = next((each for each in values if not _is_number(each)), None)
        if wrong is not None or not values or len(values) != len(self.study.directions) or None in values:
            wanted = len(self.study.directions)
            what = "a number" if wanted == 1 else f"{wanted} numbers"
            return self.fail(f"the job returned {value!r}, where the study needs {what}")
        numbers = [float(each) for each in values]
        return self._one_of_seeds(numbers) if self.job.seeds > 1 else self.tell(state, numbers)

    def _one_of_seeds(self, numbers: list[float]) -> dict[str, Any]:
        told = {**self._storage.get_trial_system_attrs(self._id).get(_SEEDS, {}), str(self.seed): numbers}
        self._storage.set_trial_system_attr(self._id, _SEEDS, told)
        before = self._storage.get_trial(self._id).user_attrs.get(FACTS) or {}
        for key in self.job.constraints:  # each seed has to keep them
            if key in before and key in self._facts:
                self._facts[key] = max(before[key], self._facts[key])
        self.note(FACTS, self._facts)
        if self._by_seed:
            self._report(self.seed, numbers[0])
        if len(told) == self.job.seeds:
            return self.tell(TrialState.COMPLETE, [mean(column) for column in zip(*told.values(), strict=True)])
        if self._by_seed and self._trial.should_prune():
            return self.tell(TrialState.PRUNED)
        self._storage.set_trial_system_attr(self._id, JOB, None)
        return {"state": "running", "value": numbers[0] if len(numbers) == 1 else numbers}

    def tell(self, state: TrialState, values: Sequence[float] | None = None, reason: str | None = None) -> dict[str, Any]:
        """The trial's last state, with what was recorded. Told once more, after a lost answer, it changes nothing."""
        return patiently(lambda: self._tell(state, values, reason))

    def _tell(self, state: TrialState, values: Sequence[float] | None, reason: str | None) -> dict[str, Any]:
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
        """Hold recorded facts to their limits; return what is missing from a complete trial."""
        for key, most in self.job.constraints.items():
            if key in self._facts:
                self._trial.set_constraint(key, self._facts[key] - most)
            elif state == TrialState.COMPLETE:
                known = ", ".join(sorted(self._facts)) or "nothing"
                return f"hydra.sweeper.constraints.{key}: the job records no {key}; it records {known}"
        return None

    @contextlib.contextmanager
    def _ours(self) -> Iterator[bool]:
        """Whether the trial is still this job's, neither queued nor claimed anew: true as long as this is held."""
        with locked(self._url, self.study.study_name):
            trial = self._storage.get_trial(self._id)
            yield trial.state != TrialState.WAITING and trial.system_attrs.get(CLAIM) == self._claim

    def fail(self, reason: str) -> dict[str, Any]:
        """Fail the trial for good."""
        return self.tell(TrialState.FAIL, reason=reason)

    def let_go(self, queue: bool, reason: str | None = None) -> None:
        """Leave it unfinished: to the sweeper that waits for this job, or to the scheduler, which may start the job again.

        Args:
            queue: whether to put it back in the queue if there is no such sweeper any more.
            reason: of a failed attempt.
        """
        patiently(lambda: self._let_go(queue, reason))

    def _let_go(self, queue: bool, reason: str | None) -> None:
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
        """Renew the lease no longer."""
        self._closed.set()

    def _renew(self) -> None:
        self._storage.set_trial_system_attr(self._id, JOB, lease_of(self._me))

    def _keep(self) -> None:
        renewed = time.monotonic()
        while not self._closed.wait(_BEAT):
            try:
                if self._storage.get_trial_system_attrs(self._id).get(STOP):
                    self.stop()
                if time.monotonic() - renewed > LEASE / 4 and not self._closed.is_set():
                    self._renew()
                    renewed = time.monotonic()
            except UpdateFinishedTrialError:
                return
            except (optuna.exceptions.OptunaError, OSError):
                continue  # the storage is away; the job itself notices when it reports


def seed_values(attributes: Mapping[str, Any]) -> dict[str, list[float]]:
    """The values of a trial's seeds that are done, by their index, from its system attributes."""
    return dict(attributes.get(_SEEDS, {}))


def _is_number(value: Any) -> bool:
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False
