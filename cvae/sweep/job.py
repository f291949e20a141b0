"""A job of a sweep, in the process that its launcher chose: it opens its trial, runs the task, and tells the study the outcome.

The storage is the only channel between a sweeper and its jobs. So a job needs nothing of the sweeper once it has begun, and a
job that outlives its sweeper is not lost.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any

import optuna
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from optuna.trial import TrialState

from cvae.cli import end_of_signal
from cvae.console import say
from cvae.errors import Diverged, UserError
from cvae.explain import explain, is_users
from cvae.sweep.job_trial import Job, JobTrial
from cvae.sweep.trials import FOLDER
from cvae.trial import running

_PREEMPTED = -1  # submitit's exit status of a job that it has put back into the scheduler's queue
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Exit codes of a job that was told to stop: by these signals, by a scheduler's warning, or EX_TEMPFAIL.
_STOPPED = (*(128 + number for number in (*_SIGNALS, signal.SIGUSR1, signal.SIGUSR2)), 75)


def run_trial(job: Job, cfg: DictConfig) -> dict[str, Any]:
    """Run a job's task as its trial; return ``{"state": ..., "value": ...}``.

    An app that looks at ``current_trial().stopping`` sees there that it was sent SIGTERM or Ctrl-C; others are ended by it.

    Raises:
        Exception: the task's own. After a UserError the trial is failed, since a second attempt would meet it again; after
            other exceptions, and after an exit, the sweeper decides.
        SystemExit: the scheduler will start this job again; or the job was stopped in its sweeper's process, so that the
            sweeper has to stop too. Other exits are returned: joblib would end its other jobs because of them.
    """
    trial = JobTrial.open(job, cfg.trial)
    if trial is None:
        say(f"trial {cfg.trial.number} was stopped or given to another job: nothing to do")
        return {"state": "taken over", "value": None}
    try:
        hydra: Any = HydraConfig.instance().cfg
        if hydra is not None and (folder := OmegaConf.select(hydra, "hydra.runtime.output_dir")):
            trial.note(FOLDER, folder)
        with contextlib.closing(trial), running(trial), _signals_to(trial):
            returned = job.task(cfg)
    except BaseException as error:
        return _unfinished(trial, error)
    told = trial.finish(returned)
    if trial.in_sweeper and trial.signum:
        raise SystemExit(128 + trial.signum)
    return told


def _unfinished(trial: JobTrial, error: BaseException) -> dict[str, Any]:
    """Tell or release a trial whose task raised ``error``; raise again what the launcher has to see."""
    if isinstance(error, optuna.TrialPruned):
        return trial.tell(TrialState.PRUNED)
    if isinstance(error, Diverged):
        return trial.tell(TrialState.PRUNED, reason=str(error))
    if isinstance(error, SystemExit):
        return _exited(trial, error)
    if isinstance(error, UserError):
        trial.tell(TrialState.FAIL, reason=str(error))
    elif isinstance(error, Exception):
        # The last line is what people are shown: OmegaConf's own says nothing, and that of a long message may be its detail.
        last = explain(error) if is_users(error) else ""
        if not last and "\n" in str(error).strip():
            last = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        trial.release(queue=False, reason=traceback.format_exc(limit=-8) + last)
    else:  # Ctrl-C
        trial.release(queue=True)
    raise error


def _exited(trial: JobTrial, stop: SystemExit) -> dict[str, Any]:
    """Release the trial of a task that left by an exit: because it was asked to stop, or of its own accord."""
    asked = trial.stopping or trial.signum > 0 or stop.code in _STOPPED
    preempted = stop.code == _PREEMPTED and "SUBMITIT_EXECUTOR" in os.environ
    trial.release(queue=asked and not preempted)
    if preempted:
        raise stop
    if asked and trial.in_sweeper:
        raise SystemExit(128 + trial.signum if trial.signum else stop.code) from None
    return {"state": "exited", "value": stop.code}


@contextlib.contextmanager
def _signals_to(trial: JobTrial) -> Iterator[None]:
    """Turn the first signal to stop into ``trial.stopping`` if the app looks there; any other signal ends the app as usual."""

    def handle(signum: int, frame: FrameType | None) -> None:
        first, trial.signum = not trial.signum, signum
        if trial.polled and first:
            trial.stop()
        elif signum == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            raise SystemExit(128 + signum)

    previous = {}
    if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
        # Handlers of whoever started this process, as submitit's, stay.
        usual = (signal.SIG_DFL, signal.default_int_handler, end_of_signal)
        previous = {number: signal.signal(number, handle) for number in _SIGNALS if signal.getsignal(number) in usual}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
