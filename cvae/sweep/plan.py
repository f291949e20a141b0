"""What a sweep is asked to do: ``hydra.sweeper`` and the command line, read and checked before the first job starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import optuna
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna.trial import FrozenTrial

from cvae.console import say, warn
from cvae.errors import UserError
from cvae.sweep.distributions import Value, as_searched, chosen, corners, inside, same, written
from cvae.sweep.identity import default_name, read_data, read_identity, searches_data
from cvae.sweep.settings import Declared, Extend, read_declared, read_directions, read_settings
from cvae.sweep.space import Space, read_space
from cvae.sweep.storage import absolute, revealed
from cvae.sweep.strategies import at_most_the_grid, build_pruner, build_sampler, unpickles, warn_of_phases
from cvae.sweep.study import SweepStudy
from cvae.sweep.trials import Limits


@dataclass(frozen=True)
class Plan:
    """A sweep whose settings are checked. Names are those of ``hydra.sweeper``; ``seed`` is the first seed of a trial."""

    space: Space
    identity: dict[str, Any]
    one_data: bool  # whether all trials run on the same data
    study_name: str
    storage: str  # with its password
    objectives: list[str]  # their names; empty if the app declares none
    directions: list[str]
    sampler: optuna.samplers.BaseSampler  # of a study's first start
    sampler_of: Callable[..., optuna.samplers.BaseSampler]  # of a later ``start``, by its number
    pruner: optuna.pruners.BasePruner
    extend: Extend | None
    n_trials: int
    n_jobs: int
    timeout: float | None
    enqueue: list[dict[str, Value]]
    seeds_per_trial: int
    cases: dict[str, tuple[str, ...]]  # overrides by the case's name; empty: as the command has it
    seed: int
    retry: int
    max_failures: int | None
    max_failure_rate: float | None
    top_k: int
    top_k_seeds: int
    constraints: dict[str, Limits]
    trust_study: bool
    warm_start: str | None  # a sweep.json whose finished trials count as this study's

    @property
    def data(self) -> str | None:
        """The fingerprint of the data that all trials run on; None if it is unknown here, or if they are searched."""
        return self.identity.get("data")

    @property
    def jobs(self) -> list[tuple[int, str | None]]:
        """The jobs of a trial: seed, and the name of the case, if there are cases. All cases of a seed before the next seed."""
        return [(self.seed + index, case) for index in range(self.seeds_per_trial) for case in (self.cases or [None])]

    @property
    def objective(self) -> str:
        """What the app returns, in words."""
        return ", ".join(self.objectives) or "value"


def read_plan(settings: Mapping[str, Any], arguments: Sequence[str], config: DictConfig, loader: Any) -> Plan:
    """Read a sweep.

    Args:
        settings: ``hydra.sweeper``, as plain values.
        arguments: the command's overrides for the task.
        config: the app's, with ``hydra``, without what is swept.
        loader: Hydra's config loader, which makes a job's whole config from its overrides.

    Raises:
        UserError: a setting is bad; the message names it.
        HydraException: a job's config cannot be composed: there is no such key, or a group has no such option.
    """
    values, app = read_settings(settings), read_declared(config)
    space = _space(settings, arguments, config, loader)
    allow_targets = _allowed(config)
    pruner = build_pruner(settings.get("pruner"), app.steps, app.warmup, allow_targets)
    jobs = _compose_jobs(space, config, loader, values["cases"])
    job, name = jobs[0], settings.get("study_name")
    values["n_trials"] = at_most_the_grid(values["n_trials"], settings.get("sampler"), space)

    def url_of(name: str) -> str:
        return absolute(revealed(settings.get("storage") or f"journal://multirun/studies/{name}.journal"))

    plan = Plan(
        space=space,
        identity=read_identity(space, settings, _without_hydra(job), values["seeds_per_trial"], values["cases"]),
        one_data=not searches_data(jobs),
        study_name=str(name or ""),
        storage=url_of(str(name or "")),
        objectives=app.objectives,
        directions=read_directions(settings.get("direction"), app),
        sampler=build_sampler(settings.get("sampler"), space, allow_targets),
        sampler_of=partial(build_sampler, settings.get("sampler"), space, allow_targets),
        pruner=pruner,
        enqueue=_enqueued(settings.get("enqueue") or [], space),
        seed=int(job.get("seed") or 0) if values["seeds_per_trial"] > 1 or values["top_k"] else 0,
        **values,
    )
    _refuse_unfit(plan, app, seedable="seed" in job and "seed" not in space.distributions)
    warn_of_phases(pruner, space, app.phases)
    if plan.one_data and (data := read_data(job)):  # as late as possible: to know them may mean to pack them
        plan = replace(plan, identity={**plan.identity, "data": data})
    name = str(name or default_name(config, plan.identity, url_of))
    return replace(plan, study_name=name, storage=url_of(name))


def _allowed(config: DictConfig) -> list[str]:
    """The packages of the user's own that a sampler or pruner may come from: the command's ``allow_targets``."""
    given = config.get("allow_targets")
    if given is not None and not (isinstance(given, ListConfig) and all(isinstance(name, str) for name in given)):
        raise UserError(f"allow_targets is {given!r}: give a list of packages, as allow_targets=[mypkg]")
    return list(given or [])


def open_study(plan: Plan, elsewhere: Sequence[FrozenTrial] = ()) -> SweepStudy:
    """The study of a plan, with finished trials from elsewhere and those that it enqueues.

    Raises:
        UserError: its storage cannot be opened or is damaged, or it holds a study of another identity.
    """
    where, what = (plan.study_name, plan.storage), (plan.identity, plan.directions)
    study = SweepStudy(*where, *what, plan.sampler, plan.pruner, plan.retry, plan.objectives, plan.one_data)
    if taken := study.take_over(elsewhere):
        say(f"warm start {taken} finished trials of {plan.warm_start}")
    study.enqueue(plan.enqueue)
    return study


def begin(plan: Plan, study: SweepStudy) -> None:
    """Give a study the sampler of this start: no two starts draw the same points.

    Raises:
        UserError: its sampler would run what another process stored in the study.
    """
    if unpickles(plan.sampler) and not study.fresh and not plan.trust_study:
        raise UserError(
            f"study {study.name} was begun by another process, and the CMA-ES sampler runs what is stored in it (a pickle): if "
            "you trust whoever can write to it, add hydra.sweeper.trust_study=true"
        )
    start = study.next_start()
    study.study.sampler = plan.sampler_of(start=start) if start else plan.sampler


def _refuse_unfit(plan: Plan, app: Declared, seedable: bool) -> None:
    """Refuse settings that do not go together."""
    if (plan.seeds_per_trial > 1 or plan.top_k) and not seedable:
        raise UserError("hydra.sweeper.seeds_per_trial and top_k set `seed`: the app needs such a key, and no sweep of it")
    if (plan.seeds_per_trial > 1 or plan.top_k) and (own := [name for name, words in plan.cases.items() if _sets_seed(words)]):
        raise UserError(f"hydra.sweeper.cases.{own[0]} sets seed, as seeds_per_trial and top_k do: leave one of them out")
    several = len(plan.directions) > 1
    if plan.top_k and several:
        raise UserError("hydra.sweeper.top_k needs one objective: with several there is no best: hydra.sweeper.top_k=0")
    if isinstance(plan.pruner, optuna.pruners.NopPruner):
        return
    if several:
        raise UserError("hydra.sweeper.pruner: Optuna prunes for one objective only: hydra/sweeper/pruner=none")
    if isinstance(plan.pruner, optuna.pruners.WilcoxonPruner):
        if len(plan.jobs) < 2:
            raise UserError("hydra.sweeper.pruner: Wilcoxon's needs several seeds or cases, as hydra.sweeper.seeds_per_trial=5")
    elif len(plan.jobs) > 1 and app.steps is None:
        raise UserError("hydra.sweeper.seeds_per_trial and cases with a pruner: the app's config must declare trial.steps")


def _sets_seed(words: Sequence[str]) -> bool:
    return any(word.lstrip("+").startswith("seed=") for word in words)


# --- the space --------------------------------------------------------------------------------------------------------


def _space(settings: Mapping[str, Any], arguments: Sequence[str], config: DictConfig, loader: Any) -> Space:
    conditions = settings.get("conditions") or {}
    choices = {str(key): str(value) for key, value in config.hydra.runtime.choices.items()}
    for text in conditions.values():
        other = str(text).partition("=")[0].strip()
        if other not in choices and (value := _plain_value(config, other)) is not None:
            choices[other] = value
    space = read_space(arguments, settings.get("params"), conditions, choices, loader)
    for key, (other, wanted) in space.conditions.items():
        if other not in space.distributions and other not in space.choices:
            raise UserError(f"hydra.sweeper.conditions.{key} needs {other}, which the app does not have: check the spelling")
        if other not in space.distributions and not same(space.choices[other], wanted):
            warn(f"hydra.sweeper.conditions.{key}: {other} is {space.choices[other]}, not {wanted}, so {key} is not searched")
    return space


def _plain_value(config: DictConfig, key: str) -> str | None:
    """A value of the app's config as an override has it; None if there is no such key, or if it is a group of keys."""
    try:
        value = OmegaConf.select(config, key)
    except OmegaConfBaseException:
        return None
    return None if value is None or OmegaConf.is_config(value) else written(value)


