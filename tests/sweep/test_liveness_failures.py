"""Jobs that crash, run out of memory, hang, diverge, or are slow."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from toys import check_complete, finish, log, run, start, states, trials

pytestmark = pytest.mark.slow


def failing(trouble: str, *words: str, launcher: str = "basic", n_trials: int = 2) -> str:
    """A sweep whose trial 0 has trouble and whose others do not; what became of trial 0."""
    code, out = run(f"hydra.sweeper.n_trials={n_trials}", f"trouble={trouble}", "victim=0", *words, launcher=launcher)
    assert code == 0, out
    victim, *others = trials()
    assert [each.state.name for each in others] == ["COMPLETE"] * (n_trials - 1)
    assert len({each["folder"] for each in log("begin", 0)}) == 1
    return f"{victim.state.name} after {len(log('begin', 0))}: {victim.user_attrs['failure']}"


@pytest.mark.parametrize("launcher", ["basic", "local", "joblib"])
def test_a_crash_is_tried_once_more_then_failed_with_its_traceback(launcher: str) -> None:
    found = failing("crash", launcher=launcher)
    assert found.startswith("FAIL after 2: tried 2 times"), found
    assert "Traceback" in found
    assert "in befall" in found  # cloudpickle leaves out the file
    assert found.rstrip().endswith("ValueError: crashed as asked"), found


def test_bad_input_is_not_tried_again() -> None:
    assert failing("user") == "FAIL after 1: this value is not allowed"


def test_divergence_is_pruned_and_not_tried_again() -> None:
    assert failing("diverged") == "PRUNED after 1: the loss became NaN"


@pytest.mark.parametrize("launcher", ["basic", "local"])
def test_an_exit_is_a_failure(launcher: str) -> None:
    found = failing("exit", launcher=launcher)
    assert found == "FAIL after 2: tried 2 times; its job exited with 3", found


@pytest.mark.parametrize("trouble", ["SIGKILL", "SIGSEGV"])
def test_a_killed_job_costs_its_own_trial(trouble: str) -> None:
    found = failing(trouble, "hydra.sweeper.retry=0", launcher="local", n_trials=3)
    assert found.startswith("FAIL after 1: "), found
    assert trouble in found
    path = Path(found.split("see ")[1])
    assert path.name == "job.log"
    assert "trial 0 speaks" in path.read_text()


def test_a_job_that_hangs_is_ended() -> None:
    found = failing("hang", "hydra.sweeper.retry=0", "hydra.launcher.timeout_min=1", launcher="local")
    assert found.startswith("FAIL after 1: "), found
    assert "hydra.launcher.timeout_min=1" in found


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["hydra.sweeper.max_failures=2"], "2 trials failed in a row (hydra.sweeper.max_failures)"),
        (["hydra.sweeper.max_failure_rate=0.1"], "2 of 10 trials failed (hydra.sweeper.max_failure_rate=0.1)"),
    ],
)
def test_too_many_failures_end_the_sweep(words: list[str], why: str) -> None:
    code, out = run("hydra.sweeper.n_trials=10", "trouble=crash", "hydra.sweeper.retry=0", *words)
    assert code == 1, out
    assert f"error: {why}; the last was trial 1: ValueError: crashed as asked" in out
    assert states() == {"FAIL": 2}


def test_joblib_with_one_worker_runs_one_trial_at_a_time() -> None:
    """It takes no second process for one job, and two of them in this one would mix their trials."""
    code, out = run("hydra.sweeper.n_trials=3", "hydra.launcher.n_jobs=1", launcher="joblib")
    assert code == 0, out
    check_complete(3)


@pytest.mark.parametrize("launcher", ["local", "joblib"])
def test_a_slow_trial_holds_up_nobody(launcher: str) -> None:
    code, out = run("hydra.sweeper.n_trials=4", "trouble=last", "victim=0", launcher=launcher)
    assert code == 0, out
    assert [each["number"] for each in log("end")][-1] == 0
    check_complete(4)


def test_slots_share_out_gpus_and_threads() -> None:
    code, out = run("hydra.sweeper.n_trials=4", "seconds=1", launcher="local", CUDA_VISIBLE_DEVICES="3,5")
    assert code == 0, out
    assert {each["CUDA_VISIBLE_DEVICES"] for each in log("begin")} == {"3", "5"}
    assert {each["OMP_NUM_THREADS"] for each in log()} == {str(max(1, len(os.sched_getaffinity(0)) // 2))}
    free: dict[str, int] = {}
    for each in log():  # never two at a time on one GPU
        gpu = each["CUDA_VISIBLE_DEVICES"]
        free[gpu] = free.get(gpu, 0) + (1 if each["event"] == "begin" else -1)
        assert free[gpu] in (0, 1)


def test_two_sweepers_share_a_study() -> None:
    both = [start("hydra.sweeper.n_trials=8", "seconds=0.6") for _ in range(2)]
    for each in both:
        code, out = finish(each)
        assert code == 0, out
    check_complete(8)
    assert len({each["pid"] for each in log("begin")}) == 2
