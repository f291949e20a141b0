"""A sweep's settings: each mistake is one line before the first job, and a study goes on only as what it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import App, Result

from cvae.errors import UserError
from cvae.sweep import plan


def refused(result: Result, *parts: str) -> None:
    """One line on standard error that names what is wrong, and no job's folder."""
    assert result.code == 1, result.out + result.err
    (line,) = result.err.strip().splitlines()
    assert line.startswith("error: ")
    assert [part for part in parts if part not in line] == [], line
    assert list(Path.cwd().rglob(".hydra")) == []


GRID = ("hydra/sweeper/sampler=grid",)
BAD = [
    # what is searched
    (["x=interval(1,0)"], ("x=interval(1,0)", "upside down", "interval(0, 1)")),
    (["nokey=interval(0,1)"], ("nokey", "no such key", "+nokey")),
    (["x.deep=1,2"], ("x.deep",)),
    (["hydra.sweeper.params=5"], ("hydra.sweeper.params is 5", "interval(")),
    (["hydra.sweeper.params={x:{a:1}}"], ("x={'a': 1}", "cannot be read")),
    (["hydra.sweeper.params={x:'interval(0'}"], ("x=interval(0", "brackets")),
    (["hydra.sweeper.params={x:'between(0,1)'}"], ("x=between(0,1)", "Unknown function 'between'", "interval")),
    (["hydra.sweeper.search_space={y:{type:int,low:1,high:2}}"], ("hydra.sweeper.search_space is", "hydra.sweeper.params=")),
    (["hydra.sweeper.custom_search_space=nowhere.configure"], ("custom_search_space=nowhere.configure", "check the path")),
    (["hydra.sweeper.custom_search_space=os.sep"], ("custom_search_space=os.sep", "function of (cfg, trial)")),
    (["hydra.sweeper.enqueue=[{x:5}]"], ("hydra.sweeper.enqueue[0]", "x=5", "outside")),
    (["hydra.sweeper.enqueue=[{x:0},{q:5}]"], ("hydra.sweeper.enqueue[1]", "does not search q", "searches x")),
    (["hydra.sweeper.enqueue=[5]"], ("hydra.sweeper.enqueue[0] is 5", "mapping")),
    (["hydra.sweeper.enqueue=5"], ("hydra.sweeper.enqueue is 5", "[{lr: 1e-3")),
    (["hydra.sweeper.conditions={y:'x=1'}"], ("hydra.sweeper.conditions.y", "does not search y")),
    (["hydra.sweeper.conditions={x:'nokey=1'}"], ("hydra.sweeper.conditions.x", "nokey", "spelling")),
    (["y=interval(0,1)", "hydra.sweeper.conditions={x:'y=7'}"], ("hydra.sweeper.conditions.x needs y=7", "y is 0..1")),
    (["y=1,2", "hydra.sweeper.conditions={x:'y=1'}", "hydra.sweeper.enqueue=[{x: 0, y: 2}]"], ("where y=1 only, not 2",)),
    (["hydra.sweeper.conditions={x:always}"], ("hydra.sweeper.conditions.x", "'always'", "optim=sgd")),
    # where
    (["hydra.sweeper.storage=studies"], ("not a URL", "journal://FILE")),
    (["hydra.sweeper.storage=5"], ("hydra.sweeper.storage is 5", "journal://FILE")),
    (["hydra.sweeper.storage=postgresql://bob:s3cret@127.0.0.1:9/studies"], ("bob:***@127.0.0.1:9", "server runs")),
    (["hydra.sweeper.storage=journal:///proc/nowhere/a"], ("journal:///proc/nowhere/a", "cannot be used")),
    (["hydra.sweeper.storage=journal://app.py/a"], ("app.py/a", "cannot be used")),
    (["hydra.sweeper.storage=journal://FOLDER"], ("FOLDER", "is not a regular file")),
    (["hydra.sweeper.storage=sqlite:///FOLDER"], ("FOLDER", "unable to open")),
    (["hydra.sweep.dir=app.py"], ("app.py", "hydra.sweep.dir=FOLDER")),
    # how many
    (["hydra.sweeper.n_trials=0"], ("hydra.sweeper.n_trials is 0", "at least 1")),
    (["hydra.sweeper.n_trials=null"], ("hydra.sweeper.n_trials is None",)),
    (["hydra.sweeper.timeout=0"], ("hydra.sweeper.timeout is 0", "seconds above 0")),
    (["hydra.sweeper.timeout=soon"], ("hydra.sweeper.timeout is 'soon'",)),
    (["hydra.sweeper.max_failure_rate=2"], ("hydra.sweeper.max_failure_rate is 2", "[0, 1]")),
    (["hydra.sweeper.max_failure_rate=few"], ("hydra.sweeper.max_failure_rate is 'few'",)),
    (["hydra.sweeper.retry=-1"], ("hydra.sweeper.retry is -1",)),
    # how
    (["hydra.sweeper.direction=maximise"], ("hydra.sweeper.direction is 'maximise'", "maximize or minimize")),
    (["hydra.sweeper.direction=[]"], ("hydra.sweeper.direction is empty",)),
    (["hydra/sweeper/sampler=grid"], ("hydra/sweeper/sampler=grid", "x is -1..1")),
    (["hydra.sweeper.sampler._target_=optuna.samplers.OddSampler"], ("optuna.samplers.OddSampler", "does not exist")),
    (["hydra.sweeper.sampler._target_=os.system"], ("os.system", "not allowed")),
    (["hydra.sweeper.sampler={_target_:optuna.pruners.NopPruner,seed:null}"], ("optuna.pruners.NopPruner", "not allowed")),
    (["hydra/sweeper/sampler=cmaes", "hydra.sweeper.sampler.popsize=2"], ("hydra.sweeper.sampler.popsize is 2", "at least 4")),
    (["hydra.sweeper.trust_study=maybe"], ("hydra.sweeper.trust_study is 'maybe'", "true or false")),
    (["hydra.sweeper.max_failures=0"], ("hydra.sweeper.max_failures is 0", "at least 1")),
    (["hydra/sweeper/sampler=motpe"], ("hydra/sweeper/sampler=motpe", "several objectives", "hydra/sweeper/sampler=tpe")),
    (["hydra.sweeper.sampler._target_=optuna.samplers.MOTPESampler"], ("several objectives", "hydra/sweeper/sampler=tpe")),
    (["hydra.sweeper.sampler=tpe"], ("hydra.sweeper.sampler is 'tpe'", "hydra/sweeper/sampler=tpe")),
    (["+hydra.sweeper.sampler.odd=3"], ("hydra.sweeper.sampler", "takes no odd", "~hydra.sweeper.sampler.odd")),
    (
        ["hydra/sweeper/pruner=median", "hydra.sweeper.direction=[minimize,minimize]"],
        ("pruner", "one objective", "pruner=none"),
    ),
    (["hydra/sweeper/pruner=wilcoxon"], ("hydra.sweeper.pruner", "hydra.sweeper.seeds_per_trial=5")),
    (["hydra/sweeper/pruner=hyperband"], ("hydra.sweeper.pruner.max_resource", "trial.steps")),
    (
        ["hydra/sweeper/pruner=median", "hydra.sweeper.pruner.n_startup_trials=-1"],
        ("hydra.sweeper.pruner", "n_startup_trials=-1"),
    ),
    (["hydra.sweeper.pruner=5"], ("hydra.sweeper.pruner is 5", "hydra/sweeper/pruner=median")),
    (["hydra.sweeper.pruner={_target_:2}"], ("hydra.sweeper.pruner", "_target_", "optuna.pruners.MedianPruner")),
    (["hydra.sweeper.seeds_per_trial=3"], ("seeds_per_trial", "`seed`")),
    (["hydra.sweeper.cases=[low]"], ("hydra.sweeper.cases is ['low']", "data.world_seed=1")),
    (["hydra.sweeper.cases={low: 3}"], ("hydra.sweeper.cases.low is 3", "list of overrides")),
    (["hydra.sweeper.cases={low: [x]}"], ("hydra.sweeper.cases.low: x is no override", "key=value")),
    (["hydra.sweeper.cases={low: ['hydra.run.dir=a']}"], ("hydra.run.dir=a is no override of the app's",)),
    (["hydra.sweeper.cases={a: ['kind=x,y']}"], ("hydra.sweeper.cases.a: kind=x,y is several values", "a case for each")),
    (["hydra.sweeper.cases={a: ['kind=[x']}"], ("hydra.sweeper.cases.a: kind=[x cannot be read",)),
    (["hydra.sweeper.cases={a b: ['kind=flat']}"], ("hydra.sweeper.cases.a b", "letters")),
    (["hydra.sweeper.cases={low: ['x=1']}"], ("hydra.sweeper.cases.low sets x", "searches")),
    (["hydra.sweeper.cases={low: ['nothing=1']}"], ("nothing",)),
    (["hydra.sweeper.top_k=2"], ("top_k", "`seed`")),
    (
        ["+seed=1", "hydra.sweeper.top_k=2", "hydra.sweeper.direction=[minimize,minimize]"],
        ("top_k", "one objective", "top_k=0"),
    ),
    (["hydra.sweeper.constraints={memory:much}"], ("hydra.sweeper.constraints.memory is 'much'", "number")),
    (["hydra.sweeper.constraints={memory: nan}"], ("hydra.sweeper.constraints.memory is nan", "nothing can keep it")),
    (["hydra.sweeper.constraints={memory:{least: 3, most: 1}}"], ("hydra.sweeper.constraints.memory", "least up to most")),
    (["hydra.sweeper.enqueue=[{x: true}]"], ("hydra.sweeper.enqueue[0]: x=True is outside",)),
    (["hydra.sweeper.constraints={memory:{at:3}}"], ("hydra.sweeper.constraints.memory is {'at': 3}", "{least: NUMBER}")),
    (["+hydra.sweeper.allow_targets=[mypkg]"], ("hydra.sweeper.allow_targets", "allow_targets=[my_package]")),
    (["+allow_targets=mypkg"], ("allow_targets is 'mypkg'", "allow_targets=[mypkg]")),
    (["hydra.sweeper.sampler={_target_: mypkg.Mine}"], ("hydra.sweeper.sampler._target_", "allow_targets=[package]")),
    (["hydra.sweeper.sampler._target_=optuna._imports._LazyImport"], ("not allowed", "optuna.samplers")),
    (
        ["hydra/sweeper/sampler=tpe", "hydra.sweeper.sampler.n_startup_trials=abc"],
        ("hydra.sweeper.sampler.n_startup_trials is 'abc'", "whole number"),
    ),
    # a grid of one's own
    ([*GRID, "+hydra.sweeper.sampler.search_space.x=5"], ("hydra.sweeper.sampler.search_space is {'x': 5}", "list of values")),
    ([*GRID, "y=1,2", "+hydra.sweeper.sampler.search_space={x: [1]}"], ("search_space has x", "searches x, y")),
    ([*GRID, "x=1,2", "+hydra.sweeper.sampler.search_space={x: [1, 7]}"], ("search_space.x has 7", "choice(1, 2)")),
    (["hydra.sweeper.pruner={_target_: optuna.samplers.TPESampler}"], ("hydra.sweeper.pruner", "optuna.pruners")),
    (
        ["~hydra.sweeper.sampler.seed", "hydra.sweeper.sampler._target_=optuna.samplers.nsgaii.UniformCrossover"],
        ("hydra.sweeper.sampler", "UniformCrossover", "a BaseSampler is needed"),
    ),
    # what the app declares
    (["+trial=3"], ("`trial`", "rename")),
    (["+trial.steps=abc"], ("trial.steps is 'abc'", "whole number")),
    (["+trial.steps=2.7"], ("trial.steps is 2.7", "whole number")),
    (["+trial.steps=true"], ("trial.steps is True", "whole number")),
    (["+trial.warmup=-5"], ("trial.warmup is -5", "at least 0")),
    (["+trial.direction=north"], ("trial.direction is 'north'", "maximize or minimize")),
    (
        ["+trial.objective=[gain,loss]", "hydra.sweeper.direction=maximize"],
        ("hydra.sweeper.direction is maximize", "gain, loss"),
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("words", "parts"), BAD, ids=[" ".join(words)[:60] for words, _ in BAD])
def test_a_mistake_is_one_line(app: App, words: list[str], parts: tuple[str, ...]) -> None:
    Path("FOLDER").mkdir()
    refused(app.write()(*words), *parts)


def test_a_fact_that_no_job_records(app: App) -> None:
    """That can only be seen when jobs have run: they fail, and the sweep ends with the reason."""
    done = app.write()("hydra.sweeper.constraints={memory: 3}")
    assert done.code == 1
    assert "hydra.sweeper.constraints.memory: the job records no memory; it records nothing" in done.err


OPTUNA = "hydra/sweeper=optuna"
BAD_HERE = [
    (["hydra/sweeper/sampler=tep", "lr=interval(1e-4,1e-3)"], ("hydra/sweeper/sampler=tep", "no such option", "mean tpe")),
    (["lr=interval(1e-3,1e-4)"], ("lr=interval(1e-3,1e-4)", "upside down")),
    (["lr=interval(1e-4"], ("lr=interval(1e-4", "brackets")),
    (["lrr=interval(1e-4,1e-3)"], ("lrr", "no such key", "mean lr")),
    (["kl_schedule=cyclical,monotnic"], ("kl_schedule=monotnic", "no such option", "mean monotonic")),
    (["kl_schedule.cycles=range(2,4)"], ("kl_schedule.cycles", "no such key")),
    (["lr=interval(1e-4,1e-3)", "hydra.sweeper.n_trials=0"], ("hydra.sweeper.n_trials is 0",)),
    (["lr=interval(1e-4,1e-3)", "hydra.sweeper.nkey=0"], ("hydra.sweeper.nkey", "no such key")),
    (["lr=interval(1e-4,1e-3)", "hydra.sweeper.params=[5]"], ("hydra.sweeper.params is [5]",)),
    (["seed=1,2", "hydra.sweeper.top_k=2"], ("top_k", "`seed`")),
    (["epochs=abc,2"], ("epochs=abc", "abc")),
]


@pytest.mark.slow
@pytest.mark.parametrize(("words", "parts"), BAD_HERE, ids=[" ".join(words)[:60] for words, _ in BAD_HERE])
def test_a_mistake_in_a_sweep_of_runs_is_one_line(train, words: list[str], parts: tuple[str, ...]) -> None:
    refused(train("-m", OPTUNA, *words), *parts)


# --- what a study is --------------------------------------------------------------------------------------------------


ONE = "hydra.sweeper.n_trials=1"


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of studies that sweeps ask for from now on; they end there, before a job starts."""
    found: list[str] = []

    def note(name: str, *rest: object) -> None:
        found.append(name)
        raise UserError("enough")

    monkeypatch.setattr(plan, "SweepStudy", note)
    return found


@pytest.mark.slow
def test_the_study_of_another_space_or_setting_is_refused_with_the_difference(app: App) -> None:
    app.write()(ONE, "hydra.sweeper.study_name=s")
    for words, parts in (
        (["x=interval(-1.0,2.0)"], ("x: -1..1 there, -1..2 here",)),
        (["y=interval(0.0,1.0)"], ("space.y: nothing there, 0..1 here", "settings.y: 1 there, nothing here")),
        (["y=3"], ("settings.y: 1 there, 3 here",)),
        (["hydra.sweeper.direction=maximize"], ("['minimize'] there, ['maximize'] here",)),
        (["+hydra.sweeper.params.y=3"], ("settings.y: 1 there, 3 here",)),
    ):
        result = app("hydra.sweeper.n_trials=2", "hydra.sweeper.study_name=s", *words)
        (line,) = result.err.strip().splitlines()
        assert result.code == 1
        assert line.startswith("error: study s in journal://")
        assert [part for part in (*parts, "hydra.sweeper.study_name") if part not in line] == [], line
    assert len(app.folders()) == 1


@pytest.mark.slow
def test_a_study_s_name_tells_its_space_and_settings(app: App, names: list[str]) -> None:
    app.write()
    for words in (
        [],
        ["y=2"],
        ["x=interval(-2.0,2.0)"],
        ["+hydra.sweeper.params.y=2"],
        [f"{ONE}0", "hydra/sweeper/sampler=tpe"],
    ):
        assert app(*words).err == "error: enough\n"
    assert all(name.startswith("app-") for name in names)
    assert names[1] == names[3], "wherever a setting stands"
    assert names[0] == names[4], "not what changes nothing about a trial"
    assert len(set(names)) == 3
    # The same in another process.
    command = [sys.executable, "app.py", "-m", ONE]
    done = subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=True)
    assert f"study      {names[0]}: 0 of 1 trials done" in done.stdout


@pytest.mark.slow
def test_the_study_of_a_run_ignores_what_does_not_change_it(train, names: list[str]) -> None:
    words = ["-m", OPTUNA, "lr=interval(1e-4,1e-3)", "data.train=4", "data.validate=2", "data.test=1"]
    for more in (
        [],
        ["logger=none", "device=cpu", "data.root=elsewhere"],
        ["experiment=sweep_lr_tfr_beta", "tf_schedule=linear"],
    ):
        assert train(*words, *more).err == "error: enough\n"
    assert names[0] == names[1] != names[2]
    assert [name.rpartition("-")[0] for name in names] == ["train", "train", "sweep_lr_tfr_beta"]


def test_params_and_the_command_line_are_one_space(app: App) -> None:
    """For a key in both the command line counts."""
    app.write(params="{x: 'interval(-1.0, 1.0)', y: 'choice(4, 5)'}")
    done = app("x=interval(2.0,3.0)", "y=7", "+z=1,2", "hydra.sweeper.study_name=5")
    assert (done.code, app.record()["study"]) == (0, "5"), "a number is a study's name too"
    trials = app.record()["trials"]
    assert {key for trial in trials for key in trial["params"]} == {"x", "+z"}
    assert all(2 <= trial["params"]["x"] <= 3 for trial in trials)
    assert all(trial["values"][0] == trial["params"]["x"] ** 2 + 7 for trial in trials)


@pytest.mark.slow
def test_conditions(app: App) -> None:
    """A parameter without its condition is neither suggested nor passed: it has the config's own value."""
    body = """
    with open("seen.jsonl", "a") as file:
        file.write(f'["{cfg.kind}", {cfg.x}]\\n')
    return cfg.x
    """
    app.write(body, "kind: plain", "{kind: 'choice(plain, bent)', x: 'interval(2.0, 3.0)'}")
    assert app("hydra.sweeper.conditions={x: 'kind=bent'}", "hydra.sweeper.n_trials=6").code == 0
    seen = [json.loads(line) for line in Path("seen.jsonl").read_text().splitlines()]
    assert {kind for kind, _ in seen} == {"plain", "bent"}
    assert all((x == 1.0) == (kind == "plain") for kind, x in seen)
    for trial, (kind, _) in zip(app.record()["trials"], seen, strict=True):
        assert ("x" in trial["params"]) == (kind == "bent")


@pytest.mark.slow
@pytest.mark.parametrize(("value", "searched"), [(1, True), (2, False)])
def test_a_condition_on_a_setting_of_the_config(app: App, value: int, searched: bool) -> None:
    app.write(params="{x: 'interval(2.0, 3.0)', z: 'choice(1, 2)'}", config="z: 0")
    assert app(ONE, "hydra.sweeper.conditions={x: 'y=1'}", f"y={value}").code == 0
    (trial,) = app.record()["trials"]
    assert ("x" in trial["params"]) == searched


@pytest.mark.parametrize(
    ("config", "condition", "holds"),
    [
        ("z: true", "z=True", True),
        ("z: 0.001", "z=1e-3", True),
        ("z: 1", "z=1.0", True),
        ("z: text", "z='text'", True),
        ("z: true", "z=1", False),
        ("z: null", "z=none", False),
    ],
)
def test_a_condition_is_compared_by_what_it_means(app: App, config: str, condition: str, holds: bool) -> None:
    app.write("return cfg.x", config, "{x: 'interval(2.0, 3.0)', y: 'choice(1, 2)'}")
    done = app(ONE, f'hydra.sweeper.conditions={{x: "{condition}"}}')
    assert done.code == 0 or config == "z: null", done.err
    if done.code == 0:
        (trial,) = app.record()["trials"]
        assert ("x" in trial["params"]) == holds
        assert ("so x is not searched" in done.out) == (not holds)


def test_a_point_to_try_first_has_what_its_conditions_need(app: App) -> None:
    """Of a row of them too: x needs kind=bent, and kind needs y=2."""
    app.write("return cfg.x", "kind: plain", "{kind: 'choice(plain, bent)', x: 'interval(2.0, 3.0)', y: 'choice(1, 2)'}")
    conditions = "hydra.sweeper.conditions={x: 'kind=bent', kind: 'y=2'}"
    assert app(conditions, "hydra.sweeper.enqueue=[{x: 2.5},{x: 2.75}]", "hydra.sweeper.n_trials=2").code == 0
    assert [trial["params"] for trial in app.record()["trials"]] == [
        {"y": 2, "kind": "bent", "x": 2.5},
        {"y": 2, "kind": "bent", "x": 2.75},
    ]


def test_a_grid_with_conditions_has_no_point_twice(app: App) -> None:
    app.write("return cfg.x", "kind: plain", "{kind: 'choice(plain, bent)', x: 'choice(2, 3, 4)'}")
    done = app(*GRID, "hydra.sweeper.conditions={x: 'kind=bent'}", "hydra.sweeper.n_trials=30")
    assert done.code == 0, done.err
    assert "the grid has 4 points: n_trials=4" in done.out
    points = [tuple(sorted(map(str, trial["params"].values()))) for trial in app.record()["trials"]]
    assert sorted(points) == [("2", "bent"), ("3", "bent"), ("4", "bent"), ("plain",)]


OWN = """
import optuna

class Fails(optuna.samplers.RandomSampler):
    def sample_independent(self, study, trial, name, distribution):
        raise RuntimeError("boom")

class Asks(optuna.samplers.RandomSampler):
    def before_trial(self, study, trial):
        raise KeyError("boom")

class Outside(optuna.samplers.RandomSampler):
    def sample_independent(self, study, trial, name, distribution):
        return 1e6

class LatinGridSampler(optuna.samplers.RandomSampler):
    pass

class Undecided(optuna.pruners.NopPruner):
    def prune(self, study, trial):
        return "no"

def extend(cfg, trial):
    raise LookupError("boom")
"""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["hydra.sweeper.sampler={_target_: mine.Fails}"], "hydra.sweeper.sampler raises RuntimeError: boom"),
        (["hydra.sweeper.sampler={_target_: mine.Asks}"], "hydra.sweeper.sampler raises KeyError: 'boom'"),
        (["hydra.sweeper.sampler={_target_: mine.Outside}"], "x=1000000.0 is outside of what is searched, -1..1"),
        (["hydra.sweeper.custom_search_space=mine.extend"], "hydra.sweeper.custom_search_space raises LookupError: boom"),
    ],
)
@pytest.mark.parametrize("launcher", ["basic", "local"])
def test_a_strategy_that_fails_ends_the_sweep_in_order(app: App, words: list[str], said: str, launcher: str) -> None:
    Path("mine.py").write_text(OWN)
    done = app.write()("+allow_targets=[mine]", *words, f"hydra/launcher={launcher}", "hydra.sweeper.n_trials=2")
    assert (done.code, done.err.count("\n")) == (1, 1), done.err
    assert said in done.err
    assert "go on with: " in done.err
    assert words == ["hydra.sweeper.sampler={_target_: mine.Asks}"] or app.record()["best"] == []  # no trial, no folder


