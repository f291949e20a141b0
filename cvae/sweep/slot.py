"""A claimed trial and its jobs: the folder that they run in, the values that they get, and their overrides."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from omegaconf import DictConfig, OmegaConf

from cvae.cli import quoted
from cvae.errors import UserError, first_line, writing
from cvae.sweep.distributions import Value
from cvae.sweep.folders import is_of
from cvae.sweep.plan import Plan
from cvae.sweep.storage import hidden
from cvae.sweep.study import SweepStudy
from cvae.sweep.trials import OF, PLACE


@dataclass
class Slot:
    """A claimed trial.

    ``place`` is the sweep folder that its job's folder lies in, ``first`` the number that this folder has: that of the first
    trial which this one retries, else its own. ``values`` are its parameters.
    """

    trial: optuna.Trial
    claim: str
    place: str
    first: int
    values: dict[str, Value]
    began: float


class Place:
    """The sweep's folder, made when its first trial needs it."""

    def __init__(self, study: SweepStudy, config: DictConfig) -> None:
        self._study, self._config = study, config
        self._folder = Path(config.hydra.sweep.dir).absolute()

    def of(self, trial: optuna.Trial, attributes: dict[str, Any], first: int) -> str:
        """The sweep folder of a trial: where it began, if it goes on."""
        place = attributes.get(PLACE)
        if place == str(self._folder) or (place and is_of(hidden(self._study.url), Path(place))):
            return str(place)
        # By Hydra's default two sweeps that start in the same second have the same folder.
        stem, copies = self._folder, itertools.count(2)
        own = str(first) if OF not in trial.user_attrs else _repeat(trial.user_attrs)
        while (self._folder / own).exists() or any(self._folder.glob(f"{own}_case_*")):
            self._folder = stem.with_name(f"{stem.name}_{next(copies)}")
        with writing(self._folder, "choose another with hydra.sweep.dir=FOLDER"):
            self._folder.mkdir(parents=True, exist_ok=True)
            if not (self._folder / "multirun.yaml").exists():
                OmegaConf.save(self._config, self._folder / "multirun.yaml")
        self._study.storage.set_trial_system_attr(trial._trial_id, PLACE, str(self._folder))
        return str(self._folder)


def _repeat(attributes: Mapping[str, Any]) -> str:
    """The folder, below the sweep's, of a trial that repeats another one on a fresh seed; without its case."""
    return f"top/trial_{attributes[OF]}_seed_{attributes['values']['seed']}"


def suggested(plan: Plan, trial: optuna.Trial, config: DictConfig) -> dict[str, Value]:
    """A trial's parameters."""
    if OF in trial.user_attrs:
        return dict(trial.user_attrs["values"])
    values = plan.space.suggest(trial)
    if plan.extend is not None:
        for key, word in plan.space.fixed.items():
            trial.set_user_attr(key, word.partition("=")[2])  # where the published sweeper has them
        try:
            plan.extend(config, trial)
        except optuna.exceptions.OptunaError:  # of the storage
            raise
        except Exception as error:  # whatever a function of the user's raises
            raise UserError(f"hydra.sweeper.custom_search_space raises {type(error).__name__}: {first_line(error)}") from error
        values |= trial.params
    return values


def job_overrides(plan: Plan, slot: Slot, index: int, config: DictConfig) -> list[str]:
    """The overrides of a trial's job ``index``: those of its case, parameters, folder, and which trial it is."""
    seed, case = plan.jobs[index]
    shown = quoted(hidden(plan.storage))
    words = [*plan.cases[case]] if case is not None else []
    words += [*plan.space.overrides(slot.values), f"hydra.sweep.dir={quoted(slot.place)}", f"hydra.sweeper.storage={shown}"]
    trial = {"number": slot.trial.number, "study": quoted(plan.study_name), "storage": shown, "claim": quoted(slot.claim)}
    if plan.data is not None:
        trial["data"] = quoted(plan.data)
    if "override_dirname" in str(config.hydra.sweep._get_node("subdir")):
        # The folder is named by overrides. These are left out of its name: they change whenever a trial goes on.
        usual = config.hydra.job.config.override_dirname.exclude_keys
        unnamed = [*usual, *(f"trial.{key}" for key in (*trial, "seed_index", "case"))]
        words.append(f"hydra.job.config.override_dirname.exclude_keys=[{','.join(unnamed)}]")
    if OF in slot.trial.user_attrs:
        words.append(f"hydra.sweep.subdir={_repeat(slot.trial.user_attrs)}" + (f"_case_{case}" if case else ""))
    elif len(plan.jobs) > 1:
        names = [f"seed_{seed}"] * (plan.seeds_per_trial > 1) + [f"case_{case}"] * (case is not None)
        words += [f"seed={seed}"] * (plan.seeds_per_trial > 1) + [f"hydra.sweep.subdir={slot.first}/{'_'.join(names)}"]
    if len(plan.jobs) > 1:
        trial["seed_index"] = index
    if case is not None:
        trial["case"] = quoted(case)
    return [*words, *(f"++trial.{key}={value}" for key, value in trial.items())]
