"""A sweep from its command line to its last words: the study, the launcher, and the best trials once more."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from hydra.core.plugins import Plugins
from hydra.core.utils import configure_log
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict, read_write
from optuna.distributions import IntDistribution
from optuna.trial import TrialState

from cvae.console import say
from cvae.errors import UserError
from cvae.sweep.engine import Engine, Stop
from cvae.sweep.job import Job
from cvae.sweep.plan import Plan, read_plan
from cvae.sweep.space import Space
from cvae.sweep.storage import hide, revealed
from cvae.sweep.strategies import build_pruner
from cvae.sweep.study import OF, SweepStudy, ranked
from cvae.sweep.summary import Scribe, Top


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
        Engine(plan, study, launcher, self.config, self.folder, self.storage).run()


def sweep(
    settings: dict[str, Any],
    arguments: Sequence[str],
    context: HydraContext,
    task: Callable[[DictConfig], Any],
    config: DictConfig,
) -> None:
    """Complete a study, as ``hydra.sweeper`` and the command line describe it, and say what came of it.

    Raises:
        UserError: a setting is bad, the storage cannot be used, or too many trials failed.
        HydraException: a job's config cannot be composed.
        SystemExit: it was stopped before its trials were done.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    loader = context.config_loader
    _silence(config)
    plan = read_plan(settings, arguments, config, lambda words: loader.load_sweep_config(config, list(words)), loader)
    plan = dataclasses.replace(plan, storage=revealed(plan.storage))
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
    Scribe(plan, study.study, shown, config, loader).conclude(top)
    if stopped is not None and stopped.exit_code == 1:
        raise UserError(str(stopped))
    if stopped is not None:
        say(str(stopped), style="yellow")
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
    best = ranked(study.study.get_trials(deepcopy=False), study.study.directions)[: plan.top_k]
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
