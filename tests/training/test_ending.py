"""What a run's end tells of it: numbers for a sweep, and a latent that does not do its work."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import tiny

from cvae.training import ending


def test_a_trial_records_what_a_sweep_may_constrain(train, drawn):
    words = tiny(drawn, "n_samples=3", "epochs=3", "objective=val/psnr_mid", "lr=choice(1e-2)")
    limits = "hydra.sweeper.constraints={last_below_best: 50, best_over_one: {least: -1}, shuffled_cost: {least: -50}}"
    done = train("-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=1", limits, *words, "hydra.sweep.dir=multirun/s")
    assert (done.code, done.err) == (0, "")
    (trial,) = json.loads(Path("multirun/s/sweep.json").read_text())["trials"]
    rows = [json.loads(line) for line in Path("multirun/s/0/metrics.jsonl").read_text().splitlines()]
    best = max(rows, key=lambda row: row["val/psnr_mid"])
    assert trial["values"] == [best["val/psnr_mid"]]
    assert trial["facts"]["last_below_best"] == pytest.approx(best["val/psnr_mid"] - rows[-1]["val/psnr_mid"])
    assert trial["facts"]["best_over_one"] == pytest.approx(best["val/psnr_best"] - best["val/psnr"])
    assert trial["facts"]["shuffled_cost"] != 0


@pytest.mark.slow
def test_without_conditions_nothing_is_shuffled(train, drawn):
    words = tiny(drawn, "data.condition=none", "lr=choice(1e-2)")
    limit = "hydra.sweeper.constraints={shuffled_cost: {least: 1}}"
    done = train("-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=1", limit, *words)
    assert done.code == 1
    assert "the job records no shuffled_cost" in done.out + done.err


@pytest.mark.slow
def test_a_latent_that_carries_the_actions_is_named(train, drawn, monkeypatch):
    """By limits that a tiny run of an untrained latent meets; those of the package are measured ones."""
    said = train(*tiny(drawn)).out
    assert "latent carries" not in said
    for name, value in (("NATS", -1.0), ("_FULL", 0.0), ("_POOR", -99.0), ("_HARMLESS", 99.0)):
        monkeypatch.setattr(ending, name, value)
    said = train(*tiny(drawn)).out
    assert re.search(
        r"warning: the latent carries the actions: KL \S+ nats a step, -?[\d.]+ dB lost with z from the prior", said
    )
    assert "Raise beta (now 0.0001), or hold the KL: kl_schedule=target" in said
    monkeypatch.setattr(ending, "_POOR", 99.0)
    assert "latent carries" not in train(*tiny(drawn)).out
