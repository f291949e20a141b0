"""The KL weight that follows the KL: where it settles, from when it acts, and what a run keeps of it."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch
from conftest import tiny
from fakes import Ended
from omegaconf import OmegaConf

from cvae import integrity
from cvae.console import console
from cvae.run_schedules import settled
from cvae.schedules import Linear, Step, Target
from cvae.start import compose
from cvae.training import checkpoint
from cvae.training.assembly import assemble, build_trainer
from cvae.training.control import KLControl
from cvae.training.runtime import Stopped
from cvae.training.start_table import say_what_runs
from cvae.trial import NoTrial

CPU = torch.device("cpu")


def settles(target: Target, plant, steps: int = 800, start: float = 0.0) -> tuple[float, float]:
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


def test_a_start_of_ones_own_and_when_runs_can_be_compared():
    for start, begins, comparable in ((0.1, 0.1, 0.5), (0.7, 0.7, 0.7), ("forcing", 0.5, 0.5)):
        target = Target(start=start)
        assert KLControl(target, Step(0.5), CPU).start == pytest.approx(begins, abs=2e-3)
        assert settled(target, Step(0.5)) == pytest.approx(comparable, abs=2e-3)


def test_too_few_steps_to_settle_are_warned_of(drawn, capfd):
    words = tiny(drawn, "kl_schedule=target", "epoch_size=150", "tf_schedule.at=0.75", "hydra.run.dir=run")
    trainer = build_trainer(compose(words), Path("run"))
    assert trainer.control.start == pytest.approx(0.75, abs=2e-3)
    console.cache_clear()
    say_what_runs(compose(words), trainer, Path("run"))
    assert "warning: the KL weight follows the KL in the last 75 iterations only" in capfd.readouterr().out


@pytest.mark.slow
def test_a_run_records_the_weight_that_it_used_and_goes_on_exactly(train, drawn):
    words = tiny(drawn, "kl_schedule=target", "kl_schedule.nats=0.5", "tf_schedule.at=0", "kl_schedule.ramp=0", "beta=1e-4")
    assert train(*words, "epochs=3", "epoch_size=3", "hydra.run.dir=run").code == 0
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    weights = [row["kl_weight"] for row in rows]
    assert 1e-4 > weights[0] > weights[1] > weights[2] > 8e-5  # far less KL than wanted: 2 % a step at most
    state = torch.load("run/checkpoints/last.pt", weights_only=True)
    assert -0.18 < state["control"]["log_factor"] < 0
    assert 1e-4 * math.exp(state["control"]["log_factor"]) < weights[2]
    # Stopped within its second epoch, it goes on to the same end.
    cfg, folder = compose([*words, "epochs=3", "epoch_size=3", "device=cpu"]), Path("stopped")
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra/config.yaml").write_text(OmegaConf.to_yaml(cfg))
    with pytest.raises(Stopped):
        assemble(cfg, folder, None, False, NoTrial())[0].fit(Ended(5))
    assert torch.load(folder / "checkpoints/last.pt", weights_only=True)["iteration"] == 2
    assert train("resume=stopped").code == 0
    again = torch.load(folder / "checkpoints/last.pt", weights_only=True)
    torch.testing.assert_close([again["control"], again["model"]], [state["control"], state["model"]], rtol=0, atol=0)
    assert [json.loads(line)["kl_weight"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == weights


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["kl_schedule.nats=0"], "kl_schedule.nats is 0"),
        (["kl_schedule.side=left"], "Target.side is 'left': choose both, above or below"),
        (["kl_schedule.start=late"], "kl_schedule.start is 'late': give a number in [0, 1), or forcing"),
        (["kl_schedule.start=1.0"], "kl_schedule.start is 1.0: give a number in [0, 1), or forcing"),
        (["free_bits=1", "kl_schedule.nats=2"], "kl_schedule.nats=2 cannot be held: free_bits give 4 nats a step away"),
        (["beta=0"], "beta=0, which stays 0"),
        (["schedule_step=epoch"], "schedule_step=iteration"),
    ],
)
def test_what_cannot_be_is_one_line(train, drawn, words, told):
    result = train(*tiny(drawn, "kl_schedule=target", *words))
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert told in result.err


@pytest.mark.parametrize(("side", "signs"), [("both", (-1, 0, 1)), ("above", (0, 1)), ("below", (-1, 0))])
def test_a_state_is_looked_at(side, signs):
    control = KLControl(Target(side=side), Step(), CPU)
    assert control.fits(control.state())
    assert tuple(sign for sign in (-1, 0, 1) if control.fits({"log_factor": float(sign), "mean": 1.0})) == signs
    for mean in (math.nan, math.inf, -1.0, "1", None):
        assert not control.fits({"log_factor": 0.0, "mean": mean})
    for state in (
        {"log_factor": math.nan, "mean": 1.0},
        {"log_factor": 99.0, "mean": 1.0},
        {"log_factor": 0.0},
        [0.0, 1.0],
        None,
    ):
        assert not control.fits(state)


@pytest.mark.slow
def test_a_damaged_state_is_no_state_to_go_on_from(train, drawn):
    assert train(*tiny(drawn, "kl_schedule=target", "kl_schedule.side=above"), "hydra.run.dir=run").code == 0
    path = Path("run/checkpoints/last.pt")
    whole = path.read_bytes()
    for control, told in (({"log_factor": -1.0, "mean": 1.0}, "damaged .control is"), (None, "does not fit its run's config")):
        state, facts = torch.load(path, weights_only=True), integrity.facts(path)
        state.pop("format")
        state.pop("control")
        state |= {} if control is None else {"control": control}
        checkpoint.save(path, state, {name: facts[name] for name in facts if name != "size"})
        result = train("resume=run")
        assert (result.code, result.err.count("\n")) == (1, 1)
        assert re.search(told, result.err)
        path.write_bytes(whole)
