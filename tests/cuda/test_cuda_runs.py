"""Whole commands on pretended GPUs: a run and its resumption, two GPUs, a compiled model, too little memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.cuda

SMALL = [
    "data.world=1",
    "data.train=8",
    "data.validate=2",
    "data.test=0",
    "model=tiny",
    "epochs=2",
    "epoch_size=2",
    "logger=none",
    "kl_schedule=monotonic",  # no kernel computes a KL to follow
]


def test_auto_takes_the_gpu_and_a_run_goes_on_there(process, tmp_path):
    run = tmp_path / "run"
    said = process("-m", "cvae.train", *SMALL, f"hydra.run.dir={run}")
    assert "a pretended GPU" in said
    assert json.loads((run / "run.json").read_text())["precision"] == "bf16"
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2
    assert "this run is finished" in process("-m", "cvae.train", f"resume={run}")
    (run / "checkpoints" / "last.pt").unlink()
    assert "resumed at epoch" in process("-m", "cvae.train", f"resume={run}", "checkpoint=best")


def test_a_run_captures_its_steps_on_the_gpu_that_it_names(process):
    """The current device is another one when the run begins."""
    kinds = {"second": ["model=tiny", "compile=graphs", "device=cuda:1", "tf_schedule=constant", "tfr=0"]}
    said = process(str(Path(__file__).with_name("steps.py")), json.dumps(kinds), PRETENDED_GPUS="2")
    found = json.loads(said.partition("FOUND ")[2])
    assert "error" not in found, found["where"]
    assert (found["waits"], found["pageable"], found["allocations"]) == (0, 0, 0)
    assert 5 <= found["launches"] <= 11


def test_two_gpus_train_one_model(process, tmp_path):
    run = f"hydra.run.dir={tmp_path / 'run'}"
    words = ["-m", "cvae.train", *SMALL, "batch_size=4", run]
    process("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *words, PRETENDED_GPUS="2")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["processes"] == 2
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


def test_two_gpus_wait_for_nothing(process):
    """Neither for the other's statistics of BatchNorm nor for its gradients."""
    kinds = json.dumps({"shared": ["model=tiny", "tf_schedule=constant", "tfr=0"]})
    words = ["--standalone", "--nproc_per_node=2", str(Path(__file__).with_name("steps.py")), kinds]
    said = process("-m", "torch.distributed.run", *words, PRETENDED_GPUS="2")
    found = [json.loads(line.partition("FOUND ")[2]) for line in said.splitlines() if "FOUND " in line]
    assert len(found) == 2
    for each in found:
        assert "error" not in each, each["where"]
        assert (each["waits"], each["pageable"], each["allocations"]) == (0, 0, 0)
        assert 3900 <= each["launches"] <= 4330


def test_out_of_memory_is_one_line(pretended, tmp_path):
    words = [*SMALL, "model=vgg64", "batch_size=64", f"hydra.run.dir={tmp_path / 'run'}"]
    command = [sys.executable, "-m", "cvae.train", *words]
    done = subprocess.run(command, env={**pretended, "PRETENDED_GIB": "2"}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error: out of memory (CUDA out of memory): lower batch_size")
    assert "data.resident=host" in done.stderr


def test_a_compiled_step_runs_waits_for_nothing_and_has_a_budget_of_launches(measured):
    """Its weights are cast, and their gradients added, for all calls at once, as without a compiler: else it would be 2081."""
    common = ["model=tiny", "compile=true", "tf_schedule=constant"]
    most = {"forced": 310, "free": 1830}
    found = measured({"forced": [*common, "tfr=1"], "free": [*common, "tfr=0"]})
    for name, kind in found.items():
        assert "error" not in kind, kind["where"]
        assert (kind["waits"], kind["pageable"], kind["allocations"]) == (0, 0, 0)
        assert 0.9 * most[name] <= kind["launches"] <= most[name]


def test_the_check_of_a_gpu_captures_a_step(process):
    words = [str(Path(__file__).parents[2] / "scripts/benchmark.py"), "--gpu-check", "capture", "--device", "cuda"]
    assert "passed  capture" in process(*words)
