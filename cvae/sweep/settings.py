"""What a user sets in ``hydra.sweeper``, and what an app declares in its ``trial`` block; each value is checked by itself.

A mistake is one line that names the key. A sweeper knows nothing else of the app.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig

from cvae.errors import UserError, is_number, is_whole, require
from cvae.sweep.trials import Limits

Extend = Callable[[DictConfig, optuna.Trial], None]

_SHAPES: dict[str, tuple[type, str]] = {
    "params": (dict, "{lr: 'interval(1e-4, 1e-3)'}"),
    "search_space": (type(None), "hydra.sweeper.params={lr: 'interval(1e-4, 1e-3)'}"),  # the form before params
    "conditions": (dict, "{optim.momentum: optim=sgd}"),
    "constraints": (dict, "{peak_memory: 8e9}"),
    "cases": (dict, "{a: ['data.world_seed=1'], b: ['data.world_seed=2']}"),
    "sampler": (dict, "hydra/sweeper/sampler=tpe"),
    "pruner": (dict, "hydra/sweeper/pruner=median"),
    "enqueue": (list, "[{lr: 1e-3}]"),
    "allow_targets": (type(None), "allow_targets=[my_package], without hydra.sweeper"),  # the form of 0.1.0
    "warm_start": (str, "multirun/SWEEP/sweep.json"),
    "storage": (str, "journal://FILE"),
    "custom_search_space": (str, "my_module.my_function"),
}
_LEAST = {"n_trials": 1, "n_jobs": 1, "seeds_per_trial": 1, "retry": 0, "top_k": 0, "top_k_seeds": 2}
_MAX_FAILURES = 5  # unless max_failure_rate is given


def read_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a plan takes from ``hydra.sweeper`` as it stands there, by name.

    Raises:
        UserError: a value has another type, or is out of its range.
    """
    for key, (shape, example) in _SHAPES.items():
        value = settings.get(key)
        if value is not None and not isinstance(value, shape):
            raise UserError(f"hydra.sweeper.{key} is {value!r}: write for example {example}")
    for key, least in _LEAST.items():
        value = settings.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UserError(f"hydra.sweeper.{key} is {value!r}: give a whole number of at least {least}")
    trust = settings.get("trust_study")
    if not isinstance(trust, bool):
        raise UserError(f"hydra.sweeper.trust_study is {trust!r}: give true or false")
    return {
        **{key: settings[key] for key in _LEAST},
        "max_failures": _max_failures(settings),
        "trust_study": trust,
        "warm_start": settings.get("warm_start"),
        "cases": _cases(settings.get("cases") or {}),
        "timeout": _optional(settings, "timeout", lambda value: value > 0, "seconds above 0"),
        "max_failure_rate": _optional(settings, "max_failure_rate", lambda value: 0 <= value <= 1, "a fraction in [0, 1]"),
        "constraints": {str(key): _limits(key, value) for key, value in (settings.get("constraints") or {}).items()},
        "extend": _extension(settings.get("custom_search_space")),
    }


def _limits(key: Any, value: Any) -> Limits:
    given = value if isinstance(value, dict) else {"most": value}
    if not given or not given.keys() <= {"least", "most"} or not all(map(is_number, given.values())):
        raise UserError(
            f"hydra.sweeper.constraints.{key} is {value!r}: give the largest allowed {key}, a number, or {{least: NUMBER}}"
        )
    limits = Limits(float(given.get("least", -math.inf)), float(given.get("most", math.inf)))
    if any(math.isnan(limit) for limit in (limits.least, limits.most)) or not limits.least <= limits.most:
        raise UserError(f"hydra.sweeper.constraints.{key} is {value!r}: nothing can keep it; give numbers, least up to most")
    return limits


