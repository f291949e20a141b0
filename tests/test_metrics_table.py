"""One table of metrics: its own rules, and a metric that is added, from outside or by two files, is seen everywhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cvae import metrics, start
from cvae.errors import UserError
from cvae.metrics import BUILT_IN, Metric, as_record, directions, from_record, objectives, table

ROOT = Path(__file__).parents[1]
OWN = {"mae": {"_target_": "mypkg.mae", "label": "MAE", "better": "min"}}
FUNCTION = """
def mae(predicted, true, scale=1.0):
    return scale * (predicted - true).abs().mean(dim=(-3, -2, -1))
"""
# Training that notes what curves.png is drawn with.
RECORDED = """
import json, pathlib
from matplotlib.figure import Figure
from cvae.train import main

savefig = Figure.savefig

def noted(figure, path):
    drawn = {axes.get_ylabel(): [list(map(float, line.get_ydata())) for line in axes.lines] for axes in figure.axes}
    pathlib.Path(path).with_suffix(".txt").write_text(json.dumps(drawn))
    savefig(figure, path)

Figure.savefig = noted
main()
"""


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def by_key(key: str, own: dict[str, Any] | None = None) -> Metric:
    return next(metric for metric in table(own or {}) if metric.key == key)


# --- the table --------------------------------------------------------------------------------------------------------


def test_a_run_records_what_the_table_says_and_nothing_else(train, drawn):
    assert train(*tiny(drawn, "n_samples=2", "epochs=1"), "hydra.run.dir=run").code == 0
    (row,) = rows(Path("run"))
    assert row.keys() - {"epoch", "step", "seconds"} == {metric.key for metric in BUILT_IN if metric.shown != "fact"}


@pytest.mark.parametrize(
    ("key", "better", "worse"), [("val/psnr", 20.0, 19.0), ("train/mse", 0.1, 0.2), ("frames_per_second", 9.0, 8.0)]
)
def test_the_best_value_ranks_first_and_none_last(key, better, worse):
    assert sorted([None, worse, better], key=by_key(key).rank) == [better, worse, None]


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [(".2f", 20.0, "20.00"), (".4g", 0.0429, "0.04290"), (".3g", 123.0, "123"), (".0f", 481.4, "481")],
)
def test_values_are_written_by_their_form(form, value, text):
    assert Metric("k", "k", form=form).text(value) == text
    assert Metric("k", "k").text(None) == ""


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"psnr": OWN["mae"]}, ("metrics.psnr", "val/psnr is built in")),
        ({"mae": "mypkg.mae"}, ("metrics.mae is 'mypkg.mae'", "_target_")),
        ({"mae": {"label": "MAE"}}, ("metrics.mae", "_target_")),
        ({"mae": {**OWN["mae"], "better": "lower"}}, ("metrics.mae.better is 'lower'", "max or min")),
        ({"mae": {**OWN["mae"], "label": 3}}, ("metrics.mae.label is 3", "text")),
        ({"mae": {**OWN["mae"], "unit": "x" * 99}}, ("metrics.mae.unit", "40 letters")),
        ({"mae": {**OWN["mae"], "form": "99999999f"}}, ("metrics.mae.form is '99999999f'", ".2f")),
    ],
)
def test_a_bad_row_is_named(own, words):
    with pytest.raises(UserError) as caught:
        table(own)
    for word in words:
        assert word in str(caught.value)


def test_a_row_needs_only_its_function():
    assert table({"mae": {"_target_": "mypkg.mae", "scale": 2}})[-1] == Metric("val/mae", "mae", short="mae")


def test_a_record_gives_the_rows_back_whatever_else_is_in_it():
    whole = table(OWN)
    assert from_record(json.loads(json.dumps(as_record(whole)))) == whole
    bad: list[Any] = [
        3,
        "key label",
        [],
        {"key": 3, "label": "x"},
        {"key": "a", "label": "b", "form": "1000000000f"},  # which would fill the memory
        {"key": "a", "label": "b", "better": []},
        {"new": 1},
    ]
    assert from_record([*bad, *as_record(whole)]) == whole
    assert from_record(None) == from_record(bad) == from_record("no list") == BUILT_IN


# --- objectives -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "own", "direction"),
    [
        ("val/psnr", {}, "maximize"),
        (["val/psnr", "train/mse"], {}, ["maximize", "minimize"]),
        (["val/psnr"], {}, ["maximize"]),
        (["val/ssim", "frames_per_second", "peak_memory"], {}, ["maximize", "maximize", "minimize"]),
        ("val/mae", OWN, "minimize"),
        (["val/mae", "val/psnr_best"], OWN, ["minimize", "maximize"]),
    ],
)
def test_each_objective_has_its_own_direction(given, own, direction):
    from cvae import resolvers

    resolvers.register()
    assert directions(given, own) == direction
    words = [f"objective={json.dumps(given)}", *(f"+metrics.mae.{key}={value}" for key, value in own.get("mae", {}).items())]
    declared = start.compose(words).trial
    assert (declared.objective, declared.direction) == (given, direction)


@pytest.mark.parametrize(
    ("given", "n_samples", "words"),
    [
        ("val/mae", 1, ("'val/mae'", "choose val/psnr", "val/ssim")),
        ("train/mse", 1, ("'train/mse'", "choose val/psnr")),
        (["train/mse", "val/psnr"], 1, ("'train/mse'", "choose val/psnr")),
        (["val/psnr", "train/kld"], 1, ("'train/kld'", "after val/psnr choose", "train/mse", "frames_per_second")),
        (["val/psnr", {"a": 1}], 1, ("{'a': 1}", "choose")),
        ("val/psnr_best", 1, ("objective=val/psnr_best", "n_samples=10")),
        (["val/psnr", "val/psnr_best"], 1, ("objective=val/psnr_best", "n_samples=10")),
        ([], 1, ("choose val/psnr",)),
        (None, 1, ("choose val/psnr",)),
    ],
)
def test_an_objective_that_a_run_does_not_compute_is_one_line(given, n_samples, words):
    with pytest.raises(UserError) as caught:
        objectives(given, BUILT_IN, n_samples)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_sweep_of_an_unknown_objective_ends_before_its_first_trial(train, drawn):
    result = train("-m", "hydra/sweeper=optuna", *tiny(drawn), "objective=val/mae", "lr=interval(1e-3, 2e-3)")
    assert (result.code, result.err) == (
        1,
        "error: objective is 'val/mae': choose val/psnr, val/psnr_best, val/psnr_mid, val/ssim, val/mse\n",
    )
    assert not Path("multirun").exists()


@pytest.mark.slow
def test_two_objectives_are_weighed_each_by_its_direction(train, drawn):
    words = ("hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=1", "hydra/launcher=basic", "hydra/sweeper/sampler=random")
    space = ("objective=[val/psnr,train/mse]", "lr=tag(log, interval(1e-4, 1e-1))", "hydra.sweeper.sampler.seed=3")
    done = train("-m", "hydra/sweeper=optuna", *tiny(drawn), *words, *space)
    assert (done.code, done.err) == (0, ""), done.out
    record = json.loads(next(Path("multirun").glob("*/sweep.json")).read_text())
    assert record["directions"] == ["maximize", "minimize"]
    values = {trial["number"]: trial["values"] for trial in record["trials"]}
    for trial in record["trials"]:
        best = max(rows(Path(trial["folder"])), key=lambda row: row["val/psnr"])
        assert trial["values"] == [best["val/psnr"], best["train/mse"]]

    def beaten(mine: list[float]) -> bool:
        return any(other != mine and other[0] >= mine[0] and other[1] <= mine[1] for other in values.values())

    assert sorted(record["best"]) == [number for number, mine in values.items() if not beaten(mine)]


# --- a metric that is added -------------------------------------------------------------------------------------------


@pytest.fixture
def mypkg(tmp_path: Path) -> Path:
    """A folder with a package of somebody else's."""
    folder = tmp_path / "elsewhere"
    (folder / "mypkg").mkdir(parents=True)
    broken = "\ndef scalar(predicted, true):\n    return mae(predicted, true).mean()\n"
    broken += "\ndef nan(predicted, true):\n    return mae(predicted, true) * float('nan')\n"
    broken += "\ndef number(predicted, true):\n    return 0.5\n"
    broken += "\ndef inplace(predicted, true):\n    return predicted.sub_(true).abs_().mean((-1, -2, -3))\n"
    names = '__all__ = ["mae", "scalar", "nan", "number", "inplace"]\n'
    (folder / "mypkg" / "__init__.py").write_text(names + FUNCTION + broken)
    return folder


