"""``python -m cvae.train [overrides]``: train one conditional VAE; with -m every combination of choices, or an Optuna sweep."""

from __future__ import annotations

import signal
import sys
from os import EX_TEMPFAIL
from pathlib import Path
from typing import NoReturn


def _start_again(*_: object) -> NoReturn:
    """SIGTERM before the training loop listens for it: nothing is lost, and a scheduler may run the command again."""
    raise SystemExit(EX_TEMPFAIL)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _start_again)  # the imports below take a while

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from cvae import cli, config, resume, start
from cvae.console import say
from cvae.trial import current_trial


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
    stopped.leave(exit_code)


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="config")
def _job(cfg: DictConfig) -> float | list[float]:
    job, folder = HydraConfig.get(), Path(HydraConfig.get().runtime.output_dir)
    alone = job.mode == RunMode.RUN
    group = None if alone else cfg.trial.get("study") or Path(job.sweep.dir).name
    again = current_trial().number is not None and (folder / "run.json").exists()
    try:
        return train(cfg, folder, group, resumed=again)
    except Exception as error:
        if not cli.is_users(error):
            raise
        if alone:
            cli.fail(error)
        say(f"error: job {job.job.num} failed: {cli.explain(error)}", style="red")
        raise  # it fails this job only


def _main() -> None:
    signal.signal(signal.SIGTERM, _start_again)
    words = sys.argv[1:] = start.unfold(sys.argv[1:])
    action = start.action(words)
    if action == "show":
        start.show(start.compose(words))
    elif action == "resume":
        train(*resume.reopen(words), resumed=True)
    else:
        if start.check_start(words):
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # sweepers and launchers have handlers of their own
        _job()


def main() -> None:
    if not start.under_torchrun():
        cli.guarded(_main)
    from cvae.training.distributed import run

    cli.guarded(lambda: run(_main, train))


if __name__ == "__main__":
    main()
