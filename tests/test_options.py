"""A run is known by the names of the options that were chosen, not by class paths."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from conftest import tiny
from fakes import fake_run

from cvae.options import believed, chosen
from cvae.runs.run import read_run


def hydra_of(folder: Path, choices: object, words: object = ()) -> Path:
    (folder / ".hydra").mkdir(parents=True, exist_ok=True)
    content = {"hydra": {"runtime": {"choices": choices}, "overrides": {"task": words}}}
    (folder / ".hydra/hydra.yaml").write_text(yaml.safe_dump(content))
    return folder


def test_run_json_and_the_reader_know_the_options_by_name(train, drawn):
    words = ["epochs=1", "optim._target_=torch.optim.AdamW", "hydra.run.dir=run"]
    done = train(*tiny(drawn), *words)
    assert done.code == 0, done.err
    options = json.loads(Path("run/run.json").read_text())["options"]
    expected = {"data": "course", "model": "tiny", "kl_schedule": "cyclical", "likelihood": "mse", "logger": "none"}
    assert expected.items() <= options.items()
    assert not [name for name in options if name.startswith("hydra")]
    assert "optim" not in options  # another class than the option's
    assert read_run(Path("run")).options == {**options, "optim": "adam_w"}


def test_an_old_run_tells_its_options_by_hydras_record_else_by_its_classes(tmp_path):
    run = fake_run(tmp_path / "run", kl_schedule="cyclical")
    assert read_run(run).options["kl_schedule"] == "cyclical"
    hydra_of(run, {"model": "tiny", "kl_schedule": "mine", "experiment": None, "hydra/help": "default"})
    assert {"model": "tiny", "kl_schedule": "mine"}.items() <= read_run(run).options.items()
    old = read_run(Path(__file__).parent / "fixtures/run_0_1_0")
    assert (old.options["model"], old.options["data"]) == ("tiny", "synthetic")


def test_a_replaced_class_has_no_options_name(tmp_path):
    run = hydra_of(tmp_path, {"model": "tiny", "optim": "adam"}, ["lr=1", "++optim._target_=torch.optim.SGD"])
    assert chosen(run) == {"model": "tiny"}


@pytest.mark.parametrize("choices", [None, [], 7, {"a": {"b": 1}, 3: "x"}, {"a": "b" * 500, "\x1b[2J": "c"}])
def test_what_a_stranger_writes_there_is_short_text_or_nothing(tmp_path, choices):
    found = chosen(hydra_of(tmp_path, choices))
    assert found is None or all(len(text) <= 100 and "\x1b" not in text for pair in found.items() for text in pair)
    assert believed(choices) is None or set(map(type, believed(choices).values())) <= {str}


def test_a_run_without_hydra_says_nothing(tmp_path):
    assert chosen(tmp_path) is None
