"""One logger, several at once, or one of the user's own: each gets the keys that it takes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from conftest import tiny

from cvae.errors import UserError
from cvae.start import compose
from cvae.training.loggers import build_mirror
from cvae.training.recorder import NoMirror
from cvae.training.tensorboard_mirror import TensorboardMirror
from cvae.training.wandb_mirror import WandbMirror

MINE = """
class Mine:
    def __init__(self, name=None, colour="red"):
        self.name, self.colour = name, colour
    def start(self, info): ...
    def log(self, row): ...
    def sample(self, gif, epoch): ...
    def finish(self, exit_code, state=None): ...
"""


def built(*words):
    return build_mirror(compose(words))


def test_one_logger_is_one_mirror():
    assert isinstance(built(), WandbMirror)
    assert isinstance(built("logger=none"), NoMirror)
    assert isinstance(built("logger=[tensorboard]"), TensorboardMirror)


def test_several_share_the_keys_that_they_take_and_have_their_own():
    words = ["logger=[wandb,tensorboard]", "logger.mode=offline", "logger.name=us", "+logger.wandb.name=me", "seed=4"]
    wandb, board = built(*words, "logger.notes='seed ${seed}'").each
    assert (wandb.mode, wandb.name, wandb.notes, type(board)) == ("offline", "me", "seed 4", TensorboardMirror)


def test_a_logger_of_the_users_own_joins_in_both_forms(tmp_path, monkeypatch):
    (tmp_path / "mypkg.py").write_text(MINE)
    (tmp_path / "conf/logger").mkdir(parents=True)
    (tmp_path / "conf/logger/old.yaml").write_text("_target_: mypkg.Mine\ncolour: blue\n")
    (tmp_path / "conf/logger/new.yaml").write_text("mine: {_target_: mypkg.Mine, colour: blue}\n")
    monkeypatch.syspath_prepend(tmp_path)
    for option in ("old", "new"):
        words = [f"hydra.searchpath=[file://{tmp_path}/conf]", "allow_targets=[mypkg]", "logger.name=us"]
        wandb, mine = built(f"logger=[wandb,{option}]", *words).each
        assert (wandb.name, mine.name, mine.colour) == ("us", "us", "blue")
        with pytest.raises(UserError, match="not allowed"):
            built(f"logger=[wandb,{option}]", *words[:1])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["logger=[wandb,tensorboard]", "+logger.colour=red"], "logger.colour: wandb and tensorboard take no such key, but"),
        (["logger=tensorboard", "+logger.mode=offline"], "logger.mode: tensorboard take no such key, but nothing"),
        (["+logger.x._target_=os.mkdir"], "logger.x._target_ is 'os.mkdir', which is not allowed"),
        (["+logger.x._target_=cvae.data.arrays.ArrayData"], "not allowed"),
        (["logger.tags=[{_target_: os.mkdir}]"], "not allowed"),
        (["logger.notes='\\${oc.env:HOME}'"], "escaped interpolation"),
        (["logger.artifacts=true"], "logger.artifacts is True"),
        (["logger.artifacts=some"], "choose false, best or all"),
        (["logger.videos=some"], "logger.videos is 'some'"),
        (["logger.videos=-1"], "logger.videos is -1"),
        (["logger.video_kb=0"], "logger.video_kb is 0"),
    ],
)
def test_what_does_not_fit_is_one_line(words, said):
    with pytest.raises(UserError) as error:
        built(*words)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_two_views_show_the_same_run(train, drawn):
    words = ["logger=[wandb,tensorboard]", "logger.mode=offline", "epochs=1", "hydra.run.dir=run"]
    done = train(*tiny(drawn), *words)
    assert done.code == 0, done.err
    assert "wandb sync run/wandb/offline-run-*" in done.out
    assert list(Path("run/tensorboard").iterdir())
    record = json.loads(Path("run/run.json").read_text())
    assert list(Path("run").glob(f"wandb/offline-run-*-{record['id']}"))


@pytest.mark.parametrize("method", ["start", "log", "sample", "finish"])
def test_a_logger_that_raises_is_left_out_and_the_run_goes_on(train, drawn, tmp_path, monkeypatch, method):
    raising = MINE.replace(
        f"def {method}(self", f"def {method}(self, *_, **__): raise ValueError('no view')\n    def other(self"
    )
    (tmp_path / "raising.py").write_text(raising.replace("row): ...", "row): row.clear()"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "raising", raising=False)
    words = ["+logger.mine={_target_: raising.Mine}", "allow_targets=[raising]", "epochs=2", "sample_every=1"]
    done = train(*tiny(drawn, *words), "hydra.run.dir=run")
    assert done.code == 0
    said = " ".join((done.out + done.err).split())
    assert said.count(f"logger: raising.Mine.{method} raises ValueError (no view): the run goes on without it") == 1
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert Path("run/checkpoints/last.pt").exists()


def test_a_member_that_cannot_be_called_is_named(tmp_path, monkeypatch):
    (tmp_path / "silent.py").write_text(MINE.replace("def log(self, row): ...", "log = 3"))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="has no log to call: a Mirror is needed"):
        built("logger=none", "+logger.mine={_target_: silent.Mine}", "allow_targets=[silent]")
