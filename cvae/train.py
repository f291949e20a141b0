"""``python -m cvae.train [overrides]``: train one conditional VAE; with -m every combination of choices, or an Optuna sweep."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, cast


def _start_again(*_: object) -> NoReturn:
    """SIGTERM before the training loop listens for it: nothing is lost, and a scheduler may run the command again."""
    raise SystemExit(os.EX_TEMPFAIL)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _start_again)  # the imports below take a while

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from cvae import cli, config, experiment_file, from_python, grid, owner, resume, run_record, show, start
from cvae.console import say, warn
from cvae.errors import FAILURE, UserError, expanded
from cvae.explain import explain, is_users, of_a_part
from cvae.trial import current_trial

if TYPE_CHECKING:
    from cvae.evaluation.protocol import Protocol

_log = logging.getLogger("cvae")
_CTRL_C = 128 + signal.SIGINT


def train(cfg: DictConfig, folder: str | os.PathLike[str] | None = None) -> float | list[float]:
    """Train as ``python -m cvae.train`` does, from Python: in a run folder of its own, with all that a command writes there.

    Args:
        cfg: what ``cvae.start.compose(["lr=2e-3"])`` or ``hydra.compose`` returned, with whatever was changed since.
        folder: the run folder; None for ``multirun/single/<date>_<time>_<xxxx>``.

    Returns:
        The best free-running value of the objective, or of each.

    Raises:
        UserError: a setting, the data or the folder is bad.
        KeyboardInterrupt: it was interrupted; what is done so far is saved, and the message says how to go on.
    """
    for key in ("resume", "show"):
        if cfg.get(key) is not None:
            raise UserError(f"{key}={cfg[key]} is for the command: python -m cvae.train {key}=...")
    path = None if folder is None else expanded(folder, "folder")
    if path is not None:
        start.refuse_used(path)

    def job(cfg: DictConfig, folder: Path) -> float | list[float]:
        with owner.hold(folder), _reason_left(folder, log=True):
            run_record.write_values(folder, cfg)
            return _train(cfg, folder)

    try:
        return cast("float | list[float]", from_python.run(from_python.words_of(cfg), job, path))
    except SystemExit as stopped:
        if stopped.code != _CTRL_C:
            raise
        raise KeyboardInterrupt from None


def _train(
    cfg: DictConfig, folder: Path, group: str | None = None, resumed: bool = False, configs: Sequence[str] = ()
) -> float | list[float]:
    """Build a run, train it in ``folder``, close it; return the best free-running value of the objective, or of each.

    ``configs`` are those that the command says where to find: ``start.own_configs``.
    """
    from cvae.training.assembly import assemble  # late, so that --help and --cfg answer without loading torch
    from cvae.training.ending import facts, warn_of_latent
    from cvae.training.runtime import Stopped

    trial = current_trial()
    protocols = _protocols(cfg, configs)
    trainer, recorder = assemble(cfg, folder, group, resumed, trial)
    was_finished = trainer.finished
    stopped, exit_code, state = None, 1, "stopped"
    try:
        if trainer.finished:
            say(f"this run is finished: {trainer.epoch} epochs, best {trainer.best:.3f}; nothing to do")
        best = trainer.fit(trial)
        exit_code, state = 0, "pruned" if trial.pruned else "complete"
        if not was_finished:
            warn_of_latent(trainer)
        trial.record(found := facts(trainer, in_trial=trial.number is not None))
        if protocols and trainer.processes.first and not trial.pruned and (trial.number is None or trial.again):
            trial.record(_evaluated(cfg, folder, protocols, only_missing=was_finished))
        further = [found[metric.key] for metric in trainer.settings.objectives[1:]]
        return [best, *further] if further else best
    except Stopped as signalled:
        stopped, exit_code = signalled, signalled.exit_code(alone=group is None)
        again = start.resume_command(folder, cfg.allow_targets, configs if protocols else ())
        say(f"stopped by {stopped}; go on with: {again}")
    finally:
        recorder.finish(exit_code, state if trial.number is not None else None)
    if (mine := owner.held(folder)) is not None:
        mine.release()  # a scheduler may start the run elsewhere before this process has ended
    stopped.leave(exit_code)


def _protocols(cfg: DictConfig, configs: Sequence[str]) -> list[Protocol]:
    """The protocols of ``evaluate=``, before anything is trained; UserError if there is no such one."""
    if not cfg.evaluate:
        return []
    from cvae.evaluation.protocol import protocols

    return protocols(start.protocol_nodes(list(cfg.evaluate), configs))


def _evaluated(cfg: DictConfig, folder: Path, protocols: Sequence[Protocol], only_missing: bool) -> dict[str, float]:
    """Evaluate a finished run; the means of its metrics by ``eval/PROTOCOL/METRIC``. What cannot be evaluated is one line."""
    from cvae.protocols.running import evaluate, known_results, means
    from cvae.protocols.tools import Settings, Tools

    known = known_results(folder, protocols) if only_missing else {}
    wanted = [each for each in protocols if each.name not in known]
    found = {key: value for result in known.values() for key, value in means(result).items()}
    try:
        tools = Tools(Settings(device=cfg.device, places=config.places(cfg.data), allow_targets=list(cfg.allow_targets)))
        for result in evaluate(folder, wanted, tools) if wanted else ():
            if isinstance(result, UserError):
                warn(str(result))
            else:
                found |= means(result)
    except UserError as error:
        warn(f"{error}; the run itself is complete")
    return found


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
            run_record.write_values(folder, cfg)
            again = in_trial and any((folder / name).exists() for name in ("run.json", "metrics.jsonl"))
            if again:
                run_record.note_config(folder)
            return _train(cfg, folder, group, resumed=again, configs=start.own_configs(job))
    except Exception as error:
        if not is_users(error):
            raise
        if alone:
            cli.fail(error)
        say(f"error: job {job.job.num} failed: {explain(error)}", style="red")
        raise  # it fails this job only


@contextlib.contextmanager
def _reason_left(folder: Path, log: bool) -> Iterator[None]:
    """Leave the reason of a failure in its run folder, where a report finds it: failure.txt, and the job's log."""
    try:
        yield
    except Exception as error:
        reason = explain(error) or type(error).__name__
        told = is_users(error) and not of_a_part(error)
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
            _train(cfg, folder, resumed=True, configs=start.own_configs_of(words))


def _start(words: list[str]) -> None:
    multirun, folder = start.check_start(words)
    if multirun:
        signal.signal(signal.SIGTERM, cli.end_of_signal)  # between jobs, which have handlers of their own
    # Before Hydra writes its config there.
    with contextlib.nullcontext() if folder is None else owner.hold(folder):
        if folder is not None:
            start.refuse_used(folder)
        try:
            _job()
        except Exception:
            grid.say_results()
            raise
        grid.say_results()
    if multirun:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # all is done but the end of this process


def _main() -> None:
    if cache := os.environ.get("CVAE_CACHE"):  # relative to where the user stands, whatever folder a job changes to
        os.environ["CVAE_CACHE"] = str(expanded(cache, "CVAE_CACHE"))
    signal.signal(signal.SIGTERM, _start_again)
    words = sys.argv[1:] = experiment_file.unfold(sys.argv[1:])
    action = start.action(words)
    if action == "show":
        show.schedules(words)
    elif action == "resume":
        _resume(words)
    else:
        _start(words)


def main() -> None:
    if not start.under_torchrun():
        cli.guarded(_main)
    from cvae.training.distributed import run

    cli.guarded(lambda: run(_main, _train))


if __name__ == "__main__":
    main()
