"""What a sweep is asked to do: ``hydra.sweeper`` and the command line, read and checked before the first job starts."""

from __future__ import annotations

import hashlib
import importlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cvae.config import identity
from cvae.console import warn
from cvae.errors import UserError
from cvae.sweep.space import Space, Value, as_searched, corners, inside, old_distribution, read_space, shown, written
from cvae.sweep.storage import absolute
from cvae.sweep.strategies import build_pruner, build_sampler, grid_size, read_pruner, warn_of_phases

Compose = Callable[[Sequence[str]], DictConfig]


@dataclass(frozen=True)
class Plan:
    """A sweep, checked. Names are those of ``hydra.sweeper``; ``seed`` is the first of a trial's seeds."""

    space: Space
    identity: dict[str, Any]
    study_name: str
    storage: str
    directions: list[str]
    sampler: optuna.samplers.BaseSampler
    pruner: dict[str, Any] | None
    extend: Callable[[DictConfig, optuna.Trial], None] | None
    n_trials: int
    n_jobs: int
    timeout: float | None
    enqueue: list[dict[str, Value]]
    seeds_per_trial: int
    seed: int
    retry: int
    max_failures: int
    max_failure_rate: float | None
    top_k: int
    top_k_seeds: int
    constraints: dict[str, float]
    allow_targets: list[str]
    objective: str  # what the app calls what it returns


def read_plan(settings: Mapping[str, Any], arguments: Sequence[str], config: DictConfig, compose: Compose, loader: Any) -> Plan:
    """Read a sweep.

    Args:
        settings: ``hydra.sweeper``, as plain values.
        arguments: the command's overrides for the task.
        config: the app's, with ``hydra``, sweeps left out.
        compose: a job's whole config from its overrides.
        loader: Hydra's config loader.

    Raises:
        UserError: a setting is bad; the message names it.
        HydraException: a job's config cannot be composed: a parameter is no key, a group has no such option.
    """
    _refuse_wrong_shapes(settings)
    declared = config.get("trial")
    if declared is not None and not isinstance(declared, DictConfig):
        raise UserError("this app has a key `trial` that is a plain value: a sweep passes trial.number there; rename the key")
    space = _space(settings, arguments, config, loader)
    if not space.distributions and not settings.get("custom_search_space"):
        raise UserError("this sweep searches nothing: give an interval, a range or choices, as lr='interval(1e-4, 1e-3)'")
    steps, warmup = _declared(declared, "steps"), _declared(declared, "warmup")
    pruner = read_pruner(settings.get("pruner"), steps, warmup)
    directions = _directions(settings.get("direction"), declared, config)
    app = _first_job(space, compose)
    seeds, top_k = _whole(settings, "seeds_per_trial", 1), _whole(settings, "top_k", 0)
    _refuse_unfit(pruner, directions, seeds, top_k, steps, "seed" in app and "seed" not in space.distributions)
    what = _identity(space, settings, app, seeds)
    name = str(settings.get("study_name") or _name(config, what))
    allow_targets = list(settings.get("allow_targets") or [])
    build_pruner(pruner, allow_targets)
    warn_of_phases(pruner, space)
    return Plan(
        space=space,
        identity=what,
        study_name=name,
        storage=absolute(settings.get("storage") or f"journal://multirun/studies/{name}.journal"),
        directions=directions,
        sampler=build_sampler(settings.get("sampler"), space, allow_targets),
        pruner=pruner,
        extend=_method(settings.get("custom_search_space")),
        n_trials=_trials(settings, space),
        n_jobs=_whole(settings, "n_jobs", 1),
        timeout=_number(settings, "timeout", 0, math.inf, "seconds above 0"),
        enqueue=_enqueued(settings.get("enqueue") or [], space),
        seeds_per_trial=seeds,
        seed=int(app.get("seed") or 0) if seeds > 1 or top_k else 0,
        retry=_whole(settings, "retry", 0),
        max_failures=_whole(settings, "max_failures", 1),
        max_failure_rate=_number(settings, "max_failure_rate", -1, 1, "a fraction in [0, 1]"),
        top_k=top_k,
        top_k_seeds=_whole(settings, "top_k_seeds", 2),
        constraints=_constraints(settings.get("constraints") or {}),
        allow_targets=allow_targets,
        objective=_objective(app),
    )


