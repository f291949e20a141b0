"""Whole sweeps in this process: what they leave behind, how they go on, and what a user reads."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from conftest import App, tiny
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from cvae import integrity
from cvae.errors import UserError
from cvae.experiment_file import unfold
from cvae.sweep.engine import Engine
from cvae.sweep.storage import absolute, open_storage

JOURNAL = "journal://multirun/studies/s.journal"
NAMED = ("hydra.sweeper.study_name=s",)


def study() -> optuna.Study:
    return optuna.load_study(study_name="s", storage=open_storage(absolute(JOURNAL)))


def words_of(out: str, name: str) -> list[str]:
    """The line that begins with ``name``, as words."""
    (line,) = [line for line in out.splitlines() if line.startswith(name)]
    return shlex.split(line)[1:]


# --- going on ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_sweep_goes_on_where_it_is(app: App) -> None:
    """And what its sweep.json holds."""
    app.write()
    words = (*NAMED, "hydra.sweeper.max_failures=9", "y=choice(1,2)")
    first = app("hydra.sweeper.n_trials=4", *words, "hydra.sweep.dir=multirun/a")
    assert (first.code, first.err) == (0, "")
    assert "trials     4 of 4 done: 4 complete, 0 pruned, 0 failed" in first.out
    assert study().metric_names is None, "the app declares no name"
    before = json.loads(Path("multirun/a/sweep.json").read_text())
    integrity.check_record(before)
    check_sweep_json(json.loads(json.dumps(before)), Path("multirun/a").absolute())
    again = app("hydra.sweeper.n_trials=4", *words, "hydra.sweep.dir=multirun/b")
    assert "study      s is complete: 4 trials; nothing to run" in again.out
    assert not Path("multirun/b").exists()
    after = json.loads(Path("multirun/a/sweep.json").read_text())
    common = "python app.py -m hydra.sweeper.n_trials=4 hydra.sweeper.study_name=s hydra.sweeper.max_failures=9 'y=choice(1,2)'"
    assert before.pop("command") == f"{common} hydra.sweep.dir=multirun/a"
    assert after.pop("command") == f"{common} hydra.sweep.dir=multirun/b"
    assert before.pop("sha256") != after.pop("sha256")
    assert after == before
    more = app("hydra.sweeper.n_trials=6", *words, "hydra.sweep.dir=multirun/c")
    assert "study      s: 4 of 6 trials done" in more.out
    assert sorted(path.name for path in Path("multirun/c").iterdir() if path.is_dir()) == ["4", "5"]
    assert [trial["number"] for trial in app.record()["trials"]] == list(range(6))


def check_sweep_json(record: dict, folder: Path) -> None:
    trials = record.pop("trials")
    assert record.pop("command").startswith("python app.py -m ")
    assert len(record.pop("sha256")) == 64
    assert record.pop("importances").keys() == {"x", "y"}
    best = min(trials, key=lambda trial: trial["values"][0])
    assert record == {
        "study": "s",
        "storage": absolute(JOURNAL),
        "objective": "value",
        "directions": ["minimize"],
        "n_trials": 4,
        "space": {"x": "-1..1", "y": "choice(1, 2)"},
        "search": {"space": {"x": "-1..1", "y": "choice(1, 2)"}},
        "best": [best["number"]],
        "top_k": None,
    }
    for number, trial in enumerate(trials):
        assert trial.pop("seconds") >= 0
        assert trial == {
            "number": number,
            "state": "complete",
            "values": [trial["params"]["x"] ** 2 + trial["params"]["y"]],
            "params": trial["params"],
            "steps": 0,
            "attempts": 1,
            "folder": str(folder / str(number)),
            "failure": None,
            "facts": None,
        }


def test_the_command_it_gives_runs_the_best_trial_alone(app: App) -> None:
    body = """
    print(f"<{cfg.name}> <{cfg.x}> <{cfg.y}>")
    return cfg.x
    """
    app.write(body, "name: plain", "{x: 'interval(-1.0, 1.0)', name: 'choice(\"it is\", \"a, b\")'}")
    done = app(*NAMED, "y=3")
    best = app.record()["trials"][app.record()["best"][0]]
    alone = app(*words_of(done.out, "again")[2:], multirun=False)
    assert alone.code == 0, alone.err
    assert f"<{best['params']['x']}> <3>" in alone.out
    assert alone.out.startswith(f"<{best['params']['name'].strip(chr(39))}>")


# --- what jobs may do -------------------------------------------------------------------------------------------------


def test_a_foreign_job_reports_and_is_pruned(app: App) -> None:
    body = """
    from cvae.trial import current_trial
    trial = current_trial()
    assert cfg.trial.number == trial.number
    assert trial.params == {"x": cfg.x}
    for step in range(1, 6):
        if trial.report(step, cfg.x):
            return None
    return cfg.x
    """
    app.write(body)
    median = ("hydra/sweeper/pruner=median", "hydra.sweeper.pruner.n_startup_trials=2", "hydra.sweeper.pruner.n_warmup_steps=2")
    enqueue = "hydra.sweeper.enqueue=[{x: -0.5}, {x: -0.4}, {x: 0.9}, {x: -0.9}]"
    done = app(*median, enqueue, *NAMED, "hydra.sweeper.n_trials=4")
    assert (done.code, done.err) == (0, "")
    trials = app.record()["trials"]
    assert [trial["state"] for trial in trials] == ["complete", "complete", "pruned", "complete"]
    assert [trial["steps"] for trial in trials] == [5, 5, 2, 5]
    assert "trial 2  pruned  at 2" in done.out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pruner", "steps"),
    [
        (["halving", "hydra.sweeper.pruner.min_resource=1", "hydra.sweeper.pruner.reduction_factor=2"], 1),
        (["hyperband", "hydra.sweeper.pruner.min_resource=1", "+trial.steps=5"], 1),
        (["patient", "hydra.sweeper.pruner.patience=1", "hydra.sweeper.pruner.wrapped_pruner.n_startup_trials=2"], 3),
    ],
)
def test_pruners_stop_the_worse_of_two(app: App, pruner: list[str], steps: int) -> None:
    body = """
    from cvae.trial import current_trial
    for step in range(1, 6):
        if current_trial().report(step, cfg.x + step / 100):
            return None
    return cfg.x
    """
    enqueue = "hydra.sweeper.enqueue=[{x: -0.5}, {x: -0.4}, {x: 0.9}, {x: 0.8}]"
    done = app.write(body)(f"hydra/sweeper/pruner={pruner[0]}", *pruner[1:], enqueue, *NAMED, "hydra.sweeper.n_trials=4")
    assert (done.code, done.err) == (0, ""), done.out
    trials = app.record()["trials"]
    assert trials[0]["state"] == "complete"
    pruned = [trial["steps"] for trial in trials if trial["state"] == "pruned"]
    assert pruned
    assert min(pruned) == steps


@pytest.mark.slow
def test_what_a_job_may_return_or_raise(app: App) -> None:
    body = """
    import optuna
    kind = cfg.kind
    if kind == "raises":
        raise optuna.TrialPruned()
    if kind == "fails":
        raise ValueError("no luck")
    return {
        "number": 1, "text": "2.5", "mapping": {"state": "complete", "value": 3}, "pruned": {"state": "pruned", "value": 4},
        "list": [5.0], "nothing": None, "not_a_number": float("nan"), "two": [1, 2], "word": "abc",
        "infinite": float("inf"),
    }[kind]
    """
    kinds = ["raises", "fails", "number", "text", "mapping", "pruned", "list", "nothing", "not_a_number", "two", "word"]
    kinds.append("infinite")
    app.write(body, "kind: none", f"{{kind: 'choice({','.join(kinds)})'}}")
    points = "[" + ",".join(f"{{kind: {kind}}}" for kind in kinds) + "]"
    few = (f"hydra.sweeper.n_trials={len(kinds)}", "hydra.sweeper.max_failures=99", "hydra.sweeper.retry=0")
    done = app(*NAMED, *few, f"hydra.sweeper.enqueue={points}")
    assert done.code == 0
    trials = {trial["params"]["kind"]: trial for trial in app.record()["trials"]}
    assert {kind: (trial["state"], trial["values"]) for kind, trial in trials.items()} == {
        "raises": ("pruned", None),
        "fails": ("fail", None),
        "number": ("complete", [1]),
        "text": ("complete", [2.5]),
        "mapping": ("complete", [3]),
        "pruned": ("pruned", None),
        "list": ("complete", [5]),
        "nothing": ("fail", None),
        "not_a_number": ("pruned", None),
        "infinite": ("pruned", None),
        "two": ("fail", None),
        "word": ("fail", None),
    }
    assert trials["fails"]["failure"].rstrip().endswith("ValueError: no luck")
    assert "None" in trials["nothing"]["failure"]
    assert "[1, 2]" in trials["two"]["failure"]
    assert trials["infinite"]["failure"] == "the job returned inf: it diverged"
    assert app.record()["best"] == [trials["number"]["number"]]


def test_constraints(app: App) -> None:
    """An infeasible trial is never the best, however good."""
    body = """
    from cvae.trial import current_trial
    current_trial().record({"memory": 10 - cfg.x})
    return cfg.x
    """
    app.write(body)
    points = "hydra.sweeper.enqueue=[{x: -1.0}, {x: 0.5}, {x: 0.75}]"
    done = app(*NAMED, points, "hydra.sweeper.constraints={memory: 9.5}")
    assert done.code == 0
    record = app.record()
    assert [trial["facts"] for trial in record["trials"]] == [{"memory": 11.0}, {"memory": 9.5}, {"memory": 9.25}]
    assert record["best"] == [1]
    assert OmegaConf.load(app.folders()[-1] / "optimization_results.yaml").best_params == {"x": 0.5}


RECORDS = """
from cvae.trial import current_trial
current_trial().record({"memory": 10 - cfg.x})
return cfg.x
"""


def test_constraints_that_are_given_later_hold_for_finished_trials_too(app: App) -> None:
    points = "hydra.sweeper.enqueue=[{x: -1.0}, {x: 0.5}, {x: 0.75}]"
    app.write(RECORDS)
    assert app(*NAMED, points).code == 0
    assert app.record()["best"] == [0]
    assert app(*NAMED, "hydra.sweeper.constraints={memory: 9.5}").code == 0
    assert app.record()["best"] == [1]
    none = app(*NAMED, "hydra.sweeper.constraints={memory: 9.0}")
    assert "no complete trial keeps hydra.sweeper.constraints (memory)" in none.out
    assert app.record()["best"] == []
    assert app(*NAMED).code == 0
    assert app.record()["best"] == [0]


def test_of_several_objectives_the_best_keep_the_constraints_and_are_not_beaten(app: App) -> None:
    body = RECORDS.replace("return cfg.x", "return cfg.x, -cfg.x if cfg.x < 0.7 else 5")
    two = "hydra.sweeper.direction=[minimize,minimize]"
    points = "hydra.sweeper.enqueue=[{x: -1.0}, {x: 0.5}, {x: 0.75}]"
    assert app.write(body)(*NAMED, two, points).code == 0
    assert app.record()["best"] == [0, 1]
    assert app(*NAMED, two, "hydra.sweeper.constraints={memory: 9.5}").code == 0
    assert app.record()["best"] == [1]


def test_points_are_queued_once_each_also_those_of_a_later_start(app: App) -> None:
    app.write()
    assert app(*NAMED, "hydra.sweeper.enqueue=[{x: 0.5}, {x: 0.5}]", "hydra.sweeper.n_trials=2").code == 0
    assert app(*NAMED, "hydra.sweeper.enqueue=[{x: 0.25}, {x: 0.5}, {x: 0.5}]", "hydra.sweeper.n_trials=3").code == 0
    assert [trial["params"]["x"] for trial in app.record()["trials"]] == [0.5, 0.5, 0.25]


def test_cases_in_another_order_are_another_search(app: App) -> None:
    """A trial keeps the values of its finished jobs by their places."""
    app.write("return cfg.x + cfg.extra", "extra: 0")
    assert app(*NAMED, "hydra.sweeper.n_trials=1", "hydra.sweeper.cases={low: ['extra=1'], high: ['extra=10']}").code == 0
    other = app(*NAMED, "hydra.sweeper.n_trials=2", "hydra.sweeper.cases={high: ['extra=10'], low: ['extra=1']}")
    assert (other.code, other.err.count("\n")) == (1, 1)
    assert "order_of_cases" in other.err


def test_a_fact_is_a_number(app: App) -> None:
    app.write("from cvae.trial import current_trial\ncurrent_trial().record({'memory': 'much'})\nreturn cfg.x")
    done = app(*NAMED, "hydra.sweeper.n_trials=1", "hydra.sweeper.retry=0")
    assert "its fact memory is 'much'" in done.out + done.err + str(app.record())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limits", "worst"), [("3", 9.0), ("{most: 3}", 9.0), ("{least: 3}", 1.0), ("{least: 0, most: 8}", 9.0)]
)
@pytest.mark.parametrize("other", [1, 2])
def test_every_seed_has_to_keep_the_constraints(app: App, limits: str, worst: float, other: int) -> None:
    body = f"""
    from cvae.trial import current_trial
    current_trial().record({{"memory": 9.0 if cfg.seed == {other} else 1.0}})
    return cfg.x
    """
    words = ("hydra.sweeper.seeds_per_trial=2", "hydra.sweeper.n_trials=1", f"hydra.sweeper.constraints={{memory: {limits}}}")
    done = app.write(body, config="seed: 1")(*NAMED, *words)
    assert (done.code, done.err) == (0, "")
    record = app.record()
    assert [trial["facts"]["memory"] for trial in record["trials"]] == [worst]
    assert record["best"] == []
    assert not (app.folders()[-1] / "best.yaml").exists()


def test_the_live_table(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a terminal sees it, with a trial that runs and one that is done."""
    from rich.console import Console

    from cvae.sweep import board
    from cvae.sweep.study import SweepStudy

    screen = Console(force_terminal=True, width=120, file=io.StringIO())
    monkeypatch.setattr(board, "console", lambda: screen)
    sweep = SweepStudy("s", absolute(JOURNAL), {}, ["maximize"], optuna.samplers.RandomSampler())
    done, running = sweep.claim(3), sweep.claim(3)
    assert done is not None
    assert running is not None
    plan = SimpleNamespace(n_trials=3, objective="val/psnr")
    shown = board.Board(plan, sweep, launcher=object())
    sweep.study.tell(done, 21.5)
    for step, value in ((1, 18.25), (2, 19.5), (3, 19.0)):
        running.report(value, step)
    running.suggest_float("lr", 1e-4, 1e-3)
    with shown:
        shown.refresh({running.number: time.monotonic() - 90})
    text = screen.file.getvalue()
    assert "1 of 3 done  1 complete, 0 pruned, 0 failed  best 21.5 (trial 0)" in text
    assert "left" in text
    row = next(line for line in text.splitlines() if "lr=" in line)
    assert row.split()[:5] == ["1", "3", "19", "19.5", "1.5"]


