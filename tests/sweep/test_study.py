"""Claims: every trial is run by one process at a time, and none is lost with its process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import optuna
import psutil
import pytest
from optuna.trial import TrialState

from cvae.errors import UserError
from cvae.process import Process
from cvae.sweep.locks import JOB, SWEEPER, lives
from cvae.sweep.storage import absolute
from cvae.sweep.study import SweepStudy
from cvae.sweep.trials import CLAIM

SPACE = {"space": {"x": "interval(0,1)"}, "fixed": {"epochs": "3"}}

WORKER = """
import os, sys, time, warnings
warnings.filterwarnings("ignore")
import optuna
from cvae.sweep.study import SweepStudy
optuna.logging.set_verbosity(optuna.logging.ERROR)
url, target, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
study = SweepStudy("s", url, {"space": {"x": "interval(0,1)"}, "fixed": {"epochs": "3"}}, ["maximize"], retry=100)
while (trial := study.claim(target)) is not None:
    x = trial.suggest_float("x", 0, 1)
    with open("begun.txt", "a") as file:
        file.write(f"{trial.number} {x}\\n")
    time.sleep(seconds)
    study.study.tell(trial, x)
"""


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture(params=["journal://one.journal", "sqlite:///one.db"])
def url(request: pytest.FixtureRequest) -> str:
    return absolute(request.param)


def study(url: str, retry: int = 1, **identity) -> SweepStudy:
    return SweepStudy("s", url, {**SPACE, **identity}, ["maximize"], optuna.samplers.RandomSampler(seed=0), retry=retry)


def worker(url: str, target: int, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, url, str(target), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def states(url: str) -> list[str]:
    return [trial.state.name for trial in study(url).study.get_trials()]


@pytest.mark.slow
def test_several_processes_share_the_target(url: str) -> None:
    workers = [worker(url, 12, 0.0) for _ in range(2)]
    for each in workers:
        _, error = each.communicate(timeout=400)
        assert each.returncode == 0, error
    assert states(url) == ["COMPLETE"] * 12
    begun = [int(line.split()[0]) for line in Path("begun.txt").read_text().splitlines()]
    assert sorted(begun) == list(range(12))


@pytest.mark.slow
def test_killed_workers_lose_no_trial_and_run_none_twice_to_the_end(url: str) -> None:
    """After every kill a trial goes on as it was: the same number, the same parameters."""
    for pause in (0.3, 0.0, 0.55, 0.1, 0.2, 0.7):
        each = worker(url, 6, 0.2)
        while not Path("begun.txt").exists():
            time.sleep(0.01)
        time.sleep(1.0 + pause)
        each.kill()
        each.communicate()
    last = worker(url, 6, 0.05)
    _, error = last.communicate(timeout=400)
    assert last.returncode == 0, error
    trials = study(url).study.get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 6
    for line in Path("begun.txt").read_text().splitlines():
        number, x = line.split()
        assert trials[int(number)].params["x"] == float(x) == trials[int(number)].value


def test_a_trial_without_its_owner_is_queued_as_it_is_then_failed(url: str) -> None:
    ours = study(url, retry=1)
    trial = ours.claim(5)
    assert trial is not None
    x = trial.suggest_float("x", 0, 1)
    trial.report(0.5, step=1)
    trial.set_user_attr("folder", "run/0")
    dead = Process(Process.of().host, os.getpid(), started=1.0)  # another process had this id
    for role in (SWEEPER, JOB):
        ours.lease(trial._trial_id, role, dead)
    again = ours.claim(5)
    assert again is not None
    assert (again.number, again.suggest_float("x", 0, 1)) == (trial.number, x)
    assert again.user_attrs["folder"] == "run/0"
    assert ours.study.trials[0].intermediate_values == {1: 0.5}
    for role in (SWEEPER, JOB):
        ours.lease(again._trial_id, role, dead)
    following = ours.claim(5)
    assert following is not None
    assert following.number == 1
    assert states(url) == ["FAIL", "RUNNING"]
    assert "tried 2 times" in ours.study.trials[0].user_attrs["failure"]


def test_a_sweeper_that_dies_before_its_job_begins_costs_no_attempt(url: str) -> None:
    ours = study(url, retry=0)
    for _ in range(3):
        trial = ours.claim(5)
        assert trial is not None
        assert trial.number == 0
        ours.lease(trial._trial_id, SWEEPER, Process(Process.of().host, os.getpid(), started=1.0))


def test_a_trial_that_was_asked_to_stop_and_killed_costs_no_attempt(url: str) -> None:
    ours = study(url, retry=0)
    trial = ours.claim(5)
    dead = Process(Process.of().host, os.getpid(), started=1.0)
    for role in (SWEEPER, JOB):
        ours.lease(trial._trial_id, role, dead)
    ours.stop([trial._trial_id])
    assert ours.claim(5).number == 0


def test_a_trial_with_a_living_owner_is_left_alone(url: str) -> None:
    ours = study(url)
    assert ours.claim(5) is not None
    theirs = study(url)
    second = theirs.claim(5)
    assert second is not None
    assert second.number == 1


def test_running_trials_count_towards_the_target_and_finished_ones_stay(url: str) -> None:
    ours = study(url)
    first, second = ours.claim(2), ours.claim(2)
    assert ours.claim(2) is None
    ours.study.tell(first, 1.0)
    ours.study.tell(second, state=TrialState.PRUNED)
    assert ours.claim(2) is None
    assert len(ours.finished()) == 2
    third = ours.claim(3)
    assert third is not None
    assert third.number == 2


def test_enqueued_points_come_first(url: str) -> None:
    ours = study(url)
    ours.enqueue([{"x": 0.25}, {"x": 0.75}], note=["a", "b"])
    study(url).enqueue([{"x": 0.25}, {"x": 0.75}], note=["a", "b"])  # another sweeper asks for the same
    found = [ours.claim(3) for _ in range(3)]
    assert [trial.user_attrs.get("note") for trial in found] == ["a", "b", None]
    assert [trial.suggest_float("x", 0, 1) for trial in found[:2]] == [0.25, 0.75]


def test_a_trial_is_owned_by_its_sweeper_or_its_job(url: str) -> None:
    """A job outlives its sweeper, and a sweeper waits for a job that a scheduler has put back into its queue."""
    ours = study(url, retry=0)
    dead = Process(Process.of().host, os.getpid(), started=1.0)
    outlived, waiting, lost = (ours.claim(9) for _ in range(3))
    ours.lease(outlived._trial_id, SWEEPER, dead)
    ours.lease(outlived._trial_id, JOB)
    ours.lease(waiting._trial_id, JOB, dead)
    ours.lease(lost._trial_id, SWEEPER, dead)
    ours.lease(lost._trial_id, JOB, dead)
    ours.claim(9)
    assert states(url) == ["RUNNING", "RUNNING", "FAIL", "RUNNING"]


def test_a_claim_given_up_is_queued_unless_another_has_it(url: str) -> None:
    ours = study(url, retry=1)
    trial = ours.claim(9)
    claim = ours.storage.get_trial_system_attrs(trial._trial_id)[CLAIM]
    ours.give_up(trial.number, "another claim", "late", attempt=True)
    assert states(url) == ["RUNNING"]
    for _ in range(3):  # stopped by its user: no attempt
        ours.give_up(trial.number, claim, "stopped", attempt=False)
        assert states(url) == ["WAITING"]
        claim = ours.storage.get_trial_system_attrs(ours.claim(9)._trial_id)[CLAIM]
    ours.give_up(trial.number, claim, "ValueError: no", attempt=True)
    claim = ours.storage.get_trial_system_attrs(ours.claim(9)._trial_id)[CLAIM]
    ours.give_up(trial.number, claim, "ValueError: no", attempt=True)
    assert states(url) == ["FAIL"]
    assert ours.study.trials[0].user_attrs["failure"] == "tried 2 times; ValueError: no"


def test_a_claim_given_up_stays_with_a_job_thatlives(url: str) -> None:
    """A launcher may lose sight of its job, as submitit does when its own process is killed."""
    ours = study(url, retry=9)
    trial = ours.claim(9)
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    ours.lease(trial._trial_id, JOB, Process.of(process.pid))
    ours.give_up(trial.number, ours.storage.get_trial_system_attrs(trial._trial_id)[CLAIM], "lost", attempt=True)
    assert ours.claim(9).number == 1
    assert states(url) == ["RUNNING", "RUNNING"]
    process.kill()
    process.communicate()
    assert ours.claim(9).number == 0, "its job died"


def test_setting_the_clock_kills_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    process, boot = Process.of(), psutil.boot_time()
    monkeypatch.setattr(psutil, "boot_time", lambda: boot + 3600)
    monkeypatch.setattr(psutil.Process, "create_time", lambda self, real=psutil.Process.create_time: real(self) + 3600)
    assert process.alive()


# --- owners -----------------------------------------------------------------------------------------------------------


def test_owners_on_this_host_are_seen_to_die_at_once() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = asdict(Process.of(process.pid))
    far, past = owner | {"until": time.time() + 1000}, owner | {"until": time.time() - 1000}
    assert lives(past), "its lease does not matter while it can be seen"
    process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 400
    while lives(far):  # not even reaped
        assert time.monotonic() < deadline
    process.communicate()
    assert not lives(far)
    assert Process.of() == Process.of(os.getpid())


def test_owners_elsewhere_live_as_long_as_their_lease() -> None:
    owner = asdict(Process("another-host", 1, 0.0))
    assert lives(owner | {"until": time.time() + 1})
    assert not lives(owner | {"until": time.time() - 1})


# --- identity ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("identity", "directions", "parts"),
    [
        ({"space": {"x": "interval(0,2)"}}, ["maximize"], ("space.x: interval(0,1) there, interval(0,2) here",)),
        (
            {"space": {"y": "interval(0,1)"}},
            ["maximize"],
            ("space.x: interval(0,1) there, nothing here", "space.y: nothing there"),
        ),
        ({"fixed": {"epochs": "4"}}, ["maximize"], ("fixed.epochs: 3 there, 4 here",)),
    ],
)
def test_a_study_of_something_else_is_refused_with_the_difference(url: str, identity, directions, parts) -> None:
    study(url)
    study(url)
    with pytest.raises(UserError) as caught:
        SweepStudy("s", url, {**SPACE, **identity}, directions)
    assert all(part in str(caught.value) for part in (*parts, "hydra.sweeper.study_name")), str(caught.value)
