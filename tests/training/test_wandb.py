"""W&B shows a run, and whatever happens to it, the run itself is whole."""

from __future__ import annotations

import io
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import tiny
from PIL import Image, ImageSequence
from wandb_server import run_wandb

from cvae import pictures
from cvae.config import CONF
from cvae.training import provenance
from cvae.training.recorder import RunInfo
from cvae.training.wandb_mirror import WandbMirror
from cvae.training.wandb_video import within

WANDB = ["logger=wandb", "n_samples=2", "sample_every=1"]


def records(run: Path) -> list[dict]:
    """The offline record of a run, read back with W&B's own reader."""
    (path,) = run.glob("wandb/offline-run-*/*.wandb")
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(path)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in out.splitlines()]


def history(run: Path) -> dict[int, dict]:
    """Step -> logged values."""
    rows: dict[int, dict] = {}
    for record in records(run):
        if record["type"] == "history":
            items = record["history"]["item"]
            rows.setdefault(items["_step"], {}).update(items)
    return rows


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_multirun_over_both_schedules_is_four_runs_that_compare(train, drawn):
    words = ["kl_schedule=cyclical,monotonic", "tf_schedule=step,linear", "hydra.sweep.dir=grid"]
    result = train("-m", *tiny(drawn), *WANDB, *words)
    assert result.code == 0, result.err
    seen = set()
    for job in range(4):
        run = Path("grid") / str(job)
        rows, logged = metrics(run), history(run)
        assert [row["epoch"] for row in rows] == [1, 2]
        for row in rows:
            for key in ("train/kld", "train/mse", "val/psnr", "val/ssim", "val/psnr_best", "kl_weight", "tf_ratio", "lr"):
                assert logged[row["epoch"]][key] == pytest.approx(row[key]), key
        about = next(record["run"] for record in records(run) if record["type"] == "run")
        record = json.loads((run / "run.json").read_text())
        assert (about["run_id"], about["run_group"]) == (record["id"], "grid")
        assert about["config"]["update"]["signature"] == record["signature"]
        seen.add((about["display_name"], *about["tags"], record["id"], record["signature"]))
        assert list(run.glob("wandb/offline-run-*/files/media/videos/*.gif"))
    assert len(seen) == 4
    assert {tuple(tags)[2:4] for tags in seen} == {
        (kl, forcing) for kl in ("cyclical", "monotonic") for forcing in ("step", "linear")
    }


@pytest.mark.slow
def test_the_record_of_a_job_alone_repeats_it(train, drawn, tmp_path, monkeypatch):
    checkout = checkout_with(tmp_path, monkeypatch, "https://user:secret@host.org/me/cvae.git")
    words = [*tiny(drawn), *WANDB, "logger.notes=a note", "logger.artifacts=all", "hydra.sweep.dir=grid", "lr=1e-3,2e-3"]
    assert train("-m", *words).code == 0
    run = Path("grid/1")
    told = records(run)
    about = next(record["run"] for record in told if record["type"] == "run")
    config, record = about["config"]["update"], json.loads((run / "run.json").read_text())
    assert about["git"] == {"commit": record["git_sha"], "remote_url": "https://host.org/me/cvae.git"}
    assert record["git_sha"] == git(checkout, "rev-parse", "HEAD")
    assert (about["notes"], about["job_type"], about["project"]) == ("a note", "train", record["wandb"]["project"])
    assert about["tags"] == ["tiny", "cyclical", "early_step", "mse", "fixed"]
    assert config["options"] == record["options"]
    assert (config["options"]["model"], config["options"]["kl_schedule"]) == ("tiny", "cyclical")
    assert "_target_" not in json.dumps(config)
    known = ("device", "precision", "parameters", "git_sha", "git_remote", "dirty", "dataset")
    assert {key: config["run"][key] for key in known} == {key: record[key] for key in known}
    assert (config["run"]["precision"], config["run"]["parameters"] > 10_000) == ("fp32", True)
    # The job's own command, not the multirun's, in our words and in W&B's.
    asked = shlex.split(config["run"]["command"])
    assert asked[:3] == ["python", "-m", "cvae.train"]
    assert [word for word in asked if word.startswith("lr=")] in (["lr=2e-3"], ["lr=0.002"])
    assert next(record["environment"]["args"] for record in told if "args" in record.get("environment", {})) == asked[3:]
    (artifact,) = [record["artifact"] for record in told if record["type"] == "artifact"]
    kept = {each["path"]: Path(each["local_path"]) for each in artifact["manifest"]["contents"]}
    assert {"run.json", "checkpoints/best.pt", "checkpoints/last.pt", ".hydra/config.yaml"} <= kept.keys()
    assert all(path.read_bytes() == (run / name).read_bytes() for name, path in kept.items())
    assert all(path.stat().st_size <= 300_000 for path in run.glob("wandb/*/files/media/videos/*.gif"))

    again = train(*asked[3:], "logger.mode=disabled", "hydra.run.dir=again")
    assert again.code == 0, again.err
    assert without_times(metrics(Path("again"))) == without_times(metrics(run))
    assert json.loads(Path("again/run.json").read_text())["signature"] == config["signature"]