def test_a_sampler_of_ones_own_may_have_the_name_of_one_of_optunas(app: App) -> None:
    Path("mine.py").write_text(OWN)
    done = app.write()("+allow_targets=[mine]", "hydra.sweeper.sampler={_target_: mine.LatinGridSampler}", ONE)
    assert done.code == 0, done.err


@pytest.mark.parametrize("state", ["prunned", "failed"])
def test_a_state_that_a_job_cannot_have_is_no_result(app: App, state: str) -> None:
    app.write(f"return {{'state': '{state}', 'value': cfg.x}}")
    app(ONE, "hydra.sweeper.retry=0")
    (trial,) = app.record()["trials"]
    assert (trial["state"], app.record()["best"]) == ("fail", [])
    assert f"the job returned the state '{state}': give complete or pruned" in trial["failure"]


def test_a_pruner_answers_yes_or_no(app: App) -> None:
    Path("mine.py").write_text(OWN)
    body = "from cvae.trial import current_trial\ncurrent_trial().report(1, cfg.x)\nreturn cfg.x"
    app.write(body)("+allow_targets=[mine]", "hydra.sweeper.pruner={_target_: mine.Undecided}", ONE, "hydra.sweeper.retry=0")
    (trial,) = app.record()["trials"]
    assert "hydra.sweeper.pruner answers 'no': its prune() returns true or false" in trial["failure"]