def _compose_jobs(space: Space, config: DictConfig, loader: Any, cases: Mapping[str, Sequence[str]]) -> list[DictConfig]:
    """Compose jobs that together have every parameter, every choice and every case, so that no later job fails at it.

    Returns:
        Their configs. The first has the first choices.

    Raises:
        UserError: a case sets what is searched.
    """
    ends = {key: corners(each) for key, each in space.distributions.items()}
    usual = {key: values for key, values in ends.items() if key not in space.conditions}
    jobs = [
        loader.load_sweep_config(config, space.overrides({key: each[number % len(each)] for key, each in usual.items()}))
        for number in range(max(map(len, usual.values()), default=1))
    ]
    for key, (other, wanted) in space.conditions.items():
        words = [f"{other}={wanted}", f"{key}={written(ends[key][0])}"]
        jobs.append(loader.load_sweep_config(config, [*space.overrides({}), *words]))
    for name, case in cases.items():
        for word in case:
            if (key := word.partition("=")[0].lstrip("+")) in space.distributions:
                raise UserError(f"hydra.sweeper.cases.{name} sets {key}, which this sweep searches: leave one of them out")
        jobs.append(loader.load_sweep_config(config, [*case, *space.overrides({key: each[0] for key, each in usual.items()})]))
    return jobs


