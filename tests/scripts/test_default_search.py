"""The search for the default recipe runs; what it found is kept without places of this machine, and it goes on from that."""

from __future__ import annotations

import json
from pathlib import Path

import default_search
import draw_video
import pytest
from fakes import fake_run

SMALL = ["model=tiny", "epochs=2", "epoch_size=2", "batch_size=2", "n_future=2", "n_eval=6", "n_samples=2", "precision=fp32"]
SWEEP = ["hydra/launcher=basic", "hydra.sweeper.top_k=0", "hydra.sweeper.constraints=null"]
CASES = ("sawyer", "world_1", "drawn", "world_2")


def searched(train, drawn: Path, *words: str):
    more = {
        "sawyer": "",
        "world_1": ", 'data.condition=actions'",
        "drawn": ", 'data.condition=none'",
        "world_2": ", 'data.normalise=false'",
    }
    cases = [f"hydra.sweeper.cases.{name}=['data=course', 'data.root={drawn}'{each}]" for name, each in more.items()]
    return train("experiment=tune_default", *cases, *SMALL, *SWEEP, *words)


@pytest.mark.slow
def test_videos_are_drawn_in_the_course_layout_and_the_same_by_seed(train, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        draw_video.draw_all(tmp_path / name, seed, (2, 1, 1))
    first, again, other = (
        [path.read_bytes() for path in sorted((tmp_path / name).rglob("*")) if path.is_file()] for name in "abc"
    )
    assert first == again
    assert all(one != two for one, two in zip(first, other, strict=True) if one[:4] == b"\x89PNG")
    assert len(first) == 4 * 32
    assert train("data=course", f"data.root={tmp_path / 'a'}", *SMALL, "logger=none").code == 0


@pytest.mark.slow
def test_what_was_found_is_kept_and_searched_on(train, drawn):
    done = searched(train, drawn, "hydra.sweeper.warm_start=null", "hydra.sweeper.n_trials=2")
    assert (done.code, done.err) == (0, "")
    kept = Path("kept")
    for _ in range(2):  # again nothing is added
        default_search.keep(Path("multirun/tune_default"), kept)
        runs = default_search.runs_in(kept)
        assert len(runs) == 8
        assert {(run["case"], run["params"]["likelihood.sigma"]) for run in runs} == {(c, s) for c in CASES for s in (0.6, 0.9)}
    assert str(Path.cwd()) not in (kept / "sweep.json").read_text() + (kept / "runs.jsonl").read_text()
    assert str(drawn) not in (kept / "runs.jsonl").read_text()
    rows = default_search.table(runs).splitlines()
    assert len(rows) == 4
    one, best, _, copy = default_search.scores(runs[0])
    assert best >= one > 0 < copy
    fresh = ("hydra.sweeper.study_name=fresh", "hydra.sweep.dir=multirun/fresh", f"hydra.sweeper.warm_start={kept}/sweep.json")
    done = searched(train, drawn, *fresh, "hydra.sweeper.n_trials=3")
    assert done.code == 0
    assert "warm start 2 finished trials" in done.out
    assert "trials     3 of 3 done" in done.out
    trials = json.loads(Path("multirun/fresh/sweep.json").read_text())["trials"]
    assert [trial["state"] for trial in trials[:3]] == ["complete"] * 3


def test_runs_over_seeds_are_kept_and_told_by_data_set(tmp_path):
    """The last epoch counts, and a multirun of the same name takes the place of an earlier one."""
    for name, psnr in (("sawyer", (23.0, 24.0)), ("drawn", (20.0,))):
        for seed, value in enumerate(psnr, 1):
            best = {"val/psnr_best": value + 0.5}
            fake_run(tmp_path / name / str(seed), (value + 0.25, value), rows=lambda _, best=best: best, seed=seed)
    kept = tmp_path / "kept"
    for _ in range(2):
        default_search.keep_seeds([tmp_path / "sawyer", tmp_path / "drawn"], kept)
    assert str(tmp_path) not in (kept / "seeds.jsonl").read_text()
    _, _, drawn, sawyer = default_search.seeds_table(default_search.runs_in(kept, "seeds.jsonl")).splitlines()
    assert drawn == "| drawn | 1 | 20.00 | 20.50 | 3.00 | 0.50 | 1.00 | 0.25 |"
    assert sawyer.startswith("| sawyer | 2 | 23.50 [17.15, 29.85] | 24.00 [17.65, 30.35] |")


def test_the_best_on_fresh_seeds_are_told_by_data_set_and_by_what_they_differ_in():
    common = {"lr": 5e-4, "kl_schedule": "target"}
    rows = [{"val/psnr": 20.0, "val/psnr_best": 20.5, "val/psnr_copy": 17.0, "train/kld": 1.0}]
    runs = [
        {"params": {**common, "kl_schedule.nats": nats, "seed": seed}, "case": case, "seed": seed, "metrics": rows}
        for case in ("sawyer", "drawn")
        for nats in (0.85, 1)
        for seed in (3, 2)
    ]
    named = default_search.by_recipe(runs)
    assert [(run["case"], run["seed"]) for run in named[:3]] == [
        ("drawn, kl_schedule.nats=0.85", 2),
        ("drawn, kl_schedule.nats=0.85", 3),
        ("drawn, kl_schedule.nats=1", 2),
    ]
    assert [line.split(" | ")[1] for line in default_search.seeds_table(named).splitlines()[2:]] == ["2"] * 4
    assert default_search.by_recipe([]) == []
