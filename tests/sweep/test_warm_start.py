"""``hydra.sweeper.warm_start``: a study that takes over what an earlier sweep of the same search has run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import optuna
import pytest
from conftest import App

from cvae import integrity
from cvae.sweep.storage import absolute, open_storage

BODY = """
from cvae.trial import current_trial
with open("seen.txt", "a") as file:
    print(cfg.x, file=file)
current_trial().record({"size": abs(cfg.x)})
return {"state": "pruned"} if cfg.x < 0 else cfg.x + cfg.get("extra", 0)
"""
FIRST = ("hydra.sweeper.study_name=s", "hydra.sweep.dir=multirun/first", "hydra.sweeper.constraints={size: 0.6}")
POINTS = "hydra.sweeper.enqueue=[{x: 0.5}, {x: -0.5}, {x: 0.75}]"
WARM = ("hydra.sweeper.warm_start=kept.json", "hydra.sweeper.study_name=t", "hydra.sweep.dir=multirun/second")


@pytest.fixture
def kept(app: App) -> App:
    """A sweep of three trials of which nothing but sweep.json is left, as kept.json."""
    app.write(BODY)
    assert app(*FIRST, POINTS).code == 0
    shutil.copy("multirun/first/sweep.json", "kept.json")
    shutil.rmtree("multirun")
    Path("seen.txt").unlink()
    return app


def seen() -> list[float]:
    return [float(line) for line in Path("seen.txt").read_text().split()] if Path("seen.txt").exists() else []


def trials() -> list[optuna.trial.FrozenTrial]:
    storage = open_storage(absolute("journal://multirun/studies/t.journal"))
    return optuna.load_study(study_name="t", storage=storage).trials


@pytest.mark.slow
def test_finished_trials_count_and_points_that_they_tried_are_not_queued(kept: App) -> None:
    words = (*WARM, "hydra.sweeper.constraints={size: 0.6}", POINTS.replace("0.75}", "0.75}, {x: 0.25}"))
    done = kept(*words, "hydra.sweeper.n_trials=4")
    assert (done.code, done.err) == (0, "")
    assert "warm start 3 finished trials of kept.json" in done.out
    assert "trials     4 of 4 done: 3 complete, 1 pruned" in done.out
    assert seen() == [0.25]
    assert [(each.state.name, each.params["x"], each.values) for each in trials()] == [
        ("COMPLETE", 0.5, [0.5]),
        ("PRUNED", -0.5, None),
        ("COMPLETE", 0.75, [0.75]),
        ("COMPLETE", 0.25, [0.25]),
    ]
    assert trials()[2].constraints == {"size": pytest.approx(0.15)}
    assert trials()[0].user_attrs["facts"] == {"size": 0.5}
    again = kept(*words, "hydra.sweeper.n_trials=4")
    assert "is complete: 4 trials; nothing to run" in again.out
    assert "warm start" not in again.out
    # What this study has run itself may come back to it, and adds nothing.
    shutil.copy("multirun/second/sweep.json", "kept.json")
    assert "is complete: 4 trials; nothing to run" in kept(*words, "hydra.sweeper.n_trials=4").out


def test_a_pruned_trial_of_this_study_comes_back_to_it_once(app: App) -> None:
    """Optuna keeps the last report of a pruned trial as its value; sweep.json has none for it."""
    app.write(BODY.replace("return", "current_trial().report(0, cfg.x)\nreturn"))
    assert app(*FIRST, POINTS).code == 0
    shutil.copy("multirun/first/sweep.json", "kept.json")
    again = app(*FIRST, POINTS, "hydra.sweeper.warm_start=kept.json")
    assert (again.code, "warm start" in again.out, len(app.record()["trials"])) == (0, False, 3)


@pytest.mark.slow
def test_ranges_may_be_wider_than_they_were(kept: App) -> None:
    done = kept(
        *WARM, "hydra.sweeper.params={x: 'interval(-3,3)'}", "hydra.sweeper.enqueue=[{x: 2.5}]", "hydra.sweeper.n_trials=4"
    )
    assert (done.code, done.err) == (0, "")
    assert seen() == [2.5]


@pytest.mark.slow
def test_the_values_of_cases_come_along(app: App) -> None:
    app.write("return cfg.x + cfg.extra", "extra: 0")
    cases = ("hydra.sweeper.cases={low: ['extra=1'], high: ['extra=3']}", "hydra.sweeper.n_trials=2")
    wilcoxon = "hydra/sweeper/pruner=wilcoxon"
    assert app(*FIRST[:2], *cases).code == 0
    shutil.copy("multirun/first/sweep.json", "kept.json")
    assert "is complete: 2 trials" in app(*WARM, *cases, wilcoxon).out
    for trial in trials():
        x = trial.params["x"]
        assert trial.values == [pytest.approx(x + 2)]
        assert trial.intermediate_values == {0: pytest.approx(x + 1), 1: pytest.approx(x + 3)}
    other = app(*WARM, *cases, "hydra.sweeper.study_name=u", "hydra.sweeper.cases.high=['extra=4']")
    assert (other.code, other.err.count("\n")) == (1, 1)
    assert (
        "hydra.sweeper.warm_start=kept.json is of another search (cases: {'low': ['extra=1'], 'high': ['extra=3']}" in other.err
    )


@pytest.mark.slow
def test_whole_numbers_of_an_earlier_sweep_are_taken_over_once_into_a_range_of_reals(app: App) -> None:
    app.write("return cfg.x", params="{x: 'int(interval(1, 4))'}")
    assert app(*FIRST[:2]).code == 0
    shutil.copy("multirun/first/sweep.json", "kept.json")
    app.write("return cfg.x", params="{x: 'interval(0.0, 9.0)'}")
    for n_trials, told in ((5, True), (6, False)):
        done = app(*WARM, f"hydra.sweeper.n_trials={n_trials}")
        assert (done.code, "warm start" in done.out) == (0, told)
    assert len(trials()) == 6


@pytest.mark.slow
def test_values_on_other_data_are_not_taken_over(app: App) -> None:
    app.write("return cfg.x", "dat: aaa\ntrial: {data: '${dat}'}")
    assert app(*FIRST[:2]).code == 0
    shutil.copy("multirun/first/sweep.json", "kept.json")
    other = app(*WARM, "dat=bbb")
    assert (other.code, other.err.count("\n")) == (1, 1)
    assert "is of other data (aaa there, bbb here)" in other.err
    assert app(*WARM).code == 0


@pytest.mark.slow
def test_points_that_were_queued_or_taken_over_count_as_those_of_a_grid(app: App) -> None:
    grid, points = "hydra/sweeper/sampler=grid", "{x: 'choice(1, 2, 3, 4)'}"
    app.write("return cfg.x", params=points)
    assert app(*FIRST[:2], grid, "hydra.sweeper.n_trials=4", "hydra.sweeper.enqueue=[{x: 2}]").code == 0
    record = json.loads(Path("multirun/first/sweep.json").read_text())
    assert sorted(each["params"]["x"] for each in record["trials"]) == [1, 2, 3, 4]
    parts = (
        "y=choice(1,2)",
        "hydra.sweeper.enqueue=[{x: 2}, {x: 2}]",
        "hydra.sweeper.study_name=p",
        "hydra.sweep.dir=multirun/p",
    )
    assert app(*parts, grid, "hydra.sweeper.n_trials=8").code == 0
    record = json.loads(Path("multirun/p/sweep.json").read_text())
    assert len({(each["params"]["x"], each["params"]["y"]) for each in record["trials"]}) == 8
    app.write("return cfg.x", params="{x: 'choice(1, 2)'}")
    early = ("hydra.sweeper.study_name=e", "hydra.sweep.dir=multirun/early")
    assert app(*early, grid, "hydra.sweeper.n_trials=2").code == 0
    shutil.copy("multirun/early/sweep.json", "kept.json")
    app.write("return cfg.x", params=points)
    assert app(*WARM, grid, "hydra.sweeper.n_trials=4").code == 0
    assert sorted(trial.params["x"] for trial in trials()) == [1, 2, 3, 4]


@pytest.mark.slow
def test_the_best_of_an_earlier_sweep_runs_on_fresh_seeds(app: App) -> None:
    app.write("return cfg.x + cfg.seed", "seed: 1")
    assert app(*FIRST[:2]).code == 0
    shutil.copy("multirun/first/sweep.json", "kept.json")
    best = min(each["params"]["x"] for each in json.loads(Path("kept.json").read_text())["trials"])
    other = app(*WARM, "hydra.sweeper.direction=maximize", "hydra.sweeper.study_name=u")
    assert "(directions: ['minimize'] there, ['maximize'] here)" in other.err
    done = app(*WARM, "hydra.sweeper.top_k=1", "hydra.sweeper.top_k_seeds=2")
    assert (done.code, done.err) == (0, "")
    storage = open_storage(absolute("journal://multirun/studies/t.journal"))
    (top,) = [name for name in optuna.study.get_all_study_names(storage) if name.startswith("t-top-")]
    values = [trial.values for trial in optuna.load_study(study_name=top, storage=storage).trials]
    assert values == [[pytest.approx(best + 2)], [pytest.approx(best + 3)]]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda record: record.update(objective="other"), "is of another search (objective: other there"),
        (lambda record: record["search"].update(space={"y": "0..1"}), "(parameters: ['y'] there, ['x'] here"),
        (lambda record: record.pop("search"), "holds no trials of this search"),
        (lambda record: record.update(trials=5), "holds no trials of this search"),
        (lambda record: record["trials"][0]["params"].update(x=7.0), "trial 0: x is outside of what is searched"),
        (lambda record: record["trials"][0]["params"].update(q=7.0), "holds no trials of this search"),
        (lambda record: record["trials"][0].update(values=["a"]), "holds no trials of this search"),
    ],
)
@pytest.mark.slow
def test_what_is_no_sweep_json_of_this_search_is_one_line(kept: App, change, told: str) -> None:
    record = json.loads(Path("kept.json").read_text())
    del record["sha256"]
    change(record)
    Path("kept.json").write_text(integrity.stamped(record))
    done = kept(*WARM)
    assert (done.code, done.err.count("\n"), seen()) == (1, 1, [])
    assert "hydra.sweeper.warm_start=kept.json" in done.err
    assert told in done.err


def test_a_file_that_is_not_there_or_damaged_is_one_line(kept: App) -> None:
    Path("kept.json").write_text(Path("kept.json").read_text().replace("0.75", "0.76"))
    for name, told in (("kept", "its checksum is another"), ("none", "is not there"), ("seen", "is damaged")):
        Path("seen.json").write_text("{")
        done = kept(f"hydra.sweeper.warm_start={name}.json", *WARM[1:])
        assert (done.code, done.err.count("\n")) == (1, 1)
        assert f"hydra.sweeper.warm_start={name}.json" in done.err
        assert told in done.err
    done = kept("hydra.sweeper.warm_start=[a]", *WARM[1:])
    assert "hydra.sweeper.warm_start is ['a']: write for example multirun/SWEEP/sweep.json" in done.err
