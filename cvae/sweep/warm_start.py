"""Finished trials of an earlier sweep of the same search, from its sweep.json, as trials of a study that did not run them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from cvae import files, integrity
from cvae.errors import UserError, brief
from cvae.sweep.distributions import as_searched, inside
from cvae.sweep.plan import Plan
from cvae.sweep.trials import FACTS, SEEDS

_LARGEST = 10_000_000  # bytes; a trial has some hundred
_COMPARED = ("parameters", "conditions", "seeds_per_trial", "cases")  # of two searches; other settings may have changed
_STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}


def finished_trials(plan: Plan) -> list[FrozenTrial]:
    """The complete and pruned trials in the file that ``hydra.sweeper.warm_start`` names; none where it is null.

    Raises:
        UserError: the file cannot be read, is damaged, or is of another search.
    """
    if plan.warm_start is None:
        return []
    path = Path(plan.warm_start)
    where = f"hydra.sweeper.warm_start={path}"
    try:
        record = files.read_json(path.parent, path.name, _LARGEST)
        integrity.check_record(record)
        _refuse_other(plan, record, where)
        return [_trial(plan, entry) for entry in record["trials"] if entry["state"] in _STATES]
    except FileNotFoundError:
        raise UserError(f"{where} is not there: give the sweep.json of an earlier sweep, or null") from None
    except (files.Unreadable, integrity.Damaged) as error:
        raise UserError(f"{where} is damaged ({error}): give a whole sweep.json, or null") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{where} holds no trials of this search ({brief(error)}): give another, or null") from None


def _refuse_other(plan: Plan, record: Mapping[str, Any], where: str) -> None:
    ours = json.loads(json.dumps({**plan.identity, "directions": plan.directions, "objective": plan.objective}))
    theirs = {**record["search"], "directions": record["directions"], "objective": record["objective"]}
    for search in (ours, theirs):  # ranges may have changed: each value is looked at by itself
        search["parameters"] = sorted(search["space"])
    for key in (*_COMPARED, "directions", "objective"):
        if ours.get(key) != theirs.get(key):
            both = f"{key}: {theirs.get(key)} there, {ours.get(key)} here"
            raise UserError(f"{where} is of another search ({both}): give one of this search, or null")
    if None not in (data := (record.get("data"), plan.data)) and data[0] != data[1]:
        raise UserError(f"{where} is of other data ({data[0]} there, {data[1]} here): give a sweep's on these data, or null")
    there, here = list(theirs.get("cases") or {}), list(ours.get("cases") or {})
    if there != here:  # the values of a trial's jobs are kept by their places
        raise UserError(f"{where} has its cases in another order ({', '.join(there)}): write yours in that order, or null")


def _trial(plan: Plan, entry: Mapping[str, Any]) -> FrozenTrial:
    given: Mapping[str, Any] = entry["params"]
    distributions = {key: plan.space.distributions[key] for key in given}
    params = {key: as_searched(distributions[key], value) for key, value in given.items()}
    if unfit := [key for key, value in params.items() if not inside(distributions[key], value)]:
        raise ValueError(f"trial {entry['number']}: {unfit[0]} is outside of what is searched")
    # As a storage gives them back: of a range of reals 1 is 1.0, and a trial that is taken over again is known.
    params = {key: each.to_external_repr(each.to_internal_repr(params[key])) for key, each in distributions.items()}
    if lacking := [key for key in plan.space.distributions if key not in given and key not in plan.space.conditions]:
        raise ValueError(f"trial {entry['number']}: it has no {lacking[0]}")
    if wrong := [key for key, value in given.items() if isinstance(value, bool) and not _takes_any(distributions[key])]:
        raise ValueError(f"trial {entry['number']}: {wrong[0]} is no number")
    values = [float(value) for value in entry["values"]] if entry["state"] == "complete" else None
    if values is not None and not (len(values) == len(plan.directions) and all(map(math.isfinite, values))):
        raise ValueError(f"trial {entry['number']}: its values are {values}")
    facts = {str(key): float(value) for key, value in (entry.get("facts") or {}).items()}
    jobs = {str(int(index)): [float(value) for value in values] for index, values in (entry.get("jobs") or {}).items()}
    by_job = isinstance(plan.pruner, optuna.pruners.WilcoxonPruner)
    return create_trial(
        state=_STATES[entry["state"]],
        values=values,
        params=params,
        distributions=distributions,
        user_attrs={FACTS: facts},
        system_attrs={SEEDS: jobs} if jobs else {},
        intermediate_values={int(index): values[0] for index, values in jobs.items()} if by_job else {},
        constraints={key: limits.excess(facts[key]) for key, limits in plan.constraints.items() if key in facts},
    )


def _takes_any(distribution: optuna.distributions.BaseDistribution) -> bool:
    return isinstance(distribution, optuna.distributions.CategoricalDistribution)
