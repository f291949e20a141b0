"""The sweeper: claims trials, gives each to the launcher as a job, and refills a slot as soon as it is free."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import optuna
import psutil
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus, configure_log
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from optuna.distributions import IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from cvae.console import command, say, warn
from cvae.errors import UserError, writing
from cvae.sweep.board import Board
from cvae.sweep.job import Job, seed_values
from cvae.sweep.plan import Plan, build_pruner, read_plan
from cvae.sweep.space import Space, Value
from cvae.sweep.storage import hide
from cvae.sweep.study import CLAIM, FAILURE, LEASE, OF, PLACE, SWEEPER, SweepStudy
from cvae.sweep.summary import Scribe, Top, ranked

_TICK = 0.5  # seconds between looks at what runs here
_ELSEWHERE = 2.0  # and at what other sweepers run
_INTERRUPTED = 128 + signal.SIGINT


class Stop(Exception):
    """The sweep ends before its trials are done; the message says why."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass
class Sweeper:
    """What stays the same for all studies of a sweep: the app, its config, its folder, its storage as people may see it."""

    task: Callable[[DictConfig], Any]
    context: HydraContext
    config: DictConfig
    folder: Path
    storage: str

    def complete(self, plan: Plan, study: SweepStudy) -> None:
        """Run a study's missing trials.

        Raises:
            Stop: the user, the clock or failures ended it.
        """
        done = len(study.finished())
        if done >= plan.n_trials:
            say(f"study      {study.name} is complete: {done} trials; nothing to run")
            return
        say(f"study      {study.name}: {done} of {plan.n_trials} trials done")
        say(f"storage    {self.storage}")
        job = Job(self.task, plan.pruner, plan.constraints, plan.seeds_per_trial, plan.allow_targets)
        launcher = Plugins.instance().instantiate_launcher(self.context, job, self.config)
        Engine(self, plan, study, launcher).run()


def sweep(
    settings: dict[str, Any],
    arguments: Sequence[str],
    context: HydraContext,
    task: Callable[[DictConfig], Any],
    config: DictConfig,
) -> None:
    """Complete a study, as ``hydra.sweeper`` and the command line describe it, and say what came of it.

    Raises:
        UserError: a setting is bad, or the storage cannot be used.
        HydraException: a job's config cannot be composed.
        SystemExit: the sweep ended before its trials were done.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    loader = context.config_loader
    _silence(config)
    plan = read_plan(settings, arguments, config, lambda words: loader.load_sweep_config(config, list(words)), loader)
    shown = hide(plan.storage)
    _prepare(settings.get("storage"), shown, config)
    pruner = build_pruner(plan.pruner, plan.allow_targets)
    study = SweepStudy(plan.study_name, plan.storage, plan.identity, plan.directions, plan.sampler, pruner, plan.retry)
    study.enqueue(plan.enqueue)
    sweeper = Sweeper(task, context, config, Path(config.hydra.sweep.dir).absolute(), shown)
    top, stopped = None, None
    try:
        sweeper.complete(plan, study)
        if plan.top_k:
            top = _once_more(plan, study, sweeper)
    except Stop as stop:
        stopped = stop
    Scribe(plan, study.study, sweeper.folder, shown, config, loader).conclude(top)
    if stopped is not None:
        say(str(stopped), style="red" if stopped.exit_code == 1 else "yellow")
        raise SystemExit(stopped.exit_code)


def _silence(config: DictConfig) -> None:
    """Keep Hydra's log off the screen: the board says what is launched, and Hydra would repeat what we say."""
    with read_write(config), open_dict(config):
        config.hydra.hydra_logging = {"version": 1, "root": {"handlers": []}, "disable_existing_loggers": False}
    configure_log(config.hydra.hydra_logging)


def _prepare(given: str | None, shown: str, config: DictConfig) -> None:
    """Put the storage's URL without its password wherever jobs and people read it."""
    with read_write(config), open_dict(config):
        config.hydra.sweeper.storage = shown
        if given and "***" in shown:
            config.hydra.overrides.hydra = [word.replace(given, shown) for word in config.hydra.overrides.hydra]
            sys.argv[:] = [word.replace(given, shown) for word in sys.argv]