def _refuse_unfit(
    pruner: Mapping[str, Any] | None, directions: Sequence[str], seeds: int, top_k: int, steps: int | None, seedable: bool
) -> None:
    """Refuse settings that do not go together."""
    if (seeds > 1 or top_k) and not seedable:
        raise UserError("hydra.sweeper.seeds_per_trial and top_k set `seed`: the app needs such a key, and no sweep of it")
    if top_k and len(directions) > 1:
        raise UserError("hydra.sweeper.top_k needs one objective: with several there is no best: hydra.sweeper.top_k=0")
    if pruner is None:
        return
    if len(directions) > 1:
        raise UserError("hydra.sweeper.pruner: Optuna prunes for one objective only: hydra/sweeper/pruner=none")
    if pruner["_target_"].endswith("WilcoxonPruner"):
        if seeds < 2:
            raise UserError("hydra.sweeper.pruner: Wilcoxon's compares seeds, not epochs: hydra.sweeper.seeds_per_trial=5, say")
    elif seeds > 1 and steps is None:
        raise UserError("hydra.sweeper.seeds_per_trial with a pruner: the app's config must declare trial.steps")


def _trials(settings: Mapping[str, Any], space: Space) -> int:
    n_trials, points = _whole(settings, "n_trials", 1), grid_size(settings.get("sampler"), space)
    if points < n_trials:
        warn(f"the grid has {points} points: n_trials={points}")
    return int(min(points, n_trials))


def _number(settings: Mapping[str, Any], key: str, above: float, most: float, wanted: str) -> float | None:
    value = settings.get(key)
    if value is not None and not (_is_number(value) and above < value <= most and (above >= 0 or value >= 0)):
        raise UserError(f"hydra.sweeper.{key} is {value!r}: give {wanted}, or null")
    return None if value is None else float(value)


_SHAPES: dict[str, tuple[type, str]] = {
    "params": (dict, "{lr: 'interval(1e-4, 1e-3)'}"),
    "search_space": (dict, "hydra.sweeper.params={lr: 'interval(1e-4, 1e-3)'}"),
    "conditions": (dict, "{kl_schedule.cycles: kl_schedule=cyclical}"),
    "constraints": (dict, "{peak_memory: 8e9}"),
    "sampler": (dict, "hydra/sweeper/sampler=tpe"),
    "pruner": (dict, "hydra/sweeper/pruner=median"),
    "enqueue": (list, "[{lr: 1e-3, tfr: 0.5}]"),
    "allow_targets": (list, "[my_package]"),
    "storage": (str, "journal://FILE"),
    "custom_search_space": (str, "my_module.my_function"),
}


def _refuse_wrong_shapes(settings: Mapping[str, Any]) -> None:
    for key, (shape, example) in _SHAPES.items():
        value = settings.get(key)
        if value is not None and not isinstance(value, shape):
            raise UserError(f"hydra.sweeper.{key} is {value!r}: write {example}, say")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _constraints(given: Mapping[Any, Any]) -> dict[str, float]:
    for key, most in given.items():
        if not _is_number(most):
            raise UserError(f"hydra.sweeper.constraints.{key} is {most!r}: give the most that {key} may be, a number")
    return {str(key): float(most) for key, most in given.items()}


# --- the space --------------------------------------------------------------------------------------------------------


def _space(settings: Mapping[str, Any], arguments: Sequence[str], config: DictConfig, loader: Any) -> Space:
    params = dict(settings.get("params") or {})
    old = settings.get("search_space") or {}
    if old:
        warn("hydra.sweeper.search_space is the old way: write hydra.sweeper.params")
    conditions = settings.get("conditions") or {}
    choices = {str(key): str(value) for key, value in config.hydra.runtime.choices.items()}
    for text in conditions.values():
        other = str(text).partition("=")[0].strip()
        if other not in choices and (value := _plain_value(config, other)) is not None:
            choices[other] = value
    space = read_space(arguments, params, conditions, choices, loader)
    for key, (other, _) in space.conditions.items():
        if other not in space.distributions and other not in space.choices:
            raise UserError(f"hydra.sweeper.conditions.{key} needs {other}, which is no key of the app: check the spelling")
    for key in [str(key) for key in old if str(key) not in {*space.distributions, *space.fixed}]:
        space.distributions[key] = old_distribution(key, old[key])
    return space


def _plain_value(config: DictConfig, key: str) -> str | None:
    """A value of the app's config as an override would have it; None if there is no such key, or a group of them."""
    try:
        value = OmegaConf.select(config, key)
    except OmegaConfBaseException:
        return None
    return None if value is None or OmegaConf.is_config(value) else written(value)


def _first_job(space: Space, compose: Compose) -> DictConfig:
    """Compose jobs that together have every parameter and every choice, before the first one starts; the first one's config."""
    rounds = max((len(corners(distribution)) for distribution in space.distributions.values()), default=1)
    jobs: list[DictConfig] = []
    for number in range(rounds):
        values = {key: corners(each)[number % len(corners(each))] for key, each in space.distributions.items()}
        unconditional = {key: value for key, value in values.items() if key not in space.conditions}
        jobs.append(compose(space.overrides(unconditional)))
    for key, (other, wanted) in space.conditions.items():
        value = corners(space.distributions[key])[0]
        if other in space.distributions or other in space.choices:
            compose([*space.overrides({}), f"{other}={wanted}", *Space({}).overrides({key: value})])
    return OmegaConf.masked_copy(jobs[0], [str(key) for key in jobs[0] if key != "hydra"])


