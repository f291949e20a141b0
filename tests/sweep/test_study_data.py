"""A study is of its data: a second data set is a second study, wherever the data are known."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import App
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from cvae.sweep.identity import read_data, searches_data
from cvae.sweep.storage import absolute, open_storage

# Where the data lie is no setting: a study's identity leaves data.root out. The root's first letter is its fingerprint here.
CONFIG = "data: {root: A, size: 1}\n"
DECLARED = CONFIG + "trial: {data: '${data.root}'}\n"
BODY = """
from cvae.trial import current_trial
import os
current_trial().use_data(cfg.data.root)
if os.path.exists("broken"):
    raise ValueError("no")
return cfg.x
"""
ONE = "hydra.sweeper.n_trials=1"
NAMED = ("hydra.sweeper.study_name=s", "hydra.sweeper.retry=0", ONE)


def names() -> list[str]:
    return sorted(path.stem for path in Path("multirun/studies").glob("*.journal"))


@pytest.mark.slow
def test_a_second_data_set_is_a_second_study(app: App) -> None:
    app.write(BODY, DECLARED)
    first = app(ONE)
    second = app(ONE, "data.root=B")
    assert "0 of 1 trials done" in first.out
    assert "0 of 1 trials done" in second.out
    assert len(names()) == 2
    assert app.record()["data"] == "B"
    for words in ([], ["data.root=B"]):
        assert "nothing to run" in app(ONE, *words).out
    folder = Path(app.record()["trials"][0]["folder"])
    assert OmegaConf.load(folder / ".hydra/config.yaml").trial.data == "B"
    assert len(names()) == 2


@pytest.mark.slow
def test_a_named_study_of_other_data_is_refused(app: App) -> None:
    app.write(BODY, DECLARED)
    assert app(*NAMED).code == 0
    done = app(*NAMED, "data.root=B", "hydra.sweeper.n_trials=2")
    assert done.code == 1
    (line,) = done.err.splitlines()
    assert "data: A there, B here" in line
    assert "hydra.sweeper.study_name" in line
    assert app(*NAMED, "hydra.sweeper.n_trials=2").code == 0


@pytest.mark.slow
@pytest.mark.parametrize("config", [CONFIG, CONFIG + "trial: {data: null}\n"], ids=["not declared", "not visible here"])
def test_where_the_data_are_unknown_the_first_job_settles_them(app: App, config: str) -> None:
    app.write(BODY, config)
    assert app(*NAMED).code == 0
    done = app(*NAMED, "data.root=B", "hydra.sweeper.n_trials=2")
    assert done.code == 0
    last = app.record()["trials"][-1]
    assert last["state"] == "fail"
    assert "study s ran on other data (A there, B here)" in last["failure"]
    # Once they are known, the study is found by them.
    app.write(BODY, DECLARED)
    assert app(*NAMED, "hydra.sweeper.n_trials=2").code == 0
    assert app(*NAMED, "data.root=B", "hydra.sweeper.n_trials=3").code == 1


@pytest.mark.slow
def test_trials_that_only_failed_tie_a_study_to_no_data(app: App) -> None:
    """What made them fail may be put right in the data."""
    app.write(BODY, DECLARED)
    Path("broken").touch()
    assert app(*NAMED).code == 1
    Path("broken").unlink()
    done = app(*NAMED, "data.root=B")
    assert (done.code, done.err) == (0, "")
    assert "1 complete, 0 pruned, 0 failed, 1 retried" in done.out
    assert app(*NAMED, "data.root=A", "hydra.sweeper.n_trials=2").code == 1


def test_where_the_data_are_searched_each_trial_holds_its_own(app: App) -> None:
    app.write(BODY, DECLARED, "{x: 'interval(-1.0, 1.0)', data.root: 'choice(A, B)'}")
    points = "hydra.sweeper.enqueue=[{x: 0.5, data.root: A}, {x: 0.25, data.root: B}, {x: 0.75, data.root: A}]"
    done = app(*NAMED[:2], points)
    assert (done.code, done.err) == (0, "")
    assert "data       2 data sets, whose values may not be comparable: B (1 trials, as 1), A (2 trials, as 0)" in done.out
    trials = open_storage(absolute("journal://multirun/studies/s.journal")).get_all_trials(0)
    assert [trial.user_attrs["data"] for trial in trials] == ["A", "B", "A"]
    assert "data" not in app.record()


@pytest.mark.slow
def test_a_study_without_data_takes_those_that_its_runs_recorded(app: App) -> None:
    """One of an earlier version, which is found under its old name."""
    record = """
    import json
    from pathlib import Path
    from hydra.core.hydra_config import HydraConfig
    path = Path(HydraConfig.get().runtime.output_dir) / "run.json"
    path.write_text(json.dumps({"group": cfg.trial.study, "dataset": cfg.data.root}))
    return cfg.x
    """
    app.write(record, CONFIG)
    assert app(ONE).code == 0
    (old,) = names()
    app.write(record, DECLARED)
    assert f"study      {old} is complete" in app(ONE).out
    assert "0 of 1 trials done" in app(ONE, "data.root=B").out, "they are others"
    assert len(names()) == 2
    more = app("hydra.sweeper.n_trials=2")
    assert f"study      {old}: 1 of 2 trials done" in more.out
    study = open_storage(absolute(f"journal://multirun/studies/{old}.journal"))
    assert study.get_study_user_attrs(0)["cvae:data"] == "A"


@pytest.mark.slow
def test_top_trials_run_on_the_same_data(app: App) -> None:
    app.write(BODY, DECLARED + "seed: 1\n")
    words = (*NAMED, "hydra.sweeper.top_k=1", "hydra.sweeper.top_k_seeds=2")
    done = app(*words)
    assert (done.code, done.err) == (0, "")
    assert [len(values) for values in app.record()["top_k"]["values"].values()] == [2]
    again = app(*words)
    assert (again.code, again.err) == (0, "")


# --- reading it -------------------------------------------------------------------------------------------------------


def job(**values: object):
    return OmegaConf.create({"data": {"root": "A"}, "lr": 1, "trial": {"data": "${data.root}"}} | values)


def test_whether_the_data_are_searched() -> None:
    assert not searches_data([job(), job(lr=2)])
    assert searches_data([job(), job(data={"root": "B"})])
    assert not searches_data([job(trial=None), job(trial=None, data={"root": "B"})])
    assert not searches_data([job(trial={"data": "fixed"}), job(trial={"data": "fixed"}, lr=2)])


def test_the_fingerprint_of_the_data(monkeypatch) -> None:
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)  # as in a sweeper's process

    def broken() -> str:
        from cvae.errors import UserError

        raise UserError("actions.csv is broken")

    OmegaConf.register_new_resolver("test.broken", broken, replace=True)
    assert read_data(job()) == "A"
    assert read_data(job(trial={"data": None})) is read_data(job(trial=None)) is None
    assert read_data(job(trial={"data": "${hydra:runtime.cwd}"})) is None, "only a job knows it"
    with pytest.raises(Exception, match=r"actions\.csv is broken"):
        read_data(job(trial={"data": "${test.broken:}"}))
