"""The folder that a trial goes on in: where it began, if that is a folder of its own study."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from omegaconf import OmegaConf

from cvae.sweep.slot import Place
from cvae.sweep.storage import absolute
from cvae.sweep.study import SweepStudy
from cvae.sweep.trials import PLACE


@pytest.fixture
def study() -> SweepStudy:
    return SweepStudy("s", absolute("journal://one.journal"), {}, ["maximize"], optuna.samplers.RandomSampler(seed=0))


def place_of(study: SweepStudy, folder: str, number: int, began: Path | None = None) -> Path:
    """Where a sweep in ``folder`` runs the trial of this number, which began in another folder, or nowhere yet."""
    config = OmegaConf.create({"hydra": {"sweep": {"dir": folder}, "sweeper": {"storage": study.url}}})
    attributes = {} if began is None else {PLACE: str(began)}
    return Path(Place(study, config).of(study.study.ask(), attributes, number))


def test_a_trial_goes_on_where_it_began(study: SweepStudy) -> None:
    first = place_of(study, "first", 0)
    assert (first, place_of(study, "second", 0, first)) == (Path("first").absolute(), first)


@pytest.mark.parametrize("said", [None, "hydra: {}", "hydra: {sweeper: {storage: 'journal:///other'}}", "[", "&a [*a]"])
def test_a_stranger_s_study_cannot_point_into_another_folder(study: SweepStudy, said: str | None) -> None:
    """One that holds the user's own trials, or nothing."""
    other = Path("other").absolute()
    (other / "0").mkdir(parents=True)
    if said is not None:
        (other / "multirun.yaml").write_text(said)
    assert place_of(study, "own", 0, other) == Path("own").absolute()
    assert {path.name for path in other.rglob("*")} <= {"0", "multirun.yaml"}
