"""A job and its trial: whose trial it is, and what it tells the study."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue
from optuna.trial import Trial

from cvae.process import Process
from cvae.sweep.job import run_trial
from cvae.sweep.job_trial import Job
from cvae.sweep.locks import JOB, SWEEPER
from cvae.sweep.storage import absolute
from cvae.sweep.study import SweepStudy
from cvae.sweep.trials import CLAIM, failure
from cvae.trial import current_trial

optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture
def study() -> SweepStudy:
    return SweepStudy("s", absolute("journal://one.journal"), {}, ["minimize"], optuna.samplers.RandomSampler(seed=0), retry=9)


def place(study: SweepStudy, trial: Trial) -> DictConfig:
    claim = study.storage.get_trial_system_attrs(trial._trial_id)[CLAIM]
    return OmegaConf.create({"trial": {"number": trial.number, "study": "s", "storage": study.url, "claim": claim}})


def claimed_anew(study: SweepStudy, trial: Trial) -> Trial:
    """The trial once more, as another sweeper claims it that takes its owners for dead."""
    for role in (SWEEPER, JOB):
        study.lease(trial._trial_id, role, Process(Process.of().host, os.getpid(), started=1.0))
    again = study.claim(9)
    assert again is not None
    assert again.number == trial.number
    return again


def states(study: SweepStudy) -> list[str]:
    return [trial.state.name for trial in study.study.get_trials()]


def test_an_exit_with_minus_one_is_a_preemption_under_submitit_only(study: SweepStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    def task(cfg: DictConfig) -> None:
        raise SystemExit(-1)

    first = study.claim(9)
    assert run_trial(Job(task), place(study, first)) == {"state": "exited", "value": -1}
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    with pytest.raises(SystemExit):
        run_trial(Job(task), place(study, first))
    assert states(study) == ["RUNNING"]


def test_a_job_whose_trial_was_claimed_anew_does_nothing(study: SweepStudy) -> None:
    first = study.claim(9)
    late = place(study, first)
    again = claimed_anew(study, first)
    ran: list[DictConfig] = []
    assert run_trial(Job(ran.append), late) == {"state": "taken over", "value": None}
    assert ran == []
    assert states(study) == ["RUNNING"]
    assert run_trial(Job(lambda cfg: 2.0), place(study, again)) == {"state": "complete", "value": 2.0}
    assert run_trial(Job(ran.append), place(study, again)) == {"state": "taken over", "value": None}
    assert ran == []
    assert study.study.trials[0].value == 2.0


def test_a_job_that_was_stopped_before_it_began_does_nothing(study: SweepStudy) -> None:
    trial = study.claim(9)
    study.stop([trial._trial_id])
    ran: list[DictConfig] = []
    assert run_trial(Job(ran.append), place(study, trial))["state"] == "taken over"
    assert ran == []
    assert run_trial(Job(lambda cfg: 2.0), place(study, claimed_anew(study, trial)))["state"] == "complete"


def crash(cfg: DictConfig) -> float:
    raise ValueError("no")


def leave(cfg: DictConfig) -> float:
    raise SystemExit(143)


@pytest.mark.parametrize("end", [lambda cfg: 1.0, lambda cfg: "no number", crash, leave])
def test_a_job_that_loses_its_trial_tells_nothing(study: SweepStudy, end: Callable[[DictConfig], Any]) -> None:
    """On another host a job may fall silent for so long that its trial is given to another one."""
    first = study.claim(9)

    def task(cfg: DictConfig) -> Any:
        claimed_anew(study, first)
        return end(cfg)

    with contextlib.suppress(ValueError, SystemExit):
        run_trial(Job(task), place(study, first))
    assert states(study) == ["RUNNING"]
    assert study.study.trials[0].user_attrs.get("failure") is None
    assert study.storage.get_trial_system_attrs(first._trial_id)[JOB] is None


def test_the_last_line_of_a_failure_says_what_is_wrong(study: SweepStudy) -> None:
    def task(cfg: DictConfig) -> float:
        return float(OmegaConf.create({"data": {"root": "???"}}).data.root)

    with pytest.raises(MissingMandatoryValue):
        run_trial(Job(task), place(study, study.claim(9)))
    (trial,) = study.study.trials
    assert trial.user_attrs["failure"].splitlines()[-1] == "data.root must be given: add data.root=... to the command"


def test_a_message_of_several_lines_is_shown_as_one(study: SweepStudy) -> None:
    def task(cfg: DictConfig) -> float:
        raise RuntimeError("Error(s) in loading state_dict:\n\tMissing key(s): a\n\tsize mismatch for b")

    with pytest.raises(RuntimeError):
        run_trial(Job(task), place(study, study.claim(9)))
    (trial,) = study.study.trials
    assert failure(trial) == "RuntimeError: Error(s) in loading state_dict: Missing key(s): a size mismatch for b"


# --- its end ----------------------------------------------------------------------------------------------------------


def begin(study: SweepStudy, sweeper: Process | None = None) -> DictConfig:
    trial = study.claim(9)
    assert trial is not None
    if sweeper is not None:
        study.lease(trial._trial_id, SWEEPER, sweeper)
    return place(study, trial)


DEAD = Process(Process.of().host, 2**30, 1.0)  # no system has as many
APART = Process("another-host", 1, 0.0)


def watching(cfg: DictConfig) -> float:
    """An app that looks whether to stop, and leaves with a code of its own."""
    assert not current_trial().stopping
    signal.raise_signal(cfg.signal)
    assert current_trial().stopping
    raise SystemExit(75)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("sweeper", [None, DEAD, APART])
def test_an_app_that_watches_is_asked_to_stop(study: SweepStudy, sweeper: Process | None, number: int) -> None:
    cfg = begin(study, sweeper)
    cfg.signal = int(number)
    before = signal.getsignal(number)
    if sweeper is None:  # the job of a sweeper in this process: both stop
        with pytest.raises(SystemExit) as stop:
            run_trial(Job(watching), cfg)
        assert stop.value.code == 128 + number
    else:
        assert run_trial(Job(watching), cfg) == {"state": "exited", "value": 75}
    assert signal.getsignal(number) == before
    # A sweeper that lives queues its jobs' trials itself, once they are over.
    assert states(study) == ["WAITING" if sweeper is DEAD else "RUNNING"]
    assert study.storage.get_trial_system_attrs(0)[JOB] is None


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_an_app_that_does_not_watch_is_ended(study: SweepStudy, number: int, error: type[BaseException]) -> None:
    def task(cfg: DictConfig) -> float:
        signal.raise_signal(number)
        return 1.0

    with pytest.raises(error):
        run_trial(Job(task), begin(study))
    assert states(study) == ["RUNNING"]


def test_a_job_that_ends_while_its_sweep_stops_counts(study: SweepStudy) -> None:
    """The trial is done; its sweeper, in this process, stops all the same."""

    def task(cfg: DictConfig) -> float:
        assert not current_trial().stopping
        signal.raise_signal(signal.SIGINT)
        return 1.0

    with pytest.raises(SystemExit) as stop:
        run_trial(Job(task), begin(study))
    assert stop.value.code == 130
    assert states(study) == ["COMPLETE"]


def test_a_crash_leaves_its_traceback_and_no_lease(study: SweepStudy) -> None:
    with pytest.raises(ValueError, match="no"):
        run_trial(Job(crash), begin(study))
    (trial,) = study.study.trials
    assert trial.user_attrs["failure"].strip().endswith("ValueError: no")
    assert "in crash" in trial.user_attrs["failure"]
    assert trial.system_attrs[JOB] is None
    study.give_up(0, trial.system_attrs[CLAIM], "ValueError: no", attempt=True)
    again = study.claim(9)
    assert again is not None
    assert again.user_attrs["failure"] is None
