"""Validations inside epochs: they change no number of the run, and a run that goes on has each of them once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import tiny
from omegaconf import OmegaConf

from cvae import damage
from cvae.damage import Damage
from cvae.errors import UserError
from cvae.report.html.data import page_data
from cvae.runs.collection import collect
from cvae.runs.run import read_run
from cvae.start import compose
from cvae.training.assembly import assemble, build_trainer
from cvae.training.runtime import Stopped
from cvae.training.trainer import Trainer
from cvae.trial import NoTrial

RUN = ["epochs=3", "epoch_size=4", "validate_every=2", "sample_every=0", "average=0.1"]
AT = "validate_at=[2:10:2,7]"
STEPS = [2, 4, 6, 7, 8, 10]


class EndsAfter(NoTrial):
    """A sweep that ends after so many looks, one a step."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    @property
    def stopping(self) -> bool:
        self.looks -= 1
        return self.looks < 0


class Told:
    """A logger that takes what it is told of validations inside epochs."""

    def __init__(self) -> None:
        self.rows: list[dict] = []

    def start(self, info): ...
    def log(self, row): ...
    def sample(self, gif, epoch): ...
    def finish(self, exit_code, state=None): ...
    def validation(self, row):
        self.rows.append(row)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def history(run: Path) -> list[dict]:
    return [{key: value for key, value in row.items() if key not in ("seconds", "frames_per_second")} for row in lines(run)]


@pytest.fixture(scope="module")
def runs(drawn, tmp_path_factory) -> tuple[Path, Path, Path, list[dict]]:
    """A run without, one with, one with that was stopped after its 7th step; and what the second one's logger was told."""
    folder, told = tmp_path_factory.mktemp("runs"), Told()
    for name, words, looks in (("without", [], 99), ("with", [AT], 99), ("stopped", [AT], 6)):
        cfg = compose([*tiny(drawn, *RUN, *words), f"data.cache_dir={folder}/cache"])
        (folder / name / ".hydra").mkdir(parents=True)
        (folder / name / ".hydra/config.yaml").write_text(OmegaConf.to_yaml(cfg))
        trainer, recorder = assemble(cfg, folder / name, None, False, NoTrial())
        if name == "with":
            recorder.mirror = told
        try:
            trainer.fit(EndsAfter(looks))
        except Stopped:
            assert name == "stopped"
    return folder / "without", folder / "with", folder / "stopped", told.rows


def test_they_change_no_number_of_the_run(runs):
    without, run, _, _ = runs
    assert history(without / "metrics.jsonl") == history(run / "metrics.jsonl")
    a, b = (torch.load(each / "checkpoints/last.pt", weights_only=True) for each in (without, run))
    a.pop("elapsed"), b.pop("elapsed")
    torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not (without / "validations.jsonl").exists()


def test_each_stands_in_the_file_with_what_validation_finds(runs):
    _, run, _, told = runs
    rows = lines(run / "validations.jsonl")
    assert [(row["step"], row["epoch"]) for row in rows] == [(step, step / 4) for step in STEPS]
    epoch = next(row for row in lines(run / "metrics.jsonl") if row["epoch"] == 2)
    scores = {key: value for key, value in epoch.items() if key.startswith("val/")}
    assert rows[4] == {"step": 8, "epoch": 2.0, **scores}
    assert len({row["val/psnr"] for row in rows}) == len(rows)
    assert told == rows


def test_a_run_that_goes_on_has_each_of_them_once(runs, drawn, tmp_path, monkeypatch):
    _, whole, stopped, _ = runs
    run = shutil.copytree(stopped, tmp_path / "run")
    assert [row["step"] for row in lines(run / "validations.jsonl")] == STEPS[:4]
    with (run / "validations.jsonl").open("a") as file:
        file.write('{"step": 8, "epoch": 2.0, "val/psnr": 99.0}\n{"step": 1')  # what a kill left after the checkpoint
    cfg = compose([*tiny(drawn, *RUN, AT), f"data.cache_dir={tmp_path}/cache"])
    trainer, _ = assemble(cfg, run, None, True, NoTrial())
    trainer.fit()
    assert (run / "validations.jsonl").read_bytes() == (whole / "validations.jsonl").read_bytes()
    assert history(run / "metrics.jsonl") == history(whole / "metrics.jsonl")


@pytest.mark.parametrize("how", ["a digit", "a line lost", "lost"])
def test_damage_is_named(runs, tmp_path, how):
    run = shutil.copytree(runs[1], tmp_path / "run")
    path = run / "validations.jsonl"
    first, *rest = path.read_bytes().splitlines(keepends=True)
    if how == "lost":
        path.unlink()
    else:
        path.write_bytes(b"".join(rest if how == "a line lost" else [first.replace(b"1", b"2", 1), *rest]))
    with pytest.raises(Damage, match=r"validations\.jsonl is (damaged|missing)"):
        damage.check(run)
    found = read_run(run)
    assert any("validations.jsonl is" in each for each in found.problems)
    assert not found.inside


def test_curves_of_the_report_have_their_points(runs):
    run = read_run(runs[1])
    assert [row["step"] for row in run.inside] == STEPS
    (found,) = page_data(collect([str(runs[1])]), "runs", "", 0, False)["runs"]
    points = dict(zip(found["curves"]["epoch"], found["curves"]["val/psnr"], strict=True))
    assert {step / 4 for step in STEPS} <= {epoch for epoch, value in points.items() if value is not None}
    assert found["epoch"] == 3


@pytest.mark.parametrize("words", ["[13]", "[0]", "[5:3:1]", "[1:9:0]", "[x]", "[1.5]", "[-3]", "[1:2]", f"[{10**30}]"])
def test_what_is_no_iteration_of_the_run_is_named(drawn, tmp_path, words):
    cfg = compose([*tiny(drawn, *RUN, f"validate_at={words}"), f"data.cache_dir={tmp_path}"])
    with pytest.raises(UserError, match=r"validate_at is .*give iterations of the run, 1 to 12"):
        build_trainer(cfg, tmp_path / "run")


def test_signals_and_pruning_see_no_validation_inside_an_epoch(drawn, tmp_path):
    """It reports to no trial and chooses no best.pt."""
    reports: list[int] = []

    class Reported(NoTrial):
        def report(self, epoch: int, value: float) -> None:
            reports.append(epoch)

    cfg = compose([*tiny(drawn, *RUN, AT), f"data.cache_dir={tmp_path}/cache"])
    trainer: Trainer
    trainer, _ = assemble(cfg, tmp_path / "run", None, False, NoTrial())
    trainer.fit(Reported())
    assert reports == [2, 3]