def copied(folder: Path) -> Path:
    """A copy of the package in which two files have changed."""
    for name in ("cvae", "hydra_plugins"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "cvae/evaluation/metrics.py").write_text(
        (ROOT / "cvae/evaluation/metrics.py").read_text().replace("__all__ = [", '__all__ = ["mae", ') + FUNCTION
    )
    row = '    Metric("val/mae", "MAE", better="min", short="MAE"),\n'
    text = Path(metrics.__file__).read_text()
    (folder / "cvae/metrics.py").write_text(text.replace('    Metric("val/ssim"', f'{row}    Metric("val/ssim"'))
    return folder


def wandb_summary(run: Path) -> dict[str, Any]:
    """The last summary of an offline run, by W&B's own reader."""
    (path,) = run.glob("wandb/offline-run-*/*.wandb")
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(path)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    records = [json.loads(line) for line in told.splitlines()]
    return {key: value for each in records for key, value in each.get("summary", {}).get("update", {}).items()}


@pytest.mark.slow
@pytest.mark.parametrize("place", ["outside", "inside"])
def test_a_metric_that_is_added_is_seen_everywhere(command, drawn, tmp_path, mypkg, monkeypatch, place):
    code, words = mypkg, ["+metrics.mae._target_=mypkg.mae", "+metrics.mae.label=MAE", "+metrics.mae.better=min"]
    if place == "inside":
        code, words = copied(tmp_path / "copy"), []
    words = [*tiny(drawn), *words, "allow_targets=[mypkg]", "objective=val/mae", "lr=3e-2", "epochs=4", "hydra.sweep.dir=runs"]
    words = [word for word in words if word not in ("logger=none", "epochs=2")]
    done = subprocess.run(
        [sys.executable, "-c", RECORDED, "-m", "logger=wandb,tensorboard", *words],
        env={**os.environ, "PYTHONPATH": str(code), "WANDB_MODE": "offline"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = Path("runs/0"), Path("runs/1")
    values = [row["val/mae"] for row in rows(first)]
    assert len(set(values)) == 4
    # What it chooses: best.pt, what a sweep is told, the star of the terminal's line.
    for run in (first, second):
        best = torch.load(run / "checkpoints/best.pt", weights_only=True)
        assert best["best"] == min(row["val/mae"] for row in rows(run))
        assert rows(run)[best["epoch"] - 1]["val/mae"] == best["best"]
    for value in values:
        assert f"MAE {value:#.4g}" in done.stdout
    # What is drawn, and the mirrors.
    assert json.loads((first / "curves.txt").read_text())["MAE"][0] == values  # the other line marks the best epoch
    assert wandb_summary(first)["val/mae"] == {"min": pytest.approx(min(values))}
    shown = EventAccumulator(str(second / "tensorboard")).Reload()
    assert [point.value for point in shown.Scalars("val/mae")] == pytest.approx([row["val/mae"] for row in rows(second)])
    # Reports read run.json: this process has neither the other package nor the changed one.
    monkeypatch.delitem(sys.modules, "mypkg", raising=False)
    assert command("report", "runs=runs").code == 0
    (data,) = re.findall(r'<script type="application/json" id="view">(.*?)</script>', Path("report.html").read_text())
    view = json.loads(data)
    assert view["objective"] == "val/mae"
    (about,) = [metric for metric in view["metrics"] if metric["key"] == "val/mae"]
    assert (about["label"], about["better"], about["shown"]) == ("MAE", "min", "table")
    assert view["runs"][0]["best"] == pytest.approx(min(values), rel=1e-5)
    assert view["runs"][0]["curves"]["val/mae"] == pytest.approx(values, rel=1e-5)
    assert command("report", "runs=runs", "format=md").code == 0
    text = Path("report.md").read_text()
    assert "| best MAE |" in text
    assert f"| {min(values):#.4g} | {values.index(min(values)) + 1} |" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["+metrics.mae._target_=mypkg.mae", "allow_targets=[]"], ("metrics.mae._target_", "allow_targets=[package]")),
        (["+metrics.mae._target_=mypkg.mean"], ("metrics.mae._target_", "does not exist")),
        (["+metrics.mae._target_=mypkg.mae", "+metrics.mae.scale_=2"], ("metrics.mae", "scale_")),
        (["+metrics.mae._target_=mypkg.scalar"], ("metrics.mae returned shape ()", "a value a frame")),
        (["+metrics.mae._target_=mypkg.number"], ("metrics.mae returned float", "a value a frame")),
        (["+metrics.mae._target_=mypkg.inplace"], ("metrics.mae changes the images", "work on a copy")),
        (["+metrics.mae._target_=mypkg.nan"], ("metrics.mae returned NaN",)),
        (["+metrics.mae._target_=mypkg.mae", "objective=val/mae"], ("objective is 'val/mae'",)),  # it has no direction
    ],
)
def test_a_metric_that_cannot_be_used_is_one_line(train, drawn, mypkg, monkeypatch, words, told):
    monkeypatch.syspath_prepend(mypkg)
    result = train(*tiny(drawn), "allow_targets=[mypkg]", *words, "hydra.run.dir=run")
    assert (result.code, result.err.count("\n")) == (1, 1), result.err
    for word in told:
        assert word in result.err
    assert not Path("run/metrics.jsonl").exists()


def test_a_function_s_own_keys_go_to_it_and_a_resumed_run_has_it_still(train, drawn, mypkg, monkeypatch):
    monkeypatch.syspath_prepend(mypkg)
    whole = [*tiny(drawn), "allow_targets=[mypkg]", "+metrics.one._target_=mypkg.mae", "+metrics.two._target_=mypkg.mae"]
    assert train(*whole, "+metrics.two.scale=2", "hydra.run.dir=run").code == 0
    for row in rows(Path("run")):
        assert row["val/two"] == pytest.approx(2 * row["val/one"])
    done = train("resume=run", "allow_targets=[mypkg]")
    assert done.code == 0, done.err
    assert "this run is finished" in done.out
    assert "allow_targets=[package]" in train("resume=run").err


def test_runs_without_metrics_of_their_own_are_the_same_runs_as_before():
    from cvae import config, resolvers

    resolvers.register()
    plain = start.compose([])
    assert "metrics" not in config.identity(plain)
    assert config.identity(start.compose(["+metrics.mae._target_=mypkg.mae"])) != config.identity(plain)
