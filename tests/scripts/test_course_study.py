"""The course study by its one command, with runs of a second."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import course_study
import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "course_study.py"


def study(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_study_runs_writes_its_page_and_goes_on() -> None:
    small = ["data.train=4", "data.validate=2", "epochs=4", "epoch_size=2", "batch_size=2", "n_future=3", "device=cpu"]
    words = ["--out", "docs/study.md", *small, "hydra/launcher=basic", "beta=1.0", "seed=1,2"]
    first = study(*words)
    assert first.returncode == 0, first.stdout + first.stderr
    text = Path("docs/study.md").read_text()
    assert text.count("### Claim") == 4
    assert "16 finished runs" in text
    assert text.splitlines()[2].startswith("A run of this study has 8 iterations (4 epochs of 2)")
    assert Path("docs/study_files/beta_1.png").is_file()
    again = study(*words)
    assert "nothing to run" in again.stdout
    assert Path("docs/study.md").read_text() == text


def test_a_study_that_was_moved_is_read_where_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "multirun" / "course_study"
    for number in (0, 1):
        (folder / str(number)).mkdir(parents=True)
    trials = [{"folder": f"/gone/multirun/course_study/{number}"} for number in (0, 1)]
    apart = {"folder": "/elsewhere/7"}  # of a sweep into another folder
    record = {"study": "s", "trials": [*trials, {"folder": None}, apart]}
    (folder / "sweep.json").write_text(json.dumps(record))
    assert course_study.latest("course_study") == ("s", ["/elsewhere", "multirun/course_study"])


@pytest.mark.slow
def test_what_the_study_refuses_is_one_line(tmp_path: Path) -> None:
    done = study("--full", "data.root=nowhere", "lrr=1", "logger=none")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
