"""W&B shows a run, and whatever happens to it, the run itself is whole."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import tiny
from wandb_server import run_wandb

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
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
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
    deadline = time.monotonic() + 60
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
    out, _ = process.communicate(timeout=120)
    return process.returncode, out
