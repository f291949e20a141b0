"""A study of version 0.1.0 is found, completed and read: its identity and its default name are what they were."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import optuna
import pytest

from cvae.data.synthetic import synthetic_push
from cvae.runs.collection import collect
from cvae.sweep.storage import absolute, open_storage

FIXTURE = Path(__file__).parents[1] / "fixtures" / "study_0_1_0"
NAME = "train-3421dcbe"


@pytest.mark.slow
def test_a_study_of_0_1_0_is_completed_by_its_command(train) -> None:
    shutil.copytree(FIXTURE, "multirun")
    before = json.loads(Path("multirun/old/sweep.json").read_text())
    # As another machine wrote it: the folders of its trials are not here.
    defaults = ["data.world=1", "tf_schedule=step", "likelihood.sigma=0.14", "average=0"]  # those of that version
    words = [*shlex.split(before["command"])[3:], *defaults]
    words = [*(word for word in words if not word.startswith("hydra.sweeper.n_trials=")), "hydra.sweeper.n_trials=5"]
    # Its machine had AVX-512, with which NumPy made a few pixels of its world others: without its cache its data are gone.
    recorded = json.loads(Path("multirun/old/0/run.json").read_text())["dataset"]
    here = synthetic_push(train=4, validate=2, test=0).fingerprint
    refused = train(*words, f"hydra.sweeper.study_name={NAME}")
    assert (refused.code, refused.err.count("\n")) == (1, 1)
    assert f"searches something else (data: {recorded} there, {here} here)" in refused.err
    # As a machine without AVX-512 wrote it.
    for record in Path("multirun/old").glob("*/run.json"):
        record.write_text(record.read_text().replace(recorded, here))
    done = train(*words)
    assert (done.code, done.err) == (0, ""), done.out
    assert f"study      {NAME}: 3 of 5 trials done" in done.out
    record = json.loads(Path("multirun/old/sweep.json").read_text())
    assert record["study"] == before["study"] == NAME
    assert (record["directions"], record["objective"]) == (before["directions"], before["objective"])
    assert [trial["state"] for trial in record["trials"]] == ["complete"] * 5
    assert record["trials"][:3] == before["trials"]
    study = optuna.load_study(study_name=NAME, storage=open_storage(absolute(f"journal://multirun/studies/{NAME}.journal")))
    assert study.metric_names == ["val/psnr"]

    found = collect(["multirun"])
    assert found.unreadable == []
    assert {run.trial for run in found.runs} == {0, 1, 2, 3, 4}
    assert {run.objective for run in found.runs} == {"val/psnr"}
    best = max(record["trials"], key=lambda trial: trial["values"][0])
    # Runs of the old machine name its storage; the new ones name this one.
    assert NAME in {sweep.name for sweep in found.sweeps}
    assert any(sweep.best_trial == best["number"] for sweep in found.sweeps)