def without_times(rows: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key not in ("seconds", "frames_per_second")} for row in rows]


def checkout_with(folder: Path, monkeypatch: pytest.MonkeyPatch, remote: str) -> Path:
    """A checkout with one commit and a remote, from which the code believes to run."""
    file = folder / "code" / "provenance.py"
    file.parent.mkdir()
    file.write_text("")
    for words in (["init", "-q"], ["add", "."], ["remote", "add", "origin", remote]):
        git(file.parent, *words)
    git(file.parent, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "1")
    monkeypatch.setattr(provenance, "__file__", str(file))
    return file.parent


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.slow
def test_online_the_address_is_said_twice_and_the_files_are_kept(drawn, tmp_path):
    run = tmp_path / "run"
    with run_wandb() as server:
        env = {"WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": server.url, "WANDB_NAME": "mine", "WANDB_NOTES": "a note"}
        code, out = finish(start(*tiny(drawn), *WANDB, f"hydra.run.dir={run}", env=env))
    record = json.loads((run / "run.json").read_text())
    assert code == 0, out
    assert "warning: W&B" not in out
    assert out.count(f"W&B      {server.url}/me/cvae/runs/{record['id']}\n") == 2
    described = server.runs[0]
    assert (described["displayName"], described["notes"], described["jobType"]) == ("mine", "a note", "train")
    assert (described["name"], described["commit"]) == (record["id"], record["git_sha"])
    kept = {name: content for name, content in server.artifact.items() if name != "manifest"}
    assert {"run.json", "metrics.jsonl", "checkpoints/best.pt", ".hydra/config.yaml", ".hydra/overrides.yaml"} == kept.keys()
    assert all((run / name).read_bytes() == content for name, content in kept.items())


@pytest.mark.slow
def test_under_an_agent_of_wandb_sweeps_a_run_is_the_agents(drawn, tmp_path):
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    sweep = yaml.safe_load((CONF / "wandb_sweep.yaml").read_text())
    given = {"lr": 0.001, "tfr": 0.5, "beta": 1e-5, "kl_schedule": "monotonic"}
    assert given.keys() == sweep["parameters"].keys()
    values = create_sweep_command_args({"args": {key: {"value": value} for key, value in given.items()}})
    values = {**values, "env": ["/usr/bin/env"]}
    command = [
        word
        for each in create_sweep_command(sweep["command"])
        for word in (values[each[2:-1]] if each.startswith("${") else [each])
    ]
    assert command[:4] == ["/usr/bin/env", "python", "-m", "cvae.train"]
    params = tmp_path / "config.yaml"
    params.write_text(yaml.safe_dump({"wandb_version": 1, **{key: {"value": value} for key, value in given.items()}}))
    env = {"WANDB_SWEEP_ID": "sw33p", "WANDB_RUN_ID": "agents1d", "WANDB_SWEEP_PARAM_PATH": str(params)}
    small = [word for word in tiny(drawn) if not word.startswith(("kl_schedule", "likelihood"))]
    code, out = finish(start(*command[4:], *small, *WANDB, f"hydra.run.dir={tmp_path / 'run'}", env=env))
    assert code == 0, out
    told = records(tmp_path / "run")
    about = next(record["run"] for record in told if record["type"] == "run")
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert (record["id"], about["run_id"], about["sweep_id"]) == ("agents1d", "agents1d", "sw33p")
    assert about["config"]["update"]["beta"] == 1e-5
    best = max(row["val/psnr"] for row in metrics(tmp_path / "run"))
    assert sweep["metric"] == {"name": "objective", "goal": "maximize"}
    assert history(tmp_path / "run")[2]["objective"] == pytest.approx(best)


class StandIn:
    """``wandb.init`` and ``wandb.Settings`` as far as a mirror calls them; they keep what they were given."""

    Settings = dict

    def __init__(self) -> None:
        self.argv: list[str] = []

    def init(self, **given: object) -> dict:
        self.argv = sys.argv
        return given


def opened(mirror: WandbMirror, group: str | None = None, **record: object) -> tuple[dict, StandIn]:
    stand_in = StandIn()
    mirror.settle(record)
    return mirror._open(
        stand_in, RunInfo("1d", Path("run"), group, "choices", ["tiny"], {"lr": 1}, record=record), "offline"
    ), stand_in


