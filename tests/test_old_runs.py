"""Run folders and studies that version 0.1.0 wrote still open in the report and resume."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest

from cvae.data.synthetic import synthetic_push

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A stopped run of two of its four epochs, and a study of three finished trials, last written an hour ago."""
    folder = tmp_path / "multirun"
    shutil.copytree(FIXTURES / "run_0_1_0", folder / "single" / "old")
    shutil.copytree(FIXTURES / "study_0_1_0", folder, dirs_exist_ok=True)
    for path in folder.rglob("*"):
        os.utime(path, (time.time() - 3600,) * 2)
    return folder


def test_they_open_in_the_report_as_a_page_and_as_markdown(old, command):
    result = command("report")
    assert (result.code, result.out) == (0, "4 runs, 3 finished, 1 stopped: report.html\n")
    page = Path("report.html").read_text()
    data = json.loads(re.search(r'<script type="application/json" id="view">(.*?)</script>', page, re.S)[1])
    runs = {run["name"]: run for run in data["runs"]}
    assert {name: run["state"] for name, run in runs.items()} == {
        "old/0": "finished",
        "old/1": "finished",
        "old/2": "finished",
        "single/old": "stopped",
    }
    assert runs["single/old"]["resume"] == "python -m cvae.train resume=multirun/single/old"
    assert [runs["single/old"][key] for key in ("epoch", "epochs", "best_epoch")] == [2, 4, 2]
    assert runs["old/0"]["curves"]["val/psnr"] == pytest.approx([13.5593, 13.5677])
    assert [name for name, run in runs.items() if run["video"]] == ["old/0"]
    assert runs["old/2"]["settings"]["kl_schedule"] == "monotonic"
    (sweep,) = data["sweeps"]
    assert (sweep["name"], sweep["note"]) == ("train-3421dcbe", "3 complete, 0 pruned, 0 failed")
    assert sweep["best"].startswith("trial 0, val/psnr 13.57 (")
    assert data["runs"][sweep["best_run"]]["name"] == "old/0"
    assert [figure["title"] for figure in sweep["figures"]] == ["History", "Parallel coordinates", "Slices", "Curves"]

    assert command("report", "out=report.md").code == 0
    text = Path("report.md").read_text()
    assert text.count("| finished |") == 3
    assert text.count("| stopped |") == 1
    assert "3 complete, 0 pruned, 0 failed. Best: trial 0, val/psnr 13.57" in text


@pytest.mark.slow
def test_a_run_resumes_to_its_end_and_keeps_its_first_rows(old, command, train):
    run = old / "single" / "old"
    before = (run / "metrics.jsonl").read_text().splitlines()
    assert len(before) == 2
    # Its machine had AVX-512, with which NumPy made a few pixels of its world others: without its cache its data are gone.
    recorded = json.loads((run / "run.json").read_text())["dataset"]
    here = synthetic_push(train=4, validate=2, test=0).fingerprint
    refused = train(f"resume={run}")
    assert (refused.code, refused.err.count("\n")) == (1, 1)
    assert f"(fingerprint {recorded}, now {here})" in refused.err
    # As a machine without AVX-512 wrote it.
    (run / "run.json").write_text((run / "run.json").read_text().replace(recorded, here))
    result = train(f"resume={run}")
    assert result.code == 0, result.err
    after = (run / "metrics.jsonl").read_text().splitlines()
    assert after[:2] == before
    assert [json.loads(row)["epoch"] for row in after] == [1, 2, 3, 4]
    assert command("report", f"runs={run}").out == "1 run: report.html\n"
    again = train(f"resume={run}")
    assert (again.code, "finished" in again.out) == (0, True)
