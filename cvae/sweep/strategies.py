"""A sweep's sampler and pruner, built from ``hydra.sweeper``. What is null there is left to Optuna."""

from __future__ import annotations

import hashlib
import itertools
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import optuna
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from cvae.config import build
from cvae.console import warn
from cvae.errors import UserError, require
from cvae.sweep.distributions import as_searched, inside, shown
from cvae.sweep.space import Space, path_of
from cvae.sweep.trials import FIXED, GRID


def build_sampler(given: Any, space: Space, allow_targets: Sequence[str], start: int = 0) -> optuna.samplers.BaseSampler:
    """The sampler that ``hydra.sweeper.sampler`` describes, for a ``start`` of a sweep: each draws from a seed of its own.

    Raises:
        UserError: it does not exist, refuses its arguments, or cannot search this space.
    """
    spec = _given(_spec(given, "sampler") or {"_target_": "optuna.samplers.TPESampler"})
    kind = _optunas(spec)
    if kind == "MOTPESampler":
        raise UserError(
            "hydra/sweeper/sampler=motpe is not in Optuna any more: tpe takes several objectives: hydra/sweeper/sampler=tpe"
        )
    for needed, package in (("CmaEsSampler", "cmaes"), ("QMCSampler", "scipy")):
        if kind == needed and find_spec(package) is None:
            name = "cmaes" if package == "cmaes" else "qmc"
            raise UserError(f"hydra/sweeper/sampler={name} needs a package of its own: pip install {package}")
    if kind == "CmaEsSampler" and "popsize" in spec and not (isinstance(spec["popsize"], int) and spec["popsize"] > 3):
        raise UserError(
            f"hydra.sweeper.sampler.popsize is {spec['popsize']!r}: CMA-ES needs at least 4, or null for its own choice"
        )
    if kind == "GridSampler":
        if not space.distributions:
            return optuna.samplers.RandomSampler()  # a grid without a parameter
        spec["search_space"] = _grid(spec, space)
    spec = _reseeded(spec, start)
    sampler: optuna.samplers.BaseSampler = _built("sampler", spec, allow_targets, optuna.samplers.BaseSampler, quiet=start > 0)
    return _Grid(sampler, space) if type(sampler) is optuna.samplers.GridSampler else sampler


