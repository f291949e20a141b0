"""``hydra/launcher=local``: jobs as processes of this machine. See ``cvae.sweep.local``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

ConfigStore.instance().store(
    group="hydra/launcher",
    name="local",
    node={
        "_target_": "hydra_plugins.cvae_local.LocalLauncher",
        "n_jobs": None,  # slots; null: jobs_per_gpu on each GPU; without one the sweeper's n_jobs, else (under Hydra's own) 2
        "gpus": None,  # a list, counted from 0 among the visible ones; null: all of them
        "jobs_per_gpu": None,  # which get an equal part of its memory each; null: 1
        "threads": None,  # CPU threads a job; null: an equal share
        "timeout_min": None,  # of a job
    },
    provider="cvae",
)


class LocalLauncher(Launcher):
    """A pool of processes, each with a slot of its own."""

    def __init__(self, **settings: Any) -> None:
        self._settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from cvae.sweep.local import Pool

        self._pool = Pool(hydra_context, task_function, config, **self._settings)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        return self._pool.launch(job_overrides, initial_job_idx)

    def kill(self) -> None:
        """End all running jobs at once."""
        self._pool.kill()
