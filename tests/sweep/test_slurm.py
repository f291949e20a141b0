"""Sweeps whose jobs a real Slurm runs: preempted, they go on; cancelled, they free their slot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import tiny
from servers import Slurm
from toys import LAUNCHERS, check_complete, finish, log, start, trials, until

pytestmark = pytest.mark.servers


def job_of(pid: int) -> str:
    """The id of the Slurm job that a process belongs to."""
    words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next(word for word in words if word.startswith(b"SLURM_JOB_ID=")).split(b"=")[1].decode()


def begun(number: int, times: int) -> dict:
    return until(lambda: log("begin", number)[times - 1 :])[0]


def test_a_sweep_outlives_a_preemption_and_a_cancellation(slurm: Slurm) -> None:
    # A job outlives scancel by KillWait, 5 s.
    sweeper = start("hydra.sweeper.n_trials=6", "hydra.sweeper.n_jobs=2", "seconds=8", launcher="slurm")
    preempted, cancelled = (job_of(begun(number, 1)["pid"]) for number in (0, 1))
    slurm.cancel(cancelled)
    until(lambda: trials()[0].intermediate_values)
    slurm.preempt(preempted)
    slurm.hurry(preempted)
    code, out = finish(sweeper, 300)
    assert code == 0, out
    check_complete(6)
    assert [len(log("begin", number)) for number in range(6)] == [2, 2, 1, 1, 1, 1], log()
    assert "trial 1  queued again" in out
    assert "trial 0  queued again" not in out, "its own job went on"


def test_a_preempted_training_saves_and_goes_on(slurm: Slurm, drawn: Path) -> None:
    words = tiny(drawn, "epochs=40", "epoch_size=8", "hydra.sweeper.n_trials=1", "tfr=interval(0,1)", "hydra.sweep.dir=runs")
    command = [sys.executable, "-m", "cvae.train", "-m", "hydra/sweeper=optuna", *LAUNCHERS["slurm"], *words]
    with Path("out.txt").open("w") as out:
        sweeper = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=os.environ)
    run = Path("runs/0")
    until(lambda: (run / "metrics.jsonl").exists() and len((run / "metrics.jsonl").read_text().splitlines()) > 2)
    (job,) = [each.id for each in slurm.jobs() if each.state == "RUNNING"]
    slurm.preempt(job)
    slurm.hurry(job)
    assert sweeper.wait(200) == 0, Path("out.txt").read_text()
    assert [json.loads(line)["epoch"] for line in (run / "metrics.jsonl").read_text().splitlines()] == list(range(1, 41))
    assert len(json.loads((run / "run.json").read_text())["resumed"]) == 1
    (line,) = [line for line in (run / "train.log").read_text().splitlines() if "stopped by SIGUSR2" in line]
    assert "resume=" in line
