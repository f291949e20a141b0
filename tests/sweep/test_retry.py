"""The same command once more runs failed trials anew; those that were queued anew count no more."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from conftest import App
from optuna.trial import TrialState

from cvae.sweep.job_trial import JobTrial
from cvae.sweep.records import read_sweep
from cvae.sweep.storage import absolute
from cvae.sweep.study import SweepStudy
from cvae.sweep.trials import FAILURE, FOLDER, PLACE, SEEDS, counted, retried

# It fails as long as there is a file "broken", and goes on from what an earlier attempt left in its folder.
BODY = """
import os
from pathlib import Path
from hydra.core.hydra_config import HydraConfig
folder = Path(HydraConfig.get().runtime.output_dir)
with open(folder / "attempts.txt", "a") as file:
    print(cfg.trial.number, cfg.x, file=file)
if os.path.exists("broken") and cfg.x > 0:
    raise ValueError("actions.csv is broken")
return cfg.x
"""
WORDS = ("hydra.sweeper.study_name=s", "hydra.sweeper.retry=0", "hydra.sweeper.max_failures=9", "hydra.sweep.dir=multirun/a")
POINTS = "hydra.sweeper.enqueue=[{x: 0.5}, {x: -0.5}, {x: 0.75}]"


@pytest.mark.slow
def test_failed_trials_run_anew_in_their_folders(app: App) -> None:
    Path("broken").touch()
    app.write(BODY)
    first = app(*WORDS, POINTS)
    assert first.code == 0
    assert "3 of 3 done: 1 complete, 0 pruned, 2 failed" in first.out
    Path("broken").unlink()
    again = app(*WORDS, POINTS)
    assert (again.code, again.err) == (0, "")
    assert "study      s: 1 of 3 trials done" in again.out
    assert "retried    2 failed: trial 0 as 3, 2 as 4" in again.out
    assert "3 of 3 done: 3 complete, 0 pruned, 0 failed, 2 retried" in again.out
    record = app.record()
    assert [(trial["number"], trial["state"], trial["values"]) for trial in record["trials"]] == [
        (1, "complete", [-0.5]),
        (3, "complete", [0.5]),
        (4, "complete", [0.75]),
    ]
    assert [(trial["number"], trial["retried_by"]) for trial in record["retried"]] == [(0, 3), (2, 4)]
    assert "actions.csv is broken" in record["retried"][0]["failure"]
    # In the same folders, and in no others.
    assert sorted(path.name for path in Path("multirun/a").iterdir() if path.is_dir()) == ["0", "1", "2"]
    assert Path("multirun/a/2/attempts.txt").read_text() == "2 0.75\n4 0.75\n"
    # The report reads the same from the journal and from sweep.json.
    for storage in (absolute("journal://multirun/studies/s.journal"), "journal:///nowhere"):
        sweep, problems = read_sweep("s", storage, [Path("multirun/a")], "value", [])
        assert sweep is not None
        assert problems == []
        assert sweep.summary == "3 complete, 0 pruned, 0 failed, 2 retried"
        assert [trial.number for trial in sweep.trials] == [0, 1, 2, 3, 4]
        assert sweep.best_trial == 1


def test_they_are_tried_once_a_start() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    found = []
    for _ in range(3):
        study = SweepStudy("s", absolute("journal://one.journal"), {}, ["maximize"], optuna.samplers.RandomSampler())
        found.append(study.retry_failed())
        assert study.retry_failed() == {}
        trial = study.claim(1)
        trial.suggest_float("x", 0, 1)
        study.study.tell(trial, state=TrialState.FAIL)
        assert study.claim(1) is None
    assert found == [{}, {0: 1}, {1: 2}]
    assert [trial.number for trial in study.finished()] == [2]
    assert len({trial.params["x"] for trial in study.trials}) == 1
    assert study.trials[2].system_attrs["failed_trial"] == 0


@pytest.mark.slow
def test_a_folder_named_by_overrides_is_found_again(app: App) -> None:
    Path("broken").touch()
    app.write(BODY)
    words = (*WORDS, "hydra.sweep.subdir='${hydra.job.num}_${hydra.job.override_dirname}'", "hydra.sweeper.enqueue=[{x: 0.5}]")
    app(*words, "hydra.sweeper.n_trials=1")
    Path("broken").unlink()
    app(*words, "hydra.sweeper.n_trials=1")
    (folder,) = (path for path in Path("multirun/a").iterdir() if path.is_dir())
    assert (folder / "attempts.txt").read_text() == "0 0.5\n1 0.5\n"


@pytest.mark.slow
def test_the_best_on_fresh_seeds_are_retried_too(app: App) -> None:
    body = 'import os\nif cfg.seed > 4 and os.path.exists("broken"):\n    raise ValueError("no")\nreturn cfg.x + cfg.seed'
    words = (*WORDS, "hydra.sweeper.top_k=1", "hydra.sweeper.top_k_seeds=2", "hydra.sweeper.n_trials=1")
    app.write(body, "seed: 4")
    Path("broken").touch()
    assert app(*words).code == 1, "too many failures"
    Path("broken").unlink()
    done = app(*words)
    assert (done.code, done.err) == (0, "")
    assert "on 2 fresh seeds" in done.out
    assert len(app.record()["top_k"]["values"]["0"]) == 2


# --- a trial of several jobs --------------------------------------------------------------------------------------------

JOBS = """
from pathlib import Path
from cvae.trial import current_trial
with open("jobs.txt", "a") as file:
    print(cfg.extra + cfg.seed, file=file)
