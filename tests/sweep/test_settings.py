"""What an app declares in its trial block: names and directions of objectives, phases, steps."""

from __future__ import annotations

import optuna
import pytest
from omegaconf import OmegaConf

from cvae.errors import UserError
from cvae.sweep.settings import Declared, read_declared, read_directions
from cvae.sweep.space import read_space
from cvae.sweep.strategies import warn_of_phases


def declared(**trial: object) -> Declared:
    return read_declared(OmegaConf.create({"trial": trial, "names": ["gain", "loss"], "epochs": 7}))


def test_an_app_that_declares_nothing() -> None:
    nothing = Declared([], [], [], None, None)
    assert read_declared(OmegaConf.create({"lr": 1})) == nothing
    assert read_declared(OmegaConf.create({"trial": None})) == nothing
    assert declared(number=3) == nothing
    assert read_directions(None, nothing) == ["minimize"]


def test_one_or_several_objectives() -> None:
    one = declared(objective="gain", direction="maximize", phases="mode", steps="${epochs}", warmup=2)
    assert one == Declared(["gain"], ["maximize"], ["mode"], 7, 2)
    several = declared(objective="${names}", direction=["maximize", "minimize"], phases=["a", "b.c"])
    assert several == Declared(["gain", "loss"], ["maximize", "minimize"], ["a", "b.c"], None, None)
    assert read_directions(None, several) == ["maximize", "minimize"]
    assert read_directions(None, declared(objective=["gain", "loss"], direction="maximize")) == ["maximize", "maximize"]
    assert read_directions(None, declared(objective=["gain", "loss"])) == ["minimize", "minimize"]


def test_what_the_user_says_counts_more() -> None:
    assert read_directions("minimize", declared(direction="maximize")) == ["minimize"]
    assert read_directions(["minimize", "maximize"], declared()) == ["minimize", "maximize"]


@pytest.mark.parametrize(
    ("given", "trial", "parts"),
    [
        ("up", {}, ("hydra.sweeper.direction is 'up'", "maximize or minimize")),
        ([], {}, ("hydra.sweeper.direction is empty",)),
        (None, {"direction": "up"}, ("trial.direction is 'up'",)),
        ("maximize", {"objective": ["gain", "loss"]}, ("hydra.sweeper.direction is maximize", "gain, loss")),
        (None, {"objective": "gain", "direction": ["maximize"] * 2}, ("trial.direction is maximize, maximize", "gain")),
    ],
)
def test_directions_that_do_not_fit(given: object, trial: dict, parts: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        read_directions(given, declared(**trial))
    assert [part for part in parts if part not in str(caught.value)] == [], str(caught.value)


MEDIAN = optuna.pruners.MedianPruner()


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")  # Wilcoxon's
@pytest.mark.parametrize(
    ("word", "warned"),
    [
        ("mode=a,b", "mode"),
        ("mode.length=1,2", "mode.length"),
        ("+net/tail=a,b", "+net/tail"),
        ("moderate=1,2", ""),
        ("net=1,2", ""),
        ("lr=1,2", ""),
    ],
)
def test_a_pruner_over_different_phases_is_warned_of(word: str, warned: str, capsys: pytest.CaptureFixture[str]) -> None:
    phases = ["mode", "net.tail"]
    warn_of_phases(MEDIAN, read_space([word]), phases)
    said = capsys.readouterr().out
    assert said.startswith(f"warning: {warned} is searched with a pruner") if warned else said == ""
    for pruner in (optuna.pruners.NopPruner(), optuna.pruners.WilcoxonPruner()):
        warn_of_phases(pruner, read_space([word]), phases)
    warn_of_phases(MEDIAN, read_space([word]), [])
    assert capsys.readouterr().out == ""
