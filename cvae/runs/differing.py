"""The settings in which runs differ, and how their values are ordered."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from cvae.console import natural_order
from cvae.runs.run import DATA, Run

__all__ = ["differing", "setting_order"]


def differing(runs: Sequence[Run]) -> list[str]:
    """The settings in which runs differ, without those that follow from another choice.

    A monotonic run has no ``kl_schedule.cycles``, because its ``kl_schedule`` is another one: ``cycles`` differs only if it
    differs among the cyclical runs. So it is with the width of a tiny and a small model, and with whatever else is always the
    same under one option. The fingerprint of the data differs only if no setting of the data explains it.
    """
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    found = [key for key in keys if _differs(key, runs)]
    found = [key for key in found if not _of_an_option(key, found, runs)]
    of_data = [key for key in found if key.split(".")[0] == "data" and key != DATA]
    if DATA in found and _determined(DATA, of_data, runs):
        found.remove(DATA)
    return sorted(found, key=_position)


def _differs(key: str, runs: Sequence[Run]) -> bool:
    having = [run for run in runs if key in run.settings]
    lacking = [run for run in runs if key not in run.settings]
    parts = key.split(".")
    groups = [".".join(parts[:end]) for end in range(1, len(parts))]
    explained = any(_values(group, having).isdisjoint(_values(group, lacking)) for group in groups)
    return len(_values(key, having)) > 1 or (bool(lacking) and not explained)


def _of_an_option(key: str, found: Sequence[str], runs: Sequence[Run]) -> bool:
    """Whether a setting is always the same under one option of its group, whose options differ."""
    group = key.split(".")[0]
    return group != key and group in found and _determined(key, [group], runs)


def _determined(key: str, others: Sequence[str], runs: Sequence[Run]) -> bool:
    """Whether runs that agree in the other settings always agree in this one."""
    combinations = {json.dumps([run.settings.get(other) for other in others]) for run in runs}
    with_key = {json.dumps([run.settings.get(other) for other in [*others, key]]) for run in runs}
    return len(combinations) == len(with_key)


def _values(key: str, runs: Sequence[Run]) -> set[str]:
    """The different values of a setting, as JSON."""
    return {json.dumps(run.settings.get(key)) for run in runs}


def _position(key: str) -> tuple[bool, int]:
    """A sort key of settings: the most important ones first, the seed last."""
    order = ("lr", "kl_schedule", "tf_schedule", "tfr", "beta", "likelihood", "model", "prior", "data")
    return key == "seed", order.index(key) if key in order else len(order)


def setting_order(value: Any) -> tuple[bool, float, Any]:
    """A sort key of a setting's values: numbers by size, then all others in natural order."""
    return (False, value, "") if isinstance(value, (int, float)) else (True, 0, natural_order(str(value)))
