"""The best trials once more on fresh seeds: where they run, who wins, and what is kept of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import App
from omegaconf import OmegaConf

from cvae import integrity
from cvae.sweep.top import Top, kept_top

NAMED = ("hydra.sweeper.study_name=s", "hydra.sweep.dir=multirun/s")
GRID = ("hydra/sweeper/sampler=grid", "hydra.sweeper.n_trials=3")
TOP = ("hydra.sweeper.top_k=2", "hydra.sweeper.top_k_seeds=2")
POINTS = "{x: 'choice(3, 4, 5)'}"
AGAIN = "from cvae.trial import current_trial\nagain = cfg.seed > 0\n"


def place(app: App) -> Path:
    return app.folders()[-1]


def test_another_sweep_s_runs_in_the_same_folder_are_never_its_own(app: App) -> None:
    """An app that finds its folder used takes it for its finished run."""
    body = """
    from hydra.core.hydra_config import HydraConfig
    from pathlib import Path
    path = Path(HydraConfig.get().runtime.output_dir) / "found.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(path.read_text() if path.exists() else str(cfg.x))
    return float(path.read_text())
    """
    app.write(body, "seed: 0", "{x: 'choice(0, 1)'}")
    words = ("hydra.sweep.dir=multirun/s", "hydra/sweeper/sampler=grid", "hydra.sweeper.n_trials=2", *TOP)
    assert app(*words).code == 0
    app.write(body, "seed: 0", "{x: 'choice(5, 6)'}")
    done = app(*words)
    assert (done.code, done.err) == (0, "")
    assert {value for values in app.record()["top_k"]["values"].values() for value in values} == {5.0, 6.0}
    assert sorted(path.name for path in Path("multirun/s_2").iterdir() if path.is_dir()) == ["0", "1", "top"]
    assert sorted(path.name for path in Path("multirun/s_2/top").iterdir()) == [
        f"trial_{number}_seed_{seed}" for number in (0, 1) for seed in (1, 2)
    ]


def test_a_trial_that_failed_on_a_seed_comes_after_those_that_did_not(app: App) -> None:
    body = AGAIN + "if again and cfg.x == 3 and cfg.seed > 1:\n    return float('nan')\nreturn cfg.x + cfg.seed / 10"
    app.write(body, "seed: 0", POINTS)
    done = app(*NAMED, *GRID, "hydra.sweeper.top_k=2", "hydra.sweeper.top_k_seeds=3")
    assert (done.code, done.err) == (0, "")
    top = app.record()["top_k"]
    first, second = top["values"].items()
    assert first[1] == pytest.approx([4.1, 4.2, 4.3])
    assert second[1] == [3.1, None, None]
    assert f"           trial {second[0]}: value 3.1 on 1 of 3 fresh seeds" in done.out
    assert "[nan" not in done.out
    assert OmegaConf.load(place(app) / "best.yaml").x == 4
    assert (kept := kept_top(app.record())) is not None
    assert kept.winner == int(first[0])


def test_who_breaks_a_constraint_on_fresh_seeds_does_not_win(app: App) -> None:
    body = AGAIN + "current_trial().record({'memory': 9.0 if again and cfg.x < LEAST else 1.0})\nreturn cfg.x + cfg.seed"
    words = (*NAMED, *GRID, *TOP, "hydra.sweeper.constraints={memory: 5}")
    app.write(body.replace("LEAST", "4"), "seed: 0", POINTS)
    done = app(*words)
    assert (done.code, done.err) == (0, "")
    assert OmegaConf.load(place(app) / "best.yaml").x == 4
    assert "; breaks memory 9 on the mean" in done.out
    app.write(body.replace("LEAST", "9"), "seed: 0", POINTS)
    done = app(*words, "hydra.sweeper.study_name=t", "hydra.sweep.dir=multirun/t")
    assert done.code == 0
    assert "winner" not in done.out
    assert len(app.record()["top_k"]["broken"]) == 2
    assert OmegaConf.load(place(app) / "best.yaml").x == 3, "the best by its own run, as without fresh seeds"


def test_a_run_on_a_fresh_seed_knows_its_parameters(app: App) -> None:
    body = """
    from cvae.trial import current_trial
    with open("seen.txt", "a") as file:
        print(sorted(current_trial().params.items()), file=file)
    return cfg.x
    """
    app.write(body, "seed: 0", "{x: 'choice(3, 4)'}")
    assert app(*NAMED, "hydra/sweeper/sampler=grid", "hydra.sweeper.n_trials=2", "hydra.sweeper.top_k=1").code == 0
    assert Path("seen.txt").read_text().splitlines()[2:] == [f"[('seed', {seed}), ('x', 3)]" for seed in range(1, 6)]


def test_a_sweep_that_is_stopped_keeps_what_fresh_seeds_found(app: App) -> None:
    app.write(AGAIN + "return 10 - cfg.x if again else cfg.x", "seed: 0", POINTS)
    assert app(*NAMED, *TOP, *GRID, "hydra.sweeper.enqueue=[{x: 3}, {x: 4}]", "hydra.sweeper.n_trials=2").code == 0
    top = app.record()["top_k"]
    assert OmegaConf.load(place(app) / "best.yaml").x == 4
    done = app(*NAMED, *TOP, *GRID, "hydra.sweeper.enqueue=[{x: 3}, {x: 4}]", "hydra.sweeper.timeout=0.001")
    assert "time is up" in done.out
    assert app.record()["top_k"] == top
    assert OmegaConf.load(place(app) / "best.yaml").x == 4


def test_the_clock_is_one_for_the_sweep_and_its_best_once_more(app: App) -> None:
    app.write("import time\ntime.sleep(0.4)\nreturn cfg.x", "seed: 0", POINTS)
    done = app(*NAMED, *GRID, "hydra.sweeper.top_k=2", "hydra.sweeper.top_k_seeds=5", "hydra.sweeper.timeout=1.3")
    assert "time is up after 1.3 s" in done.out
    assert done.out.count("again") <= 3


def test_the_best_of_an_earlier_sweep_leave_their_winner(app: App) -> None:
    app.write("return cfg.x + cfg.seed", "seed: 0", POINTS)
    assert app(*NAMED, *GRID).code == 0
    Path("kept.json").write_text((place(app) / "sweep.json").read_text())
    words = ("hydra.sweeper.study_name=t", "hydra.sweep.dir=multirun/t", "hydra.sweeper.warm_start=kept.json", *GRID, *TOP)
    done = app(*words)
    assert (done.code, done.err) == (0, "")
    assert "best.yaml" in done.out
    assert len(app.record()["top_k"]["values"]) == 2
    assert OmegaConf.load("multirun/t/best.yaml").x == 3


def test_no_winner_leaves_no_best_yaml(app: App) -> None:
    app.write("from cvae.trial import current_trial\ncurrent_trial().record({'memory': 9.0})\nreturn cfg.x", "", POINTS)
    assert app(*NAMED, *GRID).code == 0
    assert (place(app) / "best.yaml").exists()
    assert app(*NAMED, *GRID, "hydra.sweeper.constraints={memory: 1}").code == 0
    assert not (place(app) / "best.yaml").exists()


@pytest.mark.parametrize("values", [{"0": [10**400]}, {"a": [1]}, {"0": 5}, [], {"0": ["x"]}])
def test_what_cannot_be_read_of_a_sweep_json_is_no_winner(values: object) -> None:
    record = json.loads(integrity.stamped({"top_k": {"seeds": [1], "values": values, "recorded": {}}}))
    assert kept_top(record) is None
    top = Top([1, 2], {3: [1.0, None]}, {3: {"a": 1.0}}, {})
    assert kept_top({"top_k": json.loads(json.dumps(top.record()))}) == top
