"""``hydra/sweeper=optuna``: the names and defaults of its settings. The sweeper itself is ``cvae.sweep``.

Hydra imports this file at every start of every app, so it imports nothing slow.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

_SWEEPER: dict[str, Any] = {
    "_target_": "hydra_plugins.cvae_optuna.OptunaSweeper",
    "_recursive_": False,  # sampler and pruner are built by the sweeper
    "defaults": [{"sampler": "tpe"}, {"pruner": "none"}],
    "params": None,  # parameter to what stands after its equals sign on a command line
    "conditions": None,  # parameter to the key=value under which it is searched
    "direction": None,  # maximize, minimize, or a list; null: what the app declares as trial.direction, else minimize
    "study_name": None,  # null: the experiment's or app's name and a hash of what is searched
    "storage": None,  # null: journal://multirun/studies/<study_name>.journal
    "n_trials": 20,  # in all, over all starts and hosts
    "n_jobs": 2,  # trials at a time, of this start
    "timeout": None,  # seconds after which no more trials are started
    "warm_start": None,  # a sweep.json of an earlier sweep of the same search: its finished trials count as this study's
    "enqueue": None,  # points to try first, as {lr: 1e-3}
    "seeds_per_trial": 1,  # a trial's value is their mean
    "cases": None,  # name to overrides, as {a: [data.world_seed=1]}: every trial runs on each, and its value is their mean
    "retry": 1,  # how often a trial that crashed or was interrupted is tried again
    "max_failures": None,  # in a row; null: 5, or no limit where max_failure_rate is given
    "max_failure_rate": None,  # of n_trials
    "top_k": 0,  # best trials to run again on fresh seeds at the end
    "top_k_seeds": 5,
    "constraints": None,  # recorded fact to the most it may be, or to {least: NUMBER}
    "trust_study": False,  # let the CMA-ES sampler run what another process stored in the study
    "custom_search_space": None,  # a function of (cfg, trial)
    "search_space": None,  # of the published sweeper before params: refused with advice
}
# What is null is left to Optuna; the keys are there to be set.
_SAMPLERS: dict[str, dict[str, Any]] = {
    "tpe": {
        "_target_": "optuna.samplers.TPESampler",
        **dict.fromkeys(("seed", "n_startup_trials", "n_ei_candidates", "multivariate", "group", "constant_liar")),
        **dict.fromkeys(("consider_prior", "prior_weight", "consider_magic_clip", "consider_endpoints")),
        "warn_independent_sampling": None,
    },
    "random": {"_target_": "optuna.samplers.RandomSampler", "seed": None},
    "gp": {"_target_": "optuna.samplers.GPSampler", **dict.fromkeys(("seed", "n_startup_trials", "deterministic_objective"))},
    "cmaes": {
        "_target_": "optuna.samplers.CmaEsSampler",
        **dict.fromkeys(("seed", "x0", "sigma0", "n_startup_trials", "independent_sampler", "warn_independent_sampling")),
        **dict.fromkeys(("consider_pruned_trials", "restart_strategy", "inc_popsize", "use_separable_cma", "source_trials")),
        **dict.fromkeys(("popsize", "with_margin", "lr_adapt")),
    },
    "nsgaii": {
        "_target_": "optuna.samplers.NSGAIISampler",
        **dict.fromkeys(("seed", "population_size", "mutation_prob", "crossover_prob", "swapping_prob", "constraints_func")),
    },
    "nsgaiii": {
        "_target_": "optuna.samplers.NSGAIIISampler",
        **dict.fromkeys(("seed", "population_size", "mutation_prob", "crossover_prob", "swapping_prob", "constraints_func")),
        "dividing_parameter": None,
    },
    "qmc": {
        "_target_": "optuna.samplers.QMCSampler",
        **dict.fromkeys(("seed", "qmc_type", "scramble", "independent_sampler")),
        **dict.fromkeys(("warn_asynchronous_seeding", "warn_independent_sampling")),
    },
    "motpe": {"_target_": "optuna.samplers.MOTPESampler", "seed": None},  # of earlier Optunas: refused with advice
    "grid": {"_target_": "optuna.samplers.GridSampler", "search_space": None, "seed": None},
}
# null: filled in from trial.steps and trial.warmup, which an app may declare; else left to Optuna.
_MEDIAN = {
    "_target_": "optuna.pruners.MedianPruner",
    **dict.fromkeys(("n_startup_trials", "n_warmup_steps", "interval_steps", "n_min_trials")),
}
_PRUNERS: dict[str, dict[str, Any]] = {
    "none": {"_target_": "optuna.pruners.NopPruner"},
    "median": _MEDIAN,
    "halving": {
        "_target_": "optuna.pruners.SuccessiveHalvingPruner",
        "reduction_factor": 3,  # docs/results.md
        **dict.fromkeys(("min_resource", "min_early_stopping_rate", "bootstrap_count")),
    },
    "hyperband": {
        "_target_": "optuna.pruners.HyperbandPruner",
        **dict.fromkeys(("min_resource", "max_resource", "reduction_factor", "bootstrap_count")),
    },
    "patient": {"_target_": "optuna.pruners.PatientPruner", "wrapped_pruner": _MEDIAN, "patience": 2, "min_delta": None},
    "wilcoxon": {"_target_": "optuna.pruners.WilcoxonPruner", **dict.fromkeys(("p_threshold", "n_startup_steps"))},
}


def _register() -> None:
    store = ConfigStore.instance()
    store.store(group="hydra/sweeper", name="optuna", node=_SWEEPER, provider="cvae")
    for kind, options in (("sampler", _SAMPLERS), ("pruner", _PRUNERS)):
        for name, node in options.items():
            store.store(group=f"hydra/sweeper/{kind}", name=name, node=node, provider="cvae")


_register()


class OptunaName(SearchPathPlugin):
    """Keeps the name ``optuna``: the published plugin is found later and would replace this one without a message."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if _published():
            _register()


class OptunaSweeper(Sweeper):
    """Optuna on Hydra. See ``cvae.sweep.sweeper.sweep``."""

    def __init__(self, **settings: Any) -> None:
        self._settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._context, self._task, self._config = hydra_context, task_function, config

    def sweep(self, arguments: Sequence[str]) -> None:
        from cvae import cli
        from cvae.errors import UserError
        from cvae.explain import is_users
        from cvae.sweep.sweeper import sweep

        try:
            if _published():
                raise UserError(
                    "hydra-optuna-sweeper is installed too and claims the same name, hydra/sweeper=optuna: "
                    "pip uninstall hydra-optuna-sweeper"
                )
            settings: Any = OmegaConf.to_container(OmegaConf.create(self._settings), resolve=True)
            sweep(settings, arguments, self._context, self._task, self._config)
        except Exception as error:
            if not is_users(error):
                raise
            cli.fail(error)


def _published() -> bool:
    return find_spec("hydra_plugins.hydra_optuna_sweeper") is not None