def test_the_environment_names_a_run_unless_the_command_does(monkeypatch):
    ours = ("project", "name", "notes", "group", "job_type", "tags")
    given, _ = opened(WandbMirror(), "grid")
    assert [given[key] for key in ours] == ["cvae", "choices", None, "grid", "train", ["tiny"]]
    for key in ("PROJECT", "NAME", "NOTES", "RUN_GROUP", "JOB_TYPE", "TAGS"):
        monkeypatch.setenv(f"WANDB_{key}", f"my {key}")
    given, _ = opened(WandbMirror(), "grid")
    assert [given[key] for key in ours] == [
        "my PROJECT",
        "my NAME",
        "my NOTES",
        "my RUN_GROUP",
        "my JOB_TYPE",
        ["tiny", "my TAGS"],
    ]
    given, _ = opened(WandbMirror(*("p", None, "g", "n", "o", "j", ["t"])), "grid")
    assert [given[key] for key in ours] == ["p", "n", "o", "g", "j", ["tiny", "t", "my TAGS"]]
    given, _ = opened(WandbMirror(), wandb={"project": "before"})
    assert given["project"] == "before"


def test_only_the_packages_checkout_is_named_as_the_code():
    assert opened(WandbMirror())[0]["settings"]["disable_git"] is True
    settings = opened(WandbMirror(), git_sha="abc")[0]["settings"]
    assert (settings["git_commit"], settings["git_remote"], settings["disable_code"]) == ("abc", "", True)


def test_a_resumed_run_says_on_what_it_runs_now():
    record = {"device": "cpu", "precision": "fp32", "resumed": [{"device": "GPU", "precision": "bf16"}]}
    about = opened(WandbMirror(), **record)[0]["config"]["run"]
    assert (about["device"], about["precision"]) == ("GPU", "bf16")


def test_a_job_is_said_with_its_own_command(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["cvae/train.py", "-m", "lr=1,2"])
    for group, words in ((None, ["-m", "lr=1,2"]), ("grid", ["lr=2"])):
        assert opened(WandbMirror(), group, own_command="python -m cvae.train lr=2")[1].argv[1:] == words
        assert sys.argv[1:] == ["-m", "lr=1,2"]


def test_validations_within_epochs_have_keys_of_their_own_over_steps():
    class Run:
        def __init__(self):
            self.logged = []

        def log(self, values, step):
            self.logged.append((step, {key for key in values if "psnr" in key or key == "step"}))

    mirror, run = WandbMirror(), Run()
    mirror._info = RunInfo("1d", Path("run"), None, "a-run", [], {"epoch_size": 10, "validate_at": ["5:15:5"]})
    for row in ({"step": 5, "epoch": 0.5}, {"step": 10, "epoch": 1.0}):
        mirror.validation({**row, "val/psnr": 20.0})
    mirror.log({"epoch": 1, "step": 10, "val/psnr": 20.0})
    mirror.validation({"step": 15, "epoch": 1.5, "val/psnr": 20.0})
    while not mirror._calls.empty():
        mirror._calls.get()(run)
    inside = {"inside/psnr", "step"}
    assert run.logged == [(5, inside), (10, inside), (10, {"val/psnr", "step"}), (15, inside)]


@pytest.mark.parametrize(
    ("videos", "sent"), [(True, [5, 10, 15, 20, 23]), (False, []), (0, []), (1, [23]), (2, [15, 23]), (9, [5, 10, 15, 20, 23])]
)
def test_videos_are_limited_evenly_and_the_last_is_sent(videos, sent):
    mirror = WandbMirror(videos=videos)
    mirror._info = RunInfo("1d", Path("run"), None, "a-run", [], {"epochs": 23, "sample_every": 5})
    assert [epoch for epoch in (5, 10, 15, 20, 23) if mirror._is_sent(epoch)] == sent


@pytest.mark.parametrize(("most", "frames"), [(10**9, 30), (100_000, 30), (30_000, 8), (10, None)])
def test_a_video_is_made_small_enough_or_left_out(tmp_path, most, frames):
    pixels = np.random.default_rng(1).integers(0, 90, (1, 30, 64, 64, 3), dtype=np.uint8)
    pixels[:, :, 20:] = 200  # what stands still
    pictures.gif(pixels, pixels[:, ::-1], 2, ["a"], tmp_path / "a.gif")
    content = within(tmp_path / "a.gif", most)
    if frames is None:
        assert content is None
        return
    assert len(content) <= most
    with Image.open(io.BytesIO(content)) as image:
        durations = [frame.info["duration"] for frame in ImageSequence.Iterator(image)]
    assert (len(durations), sum(durations)) == (frames, 29 * 150 + 900)


