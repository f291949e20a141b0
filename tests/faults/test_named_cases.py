"""Whole commands: two starts in one folder, data that moved, data that changed, a sweep on a second data set."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from conftest import draw_course, draw_sequence, tiny
from servers import need

from cvae.process import Process

pytestmark = pytest.mark.faults
SWEEP = ["hydra/sweeper=optuna", "hydra/sweeper/sampler=grid", "hydra/launcher=basic", "hydra.sweeper.n_jobs=1"]
SPACE = ["hydra.sweeper.n_trials=2", "lr=choice(1e-4,1e-3)"]


def small(root: Path, *words: str) -> list[str]:
    return tiny(root, "n_eval=8", "sample_every=0", "device=cpu", *words)


def rows(folder: str) -> list[dict]:
    """metrics.jsonl without its times."""
    found = [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in ("seconds", "frames_per_second")} for row in found]


@pytest.fixture
def course(tmp_path: Path) -> Path:
    return draw_course(tmp_path / "course", train=3, validate=2, test=0, frames=8)


@pytest.fixture
def stopped(course: Path, train, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run that SIGTERM stopped in its second epoch, and beside it the same run undisturbed."""
    assert train(*small(course, "hydra.run.dir=whole", "epochs=3")).code == 0
    from cvae.training.recorder import Recorder

    epoch = Recorder.epoch

    def stop(self: Recorder, row: dict, *rest: object, **further: object) -> None:
        epoch(self, row, *rest, **further)
        if row["epoch"] == 1:
            os.kill(os.getpid(), 15)

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "epoch", stop)
        assert train(*small(course, "hydra.run.dir=run", "epochs=3")).code == 75
    return "run"


# --- two starts in one folder ----------------------------------------------------------------------------------------------


def test_a_second_start_in_a_live_run_s_folder_is_refused_by_process_and_host(stopped: str, train) -> None:
    """The owner is this process's parent: one that lives."""
    owner = Process.of(os.getppid())
    Path(stopped, "owner.json").write_text(
        json.dumps({**asdict(owner), "until": time.time() + 100, "token": "0" * 16}).ljust(512)
    )
    refused = train(f"resume={stopped}")
    assert refused.code == 1
    assert refused.err.count("\n") == 1
    assert str(owner.pid) in refused.err
    assert owner.host.split()[0] in refused.err
    before = rows(stopped)
    Path(stopped, "owner.json").unlink()
    assert train(f"resume={stopped}").code == 0
    assert rows(stopped)[: len(before)] == before
    assert rows(stopped) == rows("whole")


# --- moved data ------------------------------------------------------------------------------------------------------------


def test_a_run_goes_on_where_its_data_moved(stopped: str, course: Path, train) -> None:
    moved = course.rename(course.with_name("elsewhere"))
    gone = train(f"resume={stopped}")
    assert gone.code == 1
    assert gone.err.startswith("error: ")
    assert gone.err.count("\n") == 1
    assert "data.root" in gone.err
    assert train(f"resume={stopped}", f"data.root={moved}", "data.workers=1").code == 0
    assert rows(stopped) == rows("whole")


def test_a_relative_root_is_relative_to_where_the_user_stood(course: Path, train, monkeypatch: pytest.MonkeyPatch) -> None:
    words = small(Path(course.name), "hydra.run.dir=run", "hydra.job.chdir=true")
    result = train(*words)
    assert result.code == 0, result.err
    monkeypatch.chdir(course.parent)
    assert train("resume=run").code == 0


# --- changed data ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["a sequence more", "a sequence less", "another number", "another frame"])
def test_a_run_does_not_go_on_with_changed_data(change: str, stopped: str, course: Path, train) -> None:
    sequence = sorted((course / "train").glob("*/*"))[0]
    if change == "a sequence more":
        draw_sequence(course / "train/take 9/00", 99, 8)
    elif change == "a sequence less":
        shutil.rmtree(sequence)
    elif change == "another number":
        path = sequence / "actions.csv"
        stat = path.stat()
        path.write_text(path.read_text().replace("0.500000", "0.500001", 1))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as if nothing had happened
    else:
        shutil.copy(sequence / "1.png", sequence / "0.png")
    before = rows(stopped)
    refused = train(f"resume={stopped}")
    assert refused.code == 1
    assert refused.err.startswith("error: ")
    assert refused.err.count("\n") == 1
    assert "train" in refused.err
    assert rows(stopped) == before


