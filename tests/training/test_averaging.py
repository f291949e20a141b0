"""The moving average of weights: its profile over a run, and what it is used for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import tiny
from torch import nn

import cvae
from cvae import integrity
from cvae.training import checkpoint
from cvae.training.averaging import WIDEST, Average


def profile(width: float, steps: int) -> torch.Tensor:
    """How much each step's weights count in the average after the last one."""
    model = nn.Linear(steps, 1, bias=False).double()
    average = Average(model, width)
    with torch.no_grad():
        for step in range(1, steps + 1):
            model.weight.zero_()[0, step - 1] = 1.0
            average.move(average.shift(step))
    return average.weights()["weight"][0]


@pytest.mark.parametrize("width", [0.03, 0.1, 0.2, WIDEST])
def test_the_profile_is_a_power_of_the_step_of_this_width(width):
    steps = 2000
    share = profile(width, steps)
    at = (torch.arange(1, steps + 1) - 0.5) / steps
    assert share.sum() == pytest.approx(1)
    middle = (share * at).sum()
    assert ((share * (at - middle) ** 2).sum().sqrt()).item() == pytest.approx(width, rel=0.02)
    late, early = share[steps - 1], share[steps // 2 - 1]
    power = (late / early).log() / torch.tensor(2.0).log()
    assert share[steps // 4 - 1] == pytest.approx((early / 2**power).item(), rel=0.05, abs=1e-12)


def test_running_statistics_are_averaged_and_counters_are_not():
    model = nn.BatchNorm1d(2)
    average = Average(model, 0.1)
    for step in (1, 2, 3):
        model(torch.randn(8, 2) + step)
        average.move(average.shift(step))
    assert average.weights().keys() == {"weight", "bias", "running_mean", "running_var"}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert (average.weights()["running_mean"] < before["running_mean"]).all()
    with average.applied():
        assert (model.running_mean < before["running_mean"]).all()
        assert model.num_batches_tracked == 3
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


def test_training_does_not_feel_it_and_what_predicts_is_the_average(train, drawn):
    for name, words in (("plain", ["average=0"]), ("averaged", ["average=0.2"])):
        assert train(*tiny(drawn, "epochs=3", *words), f"hydra.run.dir={name}").code == 0
    plain, averaged = (torch.load(Path(name) / "checkpoints" / "last.pt", weights_only=True) for name in ("plain", "averaged"))
    torch.testing.assert_close(averaged["trained"], plain["model"], rtol=0, atol=0)
    torch.testing.assert_close(averaged["optimizer"], plain["optimizer"], rtol=0, atol=0)
    moved = [name for name, value in plain["model"].items() if not torch.equal(value, averaged["model"][name])]
    assert len(moved) > 10
    loaded = cvae.load("averaged", checkpoint="last").model.state_dict()
    torch.testing.assert_close(dict(loaded), dict(averaged["model"]), rtol=0, atol=0)
    rows, others = (
        [json.loads(line) for line in Path(name, "metrics.jsonl").read_text().splitlines()] for name in ("plain", "averaged")
    )
    assert [row["train/loss"] for row in rows] == [row["train/loss"] for row in others]
    assert rows[-1]["val/psnr"] != others[-1]["val/psnr"]


@pytest.mark.slow
def test_a_damaged_average_is_no_state_to_go_on_from(train, drawn):
    assert train(*tiny(drawn, "average=0.2"), "hydra.run.dir=run").code == 0
    for key in ("model", "trained"):
        path = Path("run/checkpoints/last.pt")
        whole = path.read_bytes()
        state = torch.load(path, weights_only=True)
        facts = integrity.facts(path)
        next(iter(state[key].values())).fill_(float("nan"))
        state.pop("format")
        checkpoint.save(path, state, {name: facts[name] for name in facts if name != "size"})
        result = train("resume=run")
        assert (result.code, result.err.count("\n")) == (1, 1)
        assert "holds NaN or infinity" in result.err
        path.write_bytes(whole)