class _Grid(optuna.samplers.GridSampler):
    """A grid whose points are tried in order, each once, by whatever trial.

    Optuna gives point k to trial k, although a trial that was queued or taken over may have had it (``grid_attributes``). Of
    points that differ in nothing but parameters that do not exist there it has one; Optuna knows no conditions.
    """

    def __init__(self, grid: optuna.samplers.GridSampler, space: Space) -> None:
        self.__dict__.update(grid.__dict__)
        if space.conditions:
            self._all_grids = _different(self._all_grids, self._param_names, space)
            self._n_min_trials = len(self._all_grids)

    def before_trial(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        if not {FIXED, *GRID} & trial.system_attrs.keys():
            point = min(self._get_unvisited_grid_ids(study), default=0)
            found: dict[str, Any] = dict(zip(GRID, (point, self._search_space), strict=True))
            for key, value in found.items():
                study._storage.set_trial_system_attr(trial._trial_id, key, value)


def _optunas(spec: Mapping[str, Any]) -> str:
    """The name of a class of Optuna's; empty for a class of somebody else's, whatever its name."""
    module, _, name = str(spec.get("_target_", "")).rpartition(".")
    return name if module.partition(".")[0] == "optuna" else ""


def _reseeded(spec: dict[str, Any], start: int) -> dict[str, Any]:
    """With each seed replaced by one drawn from it and the start's number; the first start has the seeds as they are.

    A quasi-random sequence is one for all starts, who take its points in turn. A grid's points do not depend on its seed.
    """
    kind = _optunas(spec)
    if not start or kind == "GridSampler":
        return spec
    seed = spec.get("seed")
    own = {key: _reseeded(value, start) if isinstance(value, dict) else value for key, value in spec.items()}
    if isinstance(seed, int):
        drawn = int.from_bytes(hashlib.sha256(f"{seed} {start}".encode()).digest()[:4], "big") >> 1
        if kind == "QMCSampler":  # but for what it leaves to another sampler
            own.setdefault("independent_sampler", {"_target_": "optuna.samplers.RandomSampler", "seed": drawn})
        else:
            own["seed"] = drawn
    return own


def unpickles(sampler: optuna.samplers.BaseSampler) -> bool:
    """Whether it loads pickles from the study, which run whatever they say: of Optuna's only CMA-ES, alone or in another."""
    below = (each for each in getattr(sampler, "__dict__", {}).values() if isinstance(each, optuna.samplers.BaseSampler))
    return isinstance(sampler, optuna.samplers.CmaEsSampler) or any(map(unpickles, below))


def _grid(spec: Mapping[str, Any], space: Space) -> dict[str, list[Any]]:
    """A grid's values by parameter: those of its own ``search_space``, or all that are searched.

    Raises:
        UserError: it has other parameters than the sweep, values outside of what is searched, or there are endlessly many.
    """
    key = "hydra.sweeper.sampler.search_space"
    if given := spec.get("search_space"):
        lists = isinstance(given, dict) and all(isinstance(values, list) and values for values in given.values())
        require(lists, key, given, "give a list of values to each parameter, as {lr: [1e-3, 2e-3]}")
        if given.keys() != space.distributions.keys():
            raise UserError(f"{key} has {', '.join(given)}, and the sweep searches {', '.join(space.distributions)}: give all")
        found = {name: [as_searched(space.distributions[name], each) for each in values] for name, values in given.items()}
        for name, values in found.items():
            for each in values:
                if not inside(space.distributions[name], each):
                    raise UserError(f"{key}.{name} has {each!r}, and the sweep searches {shown(space.distributions[name])}")
        return found
    grid: dict[str, list[Any]] = {}
    for key, distribution in space.distributions.items():
        if isinstance(distribution, CategoricalDistribution):
            grid[key] = list(distribution.choices)
        elif isinstance(distribution, (IntDistribution, FloatDistribution)) and distribution.step and not distribution.log:
            count = round((distribution.high - distribution.low) / distribution.step) + 1
            grid[key] = [type(distribution.low)(distribution.low + index * distribution.step) for index in range(count)]
        else:
            raise UserError(f"hydra/sweeper/sampler=grid needs values to choose from: {key} is {shown(distribution)}")
    return grid


def _different(points: Iterable[Sequence[Any]], names: Sequence[str], space: Space) -> list[Any]:
    """Of the points of a grid those that differ in a parameter that exists there, each once."""
    found: dict[tuple[Any, ...], Sequence[Any]] = {}
    for point in points:
        there = space.existing(dict(zip(names, point, strict=True)))
        found.setdefault(tuple(sorted(there.items())), point)
    return list(found.values())


def at_most_the_grid(n_trials: int, given: Any, space: Space) -> int:
    """``n_trials``, or the number of a grid sampler's points if there are fewer."""
    spec = _spec(given, "sampler")
    if not spec or _optunas(spec) != "GridSampler" or not space.distributions:
        return n_trials
    grid = _grid(spec, space)
    points = math.prod(map(len, grid.values()))
    if space.conditions:
        points = len(_different(itertools.product(*grid.values()), list(grid), space))
    if points < n_trials:
        warn(f"the grid has {points} points: n_trials={points}")
    return min(points, n_trials)


def build_pruner(given: Any, steps: int | None, warmup: int | None, allow_targets: Sequence[str]) -> optuna.pruners.BasePruner:
    """The pruner that ``hydra.sweeper.pruner`` describes; what is null in it is taken from what the app declares of its runs.

    No run is pruned before ``warmup``: earlier values say little of later ones.

    Raises:
        UserError: it does not exist, refuses its arguments, or needs a number that the app does not declare.
    """
    spec = _pruner(given, steps, warmup) or {"_target_": "optuna.pruners.NopPruner"}  # Optuna takes None for a median pruner
    pruner: optuna.pruners.BasePruner = _built("pruner", spec, allow_targets, optuna.pruners.BasePruner)
    return pruner


def _pruner(given: Any, steps: int | None, warmup: int | None) -> dict[str, Any] | None:
    spec = _spec(given, "pruner")
    if spec is None:
        return None
    declared = {"max_resource": steps, "min_resource": warmup or None, "n_warmup_steps": warmup}
    spec |= {key: value for key, value in declared.items() if key in spec and spec[key] is None}
    if spec.get("max_resource", 0) is None:
        raise UserError(
            "hydra.sweeper.pruner.max_resource is null: give the number of reports that a job makes, "
            "or let the app's config declare trial.steps"
        )
    if "wrapped_pruner" in spec:
        spec["wrapped_pruner"] = _pruner(spec["wrapped_pruner"], steps, warmup)
    return _given(spec)


def _built(name: str, spec: dict[str, Any], allow_targets: Sequence[str], kind: type, quiet: bool = False) -> Any:
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = build(OmegaConf.create({"hydra": {"sweeper": {name: spec}}}).hydra.sweeper[name], allow_targets, kind)
        for each in caught:
            if "deprecated" in str(each.message) and not quiet:
                warn(f"hydra.sweeper.{name}: {str(each.message).split('. ')[0]}")
    except UserError as error:
        raise UserError(str(error).replace("--cfg job shows", f"--cfg hydra -p hydra.sweeper.{name} shows")) from error
    return found


def warn_of_phases(pruner: optuna.pruners.BasePruner, space: Space, phases: Sequence[str]) -> None:
    """Warn if a pruner compares runs that are in different phases at the same step.

    Args:
        phases: the keys whose choices, and the choices below them, put runs into different phases.
    """
    keys = [key for key in space.distributions if any(f"{path_of(key)}.".startswith(f"{phase}.") for phase in phases)]
    if keys and not isinstance(pruner, (optuna.pruners.NopPruner, optuna.pruners.WilcoxonPruner)):
        warn(
            f"{', '.join(keys)} is searched with a pruner: at the same step such trials are in different phases, and the "
            "pruner stops those that learn late; hydra/sweeper/pruner=none compares them fairly"
        )


def _spec(given: Any, name: str) -> dict[str, Any] | None:
    if given is None:
        return None
    if not isinstance(given, dict) or not isinstance(given.get("_target_"), str):
        raise UserError(
            f"hydra.sweeper.{name} needs a _target_, as optuna.{name}s.{'TPESampler' if name == 'sampler' else 'MedianPruner'}"
        )
    return dict(given)


def _given(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is null: Optuna's own default is used there."""
    return {key: value for key, value in spec.items() if value is not None and key != "_partial_"}
