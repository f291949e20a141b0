"""A run that is killed, stopped or out of disk goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from conftest import tiny
from omegaconf import OmegaConf
from resuming import assert_same, checkpoint, finish, start, wait_for

from cvae import run_record

LONGER = [
    *("epochs=4", "epoch_size=8", "tf_schedule=linear", "sample_every=2"),
    *("average=0.1", "kl_schedule=target", "window_growth=0.75", "n_future=4", "validate_at=[5:29:4]"),
]


@pytest.fixture(scope="module")
def whole(drawn, tmp_path_factory) -> Path:
    """The run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    code, out = finish(start(*tiny(drawn, *LONGER), f"hydra.run.dir={folder}"))
    assert code == 0, out
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_any_moment_it_ends_the_same(drawn, whole, tmp_path, seed):
    run = tmp_path / "run"
    chance = random.Random(seed)
    process = start(*tiny(drawn, *LONGER), f"hydra.run.dir={run}")
    for epoch in (1, 2, 3):
        wait_for(run / "metrics.jsonl", epoch, process)
        time.sleep(chance.uniform(0, 0.3))
        process.kill()
        process.communicate()
        process = start(f"resume={run}")
    code, out = finish(process)
    assert code == 0, out
    assert_same(run, whole)
    assert not list(run.rglob("*.partial"))


@pytest.mark.slow
def test_killed_before_its_first_checkpoint_it_begins_again(whole, tmp_path, train):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.rmtree(run / "checkpoints")
    rows = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    assert "last.pt is missing" in train(f"resume={run}").err
    assert (run / "metrics.jsonl").read_text() == "".join(rows)
    (run / "metrics.jsonl").write_text(rows[0])
    result = train(f"resume={run}")
    assert result.code == 0
    assert "from the beginning" in result.out
    assert_same(run, whole)


@pytest.mark.slow
def test_a_torn_line_and_a_line_ahead_of_the_checkpoint_are_written_again(drawn, whole, tmp_path):
    run = tmp_path / "run"
    process = start(*tiny(drawn, *LONGER), f"hydra.run.dir={run}")
    wait_for(run / "metrics.jsonl", 2, process)
    process.send_signal(signal.SIGTERM)
    finish(process)
    done = checkpoint(run)["epoch"]
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"epoch": done + 1, "train/mse": 99.0}) + '\n{"epoch": ' + str(done + 2))
    assert finish(start(f"resume={run}"))[0] == 0
    assert_same(run, whole)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 75), ("SIGUSR1", 75), ("SIGINT", 130)])
def test_a_signal_finishes_the_step_and_the_run_goes_on_within_the_epoch(drawn, whole, tmp_path, name, code):
    run = tmp_path / "run"
    process = start(*tiny(drawn, *LONGER), f"hydra.run.dir={run}")
    wait_for(run / "metrics.jsonl", 1, process)
    time.sleep(0.05)
    process.send_signal(getattr(signal, name))
    returned, out = finish(process)
    assert returned == code, out
    assert f"resume={run}" in out
    assert "Traceback" not in out
    state = checkpoint(run)
    assert state["epoch"] < 4
    returned, out = finish(start(f"resume={run}"))
    assert returned == 0, out
    assert_same(run, whole)


@pytest.mark.slow
def test_a_full_disk_leaves_the_previous_checkpoint(drawn, whole, tmp_path):
    run = tmp_path / "run"
    process = start(*tiny(drawn, *LONGER), f"hydra.run.dir={run}")
    wait_for(run / "metrics.jsonl", 1, process)
    process.send_signal(signal.SIGTERM)
    finish(process)
    before = (run / "checkpoints/last.pt").read_bytes()
    # A limit on the size of files fails writes as a full disk does, in the middle of the file.
    limited = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)); from cvae.train import main; main()"
    )
    code, out = finish(start(f"resume={run}", entry=[sys.executable, "-c", limited]))
    assert code == 1, out
    errors = [line for line in out.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, out
    assert "cannot write" in errors[0]
    assert "previous one is kept" in errors[0] or "best.pt" in errors[0]
    assert "Traceback" not in out
    assert (run / "checkpoints/last.pt").read_bytes() == before
    assert not list(run.rglob("*.partial"))
    assert finish(start(f"resume={run}"))[0] == 0
    assert_same(run, whole)


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    return shutil.copytree(whole, tmp_path / "copy")


@pytest.mark.slow
def test_a_finished_run_says_so(train, copy):
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.name in ("metrics.jsonl", "last.pt", "config.yaml")}
    result = train(f"resume={copy}")
    assert result.code == 0
    assert "this run is finished: 4 epochs" in result.out
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.slow
def test_hardware_and_logger_may_change(train, copy):
    assert train(f"resume={copy}", "device=cpu", "precision=bf16", "logger=wandb", "logger.mode=offline").code == 0