def _enqueued(points: Sequence[Any], space: Space) -> list[dict[str, Value]]:
    for number, point in enumerate(points):
        if not isinstance(point, Mapping):
            raise UserError(f"hydra.sweeper.enqueue[{number}] is {point!r}: write a mapping, as {{lr: 1e-3, tfr: 0.5}}")
        for key, value in point.items():
            distribution = space.distributions.get(key)
            if distribution is None:
                known = ", ".join(space.distributions)
                raise UserError(f"hydra.sweeper.enqueue[{number}]: this sweep does not search {key}; it searches {known}")
            if not inside(distribution, as_searched(distribution, value)):
                raise UserError(f"hydra.sweeper.enqueue[{number}]: {key}={value} lies outside of what is searched")
    return [{key: as_searched(space.distributions[key], value) for key, value in point.items()} for point in points]


def _method(path: str | None) -> Callable[[DictConfig, optuna.Trial], None] | None:
    if not path:
        return None
    module, _, name = path.lstrip(".").rpartition(".")  # the published example begins with a dot, without a meaning
    try:
        found: Callable[[DictConfig, optuna.Trial], None] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"hydra.sweeper.custom_search_space={path} cannot be imported ({error}): check the path") from error
    if not callable(found):
        raise UserError(f"hydra.sweeper.custom_search_space={path} is no function: give a function of (cfg, trial)")
    return found


# --- identity ---------------------------------------------------------------------------------------------------------


def _identity(space: Space, settings: Mapping[str, Any], app: DictConfig, seeds: int) -> dict[str, Any]:
    """What makes two trials comparable: the space and every setting that is not searched, unresolved, paths left out."""
    kept = identity(app, resolve=False)
    for key in space.distributions:
        _drop(kept, key.lstrip("+~").split("@")[0].replace("/", ".").split("."))
    what: dict[str, Any] = {
        "space": {key: shown(distribution) for key, distribution in space.distributions.items()},
        "settings": kept,
    }
    if space.conditions:
        what["conditions"] = {key: "=".join(condition) for key, condition in space.conditions.items()}
    if settings.get("custom_search_space"):
        what["custom_search_space"] = settings["custom_search_space"]
    if seeds > 1:
        what["seeds_per_trial"] = seeds
    return what


def _drop(tree: Any, path: Sequence[str]) -> None:
    for part in path[:-1]:
        tree = tree.get(part) if isinstance(tree, dict) else None
    if isinstance(tree, dict):
        tree.pop(path[-1], None)


def _name(config: DictConfig, what: dict[str, Any]) -> str:
    title = config.hydra.runtime.choices.get("experiment") or config.hydra.job.name
    digest = hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:8]
    return f"{str(title).replace('/', '-')}-{digest}"


# --- direction ------------------------------------------------------------------------------------------------------


def _declared(trial: DictConfig | None, key: str) -> int | None:
    """What the app declares of its jobs in ``trial.steps`` (reports a job makes) and ``trial.warmup`` (none prunes before)."""
    value = None if trial is None else trial.get(key)
    return None if value is None else int(value)


def _objective(app: DictConfig) -> str:
    names = app.get("objective")
    return ", ".join(map(str, names)) if OmegaConf.is_list(names) else str(names or "value")


def _directions(given: Any, declared: DictConfig | None, config: DictConfig) -> list[str]:
    if given is None:
        direction = None if declared is None else declared.get("direction")
        objectives = config.get("objective")
        count = len(objectives) if OmegaConf.is_list(objectives) else 1
        usual = [direction if direction in ("maximize", "minimize") else "minimize"] * count
        given = list(direction) if isinstance(direction, (list, ListConfig)) else usual
    names = [str(getattr(each, "name", each)) for each in (given if isinstance(given, (list, tuple)) else [given])]
    for name in names:
        if name not in ("maximize", "minimize"):
            raise UserError(f"hydra.sweeper.direction is {name!r}: choose maximize or minimize, one an objective")
    if not names:
        raise UserError("hydra.sweeper.direction is empty: give maximize or minimize, one an objective")
    return names


def _whole(settings: Mapping[str, Any], key: str, least: int) -> int:
    value = settings.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"hydra.sweeper.{key} is {value!r}: give a whole number of at least {least}")
    return value