def _without_hydra(job: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(job, [str(key) for key in job if key != "hydra"])


def _with_conditions(index: int, point: Mapping[str, Any], space: Space) -> dict[str, Value]:
    """A point to try with the values that its parameters' conditions need."""
    whole = {key: as_searched(space.distributions[key], value) for key, value in point.items()}
    open_ones = list(point)
    while open_ones:
        key = open_ones.pop()
        if key not in space.conditions:
            continue
        other, wanted = space.conditions[key]
        if other in space.distributions:
            whole.setdefault(other, chosen(space.distributions[other], wanted))
            open_ones.append(other)
        if not same(is_now := whole.get(other, space.choices.get(other)), wanted):
            raise UserError(f"hydra.sweeper.enqueue[{index}]: {key} is searched where {other}={wanted} only, not {is_now}")
    return whole


def _enqueued(points: Sequence[Any], space: Space) -> list[dict[str, Value]]:
    """The points to try first, each with what its parameters' conditions need."""
    found = []
    for index, point in enumerate(points):
        if not isinstance(point, Mapping):
            raise UserError(f"hydra.sweeper.enqueue[{index}] is {point!r}: write a mapping, as {{lr: 1e-3}}")
        for key, value in point.items():
            distribution = space.distributions.get(key)
            if distribution is None:
                known = ", ".join(space.distributions)
                raise UserError(f"hydra.sweeper.enqueue[{index}]: this sweep does not search {key}; it searches {known}")
            numeric = not isinstance(distribution, optuna.distributions.CategoricalDistribution)
            if (numeric and isinstance(value, bool)) or not inside(distribution, as_searched(distribution, value)):
                raise UserError(f"hydra.sweeper.enqueue[{index}]: {key}={value} is outside of what is searched")
        found.append(_with_conditions(index, point, space))
    return found
