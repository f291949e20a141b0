"""``train(cfg)``: a run that Python starts is what the command would have made."""

from __future__ import annotations

import json
import logging
import shlex
import sys
from pathlib import Path

import pytest
from conftest import tiny
from omegaconf import OmegaConf

from cvae.config import signature
from cvae.damage import read_rows
from cvae.errors import UserError
from cvae.from_python import words_of
from cvae.runs.run import read_run
from cvae.start import compose
from cvae.train import train as train_from_python

INTERRUPTING = """
import signal
__all__ = ["odd"]
asked = []
def odd(predicted, true):
    asked.append(predicted.shape)
    if len(asked) == 2:  # it is tried before the run begins
        signal.raise_signal(signal.SIGINT)
    return (predicted - true).abs().mean(dim=(-3, -2, -1))
"""


def plain(cfg: object) -> object:
    return OmegaConf.to_container(cfg, resolve=False)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["data=course", "data.root='/a b/{c}'", "prior=learned", "logger=none", "objective=[val/psnr,train/mse]", "lr=2e-3"],
        ["compat=course", "optim=sgd", "tf_schedule=linear", "beta=1e-05", "allow_targets=[mypkg]", "~kl_schedule.ramp"],
        ["+metrics.mae._target_=mypkg.mae", "+metrics.mae.better=min", "data=course", "data.root=${oc.env:HOME}/x"],
    ],
)
def test_the_words_of_a_config_compose_to_it(words: list[str]) -> None:
    cfg = compose(words)
    assert plain(compose(words_of(cfg))) == plain(cfg)


def test_a_dataset_of_one_s_own_takes_the_place_of_the_usual_one(tmp_path, monkeypatch):
    """Whose root is null, and Hydra takes no null away."""
    given = [
        "~data",
        "data={_target_: cvae.data.arrays.ArrayData, source: {_target_: mypkg.load, _partial_: true, path: 'a b'}}",
    ]
    words = words_of(compose([*given, "allow_targets=[mypkg]"]))
    assert "~data" in words
    assert compose(words).data == compose([*given, "allow_targets=[mypkg]"]).data


def test_what_no_command_composes_to_is_one_line() -> None:
    odd = compose(["model=tiny", "logger=none"])
    OmegaConf.update(odd, "metrics", {"a b": {"_target_": "x.y", "better": "max"}}, force_add=True)
    none = compose(["logger=none"])
    none.model = None
    for cfg in (odd, none, {"lr": 1}):
        with pytest.raises(UserError) as raised:
            words_of(cfg)
        assert "\n" not in str(raised.value)


def test_what_is_chosen_has_its_option_s_name() -> None:
    cfg = compose(["kl_schedule=cyclical", "model=tiny", "logger=none"])
    cfg.lr, cfg.model.latent_dim = 3e-3, 8
    assert sorted(words_of(cfg)) == ["kl_schedule=cyclical", "logger=none", "lr=0.003", "model.latent_dim=8", "model=tiny"]
    cfg.kl_schedule = OmegaConf.create({"_target_": "mypkg.Ramp", "over": 0.3})
    assert {"++kl_schedule.over=0.3", "kl_schedule._target_=mypkg.Ramp"} <= set(words_of(cfg))
    assert not any(word.startswith("kl_schedule=") for word in words_of(cfg))


@pytest.mark.slow
def test_a_run_is_that_of_the_command(train, drawn: Path) -> None:
    words, logging_before = sys.argv, logging.getLogger().handlers[:]
    best = train_from_python(compose(tiny(drawn)))
    assert sys.argv is words
    assert logging.getLogger().handlers == logging_before
    folder = next(Path("multirun/single").iterdir())
    record = json.loads((folder / "run.json").read_text())
    command = shlex.split(record["command"])
    assert command[:3] == ["python", "-m", "cvae.train"]
    assert {"model=tiny", "kl_schedule=cyclical"} <= set(command)
    assert train(*command[3:], "hydra.run.dir=again").code == 0
    again = json.loads(Path("again/run.json").read_text())
    assert again["signature"] == record["signature"] == signature(compose(tiny(drawn)))
    kept = [read_rows(run / "metrics.jsonl") for run in (folder, Path("again"))]
    for row in (*kept[0], *kept[1]):
        del row["seconds"], row["frames_per_second"]
    assert kept[0] == kept[1]
    assert max(row["val/psnr"] for row in kept[0]) == best
    assert {path.name for path in folder.iterdir()} == {path.name for path in Path("again").iterdir()}
    assert {path.name for path in (folder / ".hydra").iterdir()} == {"config.yaml", "hydra.yaml", "overrides.yaml"}
    assert read_run(folder).state == "finished"
    assert "nothing to do" in train(f"resume={folder}").out
    with pytest.raises(UserError, match="already holds a run"):
        train_from_python(compose(tiny(drawn)), "again")


@pytest.mark.slow
def test_an_interrupt_is_one_and_the_run_goes_on_from_where_it_was(train, drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mypkg.py").write_text(INTERRUPTING)
    monkeypatch.syspath_prepend(Path.cwd())
    cfg = compose(tiny(drawn, "allow_targets=[mypkg]", "+metrics.odd._target_=mypkg.odd", "+metrics.odd.better=min"))
    with pytest.raises(KeyboardInterrupt):
        train_from_python(cfg, "run")
    assert len(read_rows(Path("run/metrics.jsonl"))) == 1
    done = train("resume=run", "allow_targets=[mypkg]")
    assert done.code == 0, done.err
    assert len(read_rows(Path("run/metrics.jsonl"))) == 2


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("batch_size=0", "batch_size is 0"),
        ("resume=somewhere", "resume=somewhere is for the command"),
        ("show=schedules", "is for the command"),
    ],
)
def test_bad_settings_are_raised_and_nothing_is_printed(drawn: Path, capfd, word: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train_from_python(compose(tiny(drawn, word)), "run")
    assert "Error executing job" not in capfd.readouterr().err
    if "batch" in word:
        assert message in Path("run/failure.txt").read_text()