# --- a second data set -----------------------------------------------------------------------------------------------------


def test_a_sweep_on_a_second_data_set_is_a_study_of_its_own(course: Path, tmp_path: Path, train) -> None:
    other = draw_course(tmp_path / "other", train=4, validate=2, test=0, frames=8)
    for root, folder in ((course, "first"), (other, "second")):
        result = train("-m", *small(root), *SWEEP, *SPACE, f"hydra.sweep.dir={folder}")
        assert result.code == 0, result.err
        assert "nothing to run" not in result.out
    records = [json.loads(Path(folder, "sweep.json").read_text()) for folder in ("first", "second")]
    assert records[0]["study"] != records[1]["study"]
    for folder, record in zip(("first", "second"), records, strict=True):
        assert [Path(trial["folder"]).parent.name for trial in record["trials"]] == [folder] * 2
    values = [[trial["values"] for trial in record["trials"]] for record in records]
    assert values[0] != values[1]


def test_a_study_of_a_given_name_refuses_a_second_data_set(course: Path, tmp_path: Path, train) -> None:
    other = draw_course(tmp_path / "other", train=4, validate=2, test=0, frames=8)
    words = [*SWEEP, *SPACE, "hydra.sweeper.study_name=named"]
    assert train("-m", *small(course), *words, "hydra.sweep.dir=first").code == 0
    refused = train("-m", *small(other), *words, "hydra.sweep.dir=second")
    assert refused.code == 1
    assert refused.err.count("\n") == 1
    assert "data" in refused.err


def test_the_same_data_in_another_folder_complete_the_study(course: Path, tmp_path: Path, train) -> None:
    first = train("-m", *small(course), *SWEEP, *SPACE, "hydra.sweeper.n_trials=1", "hydra.sweep.dir=first")
    assert first.code == 0, first.err
    copy = shutil.copytree(course, tmp_path / "copy")
    second = train("-m", *small(copy), *SWEEP, *SPACE, "hydra.sweep.dir=second")
    assert second.code == 0, second.err
    record = json.loads(Path("second", "sweep.json").read_text())
    assert [Path(trial["folder"]).parent.name for trial in record["trials"]] == ["first", "second"]


# --- no look at a source file ----------------------------------------------------------------------------------------------


def test_a_sweep_s_trials_look_at_no_source_file(course: Path, tmp_path: Path) -> None:
    """The sweeper listed the data; its jobs, processes of their own, take its word."""
    need("strace")
    words = [*small(course), "hydra/sweeper=optuna", "hydra/launcher=local", "hydra.sweep.dir=sweep"]
    command = [sys.executable, "-m", "cvae.train", "-m", *words, *SPACE, "hydra.sweeper.n_jobs=1"]
    trace = tmp_path / "trace"
    traced = ["strace", "-f", "-qq", "-e", "trace=%file,%process", "-s", "400", "-o", str(trace), *command]
    done = subprocess.run(traced, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split(maxsplit=1) for line in trace.read_text(errors="replace").splitlines()]
    jobs = _jobs(lines)
    looked = [call for pid, call in lines if f'"{course}/' in call and not call.startswith("exec")]
    by_jobs = [call for pid, call in lines if pid in jobs and f'"{course}/' in call and not call.startswith("exec")]
    assert looked, "the sweeper listed the data"
    assert by_jobs == []


def _jobs(lines: list[list[str]]) -> set[str]:
    """The processes that are jobs, and theirs: those that began a Python of their own, but for the first one."""
    first = lines[0][0]
    began = {pid for pid, call in lines if re.match(r'execve\("[^"]*python', call) and pid != first}
    assert began, "the launcher started processes"
    for pid, call in lines:  # in the order in which they happened
        child = re.search(r"(?:clone3?|v?fork)\b.*= (\d+)$", call)
        if child and pid in began:
            began.add(child[1])
    return began
