"""Several starts of one sweep: each draws its own points, and CMA-ES goes on only where it is trusted."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from conftest import App

from cvae.sweep.space import read_space
from cvae.sweep.storage import absolute, open_storage
from cvae.sweep.strategies import build_sampler, unpickles
from cvae.sweep.study import SweepStudy

NAMED = ("hydra.sweeper.study_name=s", "hydra.sweeper.sampler.seed=7")


SPACE = read_space([])


def points(app: App) -> list[float]:
    return [trial["params"]["x"] for trial in app.record()["trials"]]


@pytest.mark.slow
def test_a_start_and_its_continuation_do_not_repeat_each_other(app: App) -> None:
    app.write()
    app(*NAMED, "hydra.sweeper.n_trials=2")
    app(*NAMED, "hydra.sweeper.n_trials=4")
    found = points(app)
    assert len(set(found)) == 4
    # One start alone is what it always was.
    reference = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=7))
    assert found[:2] == [reference.ask().suggest_float("x", -1.0, 1.0) for _ in range(2)]
    # The second start's points do not depend on what the first one did in the meantime.
    second = optuna.create_study(sampler=build_sampler({"_target_": "optuna.samplers.RandomSampler", "seed": 7}, SPACE, [], 1))
    assert found[2:] == [second.ask().suggest_float("x", -1.0, 1.0) for _ in range(2)]


@pytest.mark.parametrize("sampler", ["RandomSampler", "TPESampler", "CmaEsSampler", "NSGAIISampler", "NSGAIIISampler"])
def test_each_start_has_a_seed_of_its_own(sampler: str) -> None:
    spec = {"_target_": f"optuna.samplers.{sampler}", "seed": 7}
    found = []
    for start in (0, 1, 2, 0, 1, 2):
        trial = optuna.create_study(sampler=build_sampler(spec, SPACE, [], start=start)).ask()
        found.append(trial.suggest_float("x", 0, 1))
    assert found[:3] == found[3:]
    assert len(set(found)) == 3


def test_numbers_of_starts(tmp_path: Path) -> None:
    url = absolute("journal://one.journal")
    assert [SweepStudy("s", url, {}, ["maximize"]).next_start() for _ in range(3)] == [0, 1, 2]
    # A study of an earlier version, which did not count them.
    old = SweepStudy("old", url, {}, ["maximize"], optuna.samplers.RandomSampler())
    old.study.tell(old.study.ask(), 1.0)
    assert [SweepStudy("old", url, {}, ["maximize"]).next_start() for _ in range(2)] == [1, 2]


@pytest.mark.slow
def test_a_quasi_random_sequence_is_one_for_all_starts(app: App) -> None:
    words = (*NAMED, "hydra/sweeper/sampler=qmc", "hydra.sweeper.sampler.scramble=true")
    app.write()
    for n_trials in (2, 4):
        app(*words, f"hydra.sweeper.n_trials={n_trials}")
    several = points(app)
    Path("multirun").rename("before")
    open_storage.cache_clear()
    app(*words, "hydra.sweeper.n_trials=4")
    assert points(app) == several
    assert len(set(several)) == 4


def test_nested_seeds_differ_too() -> None:
    spec = {"_target_": "optuna.samplers.TPESampler", "seed": 1}
    nested = {"_target_": "optuna.samplers.PartialFixedSampler", "fixed_params": {"y": 1.0}, "base_sampler": spec}
    values = []
    for start in range(2):
        sampler = build_sampler(nested, SPACE, [], start=start)
        trial = optuna.create_study(sampler=sampler).ask()
        values.append(trial.suggest_float("x", 0, 1))
    assert values[0] != values[1]


# --- samplers ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampler", "words"),
    [
        ("qmc", ["qmc_type=halton", "scramble=true"]),
        ("nsgaiii", ["population_size=4", "dividing_parameter=2"]),
        ("cmaes", ["popsize=4", "with_margin=true"]),
    ],
)
def test_samplers(app: App, sampler: str, words: list[str]) -> None:
    app.write(params="{x: 'interval(-1.0, 1.0)', y: 'range(1, 9, step=2)'}")
    more = (f"hydra.sweeper.sampler.{word}" for word in words)
    done = app(*NAMED, f"hydra/sweeper/sampler={sampler}", *more)
    assert (done.code, done.err) == (0, "")
    assert [trial["state"] for trial in app.record()["trials"]] == ["complete"] * 3


def test_an_empty_space_runs_the_fixed_job_as_often_as_asked(app: App) -> None:
    app.write(params="null")
    done = app("hydra/sweeper/sampler=grid", "x=3")
    assert (done.code, done.err) == (0, ""), done.err
    assert [(trial["params"], trial["values"]) for trial in app.record()["trials"]] == [({}, [10.0])] * 3


# --- trust ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_going_on_with_a_study_of_cmaes_needs_trust(app: App) -> None:
    words = (*NAMED, "hydra/sweeper/sampler=cmaes", "hydra.sweeper.sampler.popsize=4")
    app.write(params="{x: 'interval(-1.0, 1.0)', y: 'interval(0.0, 1.0)'}")
    assert app(*words, "hydra.sweeper.n_trials=6").code == 0, "a study that begins here"
    assert any(key.startswith("cma:optimizer") for trial in _trials() for key in trial.system_attrs), "it has pickles"
    refused = app(*words, "hydra.sweeper.n_trials=7")
    assert refused.code == 1
    (line,) = refused.err.splitlines()
    assert "begun by another process" in line
    assert "hydra.sweeper.trust_study=true" in line
    assert "pickle" in line
    assert app(*words, "hydra.sweeper.n_trials=7", "hydra.sweeper.trust_study=true").code == 0


def test_the_command_that_goes_on_with_cmaes_trusts_it(app: App) -> None:
    app.write("raise KeyboardInterrupt")
    stopped = app(*NAMED, "hydra/sweeper/sampler=cmaes")
    (line,) = (line for line in stopped.out.splitlines() if line.startswith("go on with: "))
    assert line.endswith(" hydra.sweeper.trust_study=true")


def _trials() -> list[optuna.trial.FrozenTrial]:
    return open_storage(absolute("journal://multirun/studies/s.journal")).get_all_trials(0)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_samplers_that_load_pickles() -> None:
    cmaes = optuna.samplers.CmaEsSampler()
    assert unpickles(cmaes)
    assert unpickles(optuna.samplers.PartialFixedSampler({}, cmaes))
    assert not unpickles(optuna.samplers.TPESampler())


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "failed"),
    [
        (["hydra.sweeper.max_failure_rate=0.8"], 7),
        (["hydra.sweeper.max_failure_rate=0.8", "hydra.sweeper.max_failures=3"], 3),
    ],
)
def test_a_rate_that_is_given_counts_more_than_a_default(app: App, words: list[str], failed: int) -> None:
    app.write("raise ValueError('no')")
    done = app("hydra.sweeper.n_trials=8", "hydra.sweeper.retry=0", *NAMED, *words)
    assert done.code == 1
    assert len(app.record()["trials"]) == failed


@pytest.mark.parametrize(("value", "several"), [("-float('inf')", False), ("float('nan')", True), ("'inf'", False)])
def test_a_value_that_is_not_finite_is_a_trial_that_diverged(app: App, value: str, several: bool) -> None:
    app.write(f"return [cfg.x, {value}]" if several else f"return {value}")
    words = ["hydra.sweeper.direction=[minimize,maximize]", "hydra/sweeper/sampler=nsgaii"] if several else []
    done = app(*NAMED, *words, "hydra.sweeper.max_failures=1", "hydra.sweeper.n_trials=1")
    assert (done.code, done.err) == (0, "")
    assert [trial["state"] for trial in app.record()["trials"]] == ["pruned"]
    assert all("it diverged" in trial["failure"] for trial in app.record()["trials"])
    assert app.record()["best"] == []
