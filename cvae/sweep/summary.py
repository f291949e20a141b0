"""The summary of a sweep: its lines on the screen, sweep.json, best.yaml and optimization_results.yaml."""

from __future__ import annotations

import contextlib
import re
import shlex
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from hydra._internal.utils import get_args_parser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from optuna.trial import FrozenTrial, TrialState

from cvae import files, integrity
from cvae.config import flat
from cvae.console import command, program, say, short
from cvae.errors import write_whole
from cvae.strangers import checked_settings
from cvae.sweep.board import counts, numbers
from cvae.sweep.folders import is_of
from cvae.sweep.plan import Plan
from cvae.sweep.storage import hidden
from cvae.sweep.top import Top, kept_top
from cvae.sweep.trials import ATTEMPTS, DATA, FACTS, FAILURE, FOLDER, PLACE, SEEDS, counted, front, ranked, retried

# What best.yaml leaves to the command that uses it: where a run is shown, and whose packages may run.
_NOT_OF_A_RUN = ("hydra", "experiment", "trial", "logger", "allow_targets")
_LARGEST = 10_000_000  # bytes of a sweep.json
_SURE = 30  # complete trials; with fewer, importances are mostly chance


class Summary:
    """Says and writes the outcome of a study."""

    def __init__(self, plan: Plan, study: optuna.Study, config: DictConfig, loader: Any) -> None:
        self.plan, self.study, self.config, self.loader = plan, study, config, loader
        self.storage = hidden(plan.storage)

    def write(self, top: Top | None, stopped: bool = False) -> None:
        """Say the outcome, and write it into the sweep's folder: the one that holds its last trial.

        A sweep that was ``stopped`` keeps what an earlier start found on fresh seeds.
        """
        trials = self.study.get_trials(deepcopy=False)
        folder = self._folder(trials)
        if stopped and self.plan.top_k and folder is not None:
            top = self._kept(folder)
        # With several objectives the best are those that no other trial beats in all.
        best = ranked(self.study)[:1] if len(self.study.directions) == 1 else front(self.study)
        importances = _importances(self.study)
        say("")
        done = sum(trial.state.is_finished() for trial in counted(trials))
        say(f"trials     {done} of {self.plan.n_trials} done: {counts(trials)}")
        for trial in best[:8]:
            say(f"best       trial {trial.number}: {self.plan.objective} {numbers(trial.values)}")
        if not best and self.plan.constraints and any(trial.state == TrialState.COMPLETE for trial in trials):
            say(f"best       none: no complete trial keeps hydra.sweeper.constraints ({', '.join(self.plan.constraints)})")
        for line in top.lines(self.plan.objective) if top else []:
            say(line)
        for line in _several_data(ranked(self.study) or best):
            say(line)
        if importances:
            complete = sum(trial.state == TrialState.COMPLETE for trial in trials)
            doubt = f"  (of {complete} trials: rough)" if complete < _SURE else ""
            say("importance " + "  ".join(f"{key} {value:.2f}" for key, value in importances.items()) + doubt)
        winner = best[0] if len(best) == 1 else None
        if top is not None and top.winner is not None:
            winner = trials[top.winner]
        if winner is not None:
            say(f"again      {shlex.join([*program(), *_config_flags(), *self._again(winner)])}")
        if folder is not None:
            self._write_files(folder, best, winner, top, importances)
            say(f"results    {short(folder / 'sweep.json')}" + (f", {short(folder / 'best.yaml')}" if winner else ""))
        place = '"$CVAE_STORAGE"' if "***" in self.storage else shlex.quote(self.storage.removeprefix("journal://"))
        say(f"look       optuna-dashboard {place}")

    def _folder(self, trials: Sequence[FrozenTrial]) -> Path | None:
        """The folder of the last trial that has one of this study's."""
        own = Path(self.config.hydra.sweep.dir).absolute()
        named = dict.fromkeys(Path(trial.system_attrs[PLACE]) for trial in reversed(trials) if PLACE in trial.system_attrs)
        found = next((each for each in named if each.is_dir() and (each == own or is_of(self.storage, each))), None)
        return own if found is None and is_of(self.storage, own) else found  # its trials ran elsewhere, but the best again here

    def _kept(self, folder: Path) -> Top | None:
        with contextlib.suppress(FileNotFoundError, files.Unreadable, integrity.Damaged):
            record = files.read_json(folder, "sweep.json", _LARGEST)
            integrity.check_record(record)
            return kept_top(record) if record.get("study") == self.study.study_name else None
        return None

    def _write_files(
        self, folder: Path, best: list[FrozenTrial], winner: FrozenTrial | None, top: Top | None, importances: dict[str, float]
    ) -> None:
        trials = self.study.get_trials(deepcopy=False)
        record = {
            "study": self.study.study_name,
            "storage": self.storage,
            "command": command(),
            "objective": self.plan.objective,
            "directions": self.plan.directions,
            "n_trials": self.plan.n_trials,
            "space": self.plan.identity["space"],
            "search": {key: value for key, value in self.plan.identity.items() if key not in ("settings", "data")},
            "best": [trial.number for trial in best],
            "importances": importances,
            "top_k": None if top is None else top.record(),
            "trials": [_entry(trial) for trial in counted(trials)],
        }
        if gone := retried(trials):
            record["retried"] = [{**_entry(trials[old]), "retried_by": new} for old, new in gone.items()]
        if self.plan.cases:
            record["cases"] = self.plan.cases
        if self.plan.data is not None:
            record["data"] = self.plan.data
        hint = "free some space, then run the command once more: only this is missing"
        write_whole(folder / "sweep.json", integrity.stamped(record), hint)
        write_whole(folder / "optimization_results.yaml", OmegaConf.to_yaml(_published(best, self.plan)), hint)
        if winner is not None:
            write_whole(folder / "best.yaml", self._experiment(winner), hint)
        else:
            (folder / "best.yaml").unlink(missing_ok=True)  # an earlier winner's

    def _again(self, trial: FrozenTrial) -> list[str]:
        """The overrides of a single run with a trial's settings."""
        words = [*self._search_path(), *self.plan.space.overrides(trial.params)]
        # With -m Hydra notes the mode among the overrides; without, a config file set it.
        by_file = "hydra.mode=MULTIRUN" not in self.config.hydra.overrides.hydra
        return [*words, "hydra.mode=RUN"] if by_file else words

    def _experiment(self, trial: FrozenTrial) -> str:
        """A trial's settings as an experiment file of their own: chosen options, then every value that differs from them."""
        job = self.loader.load_sweep_config(self.config, self.plan.space.overrides(trial.params))
        usual = self._compose([])
        chosen = {group: option for group, option in _choices(job).items() if option != _choices(usual).get(group)}
        further = chosen.keys() - {str(group) for group in usual.hydra.runtime.choices}  # groups that +group=option added
        base = self._compose([f"{'+' if group in further else ''}{group}={option}" for group, option in chosen.items()])
        values, before = OmegaConf.create({}), _values(base)
        for key, value in _values(job).items():
            if key not in before or before[key] != value:
                OmegaConf.update(values, key, value)
        lines = [
            f"# Trial {trial.number} of {self.study.study_name}: {self.plan.objective} {numbers(trial.values)}",
        ]
        if gone := [word for word in self.config.hydra.overrides.task if word.startswith("~")]:  # no file can take a key away
            lines.append(f"# The sweep ran without some keys; give to the command as well: {shlex.join(gone)}")
        if chosen:
            verbs = {group: "" if group in further else "override " for group in chosen}
            lines += ["defaults:", *(f"  - {verbs[group]}/{group}: {option}" for group, option in chosen.items()), ""]
        return checked_settings("\n".join(lines) + "\n" + OmegaConf.to_yaml(values))

    def _compose(self, words: Sequence[str]) -> DictConfig:
        name = self.config.hydra.job.config_name
        config: DictConfig = self.loader.load_configuration(name, [*self._search_path(), *words], RunMode.RUN)
        return config

    def _search_path(self) -> list[str]:
        """The word of the command that says where further options are, if any."""
        return [word for word in self.config.hydra.overrides.hydra if word.lstrip("+").startswith("hydra.searchpath=")]


