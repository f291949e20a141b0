"""A sweep from its command line to its summary: plan, study, engine, and the best trials once more."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from hydra.core.plugins import Plugins
from hydra.core.utils import configure_log
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict, read_write
from optuna.exceptions import StorageInternalError

from cvae.cli import end_of_signal, quoted
from cvae.console import say
from cvae.errors import UserError, first_line
from cvae.sweep.engine import Engine, Stop
from cvae.sweep.folders import refuse_unknown
from cvae.sweep.job import run_trial
from cvae.sweep.job_trial import Job
from cvae.sweep.plan import Plan, begin, open_study, read_plan
from cvae.sweep.storage import hide, patient
from cvae.sweep.study import SweepStudy
from cvae.sweep.summary import Summary
from cvae.sweep.top import run_top
from cvae.sweep.trials import hold_to
from cvae.sweep.warm_start import finished_trials


def sweep(
    settings: dict[str, Any],
    arguments: Sequence[str],
    context: HydraContext,
    task: Callable[[DictConfig], Any],
    config: DictConfig,
) -> None:
    """Complete a study, as ``hydra.sweeper`` and the command line describe it, and write its summary.

    Raises:
        UserError: a setting is bad, the storage cannot be used, or too many trials failed.
        HydraException: a job's config cannot be composed.
        SystemExit: it was stopped before its trials were done.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    loader = context.config_loader
    _silence(config)
    plan = read_plan(settings, arguments, config, loader)
    deadline = None if plan.timeout is None else time.monotonic() + plan.timeout
    shown = hide(plan.storage)
    _show_without_password(plan.storage, shown, config)

    def complete(plan: Plan, study: SweepStudy) -> None:
        again = study.retry_failed()
        done = len(study.finished())
        if done >= plan.n_trials:
            say(f"study      {study.name} is complete: {done} trials; nothing to run")
            return
        say(f"study      {study.name}: {done} of {plan.n_trials} trials done")
        say(f"storage    {shown}")
        if again:
            few = ", ".join(f"{old} as {new}" for old, new in list(again.items())[:5])
            say(f"retried    {len(again)} failed: trial {few}" + (", ..." if len(again) > 5 else ""))
        begin(plan, study)
        job = Job(task, plan.pruner, plan.constraints, len(plan.jobs), plan.one_data)
        launcher = Plugins.instance().instantiate_launcher(context, partial(run_trial, job), config)
        Engine(plan, study, launcher, config, deadline).run()

    with _damage_in_a_line(shown), _ended_in_order():
        study = open_study(plan, finished_trials(plan))
        patient(hold_to)(study.study, plan.constraints)
        refuse_unknown(study, plan.space.distributions, Path(config.hydra.sweep.dir).absolute())
        summary = Summary(plan, study.study, config, loader)
        try:
            complete(plan, study)
            top = run_top(plan, study, complete) if plan.top_k else None
        except Stop as stop:
            summary.write(None, stopped=True)
            if stop.exit_code == 1:
                raise UserError(str(stop)) from None
            say(str(stop), style="yellow")
            raise SystemExit(stop.exit_code) from None
        summary.write(top)


@contextlib.contextmanager
def _ended_in_order() -> Iterator[None]:
    """Let SIGTERM between two jobs end the sweep as Ctrl-C does, if nobody else has a handler of it."""
    mine = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if mine:
        signal.signal(signal.SIGTERM, end_of_signal)
    try:
        yield
    finally:
        if mine:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def _damage_in_a_line(storage: str) -> Iterator[None]:
    """Turn what a database says of itself while it is read or written into a UserError."""
    try:
        yield
    except StorageInternalError as error:
        reason = first_line(error.__cause__ or error)
        raise UserError(f"storage={storage}: {reason}: put a copy of it back, or check its server and its disk") from error


def _silence(config: DictConfig) -> None:
    """Keep Hydra's log off the screen: it would repeat what this package says."""
    with read_write(config), open_dict(config):
        config.hydra.hydra_logging = {"version": 1, "root": {"handlers": []}, "disable_existing_loggers": False}
    configure_log(config.hydra.hydra_logging)


def _show_without_password(url: str, shown: str, config: DictConfig) -> None:
    """Put the storage's URL without its password wherever jobs and people read it, however the command writes it."""
    with read_write(config), open_dict(config):
        config.hydra.sweeper.storage = shown
        if "***" in shown:
            config.hydra.overrides.hydra = [_without(url, word, shown) for word in config.hydra.overrides.hydra]
            sys.argv[:] = [_without(url, word, shown) for word in sys.argv]


def _without(url: str, word: str, shown: str) -> str:
    """A word of the command, which may write the URL with escapes, or as a part of a larger value."""
    key, equals, _ = word.partition("=")
    if equals and key.lstrip("+") == "hydra.sweeper.storage":
        return f"{key}={quoted(shown)}"
    return word.replace(url, shown)