def test_points_to_try_first_are_written_as_in_a_config(app: App) -> None:
    app.write("return 1.0", "a: 1\nb: 1\nc: 1", "{a: 'null,2', b: 'choice(\"p, q\", r)', c: 'choice([1,2], [3,4])'}")
    done = app(ONE, "hydra.sweeper.enqueue=[{a: null, b: 'p, q', c: [3, 4]}]")
    assert (done.code, done.err) == (0, "")
    assert app.record()["trials"][0]["params"] == {"a": "null", "b": "'p, q'", "c": "[3,4]"}


def test_allow_targets_is_the_key_for_a_sampler_of_the_users_too(app: App) -> None:
    Path("mypkg.py").write_text(
        "import optuna\nclass Mine(optuna.samplers.RandomSampler): ...\nclass No:\n    def __init__(self, seed): ...\n"
    )
    sampler = "hydra.sweeper.sampler={_target_: mypkg.TARGET}"
    app.write()
    refused(app("+allow_targets=[mypkg]", sampler.replace("TARGET", "No")), "mypkg.No makes a No", "a BaseSampler is needed")
    done = app("+allow_targets=[mypkg]", sampler.replace("TARGET", "Mine"))
    assert done.code == 0, done.err
    assert len(app.record()["trials"]) == 3
