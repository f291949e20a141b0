"""Sweeps of the toy app as whole processes, and what they left behind."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.trial import FrozenTrial

from cvae.sweep.storage import absolute, open_storage

APP = Path(__file__).parent / "toy" / "app.py"
LAUNCHERS = {
    "basic": [],
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "local": ["hydra/launcher=local"],
    "submitit": ["hydra/launcher=submitit_local"],
    "slurm": ["hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.max_num_timeout=5"],
}
_MARK = "CVAE_TOY_OF"  # in the environment of a sweep's processes: its folder


def start(*words: str, launcher: str = "basic", **environment: str) -> subprocess.Popen[bytes]:
    """Start a sweep in this folder, in a session of its own, as a terminal's command is in a process group of its own."""
    # No pipe: jobs that outlive their sweeper would hold it open.
    with Path(environment.pop("out", "out.txt")).open("w") as out:
        return subprocess.Popen(
            [sys.executable, str(APP), "-m", *LAUNCHERS[launcher], *words],
            env={**os.environ, _MARK: str(Path.cwd()), **environment},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def finish(process: subprocess.Popen[bytes], seconds: float = 200) -> tuple[int, str]:
    """Wait for the sweep that was started last; return its exit code and what it said."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        end_all()
        process.wait()
        raise AssertionError(f"the sweep did not end; it said:\n{Path('out.txt').read_text()}") from None
    return process.returncode, Path("out.txt").read_text()


def run(*words: str, launcher: str = "basic", **environment: str) -> tuple[int, str]:
    """A sweep from its start to its end."""
    return finish(start(*words, launcher=launcher, **environment))


def processes() -> list[psutil.Process]:
    """All processes of this folder's sweeps, orphans too."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(_MARK) == str(Path.cwd()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def end_all() -> None:
    for process in processes():
        process.kill()


def log(event: str | None = None, number: int | None = None) -> list[dict[str, Any]]:
    """What the app wrote down, in order."""
    path = Path("log.jsonl")
    entries = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [each for each in entries if event in (None, each["event"]) and number in (None, each["number"])]


def trials(url: str = "journal://toy.journal") -> list[FrozenTrial]:
    """The study's trials, as they are in its storage."""
    if url == "journal://toy.journal" and not Path("toy.journal").exists():
        return []
    storage = open_storage(absolute(url))
    studies = storage.get_all_studies()
    return storage.get_all_trials(studies[0]._study_id) if studies else []


def states() -> Counter[str]:
    return Counter(trial.state.name for trial in trials())


def until(condition: Callable[[], Any], seconds: float = 400) -> Any:
    """Wait for something to become true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, (
            f"did not come about; there are {[each.cmdline() for each in processes()]}; the log: {log()}"
        )
        time.sleep(0.02)
    return found


def check_complete(n_trials: int, killed: set[int] = frozenset(), url: str = "journal://toy.journal") -> None:
    """Every trial ran to its end once, as itself: with its number, parameters, folder and value.

    Args:
        killed: ids of processes that were killed: between a job's last line and its word to the study, it may begin anew.
    """
    found = trials(url)
    assert [trial.state.name for trial in found] == ["COMPLETE"] * n_trials
    assert [trial.number for trial in found] == list(range(n_trials))
    for trial in found:
        begun, ended = log("begin", trial.number), [each for each in log("end", trial.number) if each["pid"] not in killed]
        assert len(ended) <= 1, (trial.number, log(number=trial.number))
        assert log("end", trial.number), trial.number
        assert {each["x"] for each in begun} == {trial.params["x"]}, trial.number
        assert {each["folder"] for each in begun} == {trial.user_attrs["folder"]}, trial.number
        assert set(Path(trial.user_attrs["folder"], "trials.txt").read_text().split()) == {str(trial.number)}
        assert trial.value == (trial.params["x"] - 0.3) ** 2
        assert set(trial.intermediate_values) == {1, 2, 3}
    folders = [trial.user_attrs["folder"] for trial in found]
    assert len(set(folders)) == n_trials


def kill_at_random(launcher: str, kills: int, seed: int, n_trials: int, *words: str, pause: float = 4.0) -> None:
    """Kill the sweep's processes, its sweeper every other time, start it again whenever it is dead, and see what came of it."""
    command = [f"hydra.sweeper.n_trials={n_trials}", "hydra.sweeper.retry=1000", "hydra.sweeper.max_failures=1000", *words]
    generator, killed = random.Random(seed), set()
    sweeper = start(*command, launcher=launcher)
    try:
        for turn in range(kills):
            time.sleep(generator.uniform(0.0, pause))
            victims = [sweeper.pid] if turn % 2 == 0 else [each.pid for each in processes() if each.pid != sweeper.pid]
            victim = generator.choice(sorted(victims) or [sweeper.pid])
            killed.add(victim)
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
            if victim == sweeper.pid or sweeper.poll() is not None:
                sweeper.wait()
                sweeper = start(*command, launcher=launcher)
        code, out = finish(sweeper, 300)
        assert code == 0, out
        if launcher != "joblib":  # its idle workers do not notice for minutes that their sweeper is gone
            until(lambda: not processes())
    finally:
        end_all()
    check_complete(n_trials, killed)


optuna.logging.set_verbosity(optuna.logging.ERROR)