@pytest.mark.slow
def test_time_is_up(app: App) -> None:
    app.write("import time; time.sleep(0.3); return cfg.x")
    done = app(*NAMED, "hydra.sweeper.n_trials=50", "hydra.sweeper.timeout=0.5")
    assert done.code == 0
    last = done.out.splitlines()[-1]
    assert last.startswith("time is up after 0.5 s; go on with: python app.py -m hydra.sweeper.study_name=s")
    count = len(app.record()["trials"])
    assert 1 <= count < 20
    assert f"trials     {count} of 50 done" in done.out


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_between_two_jobs_ends_a_sweep_in_order(app: App, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    app.write()
    settle = Engine._settle

    def cut(engine: Engine, *what: Any) -> None:
        settle(engine, *what)
        signal.raise_signal(number)

    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as the app of a multirun finds it
    with monkeypatch.context() as patched:
        patched.setattr(Engine, "_settle", cut)
        done = app(*NAMED, "hydra.sweeper.n_trials=3")
    assert (done.code, done.err) == (128 + number, "")
    assert "go on with: python app.py -m" in done.out
    assert [trial["state"] for trial in app.record()["trials"]] == ["complete"]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert app(*NAMED, "hydra.sweeper.n_trials=3").code == 0
    assert [trial["attempts"] for trial in app.record()["trials"]] == [1, 1, 1]


# --- seeds ------------------------------------------------------------------------------------------------------------

SEEDED = """
with open("seen.txt", "a") as file:
    print(cfg.x, cfg.seed, file=file)
return cfg.x + cfg.seed
"""


def seen() -> list[tuple[float, int]]:
    return [(float(x), int(seed)) for x, seed in map(str.split, Path("seen.txt").read_text().splitlines())]


@pytest.mark.slow
def test_a_trial_of_several_seeds_is_told_their_mean_and_goes_on_between_them(app: App) -> None:
    body = """
    import os
    if cfg.seed == 5 and not os.path.exists("cut"):
        open("cut", "w").close()
        raise KeyboardInterrupt
    """ + SEEDED.replace("\n", "\n    ")
    app.write(body, "seed: 4")
    words = (*NAMED, "hydra.sweeper.n_trials=2", "hydra.sweeper.seeds_per_trial=3")
    first = app(*words)
    assert first.code == 128 + signal.SIGINT
    assert "go on with: python app.py -m" in first.out
    ((x, seed),) = seen()
    assert seed == 4
    second = app(*words)
    assert (second.code, second.err) == (0, "")
    trials = app.record()["trials"]
    assert trials[0]["params"]["x"] == x
    assert seen() == [(trial["params"]["x"], seed) for trial in trials for seed in (4, 5, 6)]
    for trial in trials:
        assert (trial["values"], trial["attempts"]) == ([pytest.approx(trial["params"]["x"] + 5)], 1)
        folders = [path.name for path in Path(trial["folder"]).parent.iterdir()]
        assert sorted(folders) == ["seed_4", "seed_5", "seed_6"]


CASES = """
from cvae.trial import current_trial
with open("seen.txt", "a") as file:
    print(cfg.x, cfg.seed, cfg.trial.case, file=file)
current_trial().record({"size": cfg.extra})
return cfg.x + cfg.extra
"""


@pytest.mark.slow
def test_a_trial_of_several_cases_is_told_their_mean_and_every_fact_by_case(app: App) -> None:
    app.write(CASES, "seed: 4\nextra: 0")
    cases = "hydra.sweeper.cases={low: ['extra=1'], high: ['extra=10', '++other=2']}"
    words = (*NAMED, "hydra.sweeper.n_trials=2", cases)
    done = app(*words, "hydra.sweeper.constraints={low/size: 1, size: 10, high/size: {least: 9}}")
    assert (done.code, done.err) == (0, "")
    record = app.record()
    assert record["cases"] == {"low": ["extra=1"], "high": ["extra=10", "++other=2"]}
    for trial in record["trials"]:
        assert trial["values"] == [pytest.approx(trial["params"]["x"] + 5.5)]
        assert trial["facts"] == {"size": 10.0, "low/size": 1.0, "high/size": 10.0}
        assert sorted(path.name for path in Path(trial["folder"]).parent.iterdir()) == ["case_high", "case_low"]
    assert record["best"] != []
    assert [line.split()[1:] for line in Path("seen.txt").read_text().splitlines()] == [["4", "low"], ["4", "high"]] * 2
    again = app(*words, "hydra.sweeper.constraints={low/size: 1, size: 10}")
    assert "is complete: 2 trials" in again.out
    other = app(*NAMED, "hydra.sweeper.n_trials=3", cases.replace("extra=10", "extra=11"))
    assert (other.code, other.err.count("\n")) == (1, 1)
    assert "cases" in other.err


@pytest.mark.slow
def test_cases_and_seeds_go_together_and_the_best_run_on_each_case_once_more(app: App) -> None:
    app.write(CASES, "seed: 4\nextra: 0")
    words = (
        "hydra.sweeper.cases={low: 'extra=1', high: 'extra=10'}",
        "hydra.sweeper.seeds_per_trial=2",
        "hydra.sweeper.n_trials=2",
    )
    done = app(*NAMED, *words, "hydra.sweeper.top_k=1", "hydra.sweeper.top_k_seeds=2")
    assert (done.code, done.err) == (0, "")
    jobs = [line.split()[1:] for line in Path("seen.txt").read_text().splitlines()]
    every = [[seed, case] for seed in ("4", "5") for case in ("low", "high")]
    assert jobs == [*every, *every, *([seed, case] for seed in ("6", "7") for case in ("low", "high"))]
    ((number, values),) = app.record()["top_k"]["values"].items()
    assert values == [pytest.approx(app.record()["trials"][int(number)]["params"]["x"] + 5.5)] * 2


@pytest.mark.slow
def test_wilcoxon_stops_a_trial_that_loses_on_every_seed(app: App) -> None:
    app.write(SEEDED, "seed: 0", "{x: 'choice(0, 1000)'}")
    words = ("hydra/sweeper/pruner=wilcoxon", "hydra.sweeper.pruner.p_threshold=0.2", "hydra.sweeper.seeds_per_trial=8")
    done = app(*NAMED, *words, "hydra.sweeper.enqueue=[{x: 0}, {x: 1000}]", "hydra.sweeper.n_trials=2")
    assert (done.code, done.err) == (0, "")
    assert [trial["state"] for trial in app.record()["trials"]] == ["complete", "pruned"]
    assert 2 <= sum(x == 1000 for x, _ in seen()) < 8


@pytest.mark.slow
def test_the_best_once_more_on_fresh_seeds(app: App) -> None:
    """Resumed as the sweep itself is, and reported with an interval."""
    body = SEEDED.replace("cfg.x + cfg.seed", "abs(cfg.x) + (cfg.seed % 2) / 100")
    app.write(body, "seed: 4")
    words = (*NAMED, "hydra.sweeper.n_trials=4", "hydra.sweeper.top_k=2", "hydra.sweeper.top_k_seeds=3")
    done = app(*words)
    assert (done.code, done.err) == (0, "")
    record = app.record()
    order = sorted(record["trials"], key=lambda trial: trial["values"][0])
    top = record["top_k"]
    assert top["seeds"] == [5, 6, 7]
    assert top["values"].keys() == {str(order[0]["number"]), str(order[1]["number"])}
    for number, values in top["values"].items():
        x = abs(record["trials"][int(number)]["params"]["x"])
        assert sorted(values) == pytest.approx(sorted([x + 0.01, x, x + 0.01]))
    assert len(seen()) == 4 + 2 * 3
    assert f"winner     trial {order[0]['number']}: value " in done.out
    assert "on 3 fresh seeds" in done.out
    assert len(record["trials"]) == 4
    again = app(*words)
    assert len(seen()) == 10
    assert app.record()["top_k"] == top
    assert again.code == 0


# --- passwords --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "password"),
    [
        ("postgresql://bob:s3cret@db.example/studies", "s3cret"),
        (r"postgresql://bob:p\,3s3cret@db.example/studies", "p,3s3cret"),
        ("'postgresql://bob:p,3s3cret@db.example/studies'", "p,3s3cret"),
        ("{storage: 'postgresql://bob:s3cret@db.example/studies'}", "s3cret"),
    ],
)
def test_no_file_holds_the_storage_s_password(app: App, monkeypatch: pytest.MonkeyPatch, word: str, password: str) -> None:
    """However the command writes it. A journal stands in for the server that the URL names."""
    from cvae.sweep import job_trial
    from cvae.sweep import study as studies

    opened: list[str] = []

    def instead(url: str) -> optuna.storages.BaseStorage:
        opened.append(url)
        return open_storage(absolute(JOURNAL))

    for module, name in ((job_trial, "open_storage"), (studies, "open_storage")):
        monkeypatch.setattr(module, name, instead)
        monkeypatch.setattr(module, "locked", lambda *place: contextlib.nullcontext())
    url = f"postgresql://bob:{password}@db.example/studies"
    app.write()
    done = app(*NAMED, f"hydra.sweeper={word}" if word.startswith("{") else f"hydra.sweeper.storage={word}")
    assert (done.code, done.err) == (0, "")
    assert set(opened) == {url}, "the sweeper and its jobs know it"
    files = [path for path in Path("multirun").rglob("*") if path.is_file()]
    assert {"sweep.json", "multirun.yaml", "hydra.yaml", "overrides.yaml", "config.yaml"} <= {path.name for path in files}
    assert [path for path in files if b"s3cret" in path.read_bytes()] == []
    assert "s3cret" not in done.out
    assert "postgresql://bob:***@db.example/studies" in done.out


