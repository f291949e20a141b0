"""Ctrl-C, SIGTERM, and sweepers that die before their jobs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from toys import check_complete, finish, log, processes, run, start, states, until

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("launcher", "whole_group"), [("basic", True), ("local", True), ("local", False), ("joblib", True), ("joblib", False)]
)
def test_ctrl_c_lets_jobs_save_and_says_how_to_go_on(launcher: str, whole_group: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    sweeper = start("hydra.sweeper.n_trials=3", "seconds=2", launcher=launcher)
    until(lambda: len(log("begin")) == (1 if launcher == "basic" else 2))
    time.sleep(0.3)
    (os.killpg if whole_group else os.kill)(sweeper.pid, signal.SIGINT)
    code, out = finish(sweeper)
    assert code == 130, out
    assert {each["number"] for each in log("save")} == {each["number"] for each in log("begin")}, out
    assert states() == {"WAITING": len(log("begin"))}
    assert "Traceback" not in out
    command = next(line.split("go on with: ")[1] for line in out.splitlines() if "go on with: " in line)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    subprocess.run(command, shell=True, check=True, stdout=subprocess.DEVNULL)
    check_complete(3)


def test_a_second_ctrl_c_ends_all_at_once() -> None:
    sweeper = start("hydra.sweeper.n_trials=3", "trouble=deaf", launcher="local")
    until(lambda: len(log("begin")) == 2)
    os.killpg(sweeper.pid, signal.SIGINT)
    until(lambda: "Ctrl-C again" in Path("out.txt").read_text())
    time.sleep(0.5)
    assert sweeper.poll() is None
    os.killpg(sweeper.pid, signal.SIGINT)
    code, out = finish(sweeper)
    assert code == 130, out
    until(lambda: not processes())
    code, out = run("hydra.sweeper.n_trials=3", "trouble=deaf", "hydra.sweeper.study_name=other", "victim=9", launcher="local")
    assert code == 0, out


def test_a_job_that_is_sent_sigterm_is_tried_again_in_its_folder() -> None:
    sweeper = start("hydra.sweeper.n_trials=2", "seconds=2", launcher="local")
    (job,) = until(lambda: log("begin", 0))
    time.sleep(0.3)
    os.kill(job["pid"], signal.SIGTERM)
    code, out = finish(sweeper)
    assert code == 0, out
    assert [each["event"] for each in log(number=0)] == ["begin", "save", "begin", "end"]
    check_complete(2)


@pytest.mark.parametrize("launcher", ["local", "submitit"])
def test_a_job_outlives_its_sweeper(launcher: str) -> None:
    sweeper = start("hydra.sweeper.n_trials=1", "seconds=2", launcher=launcher)
    until(lambda: log("begin"))
    sweeper.kill()
    sweeper.wait()
    until(lambda: states()["COMPLETE"])
    check_complete(1)
    code, out = run("hydra.sweeper.n_trials=1", "seconds=2", launcher=launcher)
    assert code == 0, out
    assert "nothing to run" in out
    assert len(log("begin")) == 1
