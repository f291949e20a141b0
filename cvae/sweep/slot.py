"""A claimed trial whose job a launcher runs, and the overrides that start such a job."""

from __future__ import annotations

from dataclasses import dataclass

import optuna
from omegaconf import DictConfig

from cvae.cli import quoted
from cvae.sweep.plan import Plan
from cvae.sweep.space import Value
from cvae.sweep.storage import hidden
from cvae.sweep.study import OF


@dataclass
class Slot:
    """A claimed trial: ``place`` is the sweep folder that its job's folder lies in, ``values`` are its parameters."""

    trial: optuna.Trial
    claim: str
    place: str
    values: dict[str, Value]
    began: float


def job_overrides(slot: Slot, index: int, plan: Plan, config: DictConfig) -> list[str]:
    """The overrides of a trial's job for its seed ``index``: parameters, folder, and which trial it is."""
    number, attributes, shown = slot.trial.number, slot.trial.user_attrs, quoted(hidden(plan.storage))
    words = [*plan.space.overrides(slot.values), f"hydra.sweep.dir={quoted(slot.place)}", f"hydra.sweeper.storage={shown}"]
    trial = {"number": number, "study": quoted(plan.study_name), "storage": shown, "claim": quoted(slot.claim)}
    if "override_dirname" in str(config.hydra.sweep._get_node("subdir")):
        # The folder is named by overrides. These are left out of its name: they change whenever a trial goes on.
        usual = config.hydra.job.config.override_dirname.exclude_keys
        unnamed = [*usual, *(f"trial.{key}" for key in (*trial, "seed_index"))]
        words.append(f"hydra.job.config.override_dirname.exclude_keys=[{','.join(unnamed)}]")
    if OF in attributes:
        words.append(f"hydra.sweep.subdir=top/trial_{attributes[OF]}_seed_{slot.values['seed']}")
    elif plan.seeds_per_trial > 1:
        words += [f"seed={plan.seed + index}", f"hydra.sweep.subdir={number}/seed_{plan.seed + index}"]
        trial["seed_index"] = index
    return [*words, *(f"++trial.{key}={value}" for key, value in trial.items())]
