"""Jobs as processes of this machine: a pool of slots, each with its GPU or its share of the CPU.

A job that runs out of memory, crashes or hangs does no harm to other jobs. What it prints goes to ``job.log`` in its folder.
Each process has its own session and outlives this process: the job tells its study itself and is not lost with its sweeper.
"""

from __future__ import annotations

import itertools
import math
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict

from cvae.errors import UserError, is_number, is_whole, whole
from cvae.gpus import SHARE, allotted, share

_composing = threading.Lock()  # Hydra's loader does not support several threads
_MOST = 1000  # jobs at a time, or threads
_GRACE = 10.0  # seconds that a job has to save after its time limit


class JobFailed(Exception):
    """A job's process ended without a result."""


class Pool:
    """Slots for the jobs of a launcher.

    Args:
        context, task, config: what Hydra gives to a launcher.
        n_jobs: slots; None for ``jobs_per_gpu`` on each GPU, or without a GPU the sweeper's ``n_jobs``, or 2.
        gpus: those to use, counted from 0 among those that this process may use, or named; None for all of them.
        jobs_per_gpu: slots a GPU; None for one, or for as many as ``n_jobs`` asks for. Jobs that have a GPU together get an
            equal part of its memory each.
        threads: CPU threads a job; None for an equal share.
        timeout_min: minutes after which a job is asked to save and end, and is killed soon after; None for no limit.

    Raises:
        UserError: a number is not above 0, a GPU is not this process's to use, or there are more jobs than GPUs have slots.
    """

    def __init__(
        self,
        context: HydraContext,
        task: Callable[[DictConfig], Any],
        config: DictConfig,
        n_jobs: int | None,
        gpus: Sequence[int | str] | None,
        jobs_per_gpu: int | None,
        threads: int | None,
        timeout_min: float | None,
    ) -> None:
        for name, value in {"n_jobs": n_jobs, "jobs_per_gpu": jobs_per_gpu, "threads": threads}.items():
            if value is not None and not is_whole(value, 1, _MOST):
                raise UserError(f"hydra.launcher.{name} is {value!r}: give a whole number above 0, at most {_MOST}, or null")
        if timeout_min is not None and not (is_number(timeout_min) and 0 < timeout_min < math.inf):
            raise UserError(f"hydra.launcher.timeout_min is {timeout_min!r}: give a number above 0, or null")
        found = allotted(gpus, "hydra.launcher.gpus")
        most = len(found) * (jobs_per_gpu or 1)
        if found and n_jobs and jobs_per_gpu and n_jobs > most:
            raise UserError(
                f"hydra.launcher.n_jobs={n_jobs} is more than hydra.launcher.jobs_per_gpu={jobs_per_gpu} on {len(found)} GPUs: "
                f"n_jobs={most} or less, or null"
            )
        n_jobs = n_jobs or most or config.hydra.sweeper.get("n_jobs") or 2
        self._context, self._task, self._config = context, task, config
        self._n_jobs, self._timeout_min = n_jobs, timeout_min
        cores = threads or max(1, len(os.sched_getaffinity(0)) // n_jobs)
        self._free: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
        for slot in range(n_jobs):
            environment = {name: str(cores) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
            if found or gpus is not None:
                environment["CUDA_VISIBLE_DEVICES"] = found[slot % len(found)] if found else ""
            if found and (together := len(range(slot % len(found), n_jobs, len(found)))) > 1:  # slots of this slot's GPU
                environment[SHARE] = f"{share() / together:g}"
            self._free.put(environment)
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Run jobs, as many at a time as there are slots. A job whose process died counts as failed."""
        if len(job_overrides) == 1:
            return [self._launch_one(initial_job_idx, job_overrides[0])]
        threads = ThreadPoolExecutor(self._n_jobs)
        try:
            return list(threads.map(self._launch_one, itertools.count(initial_job_idx), job_overrides))
        except BaseException:  # Ctrl-C
            with self._lock:
                for process in self._processes:
                    process.terminate()
            raise
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def kill(self) -> None:
        """End all running jobs and the processes that they started."""
        for process in list(self._processes):
            _kill(process)

    def _launch_one(self, number: int, overrides: Sequence[str]) -> JobReturn:
        with _composing:
            config = self._context.config_loader.load_sweep_config(self._config, list(overrides))
            with open_dict(config):
                config.hydra.job.id = config.hydra.job.num = number
            folder = Path(config.hydra.sweep.dir, str(config.hydra.sweep.subdir))
        job = partial(_job, self._context, self._task, config, Singleton.get_state(), list(sys.argv))
        try:
            return self._in_slot(job, folder.absolute() / "job.log")
        except JobFailed as error:
            failed = JobReturn(overrides=list(overrides), status=JobStatus.FAILED)
            failed.return_value = error
            return failed

    def _in_slot(self, call: Callable[[], JobReturn], log: Path) -> JobReturn:
        """Run ``call`` in a process of its own, in the next free slot. What it prints is added to ``log``.

        Raises:
            JobFailed: the process was killed, or reached its time limit.
        """
        environment = self._free.get()
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            # In the job's folder, so that what a killed sweeper leaves is easy to find.
            with tempfile.TemporaryDirectory(prefix=".job-", dir=log.parent) as scratch:
                return self._run(call, log, environment, Path(scratch))
        finally:
            self._free.put(environment)

    def _run(self, call: Callable[[], JobReturn], log: Path, environment: dict[str, str], scratch: Path) -> JobReturn:
        work, result = scratch / "job.pkl", scratch / "result.pkl"
        work.write_bytes(cloudpickle.dumps(call))
        with log.open("ab") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "cvae.sweep.local", str(work), str(result)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                # The job must be able to import all that the app could.
                env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)},
                start_new_session=True,
            )
        with self._lock:
            self._processes.add(process)
        try:
            code = self._wait(process, log)
        finally:
            with self._lock:
                self._processes.discard(process)
        if result.exists():
            returned: JobReturn = pickle.loads(result.read_bytes())
            return returned
        raise JobFailed(_ending(code, log))

    def _wait(self, process: subprocess.Popen[bytes], log: Path) -> int:
        if self._timeout_min is None:
            return process.wait()
        try:
            return process.wait(self._timeout_min * 60)
        except subprocess.TimeoutExpired:
            process.terminate()
            try:
                process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                _kill(process)
            raise JobFailed(f"it ran longer than hydra.launcher.timeout_min={self._timeout_min:g}; see {log}") from None


def _kill(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def _ending(code: int, log: Path) -> str:
    if code >= 0:
        return f"its process exited with {code}; see {log}"
    name = signal.Signals(-code).name
    hint = " (out of memory?)" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{hint}; see {log}"


# --- in the job's process ---------------------------------------------------------------------------------------------


def _job(
    context: HydraContext, task: Callable[[DictConfig], Any], config: DictConfig, state: Any, words: Sequence[str]
) -> JobReturn:
    """Run the app's task in the job's process, with Hydra's state and the command line as they were in the app."""
    sys.argv[:] = words
    setup_globals()
    Singleton.set_state(state)
    return run_job(
        hydra_context=context,
        task_function=task,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


if __name__ == "__main__":
    _call, _result = map(Path, sys.argv[1:])
    _returned = pickle.loads(_call.read_bytes())()
    with whole(_result) as _scratch:
        _scratch.write_bytes(cloudpickle.dumps(_returned))
