"""A run goes on with the data that it began with: others are refused with what changed, the same ones may lie elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import draw_course, draw_sequence, tiny
from omegaconf import OmegaConf

from cvae.errors import UserError
from cvae.resume import reopen
from cvae.start import compose
from cvae.training.assembly import assemble
from cvae.training.content import describe, note_data, open_data
from cvae.trial import NoTrial


@pytest.fixture
def run(tmp_path) -> Path:
    """A run of ``data`` that has not begun its first epoch."""
    folder = tmp_path / "run"
    cfg = compose(tiny(draw_course(tmp_path / "data")))
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra/config.yaml").write_text(OmegaConf.to_yaml(cfg))
    assemble(cfg, folder, None, False, NoTrial())
    return folder


def go_on(run: Path, *words: str) -> None:
    cfg, folder = reopen([f"resume={run}", *words])
    assemble(cfg, folder, None, True, NoTrial())


def test_run_json_says_what_the_data_hold(run):
    record = json.loads((run / "run.json").read_text())
    assert {name: (split["sequences"], split["frames"]) for name, split in record["splits"].items()} == {
        "train": (4, 120),
        "validate": (2, 60),
    }
    go_on(run)


def test_changed_data_are_refused_with_what_changed(run):
    draw_sequence(Path("data/train/take 9/09"), 9)
    with pytest.raises(UserError, match=r"the data of run changed .*train had 4 sequences, now 5.*data\.root=FOLDER"):
        go_on(run)
    shutil.rmtree("data/train/take 9")
    go_on(run)
    shutil.copyfile("data/validate/take 0/00/3.png", "data/validate/take 0/00/4.png")
    with pytest.raises(UserError, match=r"the data of run changed"):
        go_on(run)


def test_moved_data_are_named_by_the_command(run, tmp_path):
    Path("data").rename("elsewhere")
    with pytest.raises(UserError, match=r"which is not there: bring the data back to it, or give data\.root=FOLDER"):
        go_on(run)
    go_on(run, "data.root=elsewhere", f"data.cache_dir={tmp_path / 'c'}", "data.workers=1", "data.resident=host")
    assert (tmp_path / "c/packed").is_dir()
    draw_course(tmp_path / "other", train=3)
    with pytest.raises(UserError, match="train had 4 sequences, now 3"):
        go_on(run, "data.root=other")
    with pytest.raises(UserError, match=r"data\.condition cannot change in a resumed run"):
        go_on(run, "data.root=elsewhere", "data.condition=none")


def test_an_old_record_is_not_compared_by_split_and_may_say_nothing(run):
    record = json.loads((run / "run.json").read_text())
    del record["splits"], record["sha256"]
    (run / "run.json").write_text(json.dumps(record))
    draw_sequence(Path("data/train/take 9/09"), 9)
    with pytest.raises(UserError, match=r"the data of run changed since it began \(fingerprint"):
        go_on(run)
    del record["dataset"]
    (run / "run.json").write_text(json.dumps(record))
    go_on(run)


def test_a_relative_root_counts_from_where_the_user_stood(tmp_path, train, drawn, monkeypatch):
    (tmp_path / "home").mkdir()
    monkeypatch.chdir("home")
    (tmp_path / "home/data").symlink_to(drawn)
    monkeypatch.setenv("CVAE_CACHE", "cache")
    words = [*tiny(Path("data")), "hydra.job.chdir=true", "hydra.run.dir=run"]
    result = train(*words)
    assert result.code == 0, result.err
    assert "root: data\n" in Path(tmp_path / "home/run/.hydra/config.yaml").read_text()
    assert (tmp_path / "home/cache/packed").is_dir()
    monkeypatch.chdir(tmp_path)
    result = train(f"resume={tmp_path}/home/run")
    assert (result.code, "this run is finished" in result.out) == (0, True), result.err


class Data:
    """What is asked of a dataset, and noted."""

    def __init__(self) -> None:
        self.expected: list[str] = []

    def expect(self, fingerprint: str) -> None:
        self.expected.append(fingerprint)


def test_a_sweeps_job_takes_what_its_sweeper_found(monkeypatch):
    data = Data()
    monkeypatch.setattr("cvae.training.content.build", lambda *_: data)
    for trial, expected in [(None, []), ({"number": 3}, []), ({"data": "${lr}"}, []), ({"data": "abc"}, ["abc"])]:
        cfg = OmegaConf.create({"data": {}, "allow_targets": [], "lr": 1, "trial": trial})
        open_data(cfg)
        assert data.expected == expected
        note_data(cfg, "def")
        assert (cfg.trial or {}).get("data") == ("def" if trial and "data" in trial else None)


def test_a_trial_is_told_which_data_its_job_has(run):
    class Told(NoTrial):
        def use_data(self, fingerprint: str) -> None:
            raise UserError(f"other data: {fingerprint}")

    cfg, folder = reopen([f"resume={run}"])
    with pytest.raises(UserError, match=f"other data: {describe(open_data(cfg))['dataset']}"):
        assemble(cfg, folder, None, True, Told())
