"""KL against the cost of other conditions: the sweep, what is kept of it, the table and the picture."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import latent_actions
import pytest

from cvae.errors import UserError

SMALL = [
    "model=tiny",
    "epochs=2",
    "epoch_size=2",
    "batch_size=2",
    "n_future=2",
    "n_eval=6",
    "precision=fp32",
    "validate_every=1",
]
TRIALS = [
    {"params": {"likelihood.sigma": 0.8, "kl_schedule": "target"}, "facts": {"a/train/kld": 0.7, "a/shuffled_cost": 3.0}},
    {"params": {"likelihood.sigma": 0.4, "kl_schedule": "monotonic"}, "facts": {"a/train/kld": 2.0, "a/shuffled_cost": 2.5}},
    {
        "params": {"likelihood.sigma": 0.1, "kl_schedule": "monotonic"},
        "facts": {"a/train/kld": 30.0, "a/shuffled_cost": 0.2, "b/train/kld": 20.0, "b/shuffled_cost": 0.5, "train/kld": 1.0},
    },
    {"params": {"likelihood.sigma": 0.2, "kl_schedule": "monotonic"}, "facts": None},
]


def test_each_run_is_a_point_with_its_data_set_kl_and_cost() -> None:
    found = latent_actions.points(TRIALS)
    assert found == [
        ("a", "sigma 0.1", 30.0, 0.2),
        ("b", "sigma 0.1", 20.0, 0.5),
        ("a", "sigma 0.4", 2.0, 2.5),
        ("a", "target", 0.7, 3.0),
    ]
    assert "| a | sigma 0.1 | 30 | +0.20 |" in latent_actions.table(found)
    assert latent_actions.picture(found).startswith(b"\x89PNG")
    with pytest.raises(UserError, match="shuffled_cost"):
        latent_actions.points(TRIALS[3:])


@pytest.mark.slow
def test_the_sweep_runs_is_kept_and_is_not_run_again_in_a_fresh_clone(train, drawn, monkeypatch, tmp_path) -> None:
    ran = []

    def run(words):
        argv = sys.argv
        done = train(*words)
        monkeypatch.setattr(sys, "argv", argv)
        ran.append(done.out)
        assert done.code == 0, done.err
        return done.code

    monkeypatch.setattr(latent_actions, "run", run)
    cases = [f"hydra.sweeper.cases.{name}=['data=course','data.root={drawn}']" for name in ("sawyer", "world_2")]
    words = ["--out", "docs/latent.png", *SMALL, *cases, "hydra/launcher=basic"]
    monkeypatch.setattr(sys, "argv", ["latent_actions.py", *words])
    latent_actions.main()
    assert "trials     6 of 6 done" in ran[0]
    first = Path("docs/latent.png").read_bytes()
    assert str(tmp_path) not in (tmp_path / "docs/latent_files/sweep.json").read_text()
    shutil.copytree("docs", tmp_path / "clone" / "docs")
    monkeypatch.chdir(tmp_path / "clone")
    latent_actions.main()
    assert "nothing to run" in ran[1]
    assert Path("docs/latent.png").read_bytes() == first