def _cases(given: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """The overrides of each case, by its name, which a folder has too."""
    found = {}
    for name, words in given.items():
        key = f"hydra.sweeper.cases.{name}"
        if not re.fullmatch(r"\w[\w-]{0,39}", str(name)):
            raise UserError(f"{key}: a case is named by letters, digits, - and _, at most 40")
        several = [words] if isinstance(words, str) else words
        if not (isinstance(several, list) and several and all(isinstance(word, str) for word in several)):
            raise UserError(f"{key} is {words!r}: give a list of overrides, as ['data.world_seed=1']")
        if unfit := [word for word in several if not re.match(r"\+{0,2}[\w./@]+=", word) or "hydra" in word.split("=")[0]]:
            raise UserError(f"{key}: {unfit[0]} is no override of the app's: write key=value")
        try:
            read = OverridesParser.create().parse_overrides(several)
        except HydraException as error:
            raise UserError(f"{key}: {' and '.join(several)} cannot be read: check commas, brackets and quotes") from error
        if swept := [override.input_line for override in read if override.is_sweep_override()]:
            raise UserError(f"{key}: {swept[0]} is several values, and a case has one: write a case for each")
        found[str(name)] = tuple(several)
    return found


def _max_failures(settings: Mapping[str, Any]) -> int | None:
    """Failed trials in a row that end the sweep; None if a rate alone was given."""
    value = settings.get("max_failures")
    if value is None:
        return None if settings.get("max_failure_rate") is not None else _MAX_FAILURES
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"hydra.sweeper.max_failures is {value!r}: give a whole number of at least 1, or null")
    return value


def _optional(settings: Mapping[str, Any], key: str, fits: Callable[[float], bool], wanted: str) -> float | None:
    """A setting that is a number or null."""
    value = settings.get(key)
    if value is not None and not (is_number(value) and fits(value)):
        raise UserError(f"hydra.sweeper.{key} is {value!r}: give {wanted}, or null")
    return None if value is None else float(value)


def _extension(path: str | None) -> Extend | None:
    """The function that ``custom_search_space`` names."""
    if not path:
        return None
    module, _, name = path.lstrip(".").rpartition(".")  # the published example begins with a dot that means nothing
    try:
        found: Extend = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"hydra.sweeper.custom_search_space={path} cannot be imported ({error}): check the path") from error
    if not callable(found):
        raise UserError(f"hydra.sweeper.custom_search_space={path} is no function: give a function of (cfg, trial)")
    return found


# --- what an app declares ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Declared:
    """The ``trial`` block; each key may be absent.

    ``objectives`` are the names of what a run returns, and ``direction`` says of each whether it is to ``maximize`` or
    ``minimize``. The choices of the keys in ``phases`` put runs into different phases at the same step. ``steps`` is the number
    of reports that a run makes, and no run is pruned before step ``warmup``.
    """

    objectives: list[str]
    direction: list[str]
    phases: list[str]
    steps: int | None
    warmup: int | None


def read_declared(config: DictConfig) -> Declared:
    """Read the ``trial`` block of an app's config.

    Raises:
        UserError: ``trial`` is not a block, or what it says of steps is no number of them.
    """
    trial = config.get("trial")
    if trial is not None and not isinstance(trial, DictConfig):
        raise UserError("this app has a key `trial` that is a plain value: a sweep passes trial.number there; rename the key")
    block: Any = trial or {}
    objectives, direction, phases = (_texts(block.get(key)) for key in ("objective", "direction", "phases"))
    for key, least in (("steps", 1), ("warmup", 0)):
        valid = block.get(key) is None or is_whole(block.get(key), least)
        require(valid, f"trial.{key}", block.get(key), f"the app's config gives a whole number of reports, at least {least}")
    return Declared(objectives, direction, phases, block.get("steps"), block.get("warmup"))


def read_directions(given: Any, app: Declared) -> list[str]:
    """``maximize`` or ``minimize``, one an objective: as ``hydra.sweeper.direction`` gives them, else as the app declares them.

    Raises:
        UserError: a direction is something else, or their number is not that of the objectives.
    """
    key, names = "hydra.sweeper.direction", _texts(given)
    if given is None:
        key, names = "trial.direction", app.direction or ["minimize"]
        names = names * len(app.objectives or names) if len(names) == 1 else names
    for name in names:
        if name not in ("maximize", "minimize"):
            raise UserError(f"{key} is {name!r}: choose maximize or minimize, one an objective")
    if not names:
        raise UserError(f"{key} is empty: give maximize or minimize, one an objective")
    if app.objectives and len(names) != len(app.objectives):
        raise UserError(f"{key} is {', '.join(names)}: give one an objective; these are {', '.join(app.objectives)}")
    return names


def _texts(value: Any) -> list[str]:
    """A value of a config as a list of texts: null as an empty one, a single value as a list of one."""
    if value is None:
        return []
    several: Sequence[Any] = value if isinstance(value, (list, tuple, ListConfig)) else [value]
    return [str(getattr(each, "name", each)) for each in several]
