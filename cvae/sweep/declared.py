"""What an app declares of its runs in the ``trial`` block of its config. A sweeper knows nothing else of the app."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, ListConfig

from cvae.errors import UserError


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
        UserError: ``trial`` is not a block.
    """
    trial = config.get("trial")
    if trial is not None and not isinstance(trial, DictConfig):
        raise UserError("this app has a key `trial` that is a plain value: a sweep passes trial.number there; rename the key")
    values = {} if trial is None else {key: trial.get(key) for key in ("objective", "direction", "phases", "steps", "warmup")}
    steps, warmup = (None if values.get(key) is None else int(values[key]) for key in ("steps", "warmup"))
    objectives, direction, phases = (_texts(values.get(key)) for key in ("objective", "direction", "phases"))
    return Declared(objectives, direction, phases, steps, warmup)


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