def _once_more(plan: Plan, study: SweepStudy, sweeper: Sweeper) -> Top:
    """Run the best trials on seeds that the sweep has not seen, since the best of many is partly luck.

    They are trials of a study of their own beside the sweep's, so that they are claimed, retried and resumed as those are.
    """
    best = ranked(study.study)[: plan.top_k]
    first = plan.seed + plan.seeds_per_trial
    seeds = list(range(first, first + plan.top_k_seeds))
    pairs = [(trial, seed) for trial in best for seed in seeds]
    if not pairs:
        return Top(seeds, {})
    fixed = plan.space.fixed
    digest = hashlib.sha256(repr([(trial.number, seed) for trial, seed in pairs]).encode()).hexdigest()[:8]
    distributions = {key: each for trial in best for key, each in trial.distributions.items()}
    distributions["seed"] = IntDistribution(first, seeds[-1])
    again = dataclasses.replace(
        plan,
        space=Space(distributions, {key: word for key, word in fixed.items() if key != "seed"}),
        study_name=f"{plan.study_name}-top-{digest}",
        pruner=None,
        extend=None,
        constraints={},
        seeds_per_trial=1,
        n_trials=len(pairs),
    )
    theirs = SweepStudy(
        again.study_name,
        plan.storage,
        {"of": plan.identity},
        plan.directions,
        optuna.samplers.RandomSampler(),
        retry=plan.retry,
    )
    points = [{**trial.params, "seed": seed} for trial, seed in pairs]
    theirs.enqueue([{} for _ in points], values=points, of=[trial.number for trial, _ in pairs])
    say(f"the best {len(best)} once more, on {len(seeds)} fresh seeds each")
    sweeper.complete(again, theirs)
    values: dict[int, list[float]] = {}
    for trial in theirs.finished():
        if trial.state == TrialState.COMPLETE:
            values.setdefault(trial.user_attrs[OF], []).append(trial.values[0])
    sign = 1 if plan.directions[0] == "maximize" else -1
    order = sorted(values, key=lambda number: -sign * sum(values[number]) / len(values[number]))
    return Top(seeds, {number: values[number] for number in order})


@dataclass
class Slot:
    """A claimed trial whose job a launcher runs."""

    trial: optuna.Trial
    claim: str
    place: str
    values: dict[str, Value]
    began: float


