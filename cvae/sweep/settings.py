"""The values of ``hydra.sweeper``, each checked by itself; a mistake is one line that names the key."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from omegaconf import DictConfig

from cvae.errors import UserError

Extend = Callable[[DictConfig, optuna.Trial], None]

_SHAPES: dict[str, tuple[type, str]] = {
    "params": (dict, "{lr: 'interval(1e-4, 1e-3)'}"),
    "search_space": (dict, "hydra.sweeper.params={lr: 'interval(1e-4, 1e-3)'}"),
    "conditions": (dict, "{optim.momentum: optim=sgd}"),
    "constraints": (dict, "{peak_memory: 8e9}"),
    "sampler": (dict, "hydra/sweeper/sampler=tpe"),
    "pruner": (dict, "hydra/sweeper/pruner=median"),
    "enqueue": (list, "[{lr: 1e-3}]"),
    "allow_targets": (list, "[my_package]"),
    "storage": (str, "journal://FILE"),
    "custom_search_space": (str, "my_module.my_function"),
}
_LEAST = {"n_trials": 1, "n_jobs": 1, "seeds_per_trial": 1, "retry": 0, "max_failures": 1, "top_k": 0, "top_k_seeds": 2}


def refuse_wrong_shapes(settings: Mapping[str, Any]) -> None:
    """Raise UserError for a mapping, list or text that is something else."""
    for key, (shape, example) in _SHAPES.items():
        value = settings.get(key)
        if value is not None and not isinstance(value, shape):
            raise UserError(f"hydra.sweeper.{key} is {value!r}: write for example {example}")


def whole_numbers(settings: Mapping[str, Any]) -> dict[str, int]:
    """All settings that are whole numbers."""
    for key, least in _LEAST.items():
        value = settings.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UserError(f"hydra.sweeper.{key} is {value!r}: give a whole number of at least {least}")
    return {key: settings[key] for key in _LEAST}


def optional(settings: Mapping[str, Any], key: str, fits: Callable[[float], bool], wanted: str) -> float | None:
    """A setting that is a number or null."""
    value = settings.get(key)
    if value is not None and not (_is_number(value) and fits(value)):
        raise UserError(f"hydra.sweeper.{key} is {value!r}: give {wanted}, or null")
    return None if value is None else float(value)


def read_constraints(given: Mapping[Any, Any] | None) -> dict[str, float]:
    """``constraints``: recorded fact to the most it may be."""
    for key, most in (given or {}).items():
        if not _is_number(most):
            raise UserError(f"hydra.sweeper.constraints.{key} is {most!r}: give the largest allowed {key}, a number")
    return {str(key): float(most) for key, most in (given or {}).items()}


def read_extension(path: str | None) -> Extend | None:
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


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