def test_best_yaml_names_the_keys_that_the_command_took_away(app: App) -> None:
    """An experiment file cannot take a key away: the command that runs it has to."""
    done = app.write("return cfg.x", config="noise: {size: 1}\nname: a")(*NAMED, "hydra.sweeper.n_trials=1", "~noise", "~name")
    assert done.code == 0, done.err
    assert "give to the command as well: '~noise' '~name'" in (app.folders()[-1] / "best.yaml").read_text()


# --- best.yaml --------------------------------------------------------------------------------------------------------


def test_unfold(tmp_path: Path) -> None:
    path = tmp_path / "best.yaml"
    path.write_text(
        """
# @package _global_
defaults:
  - override /kl_schedule: cyclical
  - override /model/backbone: dcgan
lr: 1e-3
beta: null
name: "it's \\\\ {a}, b"
betas: [0.9, 0.99]
flag: true
kl_schedule: {cycles: 3, deep: {er: x}}
"""
    )
    words = unfold(["-m", f"experiment={path}", "lr=2e-3"])
    assert words == [
        "-m",
        "kl_schedule=cyclical",
        "model/backbone=dcgan",
        "lr=0.001",
        "beta=null",
        r"name='it\'s \ {a}, b'",
        "betas=[0.9,0.99]",
        "flag=true",
        "kl_schedule.cycles=3",
        "kl_schedule.deep.er='x'",
        "lr=2e-3",
    ]
    (name,) = OverridesParser.create().parse_overrides([words[5]])
    assert name.value() == r"it's \ {a}, b", "Hydra reads what stood in the file"
    assert unfold(["experiment=sweep_quick"]) == ["experiment=sweep_quick"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (None, ("cannot be read", "check the path")),
        ("a: [", ("cannot be read",)),
        ("- a\n- b\n", ("is not a list of settings",)),
        ("hydra: {mode: MULTIRUN}\n", ("sets hydra", "no key of a run")),
        ("defaults: [kl_schedule]\n", ("'kl_schedule'", "override /group: option")),
        ("defaults: [{a: 1, b: 2}]\n", ("cannot read", "override /group: option")),
        ("defaults: 3\n", ("cannot read 3", "override /group: option")),
    ],
)
def test_unfold_says_what_it_cannot_read(text: str | None, parts: tuple[str, ...]) -> None:
    path = Path("best.yaml")
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError) as caught:
        unfold([f"experiment={path}"])
    assert [part for part in ("best.yaml", *parts) if part not in str(caught.value)] == [], str(caught.value)


