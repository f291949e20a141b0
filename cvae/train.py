"""``python -m cvae.train [overrides]``: train one conditional VAE, or with -m every combination of choices."""

from __future__ import annotations

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from cvae import cli, config
from cvae.console import say
from cvae.errors import UserError

config.register()


def train(cfg: DictConfig, folder: Path, group: str | None = None, resumed: bool = False) -> float:
    """Build a run, train it in ``folder``, close it; return the best free-running value of the objective."""
    # Late, so that --help and --cfg answer without loading torch.
    from cvae.training.assembly import assemble
    from cvae.training.runtime import Stopped

    trainer, recorder = assemble(cfg, folder, group, resumed)
    exit_code = 1
    try:
        if trainer.finished:
            say(f"this run is finished: {trainer.epoch} epochs, best {cfg.objective} {trainer.best:.3f}; nothing to do")
        best = trainer.fit()
        exit_code = 0
        return best
    except Stopped as stopped:
        exit_code = stopped.exit_code(alone=group is None)
        say(f"stopped by {stopped}; go on with: {cli.resume_command(folder)}")
        raise SystemExit(exit_code) from None
    finally:
        recorder.finish(exit_code)


@hydra.main(version_base="1.3", config_path=str(cli.CONF), config_name="config")
def _job(cfg: DictConfig) -> float:
    job = HydraConfig.get()
    alone = job.mode == RunMode.RUN
    cli.refuse_torchrun(multirun=not alone)
    try:
        return train(cfg, Path(job.runtime.output_dir), group=None if alone else Path(job.sweep.dir).name)
    except cli.MENDABLE as error:
        if alone:
            cli.fail(error)
        # It fails this job only; say so now, not when the others are done.
        say(f"error: job {job.job.num} failed: {cli.explain(error)}", style="red")
        raise


def _main() -> None:
    words = sys.argv[1:]
    asked = [key for key in ("resume", "show") if cli.override_values(words).get(key, "null") != "null"]
    if not asked or cli.only_prints(words):
        cli.refuse_start(words)
        _job()
    elif cli.is_multirun(words):
        raise UserError(f"{asked[0]}= acts on one run: leave -m out")
    elif asked == ["show"]:
        cli.show(cli.compose(words))
    else:
        train(*cli.reopen(words), resumed=True)


def main() -> None:
    if not cli.under_torchrun():
        cli.guarded(_main)
    from cvae.training.distributed import run

    cli.guarded(lambda: run(_main, train))


if __name__ == "__main__":
    main()
