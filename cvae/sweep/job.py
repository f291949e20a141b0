"""A job of a sweep, in whatever process a launcher put it: it holds its trial, reports, is pruned, and tells the study itself.

The storage is the only channel between a sweeper and its jobs. So a job needs nothing of the sweeper once it has begun: one
that outlives a killed sweeper is not lost.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import optuna
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from optuna.trial import TrialState

from cvae.cli import MENDABLE, explain
from cvae.console import say
from cvae.errors import Diverged, UserError
from cvae.sweep.job_trial import JobTrial
from cvae.sweep.study import FOLDER
from cvae.trial import running

_PREEMPTED = -1  # submitit's exit status of a job that it has put back into the scheduler's queue
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Exit codes of a job that was told to stop: by these, by a scheduler's warning, or by EX_TEMPFAIL.
_STOPPED = (*(128 + number for number in (*_SIGNALS, signal.SIGUSR1, signal.SIGUSR2)), 75)


@dataclass
class Job:
    """An app's task function as a job of a sweep: what the sweeper gives to its launcher. It travels pickled.

    Args:
        task: the app's; it returns its objective (several: a list), or ``{"state": "pruned" | "complete", "value": ...}``.
        pruner: a ``_target_`` config, or None.
        constraints: recorded fact to the most it may be.
        seeds: jobs a trial; its value is their mean.
        allow_targets: packages besides Optuna that a pruner may come from.
    """

    task: Callable[[DictConfig], Any]
    pruner: dict[str, Any] | None = None
    constraints: Mapping[str, float] = field(default_factory=dict)
    seeds: int = 1
    allow_targets: Sequence[str] = ()

    def __call__(self, cfg: DictConfig) -> dict[str, Any]:
        """Run the task as its trial; return ``{"state": ..., "value": ...}``.

        An app that looks at ``current_trial().stopping`` sees there that it was sent SIGTERM or Ctrl-C; others these end.

        Raises:
            Exception: the task's own. After a UserError the trial is failed, as a second attempt would meet it again; after
                others, and after an exit, the sweeper decides.
            SystemExit: the scheduler will start this job again; or the job was stopped in its sweeper's process, which is
                meant too. Other exits are returned, as joblib would end the jobs beside this one for it.
        """
        trial = JobTrial.open(self, cfg.trial)
        if trial is None:
            say(f"trial {cfg.trial.number} was stopped or given to another job: nothing to do")
            return {"state": "taken over", "value": None}
        try:
            hydra: Any = HydraConfig.instance().cfg
            if hydra is not None and (folder := OmegaConf.select(hydra, "hydra.runtime.output_dir")):
                trial.note(FOLDER, folder)
            with running(trial), _heeding(trial):
                returned = self.task(cfg)
        except (Diverged, optuna.TrialPruned) as error:
            return trial.tell(TrialState.PRUNED, reason=str(error) if isinstance(error, Diverged) else None)
        except UserError as error:
            trial.fail(str(error))
            raise
        except Exception as error:
            # The last line is what people are shown, and OmegaConf's says nothing.
            said = explain(error) if isinstance(error, MENDABLE) else ""
            trial.let_go(queue=False, reason=traceback.format_exc(limit=-8) + said)
            raise
        except SystemExit as stop:
            asked = trial.stopping or trial.heard > 0 or stop.code in _STOPPED
            preempted = stop.code == _PREEMPTED and "SUBMITIT_EXECUTOR" in os.environ
            trial.let_go(queue=asked and not preempted)
            if preempted:
                raise
            if asked and trial.in_sweeper:
                raise SystemExit(128 + trial.heard if trial.heard else stop.code) from None
            return {"state": "exited", "value": stop.code}
        except KeyboardInterrupt:
            trial.let_go(queue=True)
            raise
        finally:
            trial.close()
        told = trial.finish(returned)
        if trial.in_sweeper and trial.heard:
            raise SystemExit(128 + trial.heard)
        return told


@contextlib.contextmanager
def _heeding(trial: JobTrial) -> Iterator[None]:
    """Turn the first signal to stop into ``trial.stopping`` for an app that looks there; any other one ends it, as ever."""

    def hear(signum: int, frame: FrameType | None) -> None:
        first, trial.heard = not trial.heard, signum
        if trial.heeds and first:
            trial.stop()
        elif signum == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            raise SystemExit(128 + signum)

    previous = {}
    if threading.current_thread() is threading.main_thread():  # elsewhere Python forbids handlers
        # A handler of whoever started this process, as submitit's, is left alone.
        usual = (signal.SIG_DFL, signal.default_int_handler)
        previous = {number: signal.signal(number, hear) for number in _SIGNALS if signal.getsignal(number) in usual}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