current_trial().record({"memory": 30.0 if cfg.extra + cfg.seed == 1 else 3.0})
if Path("later").exists():
    current_trial().record({"heat": 1.0})
if Path("broken").exists() and cfg.extra + cfg.seed == 2:
    raise ValueError("no")
return cfg.x + cfg.extra + cfg.seed
"""
CASES = "hydra.sweeper.cases={one: ['extra=1'], two: ['extra=2'], three: ['extra=3']}"
SEVERAL = [(CASES, "seed: 0\nextra: 0", "one/memory"), ("hydra.sweeper.seeds_per_trial=3", "seed: 1\nextra: 0", "memory")]


def _jobs() -> list[int]:
    return [int(line) for line in Path("jobs.txt").read_text().split()]


@pytest.mark.slow
@pytest.mark.parametrize(("several", "config", "fact"), SEVERAL)
def test_what_finished_jobs_recorded_counts_after_a_retry(app: App, several: str, config: str, fact: str) -> None:
    """The first job breaks a constraint, the second fails: the retry must not forget the first."""
    words = (*WORDS, several, "hydra.sweeper.n_trials=1", f"hydra.sweeper.constraints={{{fact}: {{most: 8}}}}")
    Path("broken").touch()
    app.write(JOBS, config)(*words)
    Path("broken").unlink()
    done = app(*words)
    assert (done.code, done.err) == (0, "")
    (trial,) = app.record()["trials"]
    assert (trial["state"], trial["facts"][fact]) == ("complete", 30.0)
    assert app.record()["best"] == []
    assert _jobs() == [1, 2, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize(("several", "config", "fact"), SEVERAL)
def test_a_misspelt_constraint_costs_no_results(app: App, several: str, config: str, fact: str) -> None:
    words = (*WORDS, several, "hydra.sweeper.n_trials=1")
    first = app.write(JOBS, config)(*words, "hydra.sweeper.constraints={memry: {most: 40}}")
    assert "the job records no memry" in app.record()["trials"][0]["failure"], first.out
    done = app(*words, f"hydra.sweeper.constraints={{{fact}: {{most: 40}}}}")
    assert (done.code, done.err) == (0, "")
    (trial,) = app.record()["trials"]
    assert (trial["state"], trial["values"], trial["facts"][fact]) == ("complete", [trial["params"]["x"] + 2], 30.0)
    assert _jobs() == [1, 2, 3, 3], "only one runs again, to tell"


@pytest.mark.slow
@pytest.mark.parametrize(("several", "config", "fact"), SEVERAL)
def test_jobs_run_again_for_a_fact_that_they_did_not_record(app: App, several: str, config: str, fact: str) -> None:
    heat = fact.replace("memory", "heat")
    words = (*WORDS, several, "hydra.sweeper.n_trials=1", f"hydra.sweeper.constraints={{{heat}: {{most: 2}}}}")
    app.write(JOBS, config)(*words)
    Path("later").touch()
    done = app(*words)
    assert (done.code, done.err) == (0, "")
    assert (app.record()["trials"][0]["state"], app.record()["best"]) == ("complete", [1])
    assert _jobs() == [1, 2, 3] * 2


@pytest.mark.slow
@pytest.mark.parametrize(("several", "config", "fact"), SEVERAL)
@pytest.mark.parametrize("at", ["SEEDS", "tell"])
def test_a_kill_after_a_trial_s_last_job_loses_nothing(
    app: App, monkeypatch: pytest.MonkeyPatch, several: str, config: str, fact: str, at: str
) -> None:
    """Killed before the values of the last job are written, and before the study is told of them."""
    killed = {"left": True}
    before = JobTrial._keep_result

    def die(trial: JobTrial, *given: object) -> object:
        told = before(trial, *given) if at == "tell" else None
        if trial.index == 2 and killed.pop("left", False):
            raise KeyboardInterrupt
        return told if at == "tell" else before(trial, *given)

    monkeypatch.setattr(JobTrial, "_keep_result", die)
    words = (*WORDS, several, "hydra.sweeper.n_trials=1", f"hydra.sweeper.constraints={{{fact}: {{most: 40}}}}")
    assert app.write(JOBS, config)(*words).code != 0
    done = app(*words)
    assert (done.code, done.err) == (0, "")
    (trial,) = app.record()["trials"]
    assert (trial["state"], trial["values"], trial["facts"][fact]) == ("complete", [trial["params"]["x"] + 2], 30.0)
    assert _jobs() == [1, 2, 3, 3]


# --- sweepers side by side ----------------------------------------------------------------------------------------------

RETRY = """
import sys
import optuna
from cvae.sweep.study import SweepStudy
optuna.logging.set_verbosity(optuna.logging.ERROR)
print(SweepStudy("s", sys.argv[1], {}, ["maximize"], optuna.samplers.RandomSampler()).retry_failed())
"""


@pytest.mark.parametrize("url", ["journal://one.journal", pytest.param("sqlite:///one.db", marks=pytest.mark.slow)])
def test_sweepers_that_start_at_once_retry_each_trial_once(url: str) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = SweepStudy("s", absolute(url), {}, ["maximize"], optuna.samplers.RandomSampler())
    for number in range(6):
        trial = study.claim(9)
        trial.suggest_float("x", 0, 1)
        trial.report(0.5, 1)
        trial.set_user_attr(FOLDER, f"a/{number}")
        study.storage.set_trial_system_attr(trial._trial_id, PLACE, "a")
        study.storage.set_trial_system_attr(trial._trial_id, SEEDS, {"0": [1.0]})
        trial.set_user_attr(FAILURE, "no")
        study.study.tell(trial, None if number else 1.0, TrialState.FAIL if number else TrialState.COMPLETE)
    starts = [
        subprocess.Popen([sys.executable, "-c", RETRY, absolute(url)], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    told = [ast.literal_eval(start.communicate(timeout=400)[0]) for start in starts]
    assert sorted(old for each in told for old in each) == [1, 2, 3, 4, 5]
    trials = study.trials
    assert retried(trials) == told[0] | told[1]
    assert len(counted(trials)) == 6
    for old, new in retried(trials).items():
        before, after = trials[old], trials[new]
        assert after.state == TrialState.WAITING
        assert after.system_attrs["fixed_params"] == before.params
        assert (after.system_attrs[PLACE], after.system_attrs[SEEDS]) == ("a", {"0": [1.0]})
        assert after.user_attrs == {FOLDER: f"a/{old}"}
        assert after.intermediate_values == {1: 0.5}
    # Their parameters are the old ones, and they are first.
    again = study.claim(9)
    assert again.suggest_float("x", 0, 1) == trials[1].params["x"]
    assert again.number == told[0].get(1, told[1].get(1))
