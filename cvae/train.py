"""``python -m cvae.train [overrides]``: train one conditional VAE; with -m every combination of choices, or an Optuna sweep."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn


def _start_again(*_: object) -> NoReturn:
    """SIGTERM before the training loop listens for it: nothing is lost, and a scheduler may run the command again."""
    raise SystemExit(os.EX_TEMPFAIL)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _start_again)  # the imports below take a while

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from cvae import cli, config, damage, owner, resume, start
from cvae.console import say
from cvae.errors import FAILURE, UserError, expanded
from cvae.trial import current_trial

_log = logging.getLogger("cvae")


def train(cfg: DictConfig, folder: Path, group: str | None = None, resumed: bool = False) -> float | list[float]:
    """Build a run, train it in ``folder``, close it; return the best free-running value of the objective, or of each."""
    from cvae.training.assembly import assemble, facts  # late, so that --help and --cfg answer without loading torch
    from cvae.training.runtime import Stopped

    trial = current_trial()
    trainer, recorder = assemble(cfg, folder, group, resumed, trial)
    stopped, exit_code, state = None, 1, "stopped"
    try:
        if trainer.finished:
            say(f"this run is finished: {trainer.epoch} epochs, best {trainer.best:.3f}; nothing to do")
        best = trainer.fit(trial)
        exit_code, state = 0, "pruned" if trial.pruned else "complete"
        trial.record(found := facts(trainer))
        further = [found[metric.key] for metric in trainer.settings.objectives[1:]]
        return [best, *further] if further else best
    except Stopped as signalled:
        stopped, exit_code = signalled, signalled.exit_code(alone=group is None)
        say(f"stopped by {stopped}; go on with: {start.resume_command(folder, cfg.allow_targets)}")
    finally:
        recorder.finish(exit_code, state if trial.number is not None else None)
    if (mine := owner.held(folder)) is not None:
        mine.release()  # a scheduler may start the run elsewhere before this process has ended
    stopped.leave(exit_code)


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="config")
def _job(cfg: DictConfig) -> float | list[float]:
    job, folder = HydraConfig.get(), Path(HydraConfig.get().runtime.output_dir)
    alone = job.mode == RunMode.RUN
    group = None if alone else cfg.trial.get("study") or Path(job.sweep.dir).name
    if job.job.chdir:
        config.anchor(cfg, Path(job.runtime.cwd))
    in_trial = current_trial().number is not None
    try:
        with owner.hold(folder, patient=in_trial), _reason_left(folder, log=alone):
            again = in_trial and any((folder / name).exists() for name in ("run.json", "metrics.jsonl"))
            if again:
                damage.note_config(folder)
            return train(cfg, folder, group, resumed=again)
    except Exception as error:
        if not cli.is_users(error):
            raise
        if alone:
            cli.fail(error)
        say(f"error: job {job.job.num} failed: {cli.explain(error)}", style="red")
        raise  # it fails this job only


@contextlib.contextmanager
def _reason_left(folder: Path, log: bool) -> Iterator[None]:
    """Leave the reason of a failure in its run folder, where a report finds it: failure.txt, and the job's log."""
    try:
        yield
    except Exception as error:
        reason = cli.explain(error) or type(error).__name__
        told = cli.is_users(error)
        if log:
            _log.error(reason)
        with contextlib.suppress(OSError, UserError):  # which may be the error
            if (mine := owner.held(folder)) is not None:
                mine.check()
            text = reason if told else f"{type(error).__name__}: {reason}\n{traceback.format_exc()}"
            (folder / FAILURE).write_text(text + "\n")
        raise


def _resume(words: list[str]) -> None:
    folder = resume.run_folder(words)
    with owner.hold(folder):
        cfg, _ = resume.reopen(words)
        with _reason_left(folder, log=True):
            train(cfg, folder, resumed=True)


def _start(words: list[str]) -> None:
    multirun, folder = start.check_start(words)
    if multirun:
        signal.signal(signal.SIGTERM, cli.end_of_signal)  # between jobs, which have handlers of their own
    # Before Hydra writes its config there.
    with contextlib.nullcontext() if folder is None else owner.hold(folder):
        if folder is not None:
            start.refuse_used(folder)
        _job()
    if multirun:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # all is done but the end of this process


def _main() -> None:
    if cache := os.environ.get("CVAE_CACHE"):  # relative to where the user stands, whatever folder a job changes to
        os.environ["CVAE_CACHE"] = str(expanded(cache, "CVAE_CACHE"))
    signal.signal(signal.SIGTERM, _start_again)
    words = sys.argv[1:] = start.unfold(sys.argv[1:])
    action = start.action(words)
    if action == "show":
        start.show(start.compose(words))
    elif action == "resume":
        _resume(words)
    else:
        _start(words)


def main() -> None:
    if not start.under_torchrun():
        cli.guarded(_main)
    from cvae.training.distributed import run

    cli.guarded(lambda: run(_main, train))


if __name__ == "__main__":
    main()
