"""A job and its trial: whose trial it is, and what it tells the study."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from omegaconf import DictConfig, OmegaConf
from optuna.trial import Trial

from cvae.sweep.job import Job
from cvae.sweep.storage import absolute
from cvae.sweep.study import CLAIM, JOB, SWEEPER, Owner, SweepStudy

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
        study.lease(trial._trial_id, role, Owner(Owner.of().host, os.getpid(), started=1.0))
    again = study.claim(9)
    assert again is not None
    assert again.number == trial.number
    return again


def states(study: SweepStudy) -> list[str]:
    return [trial.state.name for trial in study.study.get_trials()]


def test_a_job_whose_trial_was_claimed_anew_does_nothing(study: SweepStudy) -> None:
    first = study.claim(9)
    late = place(study, first)
    again = claimed_anew(study, first)
    ran: list[DictConfig] = []
    assert Job(ran.append)(late) == {"state": "taken over", "value": None}
    assert ran == []
    assert states(study) == ["RUNNING"]
    assert Job(lambda cfg: 2.0)(place(study, again)) == {"state": "complete", "value": 2.0}
    assert Job(ran.append)(place(study, again)) == {"state": "taken over", "value": None}
    assert ran == []
    assert study.study.trials[0].value == 2.0


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
        Job(task)(place(study, first))
    assert states(study) == ["RUNNING"]
    assert study.study.trials[0].user_attrs.get("failure") is None
    assert study.storage.get_trial_system_attrs(first._trial_id)[JOB] is None