class Engine:
    """Runs a study's trials on a launcher.

    A launcher that works in this process runs one job at a time, here; for any other one, each slot is a thread that waits
    for the launch of a single job, so that a slow trial holds up nobody.
    """

    def __init__(self, sweeper: Sweeper, plan: Plan, study: SweepStudy, launcher: Any) -> None:
        self.sweeper, self.plan, self.study, self.launcher = sweeper, plan, study, launcher
        self.board = Board(plan, study, launcher)
        self.slots: dict[int, Slot] = {}
        self.returned: queue.SimpleQueue[tuple[Slot, Any]] = queue.SimpleQueue()
        self.deadline = None if plan.timeout is None else time.monotonic() + plan.timeout
        self.stopping = self.asked_to_stop = False
        self.failed_in_a_row = 0
        self.over = threading.Event()

    def run(self) -> None:
        """Run trials until the plan's number of them is finished, here or elsewhere.

        Raises:
            Stop: the user, the clock or failures ended it.
        """
        threading.Thread(target=self._keep_leases, name="sweep-lease", daemon=True).start()
        try:
            if type(self.launcher).__name__ == "BasicLauncher":
                self._run_here()
            else:
                self._run_slots()
        finally:
            self.over.set()

    def _keep_leases(self) -> None:
        while not self.over.wait(LEASE / 4):
            for slot in list(self.slots.values()):
                try:
                    self.study.lease(slot.trial._trial_id, SWEEPER)
                except (UpdateFinishedTrialError, OSError):
                    continue  # a full disk may be mended before the lease ends

    def _done(self) -> bool:
        return len(self.study.finished()) >= self.plan.n_trials

    # --- in this process --------------------------------------------------------------------------------------------------

    def _run_here(self) -> None:
        slot: Slot | None = None
        try:
            while not self._done():
                slot = self._claim()
                if slot is None:
                    time.sleep(_ELSEWHERE)
                else:
                    self._settle(slot, self._launch(slot))
        except (SystemExit, KeyboardInterrupt) as stop:
            if slot is not None:
                self.study.give_up(slot.trial.number, slot.claim, "stopped", attempt=False)
            configure_log(self.sweeper.config.hydra.hydra_logging)  # in place of the job's, which prints
            raise Stop(self._go_on(), int(stop.code or 1) if isinstance(stop, SystemExit) else _INTERRUPTED) from None

    # --- in slots ---------------------------------------------------------------------------------------------------------

    def _run_slots(self) -> None:
        previous = {number: signal.signal(number, self._interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with self.board:
                while self.slots or not self._done():
                    while not self.stopping and len(self.slots) < self.plan.n_jobs and (slot := self._claim()):
                        threading.Thread(target=self._work, args=(slot,), daemon=True).start()
                    if self.stopping and not self.asked_to_stop:
                        say("stopping: running trials save their state and end; Ctrl-C again ends them at once", style="yellow")
                        self._stop_jobs()
                    if self.stopping and not self.slots:
                        raise Stop(self._go_on(), _INTERRUPTED)
                    self._await_one(_TICK if self.slots else _ELSEWHERE)
                    self._drop_silent()
                    self.board.refresh({number: slot.began for number, slot in self.slots.items()})
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _work(self, slot: Slot) -> None:
        # A terminal sends Ctrl-C to all processes, and whoever is started from here inherits what this thread does not hear:
        # jobs are asked to stop by their study, and joblib's idle workers do not die and take the busy ones along.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            outcome: Any = self._launch(slot)
        except BaseException as error:  # a launcher's own, or a job's exit that came back through it
            outcome = error
        self.returned.put((slot, outcome))

    def _await_one(self, seconds: float) -> None:
        try:
            slot, outcome = self.returned.get(timeout=seconds)
        except queue.Empty:
            return
        self._settle(slot, outcome)

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:
        if self.stopping:
            if hasattr(self.launcher, "kill"):
                self.launcher.kill()
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            os.write(2, f"\nended at once; {self._go_on()}\n".encode())
            # Launchers wait for their jobs at exit. Whose trials these were is queued again when the sweep goes on.
            os._exit(_INTERRUPTED)
        self.stopping = True  # no more here: this signal may have interrupted who holds the storage's lock

    def _stop_jobs(self) -> None:
        """Ask the running jobs, through the storage, to save and end."""
        self.asked_to_stop = True
        self.study.stop([slot.trial._trial_id for slot in self.slots.values()])

    def _drop_silent(self) -> None:
        """Free the slots of jobs that fell silent: a scheduler may never say that a job is gone."""
        for slot in list(self.slots.values()):
            # On this host launchers notice by themselves; give them the time.
            if time.monotonic() - slot.began > LEASE and self.study.job_lost(slot.trial.number):
                warn(f"trial {slot.trial.number}: its job is silent, and its launcher says nothing: its slot is free again")
                self._settle(slot, RuntimeError("its job fell silent"))

    # --- one trial --------------------------------------------------------------------------------------------------------

    def _claim(self) -> Slot | None:
        if self.deadline is not None and time.monotonic() > self.deadline:
            if self.slots:
                return None
            raise Stop(f"time is up after {self.plan.timeout:g} s; {self._go_on()}", 0)
        trial = self.study.claim(self.plan.n_trials)
        if trial is None:
            return None
        attributes = self.study.storage.get_trial_system_attrs(trial._trial_id)
        # A trial that goes on does so in the folder where it began.
        place = attributes.get(PLACE)
        if place is None or not Path(place).is_dir():
            place = str(self.sweeper.folder)
            if OF not in trial.user_attrs and (self.sweeper.folder / str(trial.number)).exists():
                self.study.give_up(trial.number, attributes[CLAIM], "its folder was taken", attempt=False)
                raise UserError(f"{place} holds other jobs' folders: choose another with hydra.sweep.dir=FOLDER")
            with writing(self.sweeper.folder, "choose another with hydra.sweep.dir=FOLDER"):
                self.sweeper.folder.mkdir(parents=True, exist_ok=True)
                if not (self.sweeper.folder / "multirun.yaml").exists():
                    OmegaConf.save(self.sweeper.config, self.sweeper.folder / "multirun.yaml")
            self.study.storage.set_trial_system_attr(trial._trial_id, PLACE, place)
        slot = Slot(trial, attributes[CLAIM], place, self._values(trial), time.monotonic())
        self.slots[trial.number] = slot
        return slot

    def _values(self, trial: optuna.Trial) -> dict[str, Value]:
        if OF in trial.user_attrs:
            return dict(trial.user_attrs["values"])
        values = self.plan.space.suggest(trial)
        if self.plan.extend is not None:
            for key, word in self.plan.space.fixed.items():
                trial.set_user_attr(key, word.partition("=")[2])  # where the published sweeper has them
            self.plan.extend(self.sweeper.config, trial)
            values |= {key: value for key, value in trial.params.items() if key not in values}
        return values

    def _launch(self, slot: Slot) -> Any:
        """Run a trial's jobs, one a seed; return the last one's JobReturn."""
        outcome: Any = None
        number = slot.trial.number
        for index in range(self.plan.seeds_per_trial):
            if str(index) in seed_values(self.study.storage.get_trial_system_attrs(slot.trial._trial_id)):
                continue
            if self.stopping:  # asked while this trial was claimed: its job would not hear of it
                break
            (outcome,) = self.launcher.launch([self._overrides(slot, index)], initial_job_idx=number)
            if outcome.status == JobStatus.FAILED or self._trial(number).state != TrialState.RUNNING:
                break
        return outcome

    def _overrides(self, slot: Slot, index: int) -> list[str]:
        """A job's words: the trial's parameters, where it runs, and for the job itself which trial it is."""
        number, plan, attributes = slot.trial.number, self.plan, slot.trial.user_attrs
        words = [*plan.space.overrides(slot.values), f"hydra.sweep.dir={_quoted(slot.place)}"]
        words.append(f"hydra.sweeper.storage={_quoted(self.sweeper.storage)}")
        trial = {"number": number, "study": _quoted(self.study.name), "storage": _quoted(self.sweeper.storage)}
        trial["claim"] = _quoted(slot.claim)
        if OF in attributes:
            words.append(f"hydra.sweep.subdir=top/trial_{attributes[OF]}_seed_{slot.values['seed']}")
        elif plan.seeds_per_trial > 1:
            words += [f"seed={plan.seed + index}", f"hydra.sweep.subdir={number}/seed_{plan.seed + index}"]
            trial["seed_index"] = index
        return [*words, *(f"++trial.{key}={value}" for key, value in trial.items())]

    def _settle(self, slot: Slot, outcome: Any) -> None:
        """See what became of a trial whose launch is over: as a rule its job has told the study itself."""
        number = slot.trial.number
        if self.slots.get(number) is not slot:
            return  # its slot was freed before
        del self.slots[number]
        if not self._trial(number).state.is_finished():
            self.study.give_up(number, slot.claim, _reason(outcome), attempt=not self.stopping)
        trial = self._trial(number)
        self.board.trial(trial, slot.values)
        self._count_failures(trial)

    def _trial(self, number: int) -> FrozenTrial:
        return self.study.study.get_trials(deepcopy=False)[number]

    def _count_failures(self, trial: FrozenTrial) -> None:
        if trial.state != TrialState.FAIL:
            if trial.state.is_finished():
                self.failed_in_a_row = 0
            return
        self.failed_in_a_row += 1
        rate, n_trials = self.plan.max_failure_rate, self.plan.n_trials
        failed = sum(each.state == TrialState.FAIL for each in self.study.finished())
        if self.failed_in_a_row >= min(self.plan.max_failures, n_trials):
            self._fail(f"{self.failed_in_a_row} trials failed in a row (hydra.sweeper.max_failures)", trial)
        elif rate is not None and failed > rate * n_trials:
            self._fail(f"{failed} of {n_trials} trials failed (hydra.sweeper.max_failure_rate={rate:g})", trial)

    def _fail(self, what: str, last: FrozenTrial) -> None:
        """Let the running jobs save and end, then stop."""
        self.stopping = True
        self._stop_jobs()
        self.failed_in_a_row = -len(self.slots)
        while self.slots:
            self._await_one(_TICK)
        reason = (str(last.user_attrs.get(FAILURE, "")).strip().splitlines() or ["no reason was given"])[-1]
        raise Stop(f"error: {what}; the last was trial {last.number}: {reason}", 1)

    def _go_on(self) -> str:
        return f"go on with: {command()}"


def _reason(outcome: Any) -> str:
    error = outcome if isinstance(outcome, BaseException) else getattr(outcome, "_return_value", None)
    if isinstance(error, dict) and error.get("state") == "exited":
        return f"its job exited with {error['value']}"
    if isinstance(error, SystemExit):
        return f"its job exited with {error.code}"
    if isinstance(error, BaseException):
        return f"{type(error).__name__}: {error}"
    return "its job ended without telling the study"


def _quoted(text: str) -> str:
    """A string as an override's value."""
    return "'" + str(text).replace("\\", "\\\\").replace("'", "\\'") + "'"