# --- sweeps of runs ---------------------------------------------------------------------------------------------------

SWEPT = ("-m", "hydra/sweeper=optuna", "hydra/launcher=basic", "hydra.sweeper.n_jobs=1", *NAMED)


@pytest.mark.slow
def test_a_sweep_of_runs(train, drawn: Path) -> None:
    """The objective is maximised, reported every epoch, and what prunes a run leaves it whole."""
    words = (
        "kl_schedule=cyclical,monotonic",
        "lr=tag(log, interval(1e-5, 1e-2))",
        "hydra.sweeper.n_trials=2",
        "hydra.sweeper.enqueue=[{lr: 1e-2, kl_schedule: cyclical}, {lr: 1e-2, kl_schedule: monotonic}]",
        "hydra/sweeper/pruner=median",
        "hydra.sweeper.pruner.n_startup_trials=1",
        "hydra.sweeper.pruner.n_warmup_steps=1",
        "epochs=3",
    )
    done = train(*SWEPT, *[word for word in tiny(drawn) if not word.startswith(("kl_schedule", "epochs"))], *words)
    assert (done.code, done.err) == (0, ""), done.out
    assert "warning: kl_schedule is searched with a pruner" in done.out
    record = json.loads(next(Path("multirun").glob("*/sweep.json")).read_text())
    assert record["directions"] == ["maximize"]
    assert record["objective"] == "val/psnr"
    assert study().metric_names == ["val/psnr"]
    for trial, frozen in zip(record["trials"], study().trials, strict=True):
        folder = Path(trial["folder"])
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert frozen.intermediate_values == {row["epoch"]: row["val/psnr"] for row in rows}
        assert trial["steps"] == len(rows)
        about = json.loads((folder / "run.json").read_text())
        assert about["group"] == "s"
        assert about["trial"] == {"number": trial["number"], "params": trial["params"]}
        for name in ("checkpoints/last.pt", "checkpoints/best.pt", "curves.png", ".hydra/config.yaml"):
            assert (folder / name).is_file(), name
        config = OmegaConf.load(folder / ".hydra" / "config.yaml")
        assert (config.trial.number, config.trial.study) == (trial["number"], "s")
        if trial["state"] == "complete":
            assert trial["values"] == [max(row["val/psnr"] for row in rows)]
            assert trial["facts"]["peak_memory"] > 0
            assert trial["facts"]["val/psnr"] == trial["values"][0]
    best = record["trials"][record["best"][0]]
    assert best["values"][0] == max(trial["values"][0] for trial in record["trials"] if trial["values"])
    # best.yaml is the same run without the sweep.
    path = next(Path("multirun").glob("*/best.yaml"))
    alone = train(f"experiment={path}", "hydra.run.dir=alone")
    assert alone.code == 0, alone.err
    assert (
        json.loads(Path("alone/run.json").read_text())["signature"]
        == json.loads((Path(best["folder"]) / "run.json").read_text())["signature"]
    )


@pytest.mark.slow
def test_runs_with_two_objectives(train, drawn: Path) -> None:
    words = ("objective=[val/psnr,frames_per_second]", "lr=interval(1e-4,1e-2)", "hydra.sweeper.n_trials=1")
    done = train(*SWEPT, *tiny(drawn), *words)
    assert (done.code, done.err) == (0, ""), done.out
    record = json.loads(next(Path("multirun").glob("*/sweep.json")).read_text())
    assert record["directions"] == ["maximize", "maximize"]
    assert record["objective"] == "val/psnr, frames_per_second"
    assert study().metric_names == ["val/psnr", "frames_per_second"]
    for trial in record["trials"]:
        rows = [json.loads(line) for line in (Path(trial["folder"]) / "metrics.jsonl").read_text().splitlines()]
        best = max(rows, key=lambda row: row["val/psnr"])
        assert trial["values"] == [best["val/psnr"], best["frames_per_second"]]
    assert record["best"]
