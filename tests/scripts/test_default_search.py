"""The search for the default recipe runs; what it found is kept without places of this machine, and it goes on from that."""

from __future__ import annotations

import json
from pathlib import Path

import default_search
import pytest

SMALL = ["model=tiny", "epochs=2", "epoch_size=2", "batch_size=2", "n_future=2", "n_eval=6", "n_samples=2", "precision=fp32"]
SWEEP = ["hydra/launcher=basic", "hydra.sweeper.top_k=0", "hydra.sweeper.constraints={shuffled_cost: {least: -99}}"]


def searched(train, drawn: Path, *words: str):
    root = f"data=course, data.root={drawn}"
    cases = f"hydra.sweeper.cases={{a: [{root}], b: [{root}, data.condition=actions]}}"
    return train("experiment=tune_default", cases, *SMALL, *SWEEP, *words)


@pytest.mark.slow
def test_what_was_found_is_kept_and_searched_on(train, drawn, capfd):
    done = searched(train, drawn, "hydra.sweeper.warm_start=null", "hydra.sweeper.n_trials=2")
    assert (done.code, done.err) == (0, "")
    kept = Path("kept")
    for _ in range(2):  # again nothing is added
        default_search.keep(Path("multirun/tune_default"), kept)
        runs = default_search.runs_in(kept)
        assert sorted((run["case"], run["seed"], run["params"]["likelihood.sigma"]) for run in runs) == [
            ("a", 1, 0.6), ("a", 1, 0.9), ("b", 1, 0.6), ("b", 1, 0.9),
        ]  # fmt: skip
    assert str(Path.cwd()) not in (kept / "sweep.json").read_text() + (kept / "runs.jsonl").read_text()
    assert str(drawn) not in (kept / "runs.jsonl").read_text()
    rows = default_search.table(runs).splitlines()
    assert len(rows) == 4
    one, best, _, copy = default_search.scores(runs[0])
    assert best >= one > 0 < copy
    Path("multirun").rename("elsewhere")
    capfd.readouterr()
    done = searched(train, drawn, f"hydra.sweeper.warm_start={kept}/sweep.json", "hydra.sweeper.n_trials=3")
    assert done.code == 0
    assert "warm start 2 finished trials" in done.out
    assert "trials     3 of 3 done" in done.out
    assert len(json.loads(Path("multirun/tune_default/sweep.json").read_text())["trials"]) == 3
