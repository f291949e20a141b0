"""The KL weight that follows the KL: where it settles, from when it acts, and what a run keeps of it."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch
from conftest import tiny

from cvae import integrity
from cvae.schedules import Linear, Step, Target
from cvae.training import checkpoint
from cvae.training.control import KLControl

CPU = torch.device("cpu")


def settles(target: Target, plant, steps: int = 3000, start: float = 0.0) -> tuple[float, float]:
    """The KL and the factor at the end, of a latent whose KL follows the weight with a lag and noise."""
    control, generator = KLControl(target, Step(start), CPU), torch.Generator().manual_seed(1)
    kl = plant(1.0)
    for step in range(steps):
        kl += 0.1 * (plant(control.factor().item()) - kl)
        control.observe(torch.tensor(kl * math.exp(0.2 * torch.randn((), generator=generator).item())), step / steps)
    return kl, control.factor().item()


@pytest.mark.parametrize("wanted", [0.3, 2.0, 9.0])
def test_it_settles_where_the_kl_is_as_wanted(wanted):
    kl, _ = settles(Target(nats=wanted, ramp=0), lambda weight: 3 / weight)
    assert kl == pytest.approx(wanted, rel=0.1)


def test_one_side_leaves_the_other_alone():
    def plant(weight: float) -> float:
        return 3 / weight

    assert settles(Target(nats=9, side="above", ramp=0), plant) == (pytest.approx(3), 1)
    assert settles(Target(nats=1, side="above", ramp=0), plant)[0] == pytest.approx(1, rel=0.1)
    assert settles(Target(nats=1, side="below", ramp=0), plant) == (pytest.approx(3), 1)
    assert settles(Target(nats=9, side="below", ramp=0), plant)[0] == pytest.approx(9, rel=0.1)


def test_a_kl_that_does_not_answer_moves_the_weight_to_its_bound_and_no_farther():
    assert settles(Target(nats=1, ramp=0), lambda weight: 0.0)[1] == pytest.approx(1 / 30, rel=1e-3)
    assert settles(Target(nats=1, ramp=0), lambda weight: 99.0)[1] == pytest.approx(30, rel=1e-3)


def test_it_acts_from_where_forcing_has_fallen_to_half():
    for tf_schedule, start in ((Step(0.3), 0.3), (Linear(), 0.5), (Step(0.0), 0.125)):
        control = KLControl(Target(nats=1, ramp=0.25), tf_schedule, CPU)
        assert control.start == pytest.approx(start, abs=2e-3)
        control.observe(torch.tensor(50.0), start - 0.01)
        assert control.factor() == 1
        control.observe(torch.tensor(50.0), start + 0.01)
        assert control.factor() > 1


def test_a_run_records_the_weight_that_it_used_and_goes_on_exactly(train, drawn):
    words = tiny(drawn, "kl_schedule=target", "kl_schedule.nats=0.5", "tf_schedule.at=0", "kl_schedule.ramp=0", "beta=1e-4")
    assert train(*words, "epochs=3", "epoch_size=3", "hydra.run.dir=run").code == 0
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    weights = [row["kl_weight"] for row in rows]
    assert 1e-4 > weights[0] > weights[1] > weights[2] > 8e-5  # far less KL than wanted: 2 % a step at most
    state = torch.load("run/checkpoints/last.pt", weights_only=True)
    assert -0.18 < state["control"]["log_factor"] < 0
    assert 1e-4 * math.exp(state["control"]["log_factor"]) < weights[2]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["kl_schedule.nats=0"], "Target.nats is 0"),
        (["kl_schedule.side=left"], "Target.side is 'left': choose both, above or below"),
        (["free_bits=1", "kl_schedule.nats=2"], "kl_schedule.nats=2 cannot be held: free_bits=1 gives"),
    ],
)
def test_what_cannot_be_is_one_line(train, drawn, words, told):
    result = train(*tiny(drawn, "kl_schedule=target", *words))
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert told in result.err


def test_a_damaged_state_is_no_state_to_go_on_from(train, drawn):
    assert train(*tiny(drawn, "kl_schedule=target"), "hydra.run.dir=run").code == 0
    path = Path("run/checkpoints/last.pt")
    whole = path.read_bytes()
    for control, told in (({"log_factor": math.nan, "mean": 1.0}, "control is"), (None, "does not fit its run's config")):
        state, facts = torch.load(path, weights_only=True), integrity.facts(path)
        state.pop("format")
        state.pop("control")
        state |= {} if control is None else {"control": control}
        checkpoint.save(path, state, {name: facts[name] for name in facts if name != "size"})
        result = train("resume=run")
        assert (result.code, result.err.count("\n")) == (1, 1)
        assert re.search(told, result.err)
        path.write_bytes(whole)