def _importances(study: optuna.Study) -> dict[str, float]:
    """How much of the values' variance each parameter explains; empty where there are too few trials to tell."""
    if len(study.directions) > 1:
        return {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = optuna.importance.get_param_importances(study)
    except (ValueError, RuntimeError):
        return {}
    return {key: round(value, 4) for key, value in found.items()}


def _several_data(trials: Sequence[FrozenTrial]) -> list[str]:
    """A line if trials that are compared ran on several data sets: a value on one says little of a value on another."""
    found: dict[str, list[int]] = {}
    for trial in trials:
        if DATA in trial.user_attrs:
            found.setdefault(str(trial.user_attrs[DATA]), []).append(trial.number)
    if len(found) < 2:
        return []
    parts = (f"{data} ({len(numbers)} trials, as {min(numbers)})" for data, numbers in list(found.items())[:4])
    return [f"data       {len(found)} data sets, whose values may not be comparable: {', '.join(parts)}"]


def _entry(trial: FrozenTrial) -> dict[str, Any]:
    began, ended = trial.datetime_start, trial.datetime_complete
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "values": trial.values,
        "params": trial.params,
        "steps": len(trial.intermediate_values),
        "seconds": (ended - began).total_seconds() if began and ended else None,
        "attempts": int(trial.system_attrs.get(ATTEMPTS, 0)) + 1,
        "folder": trial.user_attrs.get(FOLDER),
        "failure": trial.user_attrs.get(FAILURE),
        "facts": trial.user_attrs.get(FACTS),
        **({"jobs": trial.system_attrs[SEEDS]} if SEEDS in trial.system_attrs else {}),  # of several cases or seeds
    }


def _published(best: list[FrozenTrial], plan: Plan) -> dict[str, Any]:
    """The file that scripts for the published sweeper read."""
    if len(plan.directions) > 1:
        return {"name": "optuna", "solutions": [{"params": trial.params, "values": trial.values} for trial in best]}
    if not best:
        return {"name": "optuna"}
    return {"name": "optuna", "best_params": best[0].params, "best_value": best[0].values[0]}


def _config_flags() -> list[str]:
    """The words of this command that choose another config."""
    given = vars(get_args_parser().parse_known_args()[0])
    names = ("config_name", "config_path", "config_dir")
    return [f"--{name.replace('_', '-')}={given[name]}" for name in names if given[name] is not None]


def _choices(config: DictConfig) -> dict[str, str]:
    groups = config.hydra.runtime.choices.items()
    return {str(group): option for group, option in groups if option and re.split("[/@]", str(group))[0] not in _NOT_OF_A_RUN}


def _values(config: DictConfig) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(config, resolve=False)
    return flat({key: value for key, value in plain.items() if key not in _NOT_OF_A_RUN})
