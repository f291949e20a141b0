"""A command finds the options of a user's own config folder, whatever it asks for, and best.yaml is read as settings alone."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import tiny

from cvae import start
from cvae.errors import UserError
from cvae.experiment_file import unfold
from cvae.runs.collection import collect

MINE = """
# @package _global_
defaults:
  - override /kl_schedule: early
  - override /model: tiny
lr: 3e-3
"""
SWEEP = """
# @package _global_
defaults:
  - mine
  - override /hydra/sweeper: optuna
  - override /hydra/sweeper/sampler: random
hydra:
  mode: MULTIRUN
  sweeper: {n_trials: 2, n_jobs: 1, params: {lr: "interval(1e-4, 1e-3)"}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A config folder of a user's own: an experiment, a sweep, an option of a group, and a group that the package has not."""
    for name, text in {
        "experiment/mine": MINE,
        "experiment/my_sweep": SWEEP,
        "kl_schedule/early": "_target_: cvae.schedules.Monotonic\nramp: 0.01\n",
        "pace/slow": "# @package _global_\nsample_every: 7\n",
    }.items():
        path = tmp_path / "own configs" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "own configs"


@pytest.fixture(params=["flag", "searchpath"])
def found(request, folder: Path) -> list[str]:
    """The ways in which a command names that folder."""
    return {"flag": ["--config-dir", str(folder)], "searchpath": [f"hydra.searchpath=['file://{folder}']"]}[request.param]


def words(drawn: Path, *more: str) -> list[str]:
    return [word for word in tiny(drawn, *more) if not word.startswith(("kl_schedule=", "model="))]


def ramp(run: str) -> float:
    lines = Path(run, ".hydra/config.yaml").read_text().split("kl_schedule:")[1].splitlines()
    return float(lines[2].split(":")[1])


@pytest.mark.slow
def test_a_run_its_resume_and_its_schedules_know_the_users_options(train, drawn, found):
    assert train(*found, "experiment=mine", *words(drawn), "hydra.run.dir=run").code == 0
    assert ramp("run") == 0.01
    # The report's command to repeat it leaves the option's folder to the user: the run's may be a stranger's.
    (run,) = collect(["run"]).runs
    assert "hydra.searchpath" in run.left_out
    assert train(*found, *shlex.split(run.repeat)[3:], "epochs=1", "hydra.run.dir=again").code == 0
    assert ramp("again") == 0.01
    # A folder that holds a run is refused although the experiment is the user's.
    again = train(*found, "experiment=mine", *words(drawn), "hydra.run.dir=run")
    assert (again.code, "already holds a run" in again.err) == (1, True)
    assert "this run is finished" in train(*found, "resume=run").out
    assert train(*found, "show=schedules", "experiment=mine").code == 0
    assert Path("schedules.png").stat().st_size > 5000
    printed = train("--cfg", "job", *found, "experiment=mine")
    assert (printed.code, "ramp: 0.01" in printed.out) == (0, True)


@pytest.mark.slow
def test_a_grid_knows_the_users_options(train, drawn, found):
    assert train("-m", *found, "experiment=mine", "seed=1,2", *words(drawn), "hydra.sweep.dir=grid").code == 0
    assert [ramp(f"grid/{job}") for job in range(2)] == [0.01, 0.01]
    refused = train("-m", *found, "experiment=mine", "seed=1,2", *words(drawn), "hydra.sweep.dir=grid")
    assert (refused.code, "grid/0 already holds a run" in refused.err) == (1, True)


@pytest.mark.slow
def test_a_sweep_and_its_summary_know_the_users_options_and_groups(train, drawn, found):
    done = train(*found, "experiment=my_sweep", "+pace=slow", *words(drawn), "hydra.sweep.dir=swept")
    assert done.code == 0, done.out + done.err
    assert ramp("swept/0") == 0.01
    assert len(json.loads(Path("swept/sweep.json").read_text())["trials"]) == 2
    best = Path("swept/best.yaml").read_text()
    assert "- override /kl_schedule: early" in best
    assert "- /pace: slow" in best
    assert not [word for word in ("logger", "trial:", "allow_targets", "hydra") if word in best]
    (again,) = [line for line in done.out.splitlines() if line.startswith("again")]
    assert all(word in again for word in ("own configs", "+pace=slow", "hydra.mode=RUN"))
    assert train(*found, "experiment=swept/best.yaml", "hydra.run.dir=once").code == 0
    assert ramp("once") == 0.01
    assert "sample_every: 7\n" in Path("once/.hydra/config.yaml").read_text()


def test_what_is_missing_from_the_users_folder_is_said(train, folder, found):
    for command in (found, ["-m", *found], [*found, "show=schedules"]):
        refused = train(*command, "experiment=yours")
        assert refused.code == 1
        assert refused.err.startswith("error: experiment=yours: no such option; choose course_")
        assert "mine, my_sweep, sweep_lr_tfr_beta" in refused.err
        assert "provider" not in refused.err
    assert "no such folder is not a folder" in train("--config-dir", "no such folder", "show=schedules").err


def test_a_flag_may_hold_its_folder(folder):
    assert start.compose([f"--config-dir={folder}", "experiment=mine"]).kl_schedule.ramp == 0.01


def test_a_notebook_composes_as_hydra_documents_it():
    code = """
import sys
from hydra import compose, initialize_config_module
with initialize_config_module("cvae.conf", version_base="1.3"):
    cfg = compose("config", ["kl_schedule=cyclical", "lr=2e-3"])
assert (cfg.lr, cfg.kl_schedule.cycles, cfg.epochs) == (2e-3, 3, 14)
assert cfg.trial.warmup >= 1
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_package_itself_imports_nothing():
    code = "import sys; before = set(sys.modules); import cvae; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['cvae']\n"


# --- a file of settings -----------------------------------------------------------------------------------------------


def unfolded(text: str) -> list[str]:
    Path("best.yaml").write_text(text, encoding="latin-1")
    return unfold(["experiment=best.yaml", "seed=2"])


def test_a_file_of_settings_becomes_overrides():
    text = (
        "defaults:\n- override /kl_schedule: cyclical\n- /pace: slow\nlr: 1e-3\nmodel: {backbone: {width: 0.5}}\nbeta: null\n"
    )
    assert unfolded(text) == [
        "kl_schedule=cyclical",
        "+pace=slow",
        "lr=0.001",
        "model.backbone.width=0.5",
        "beta=null",
        "seed=2",
    ]


def test_keys_that_a_group_s_option_lacks_are_added():
    assert unfolded("lr: 1e-3\noptim: {eps: 1e-7, fused: true}\nmetrics: {mae: {_target_: mine.mae}}\n") == [
        "lr=0.001",
        "+optim.eps=1e-07",
        "optim.fused=true",
        "+metrics.mae._target_='mine.mae'",
        "seed=2",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "hydra: {mode: MULTIRUN}",
        "hydra.run.dir: elsewhere",
        "+hydra.callbacks.x._target_: torch.load",
        "'++hydra.job.chdir': true",
        "~optim: null",
        "'-m': x",
        "hydra/launcher: basic",
        "defaults: [override /hydra/launcher: basic]",
        "defaults: [/hydra/callbacks: x]",
        "defaults: [mine]",
        "defaults: [override /kl_schedule: [a, b]]",
        "- lr",
        # what leads out of a group's folder would be read as the user's own config
        "defaults: [override /kl_schedule: ../../../tmp/evil]",
        "defaults: [override /kl_schedule: /tmp/evil]",
        "defaults: [override /../tmp: evil]",
        "kl_schedule: ../../../tmp/evil",
        "kl_schedule: [cyclical, ../../tmp/evil]",
        "kl_schedule: /tmp/evil",
        # what an option is put into
        "defaults: [/logger@hydra.callbacks.x: wandb]",
        "defaults: [/data@_global_.hydra.callbacks.x: synthetic]",
        "'kl_schedule@hydra.callbacks.x': cyclical",
        "defaults: [override /experiment: sweep_quick]",
        "experiment: sweep_quick",
        "hydra_: 1",
        "'lr=1 hydra.mode': MULTIRUN",
        "model: {'x hydra.mode=MULTIRUN': 1}",
        "1: 2",
        # what reads the environment
        "lr: '${oc.env:TOKEN}'",
        "optim: {weight_decay: 'a ${oc.decode:${oc.env:TOKEN}}'}",
        "model: {list: [{deep: '${oc.env:TOKEN}'}]}",
        "data: {root: '${oc.env:NO_SUCH_VARIABLE}'}",
        "data: {root: '${oc.create:{a: 1}}'}",
        # what would be written to
        "data: {root: /nowhere/at/all}",
        "data.root: nowhere",
        # what is too much
        "a: &a [1, 2]\nb: *a",
        "[" * 2000,
        "lr: \xff",
        "#" + "x" * 1_000_001,
    ],
    ids=lambda text: text[:40],
)
def test_a_file_of_settings_sets_up_nothing_else(text):
    with pytest.raises(UserError, match=r"best\.yaml"):
        unfolded(text)


def test_what_only_a_command_may_set_is_left_out_of_a_file(capfd):
    text = "allow_targets: [os]\nlogger: {mode: online}\ntrial: {number: 3}\nresume: /elsewhere\nshow: schedules\nlr: 0.5\n"
    assert unfolded(text) == ["lr=0.5", "seed=2"]
    assert (
        "left out allow_targets, logger.mode, trial.number, resume, show, which only a command can set"
        in capfd.readouterr().out
    )
    assert unfolded("defaults: [override /logger: none, /logger@model.x: none]") == ["seed=2"]
    assert unfolded("data: {cache_dir: /elsewhere, x: [{cache_dir: /elsewhere}]}") == [
        "+data.x=[{cache_dir:null}]",
        "seed=2",
    ]
    assert "left out data.cache_dir, which" in capfd.readouterr().out


def test_a_file_of_settings_says_where_its_data_are(drawn, monkeypatch):
    monkeypatch.setenv("FRAMES", str(drawn))
    assert unfolded("data: {root: '${oc.env:FRAMES}'}") == ["data.root='${oc.env:FRAMES}'", "seed=2"]
    Path("best.yaml").write_text("data: {root: /nowhere}")
    assert unfold(["experiment='best.yaml'", f"data.root={drawn}"])[-1] == f"data.root={drawn}"  # the user's own word


@pytest.mark.parametrize("special", ["fifo", "zero", "folder", "loop", "none", "long"])
def test_what_is_no_file_of_settings_is_said(tmp_path, special):
    path = Path("best.yaml")
    match special:
        case "fifo":
            os.mkfifo(path)
        case "zero":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
        case "loop":
            path.symlink_to(path)
        case "long":
            path = Path("x" * 300 + ".yaml")
    with pytest.raises(UserError, match=r"experiment=.*yaml cannot be read \("):
        unfold([f"experiment={path}"])


@pytest.mark.parametrize("text", ["", "# @package _global_\n# checksum of th"])
def test_a_file_of_settings_that_sets_nothing_is_refused(text):
    Path("best.yaml").write_text(text)
    with pytest.raises(UserError, match=r"experiment=.*best.yaml sets nothing; it may be cut off"):
        unfold(["experiment=best.yaml"])


def test_what_runs_from_a_file_of_settings_is_what_the_command_allows(train, drawn, tmp_path, monkeypatch):
    mark = tmp_path / "ran"
    package = (
        f"import pathlib\npathlib.Path({str(mark)!r}).touch()\nclass Ramp:\n    def __call__(self, t):\n        return t\n"
    )
    (tmp_path / "mypkg.py").write_text(package)
    monkeypatch.syspath_prepend(tmp_path)
    Path("best.yaml").write_text("allow_targets: [mypkg]\nkl_schedule: {_target_: mypkg.Ramp}\n")
    words = [word.replace("kl_schedule=cyclical", "kl_schedule=monotonic") for word in tiny(drawn)]
    words += ["~kl_schedule.ramp", "epochs=1"]
    refused = train("experiment=best.yaml", *words)
    assert (refused.code, "kl_schedule._target_ is 'mypkg.Ramp', which is not allowed" in refused.err) == (1, True)
    assert not mark.exists()
    done = train("experiment=best.yaml", "allow_targets=[mypkg]", *words)
    assert (done.code, mark.exists()) == (0, True), done.err


def test_composing_leaves_hydra_out():
    assert "hydra" not in start.compose(["lr=1e-2"])