@pytest.mark.slow
def test_trials_of_a_sweep_share_a_group_and_say_what_they_are(train, drawn):
    sweep = ["-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.study_name=ours", "tfr=interval(0,1)"]
    assert train(*sweep, *tiny(drawn), *WANDB, "hydra.sweep.dir=sweep").code == 0
    for number in (0, 1):
        told = records(Path("sweep") / str(number))
        about = next(record["run"] for record in told if record["type"] == "run")
        config = about["config"]["update"]
        summary = {key: value for record in told for key, value in record.get("summary", {}).get("update", {}).items()}
        assert about["run_group"] == "ours"
        assert about["display_name"].startswith(f"trial{number}-")
        assert config["trial"]["number"] == number
        assert config["trial"]["params"] == {"tfr": config["tfr"]}
        assert summary["trial_state"] == "complete"


def test_wandb_mode_rules_where_the_mode_is_auto(train, drawn, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert train(*tiny(drawn), *WANDB, "hydra.run.dir=run").code == 0
    assert not list(Path("run").glob("wandb/*run*"))


@pytest.fixture(params=["refused", "hanging", 500, 401])
def bad_server(request):
    """The address of a W&B server that will not have us."""
    if request.param in ("refused", "hanging"):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            if request.param == "hanging":
                listener.listen(50)
                yield f"http://127.0.0.1:{listener.getsockname()[1]}"
                return
            port = listener.getsockname()[1]
        yield f"http://127.0.0.1:{port}"
        return
    with run_wandb(status=request.param) as server:
        yield server.url


@pytest.mark.slow
def test_a_server_that_does_not_serve_costs_nothing_but_the_view(drawn, tmp_path, bad_server):
    run = tmp_path / "run"
    began = time.monotonic()
    code, out = finish(
        start(*tiny(drawn), *WANDB, f"hydra.run.dir={run}", env={"WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": bad_server})
    )
    assert code == 0, out
    assert time.monotonic() - began < 60
    assert "W&B cannot be reached" in out
    assert "wandb sync" in out
    assert len(metrics(run)) == 2
    assert set(history(run)) >= {1, 2}


@pytest.mark.slow
def test_what_is_printed_sends_offline_runs_once(train, drawn):
    said = train("-m", *tiny(drawn), *WANDB, "lr=1e-3,2e-3", "hydra.sweep.dir=grid").out
    assert "wandb sync grid/1/wandb/offline-run-*" in said
    runs = {json.loads(path.read_text())["id"]: path.parent for path in Path("grid").glob("*/run.json")}
    assert len(runs) == 2
    with run_wandb() as server:
        key = {"WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": server.url}
        environment = {**os.environ, **key, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        # As from a new shell: this process's own service would send them, from the folder of the test that started it.
        environment.pop("WANDB_SERVICE", None)
        for told in ("Syncing 2 run(s)", "No runs to sync"):  # all runs of a folder, as in the README
            command = ["bash", "-c", "wandb sync grid/*/wandb/offline-run-*"]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)
            assert done.returncode == 0, done.stderr
            assert told in done.stderr
            assert server.history.keys() == runs.keys()
            for run, rows in server.history.items():
                assert [row["val/psnr"] for row in rows] == [pytest.approx(row["val/psnr"]) for row in metrics(runs[run])]
            assert sum(name.endswith(".gif") for name in server.files) == 4


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_wandb_dying_or_hanging_in_mid_run_loses_no_line(drawn, tmp_path, how):
    run = tmp_path / "run"
    process = start(*tiny(drawn), *WANDB, "epochs=16", f"hydra.run.dir={run}", finish_timeout=3)
    deadline = time.monotonic() + 400
    while not (core := children(process.pid)) or not list(run.glob("wandb/offline-run-*/*.wandb")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(core[0], how)
    code, out = finish(process)
    assert code == 0, out
    assert "Traceback" not in out
    assert "metrics.jsonl is complete" in out
    assert [row["epoch"] for row in metrics(run)] == list(range(1, 17))
    assert not Path(f"/proc/{core[0]}").exists()


def children(pid: int) -> list[int]:
    """The wandb-core processes of a process."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            number, _, rest = status.read_text().partition(" ")
        except OSError:
            continue
        name, _, fields = rest.rpartition(")")
        if name == "(wandb-core" and int(fields.split()[1]) == pid:
            found.append(int(number))
    return found


def start(*words: str, env: dict[str, str] | None = None, finish_timeout: int | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cvae.train", *words]
    if finish_timeout is not None:
        shorter = (
            f"import cvae.training.wandb_mirror as m; m._FINISH_TIMEOUT = {finish_timeout}; from cvae.train import main; main()"
        )
        command = [sys.executable, "-c", shorter, *words]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **(env or {})}
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, _ = process.communicate(timeout=400)
    return process.returncode, out
