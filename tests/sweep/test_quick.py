"""The sweep that the README shows first, with runs of a second."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import tiny

pytestmark = pytest.mark.slow


def sweep(root: Path, *words: str) -> str:
    small = [word for word in tiny(root, "epochs=3") if not word.startswith(("kl_schedule", "likelihood"))]
    command = [sys.executable, "-m", "cvae.train", "experiment=sweep_quick", *small, *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_sweep_quick(drawn: Path) -> None:
    assert "12 of 12 done" in sweep(drawn)
    (folder,) = Path("multirun").glob("2*")
    trials = json.loads((folder / "sweep.json").read_text())["trials"]
    states = [trial["state"] for trial in trials]
    assert (len(states), states.count("pruned") > 0) == (12, True), states
    assert all(trial["steps"] >= 1 for trial in trials), "none is pruned before the schedules have settled"
    assert "lr: " in (folder / "best.yaml").read_text()
    record = json.loads((folder / "0" / "run.json").read_text())
    assert record["command"].startswith("python -m cvae.train experiment=sweep_quick")
    assert "is complete: 12 trials; nothing to run" in sweep(drawn)
    assert list(Path("multirun").glob("2*")) == [folder]
    assert "13 of 13 done" in sweep(drawn, "hydra.sweeper.n_trials=13")
    (new,) = set(Path("multirun").glob("2*")) - {folder}
    assert sorted(path.name for path in new.iterdir() if path.is_dir()) == ["12"]