@pytest.mark.parametrize(
    "override", ["lr=1e-2", "epochs=9", "model=small", "kl_schedule.cycles=2", "+new=1", "hydra.run.dir=x"]
)
def test_nothing_else_may_change(train, copy, override):
    result = train(f"resume={copy}", override)
    assert result.code == 1
    assert result.err.count("\n") == 1
    assert f"{override.lstrip('+').split('=')[0]} cannot change in a resumed run: only device, precision" in result.err


def test_nothing_may_be_taken_away(train, copy):
    assert "error: ~lr: a resumed run keeps its settings" in train(f"resume={copy}", "~lr").err


def test_a_folder_that_is_no_run_is_named(train, tmp_path):
    result = train(f"resume={tmp_path}")
    assert result.code == 1
    assert result.err == f"error: {tmp_path} is not a run folder: it has no .hydra/config.yaml; runs are in multirun/single/\n"


def test_a_checkpoint_cut_in_half_is_named(train, copy):
    path = copy / "checkpoints/last.pt"
    os.truncate(path, path.stat().st_size // 2)
    result = train(f"resume={copy}")
    assert result.code == 1
    assert f"{path} is damaged" in result.err
    assert result.err.count("\n") == 1


def forge(run: Path) -> None:
    """Let run.json vouch for the config as it lies, as a stranger's may."""
    run_record.write_record(run, {**run_record.read_record(run), "config_sha256": run_record.config_hash(run)}, "")


def test_a_checkpoint_of_another_model_is_named(train, copy, drawn):
    config = copy / ".hydra/config.yaml"
    config.write_text(config.read_text().replace("hidden_dim: 16", "hidden_dim: 8"))
    forge(copy)
    result = train(f"resume={copy}")
    assert result.code == 1
    assert "does not fit its run's config" in result.err
    assert result.err.count("\n") == 1


def test_a_run_keeps_the_values_of_its_resolvers_and_can_be_reopened(train, command, drawn, monkeypatch):
    """As seed=${oc.env:SLURM_ARRAY_TASK_ID} has it; the environment is another later."""
    for name, value in {"MINE": "3", "CACHE": "packs"}.items():
        monkeypatch.setenv(name, value)
    words = ["seed=${oc.env:MINE}", "lr=${oc.decode:'1e-3'}", "data.cache_dir=${oc.env:CACHE}"]
    assert train(*tiny(drawn, "epochs=1"), *words, "hydra.run.dir=run").code == 0
    for name in ("MINE", "CACHE"):
        monkeypatch.delenv(name)
    text = Path("run/.hydra/config.yaml").read_text()
    assert "seed: 3\n" in text
    assert "lr: 0.001\n" in text
    assert train("resume=run").code == 0
    assert command("evaluate", "run=run", "protocol.course.n_future=2").code == 0
    assert "unreadable" not in command("report", "runs=[run]", "format=md").out


def test_values_of_a_view_and_places_are_not_written_down(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    text = "logger: {entity: '${oc.env:SECRET}'}\ndata: {root: '${oc.env:SECRET}'}\ntrial: {x: '${oc.env:SECRET}'}\n"
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra/config.yaml").write_text(text)
    run_record.write_values(tmp_path, OmegaConf.create(text))
    assert "hunter2" not in (tmp_path / ".hydra/config.yaml").read_text()


def test_a_config_from_a_stranger_runs_no_code(train, copy, tmp_path):
    config = copy / ".hydra/config.yaml"
    text = config.read_text()
    assert "allow_targets: []" in text
    config.write_text(
        text.replace("cvae.model.backbones.dcgan64", "os.makedirs").replace("allow_targets: []", "allow_targets: [os]")
    )
    forge(copy)
    result = train(f"resume={copy}")
    assert result.code == 1
    assert "model.backbone._target_ is 'os.makedirs', which is not allowed" in result.err
    assert "public function of cvae.model.backbones is needed" in result.err


def test_resume_and_multirun_do_not_mix(train, copy):
    result = train("-m", f"resume={copy}")
    assert result.code == 1
    assert "leave -m out" in result.err
