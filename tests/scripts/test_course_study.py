"""The course study by its one command: which runs it asks for, what it keeps of them, and that it goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import course_study
import kept_runs
import pytest
from fakes import fake_run
from kept_runs import Job, finish, is_kept, keep

from cvae.config import build
from cvae.errors import UserError
from cvae.run_schedules import Plan
from cvae.runs.run import read_run
from cvae.start import compose
from cvae.training.settings import Settings

TOY = ["model=tiny", "data.train=4", "data.validate=2", "epochs=4", "epoch_size=2", "batch_size=2", "n_future=3", "n_eval=6"]
TOY += ["validate_at=[1,3,5]", "n_samples=1", "validate_every=1", "device=cpu"]


# --- which runs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("full", "forced", "iterations"), [(False, 2400, 3600), (True, 90_000, 180_000)])
def test_every_cell_composes_in_the_regime_that_is_studied(full: bool, forced: int, iterations: int) -> None:
    for part, lr, level, seed in (
        ("forcing", 5e-4, "step", 1),
        ("forcing", 2e-3, "linear", 2),
        ("annealing", 2e-3, "cyclical", 3),
    ):
        cfg = compose(course_study.job(part, lr, level, seed, full, 3e-6, ["data.root=/frames"] * full).words)
        assert (cfg.lr, cfg.seed, cfg.batch_size, cfg.epochs * cfg.epoch_size) == (lr, seed, 12, iterations)
        kl, forcing = (build(cfg[key]) for key in ("kl_schedule", "tf_schedule"))
        assert (type(kl).__name__.lower(), type(forcing).__name__.lower()) == (
            ("monotonic", level) if part == "forcing" else (level, "step")
        )
        if level != "linear":
            ratios = [forcing(epoch / cfg.epochs) for epoch in range(cfg.epochs)]  # compat=course: they move once an epoch
            assert sum(ratios) * cfg.epoch_size == forced
            plan = Plan(kl, forcing, cfg.beta, cfg.tfr, cfg.epochs, cfg.schedule_step)  # what lr_rewarm starts from
            assert plan.forcing_ends * cfg.epoch_size == pytest.approx(forced)
        if level == "cyclical":  # full weight where forcing ends, then a whole cycle from 0
            after = [kl(t / 1000) for t in range(1000 * forced // iterations, 1001)]
            assert after[0] == after[-1] == 1
            assert min(after) < 0.01
        assert cfg.beta == (1 if part == "forcing" else 3e-6)
        assert (cfg.n_samples == 10) == (part == "annealing")
        moments = moments_of(cfg)
        for begin in (forced - 100, forced):
            assert len([moment for moment in moments if begin < moment <= begin + 100]) >= 5
        assert cfg.schedule_step == "epoch"


def moments_of(cfg) -> frozenset[int]:
    """The iterations of ``validate_at``."""
    settings = object.__new__(Settings)
    for name in ("epochs", "epoch_size", "validate_at"):
        object.__setattr__(settings, name, cfg[name])
    return settings.moments


def test_a_study_has_three_seeds_of_eight_cells_and_its_pilot_is_part_of_it() -> None:
    cells = course_study.cells(3)
    assert len(cells) == len(set(cells)) == 24
    pilot = [cell for cell in cells if course_study.is_pilot(*cell)]
    assert [cell for cell in pilot if cell[0] == "forcing"] == [("forcing", 5e-4, "step", seed) for seed in (1, 2, 3)]
    assert len({cell[1:3] for cell in pilot if cell[0] == "annealing"}) == 4
    named = {course_study.job(*cell, False, None, []).name for cell in cells}
    assert len(named) == 24


@pytest.mark.parametrize(("fall", "nats", "good"), [(0.5, 2.0, True), (0.29, 2.0, False), (0.5, 0.9, False)])
def test_a_pilot_needs_a_fall_on_its_mean_and_a_latent_in_every_cell(tmp_path, fall, nats, good) -> None:
    def run(name, psnr, kld):
        def rows(epoch):
            return {"step": 100 * epoch, "tf_ratio": float(epoch == 1), "train/kld": kld}

        fake_run(tmp_path / name, psnr, epoch_size=100, rows=rows)

    run("forcing/a", [20.0, 20.0 - 2 * fall, 20.0, 20.0], 0.0)
    run("forcing/b", [20.0, 20.0, 20.0, 20.0], 0.0)
    run("annealing/a", [20.0, 20.0], 5.0)
    run("annealing/b", [20.0, 20.0], nats)
    lines, found = course_study.pilot([read_run(folder) for folder in sorted(tmp_path.glob("*/*"))])
    assert found == good
    assert f"mean {fall:+.2f}" in lines[0]
    assert f"5, {nats:.3g} nats" in lines[1]


# --- what is kept -----------------------------------------------------------------------------------------------------

WORDS = ("likelihood=mse", "epochs=3", "logger=none", "data=course", "data.root=/secret/place")


def test_a_run_is_kept_without_places_and_known_by_its_settings(tmp_path) -> None:
    run = fake_run(tmp_path / "run", words=WORDS)
    (run / "validations.jsonl").write_text('{"step": 1, "epoch": 0.5, "val/psnr": 18.5}\n')
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "options": {"tf_schedule": "step"}}))
    keep(run, tmp_path / "kept" / "a")
    kept = read_run(tmp_path / "kept" / "a")
    assert (kept.state, kept.rows, [row["step"] for row in kept.inside]) == ("finished", read_run(run).rows, [1])
    assert kept.options["tf_schedule"] == "step"
    text = "".join(path.read_text() for path in (tmp_path / "kept").rglob("*") if path.is_file())
    assert "secret" not in text
    assert str(tmp_path) not in text
    assert is_kept(Job("a", (*WORDS[:-1], "data.root=/elsewhere", "device=cpu")), tmp_path / "kept")
    assert not is_kept(Job("a", (*WORDS, "lr=1e-3")), tmp_path / "kept")
    assert not is_kept(Job("b", WORDS), tmp_path / "kept")


def test_a_run_that_is_not_finished_is_not_kept(tmp_path) -> None:
    run = fake_run(tmp_path / "run", words=WORDS)
    (run / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text().splitlines(keepends=True)[0])
    with pytest.raises(UserError, match="move it away"):
        keep(run, tmp_path / "kept" / "a")
    assert not (tmp_path / "kept").exists()


# --- the study itself -------------------------------------------------------------------------------------------------


class Ran:
    """A process that has ended."""

    def __init__(self, returncode: int) -> None:
        self.returncode = returncode

    def poll(self) -> int:
        return self.returncode

    wait = poll

    def terminate(self) -> None:
        """It has ended."""


@pytest.fixture
def in_process(train, monkeypatch):
    """Runs in this process, without a start of an interpreter each; yields the commands, and may stop before one of them."""
    commands: list[list[str]] = []

    def process(command, log):
        if len(commands) == process.most:
            raise KeyboardInterrupt
        commands.append(command[3:])
        argv = sys.argv
        done = train(*command[3:])
        monkeypatch.setattr(sys, "argv", argv)  # of the study, which its page shows
        log.write((done.out + done.err).encode())
        return Ran(done.code)

    process.most, process.commands = None, commands
    monkeypatch.setattr(kept_runs, "process", process)
    return process


def study(monkeypatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["scripts/course_study.py", "--seeds", "1", "--out", "docs/study.md", *words, *TOY])
    course_study.main()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_study_that_was_stopped_goes_on_in_a_fresh_clone_with_the_same_page(in_process, monkeypatch, tmp_path) -> None:
    first, clone, third = (tmp_path / name for name in ("first", "clone", "third"))
    first.mkdir()
    monkeypatch.chdir(first)
    in_process.most = 3
    with pytest.raises(KeyboardInterrupt):
        study(monkeypatch, "--anyway")
    assert len(list(Path("docs/study_files/runs").glob("*/*/metrics.jsonl"))) == 2  # the third had not been looked at
    with pytest.raises(SystemExit):
        study(monkeypatch, "--so-far")
    shutil.copytree(first / "docs", clone / "docs")
    in_process.most = None
    third_run = [cell for cell in course_study.cells(1) if course_study.is_pilot(*cell)][2]
    finish([course_study.job(*third_run, False, None, TOY)], Path("docs/study_files/runs"), Path("multirun/course_study"))
    assert in_process.commands[3][0].startswith("resume=")  # it had ended, and was not looked at
    monkeypatch.chdir(clone)
    in_process.commands.clear()
    study(monkeypatch, "--anyway")
    assert len(in_process.commands) == 6
    page = Path("docs/study.md").read_text()
    assert page.split("\n\n")[1].startswith("8 runs of 8 iterations on data=synthetic (world 1), 1 seed a cell")
    assert all(Path(f"docs/study_files/{part}.png").is_file() for part in course_study.PARTS)
    shutil.copytree(clone / "docs", third / "docs")
    monkeypatch.chdir(third)
    in_process.commands.clear()
    study(monkeypatch, "--anyway")
    assert in_process.commands == []
    assert Path("docs/study.md").read_text() == page
    study(monkeypatch, "--so-far")
    assert Path("docs/study.md").read_text() == page.replace("--anyway ", "")
    shutil.rmtree("docs/study_files/runs/annealing/lr0.002_cyclical_seed1")
    study(monkeypatch, "--so-far")
    part = Path("docs/study.md").read_text()
    assert "The study is not complete: these are 4 of its 8 runs, and" in part
    assert "The end of teacher forcing" in part
    assert "annealing.png" not in part


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_without_a_fall_there_is_no_study(in_process, monkeypatch) -> None:
    with pytest.raises(SystemExit):
        study(monkeypatch)
    assert len(in_process.commands) == 5  # the pilot's
    assert not Path("docs/study.md").exists()


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_runs_save_where_they_are_when_the_study_is_stopped(tmp_path) -> None:
    words = ["experiment=course_forcing_quick", *TOY, "validate_at=[]", "epochs=200"]
    code = f"from kept_runs import *; finish([Job('a', {tuple(words)!r})], Path('kept'), Path('work'))"
    paths = os.pathsep.join([str(Path(kept_runs.__file__).parent), str(Path(kept_runs.__file__).parents[1])])
    start = [sys.executable, "-c", code]
    process = subprocess.Popen(start, env={**os.environ, "PYTHONPATH": paths})
    rows = Path("work/a/metrics.jsonl")
    while process.poll() is None and not (rows.is_file() and rows.read_text()):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM
    assert "stopped by SIGTERM" in Path("work/a.log").read_text()
    begun = len(rows.read_text().splitlines())
    assert 0 < begun < 200
    # Of other settings: in a folder of its own.
    finish([Job("a", (*words[:-1], f"epochs={begun + 2}"))], Path("kept"), Path("work"))
    assert len(rows.read_text().splitlines()) == begun
    assert len(Path("kept/a/metrics.jsonl").read_text().splitlines()) == begun + 2
