"""The engine of a sweep: it claims trials, gives each to the launcher as a job, and refills a slot as soon as it is free."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
import time
from types import FrameType
from typing import Any

import psutil
from hydra.core.utils import JobStatus, configure_log
from omegaconf import DictConfig
from optuna.exceptions import OptunaError
from optuna.trial import FrozenTrial, TrialState

from cvae.console import command, say, warn
from cvae.errors import UserError, first_line
from cvae.explain import explain, is_users, of_a_part
from cvae.sweep.board import Board, in_process
from cvae.sweep.locks import LEASE, SWEEPER
from cvae.sweep.plan import Plan
from cvae.sweep.slot import Place, Slot, job_overrides, suggested
from cvae.sweep.strategies import unpickles
from cvae.sweep.study import SweepStudy
from cvae.sweep.trials import CLAIM, FIRST, RECORDED, SEEDS, failure

_POLL = 0.5  # seconds between two looks at the jobs of this sweeper
_POLL_OTHERS = 2.0  # and at those of other sweepers


class Stop(Exception):
    """The sweep ends before its trials are done; the message says why."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Engine:
    """Runs a study's trials on a launcher.

    A launcher that works in this process runs one job at a time. For other launchers each slot is a thread that waits for a
    single job, so that a slow trial delays no other one.
    """

    def __init__(self, plan: Plan, study: SweepStudy, launcher: Any, config: DictConfig, deadline: float | None = None) -> None:
        self.plan, self.study, self.launcher, self.config = plan, study, launcher, config
        self.places = Place(study, config)
        self.board = Board(plan, study, launcher)
        self.slots: dict[int, Slot] = {}
        self.returned: queue.SimpleQueue[tuple[Slot, Any]] = queue.SimpleQueue()
        self.deadline = deadline  # of the whole sweep, by the monotonic clock
        self.stop: Stop | None = None  # why no more trials are started
        self.interrupted = False  # by a signal
        self.failed_in_a_row = 0
        self.over = threading.Event()

    def run(self) -> None:
        """Run trials until the plan's number of them is finished, here or elsewhere.

        Raises:
            Stop: the user, the clock or failures ended it.
        """
        threading.Thread(target=self._keep_leases, name="sweep-lease", daemon=True).start()
        try:
            run = self._run_here if in_process(self.launcher) else self._run_slots
            run()
        finally:
            self.over.set()

    def _keep_leases(self) -> None:
        while not self.over.wait(LEASE / 4):
            for slot in list(self.slots.values()):
                # A full disk may be repaired before the lease ends, and a database come back.
                with contextlib.suppress(OptunaError, OSError, UserError):
                    self.study.lease(slot.trial._trial_id, SWEEPER)

    def _done(self) -> bool:
        return len(self.study.finished()) >= self.plan.n_trials

    # --- in this process --------------------------------------------------------------------------------------------------

    def _run_here(self) -> None:
        slot: Slot | None = None
        try:
            while not self._done():
                slot = self._claim()
                if slot is not None:
                    self._settle(slot, self._launch(slot))
                elif self.stop is None:
                    self.board.waiting()
                    time.sleep(_POLL_OTHERS)
                if self.stop is not None:
                    raise self.stop
        except (SystemExit, KeyboardInterrupt) as stop:
            if slot is not None:
                self.study.give_up(slot.trial.number, slot.claim, "stopped", attempt=False)
            configure_log(self.config.hydra.hydra_logging)  # in place of the job's, which prints
            raise Stop(self._go_on(), int(stop.code or 1) if isinstance(stop, SystemExit) else 128 + signal.SIGINT) from None

    # --- in slots ---------------------------------------------------------------------------------------------------------

    def _run_slots(self) -> None:
        previous = {number: signal.signal(number, self._interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with self.board:
                while self.stop is None and (self.slots or not self._done()):
                    while self.stop is None and len(self.slots) < self.plan.n_jobs and (slot := self._claim()):
                        threading.Thread(target=self._work, args=(slot,), daemon=True).start()
                    self._await_job()
                if self.stop is not None:
                    self._stop_jobs()
                    raise self.stop
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _await_job(self) -> None:
        """Wait a little for a job to end; show what runs."""
        if not self.slots:
            self.board.waiting()
        with contextlib.suppress(queue.Empty):
            self._settle(*self.returned.get(timeout=_POLL if self.slots else _POLL_OTHERS))
        self._drop_lost()
        self.board.refresh({number: slot.began for number, slot in self.slots.items()})

    def _work(self, slot: Slot) -> None:
        # A terminal sends Ctrl-C to all processes, and a blocked signal is blocked in child processes too. Jobs are asked to
        # stop through their study instead; and joblib's idle workers do not die, which would end the busy ones.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            outcome: Any = self._launch(slot)
        except BaseException as error:  # a launcher's own, or a job's exit that came back through it
            outcome = error
        self.returned.put((slot, outcome))

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:
        if self.interrupted:
            if hasattr(self.launcher, "kill"):
                self.launcher.kill()
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            os.write(2, f"\nended at once; {self._go_on()}\n".encode())
            # Not sys.exit: launchers wait for their jobs at exit. The jobs' trials are queued again when the sweep goes on.
            os._exit(128 + signum)
        # Nothing more here: this signal may have interrupted a function that holds the storage's lock.
        self.interrupted = True
        self.stop = self.stop or Stop(self._go_on(), 128 + signum)

    def _stop_jobs(self) -> None:
        """Ask the running jobs, through the storage, to save and end; wait for them."""
        if self.interrupted:
            say("stopping: running trials save their state and end; Ctrl-C again ends them at once", style="yellow")
        self.study.stop([slot.trial._trial_id for slot in self.slots.values()])
        while self.slots:
            self._await_job()

    def _drop_lost(self) -> None:
        """Free the slots of jobs that do not answer any more: a scheduler may never report that a job is gone."""
        for slot in list(self.slots.values()):
            # On this host launchers notice by themselves; give them the time.
            if time.monotonic() - slot.began > LEASE and self.study.job_lost(slot.trial.number):
                warn(f"trial {slot.trial.number}: its job does not answer, and its launcher reports nothing: its slot is freed")
                self._settle(slot, RuntimeError("its job did not answer any more"))

    # --- one trial --------------------------------------------------------------------------------------------------------

    def _claim(self) -> Slot | None:
        if self.deadline is not None and time.monotonic() > self.deadline:
            if self.slots:
                return None
            raise Stop(f"time is up after {self.plan.timeout:g} s; {self._go_on()}", 0)
        try:
            trial = self.study.claim(self.plan.n_trials)  # it asks the sampler
        except Exception as error:
            self._no_trial(error)
            return None
        if trial is None:
            return None
        attributes = self.study.storage.get_trial_system_attrs(trial._trial_id)
        claim, first = attributes[CLAIM], attributes.get(FIRST, trial.number)
        try:
            place = self.places.of(trial, attributes, first)
            with self.study.sampling():
                values = suggested(self.plan, trial, self.config)
            slot = Slot(trial, claim, place, first, values, time.monotonic())
        except BaseException as error:  # the folder cannot be written, the sampler or the user's custom_search_space fails
            self.study.give_up(trial.number, claim, "it could not be started", attempt=False)
            if not isinstance(error, Exception):
                raise
            self._no_trial(error)
            return None
        self.slots[trial.number] = slot
        return slot

    def _no_trial(self, error: Exception) -> None:
        """Stop the sweep in order because no trial can be made: running jobs save, and what is finished is written down.

        Raises:
            Exception: the error itself, if it is the storage's.
        """
        if isinstance(error, OptunaError) or type(error).__module__.startswith("sqlalchemy"):
            raise error
        raised = f"hydra.sweeper.sampler raises {type(error).__name__}: {first_line(error)}"
        said = explain(error) if is_users(error) and not of_a_part(error) else raised
        self.stop = self.stop or Stop(f"{said}; no trial can be made. Mend it, then {self._go_on()}", 1)

    def _launch(self, slot: Slot) -> Any:
        """Run a trial's jobs, one a seed and case; return the last one's JobReturn."""
        outcome: Any = None
        number = slot.trial.number
        for index in self._jobs_left(slot):
            if self.stop is not None:  # asked while this trial was claimed: its job was not told
                break
            words = job_overrides(self.plan, slot, index, self.config)
            (outcome,) = self.launcher.launch([words], initial_job_idx=slot.first)
            if outcome.status == JobStatus.FAILED or self.study.trials[number].state != TrialState.RUNNING:
                break
        return outcome

    def _jobs_left(self, slot: Slot) -> list[int]:
        """The jobs of a trial that are still to run: those without values.

        If all have theirs, and the study was not told, the last job runs once more, and tells it. If a constraint asks for what
        no finished job recorded, all run: they may record it now.
        """
        attributes = self.study.storage.get_trial_system_attrs(slot.trial._trial_id)
        values, recorded = attributes.get(SEEDS) or {}, attributes.get(RECORDED) or {}
        every = list(range(len(self.plan.jobs)))
        left = [index for index in every if str(index) not in values]
        lacking = self.plan.constraints.keys() - {key for facts in recorded.values() for key in facts}
        if values and lacking and not (left and recorded):  # an earlier version did not keep what each job recorded
            self.study.storage.set_trial_system_attr(slot.trial._trial_id, SEEDS, {})
            return every
        return left or every[-1:]

    def _settle(self, slot: Slot, outcome: Any) -> None:
        """Free the slot of a trial whose job is over, and queue the trial again if its job did not tell the study."""
        number = slot.trial.number
        if self.slots.get(number) is not slot:
            return  # it is free already
        del self.slots[number]
        self.study.give_up(number, slot.claim, _reason(outcome), attempt=self.stop is None)
        trial = self.study.trials[number]
        self.board.trial(trial, slot.values)
        if trial.state.is_finished():
            self._count_failures(trial)

    def _go_on(self) -> str:
        """What goes on with this sweep; the study is this user's own."""
        word = "hydra.sweeper.trust_study=true"
        trust = unpickles(self.plan.sampler) and word not in command().split()
        return f"go on with: {command()}" + (f" {word}" if trust else "")

    def _count_failures(self, trial: FrozenTrial) -> None:
        """Stop the sweep if too many trials failed."""
        self.failed_in_a_row = self.failed_in_a_row + 1 if trial.state == TrialState.FAIL else 0
        if not self.failed_in_a_row:
            return
        most, rate, n_trials = self.plan.max_failures, self.plan.max_failure_rate, self.plan.n_trials
        failed = sum(each.state == TrialState.FAIL for each in self.study.finished())
        if most is not None and self.failed_in_a_row >= min(most, n_trials):
            what = f"{self.failed_in_a_row} trials failed in a row (hydra.sweeper.max_failures)"
        elif rate is not None and failed > rate * n_trials:
            what = f"{failed} of {n_trials} trials failed (hydra.sweeper.max_failure_rate={rate:g})"
        else:
            return
        reason = failure(trial) or "no reason was given"
        self.stop = self.stop or Stop(f"{what}; the last was trial {trial.number}: {reason}", 1)


def _reason(outcome: Any) -> str:
    """Why a job left its trial unfinished, by its JobReturn, or by the exception that came in its place."""
    match getattr(outcome, "_return_value", outcome):
        case {"state": "exited", "value": code} | SystemExit(code=code):
            return f"its job exited with {code}"
        case BaseException() as error:
            return f"{type(error).__name__}: {error}"
    return "its job ended without telling the study"
