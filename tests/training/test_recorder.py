"""What a run leaves behind: who it is, how it was made, and every epoch once."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import tiny
from PIL import Image

from cvae.charts import Chosen
from cvae.damage import read_rows
from cvae.data.store import VideoData
from cvae.errors import UserError
from cvae.integrity import Damaged
from cvae.run_schedules import Plan
from cvae.schedules import Constant
from cvae.training import provenance
from cvae.training import recorder as module
from cvae.training.recorder import NoMirror, Recorder, RunInfo, short


class Spy:
    """A mirror that keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def start(self, info: RunInfo) -> None:
        self.told.append(("start", info))

    def log(self, row: dict[str, Any]) -> None:
        self.told.append(("log", row))

    def sample(self, gif: Path, epoch: int) -> None:
        assert gif.exists()
        self.told.append(("sample", gif, epoch))

    def finish(self, exit_code: int, state: str | None = None) -> None:
        self.told.append(("finish", exit_code, state))


def begin(folder: Path, mirror: Any = None, **changes: Any) -> Recorder:
    plan = Plan(Constant(), Constant(), beta=1e-4, tfr=1.0, epochs=1)
    recorder = Recorder(folder, mirror or NoMirror(), chosen=Chosen(plan, lambda row: row.get("train/mse"), "as chosen"))
    words = {
        "signature": "feedbeef",
        "config": {"lr": 1e-3},
        "facts": {"device": "cpu, 1 threads", "precision": "fp32", "dataset": "0123"},
        "group": None,
        "name": "a-run",
        "tags": ["tiny"],
    }
    recorder.start(**{**words, **changes})
    return recorder


def record(folder: Path) -> dict[str, Any]:
    content = json.loads((folder / "run.json").read_text())
    assert isinstance(content, dict)
    return content


def row(epoch: int, **values: Any) -> dict[str, Any]:
    required = {"train/mse": 0.1 / 3, "train/kld": 1e-17, "kl_weight": 1e-4, "tf_ratio": 1.0, "seconds": 1.5}
    return {"epoch": epoch, "step": 600 * epoch, **required, **values}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


# ----------------------------------------------------------------------------------------------------- run.json


def test_a_run_says_how_it_was_made(train, drawn):
    words = tiny(drawn, "epochs=1", "hydra.run.dir='a run of mine'")
    assert train(*words).code == 0
    said = record(Path("a run of mine"))
    assert re.fullmatch(r"[0-9a-f]{8,}", said["id"])
    assert re.fullmatch(r"[0-9a-f]{8,}", said["signature"])
    assert said["git_sha"] is None or re.fullmatch(r"[0-9a-f]{40}", said["git_sha"])
    assert (said["git_sha"] is None) == (said["dirty"] is None)
    assert {name: said["versions"][name] for name in ("torch", "numpy", "hydra-core", "wandb")} == {
        name: version(name) for name in ("torch", "numpy", "hydra-core", "wandb")
    }
    assert said["device"].startswith(("cpu", "NVIDIA"))
    assert said["dataset"] == VideoData(str(drawn)).fingerprint
    assert shlex.split(said["command"]) == ["python", "-m", "cvae.train", *words]
    assert datetime.fromisoformat(said["started"]).tzinfo is not None


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["lr=2e-3", "kl_schedule=cyclical,monotonic", "-m"],
        ["data.root=/my data/it's here", "hydra.run.dir='a b'"],
        ['name="quoted"', "a=$HOME", "b=`id`", "c=a;b|c&d", "d=*", "e=\\", "f=", "g=[1, 2]", "h={a: 1}", "~i", "j=é\n"],
    ],
    ids=["bare", "plain", "spaces", "everything"],
)
@pytest.mark.parametrize(
    ("program", "start"),
    [
        ("/opt/code/cvae/train.py", ["python", "-m", "cvae.train"]),
        ("cvae/train.py", ["python", "-m", "cvae.train"]),
        ("/opt/env/bin/cvae-train", ["cvae-train"]),
    ],
)
def test_the_command_can_be_pasted(run, monkeypatch, program, start, words):
    monkeypatch.setattr(sys, "argv", [program, *words])
    begin(run)
    command = record(run)["command"]
    assert shlex.split(command) == [*start, *words]
    assert command.splitlines()[0].startswith(" ".join(start))


def test_a_shell_reads_the_command_as_it_was_given(run, monkeypatch):
    words = ["it's", 'a "b"', "$HOME", "*", "\\", "a\tb", ""]
    monkeypatch.setattr(sys, "argv", ["cvae/train.py", *words])
    begin(run)
    shown = "python() { printf '%s|' \"$@\"; }; " + record(run)["command"]
    done = subprocess.run(["bash", "-c", shown], capture_output=True, text=True, check=True)
    assert done.stdout == "".join(f"{word}|" for word in ["-m", "cvae.train", *words])


def test_equal_settings_in_two_folders_are_two_runs(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        begin(tmp_path / name)
    a, b = record(tmp_path / "a"), record(tmp_path / "b")
    assert a["signature"] == b["signature"] == "feedbeef"
    assert a["id"] != b["id"]


def test_a_resumed_run_is_the_same_run(run, monkeypatch):
    spy = Spy()
    monkeypatch.setattr(sys, "argv", ["cvae/train.py", "lr=1e-3"])
    begin(run, spy, group="sweep")
    before = record(run)
    for k in range(2):
        monkeypatch.setattr(sys, "argv", ["cvae/train.py", f"resume={run}", f"device=cuda:{k}"])
        begin(run, spy, facts={"device": f"GPU {k}"})
    after = record(run)
    resumed = after.pop("resumed")
    assert after | {"sha256": ""} == before | {"sha256": ""}
    assert [entry["device"] for entry in resumed] == ["GPU 0", "GPU 1"]
    assert [shlex.split(entry["command"])[-1] for entry in resumed] == ["device=cuda:0", "device=cuda:1"]
    infos = [info for _, info in spy.told]
    assert {(info.id, info.group, info.config["signature"]) for info in infos} == {(before["id"], "sweep", "feedbeef")}


def test_the_mirror_is_told_who_runs(run):
    spy = Spy()
    begin(run, spy, group="sweep", tags=["tiny", "mse"])
    ((_, info),) = spy.told
    assert info == RunInfo(record(run)["id"], run, "sweep", "a-run", ["tiny", "mse"], {"lr": 1e-3, "signature": "feedbeef"})


@pytest.mark.parametrize("content", ["", '{"id": "a", "sign', "[]", "3", "{}", '{"id": "a"}', '{"id": "a", "signature": "b"}'])
def test_a_damaged_record_is_named_and_left_as_it_is(run, content):
    (run / "run.json").write_text(content)
    spy = Spy()
    with pytest.raises(UserError) as caught:
        begin(run, spy)
    assert str(run / "run.json") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (run / "run.json").read_text() == content
    assert spy.told == []


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as caught:
        begin(tmp_path / "file" / "run")
    assert str(tmp_path / "file" / "run") in str(caught.value)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------------- git


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of the code with one commit, from which the recorder believes to run."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)  # in a hook they name the repository that is being worked on
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    path = tmp_path / "code" / "cvae" / "recorder.py"
    path.parent.mkdir(parents=True)
    path.write_text("# 1\n")
    git(path, "init", "-q")
    git(path, "add", ".")
    git(path, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "1")
    monkeypatch.setattr(provenance, "__file__", str(path))
    return path


def git(path: Path, *words: str) -> str:
    command = ["git", "-C", str(path.parents[1]), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def nothing(path: Path) -> None:
    pass


def edit(path: Path) -> None:
    path.write_text("# 2\n")


def stage(path: Path) -> None:
    path.write_text("# 2\n")
    git(path, "add", ".")


def add(path: Path) -> None:
    (path.parent / "new.py").write_text("")


def describe(path: Path) -> None:
    (path.parents[1] / "docs").mkdir()
    (path.parents[1] / "docs/new.md").write_text("")


@pytest.mark.parametrize(
    ("change", "dirty"),
    [(nothing, False), (edit, True), (stage, True), (add, True), (describe, False)],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_checkout_is_named_by_its_commit_and_whether_it_was_changed(run, checkout, change, dirty):
    change(checkout)
    begin(run)
    said = record(run)
    assert (said["git_sha"], said["dirty"]) == (git(checkout, "rev-parse", "HEAD"), dirty)


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://user:secret@host.org:8443/me/x.git?token=secret#a", "https://host.org:8443/me/x.git"),
        ("https://secret@host.org/me/x.git", "https://host.org/me/x.git"),
        ("ssh://git@host.org:22/me/x.git", "ssh://git@host.org:22/me/x.git"),
        ("ssh://user@host.org/x", "ssh://host.org/x"),
        ("git@host.org:me/x.git", "git@host.org:me/x.git"),
        ("user@host.org:me/x.git", "host.org:me/x.git"),
        ("http://[::1]:80/x", "http://[::1]:80/x"),
        ("http://[::1/x", None),
        ("file:///home/user/x.git", None),
        ("/home/user/x.git", None),
        ("../x.git", None),
    ],
)
def test_a_remote_is_noted_without_user_and_password(run, checkout, url, kept):
    git(checkout, "remote", "add", "origin", url)
    begin(run)
    assert record(run)["git_remote"] == kept


@pytest.mark.parametrize("where", ["beside", "ignored", "no git"])
def test_code_that_is_in_no_checkout_has_no_commit(run, checkout, monkeypatch, where):
    """As an installed package: the repository that its environment lies in is another's."""
    if where == "beside":
        path = run / "site-packages" / "recorder.py"
    elif where == "ignored":
        (checkout.parents[1] / ".gitignore").write_text("env/\n")
        path = checkout.parents[1] / "env" / "cvae" / "recorder.py"
    else:
        path = checkout
        monkeypatch.setenv("PATH", str(run))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("# 1\n")
    monkeypatch.setattr(provenance, "__file__", str(path))
    begin(run)
    assert (record(run)["git_sha"], record(run)["dirty"]) == (None, None)


# ------------------------------------------------------------------------------------------------ metrics.jsonl


def test_every_epoch_is_a_whole_line_in_its_turn(run):
    spy = Spy()
    recorder, rows = begin(run, spy), []
    for epoch in range(1, 4):
        rows.append(row(epoch, **({"val/psnr": 20.5, "val/psnr_copy": 17.0, "val/ssim": 0.8} if epoch == 2 else {})))
        recorder.epoch(rows[-1], epochs=3, best=epoch == 2)
        text = (run / "metrics.jsonl").read_text()
        assert text.endswith("}\n")
        assert [json.loads(line) for line in text.splitlines()] == rows  # to the last bit of every number
        assert read_rows(run / "metrics.jsonl") == rows
    assert spy.told[1:] == [("log", one) for one in rows]


def test_an_epoch_that_cannot_be_written_is_one_line_and_shown_nowhere(run):
    spy = Spy()
    recorder = begin(run, spy)
    (run / "metrics.jsonl").mkdir()
    with pytest.raises(UserError) as caught:
        recorder.epoch(row(1), epochs=3, best=False)
    assert str(run / "metrics.jsonl") in str(caught.value)
    assert [told[0] for told in spy.told] == ["start"]


def test_a_torn_last_line_is_left_out_wherever_it_is_torn(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps(row(epoch)) for epoch in (1, 2)]
    for cut in (*range(0, len(lines[1]), 9), len(lines[1]) - 1, len(lines[1])):
        path.write_text(f"{lines[0]}\n{lines[1][:cut]}")
        whole = lines if cut == len(lines[1]) else lines[:1]
        assert read_rows(path) == [json.loads(line) for line in whole], cut


def test_a_run_without_metrics_has_no_rows(tmp_path):
    assert read_rows(tmp_path / "metrics.jsonl") == []
    (tmp_path / "metrics.jsonl").write_text("")
    assert read_rows(tmp_path / "metrics.jsonl") == []


@pytest.mark.parametrize("tail", ["", '{"epoch": 6, "tr', "{", '{"epoch": 6}\n{"ep', json.dumps(row(6))], ids=len)
@pytest.mark.parametrize("epoch", [0, 1, 3, 5])
def test_truncating_drops_later_rows_and_a_torn_line(run, epoch, tail):
    lines = [json.dumps(row(k)) + "\n" for k in range(1, 6)]
    (run / "metrics.jsonl").write_text("".join(lines) + tail)
    Recorder(run, NoMirror()).truncate(epoch)
    assert (run / "metrics.jsonl").read_text() == "".join(lines[:epoch])
    assert [path.name for path in run.iterdir()] == ["metrics.jsonl"]


def test_rows_follow_a_truncation_as_if_they_had_never_been_there(run):
    recorder = begin(run)
    for epoch in (1, 2, 3):
        recorder.epoch(row(epoch), epochs=3, best=False)
    expected = (run / "metrics.jsonl").read_bytes()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4')
    recorder.truncate(1)
    for epoch in (2, 3):
        recorder.epoch(row(epoch), epochs=3, best=False)
    assert (run / "metrics.jsonl").read_bytes() == expected


def test_truncating_a_run_without_metrics_misses_its_rows(run):
    Recorder(run, NoMirror()).truncate(0)
    with pytest.raises(Damaged, match="missing"):
        Recorder(run, NoMirror()).truncate(3)


# ------------------------------------------------------------------------------------------ pictures and mirrors

VIDEOS_STHWC = np.random.default_rng(0).integers(0, 256, (1, 3, 64, 64, 3), dtype=np.uint8)


def live(recorder: Recorder) -> None:
    """A run's life after its start."""
    recorder.epoch(row(1), epochs=1, best=True)
    recorder.sample(1, VIDEOS_STHWC, VIDEOS_STHWC, 2, ["take/0"])
    recorder.finish(0)


def test_a_run_needs_no_mirror(run, capsys):
    live(begin(run))
    files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert files == {"run.json", "metrics.jsonl", "samples/epoch_0001.png", "samples/epoch_0001.gif", "curves.png"}
    assert f"run folder  {short(run)}" in capsys.readouterr().out.splitlines()[-1]


def test_a_mirror_is_told_everything_in_turn(run, monkeypatch):
    monkeypatch.setattr(module.charts, "curves", lambda *_: None)  # it is not told of them
    spy = Spy()
    live(begin(run, spy))
    gif = run / "samples/epoch_0001.gif"
    assert spy.told[1:] == [("log", row(1)), ("sample", gif, 1), ("finish", 0, None)]
    with Image.open(gif) as image:
        assert image.n_frames == 3


def test_a_run_that_ends_before_its_first_epoch_has_no_curves(run):
    spy = Spy()
    begin(run, spy).finish(1)
    assert not (run / "curves.png").exists()
    assert spy.told[-1] == ("finish", 1, None)


def test_curves_that_cannot_be_drawn_are_a_warning(run, capsys):
    spy = Spy()
    recorder = begin(run, spy)
    recorder.epoch(row(1), epochs=1, best=True)
    (run / "curves.png").mkdir()
    (run / "validations.jsonl").write_bytes(b'{"step": 1}\n\xff\n')  # no text is no reason to hide how the run ended
    recorder.finish(0)
    said = capsys.readouterr().out
    assert "warning: curves.png was not drawn" in said
    assert "run folder" in said
    assert spy.told[-1] == ("finish", 0, None)


def test_samples_that_cannot_be_written_are_one_line(run):
    spy = Spy()
    recorder = begin(run, spy)
    (run / "samples").write_text("")
    with pytest.raises(UserError) as caught:
        recorder.sample(1, VIDEOS_STHWC, VIDEOS_STHWC, 2, ["take/0"])
    assert str(run / "samples") in str(caught.value)
    assert [told[0] for told in spy.told] == ["start"]


@pytest.mark.parametrize(
    ("path", "shown"), [("run", "run"), ("a/b c", "a/b c"), ("../beside", None), ("/elsewhere/run", None), (".", ".")]
)
def test_a_path_is_shown_as_it_would_be_typed(tmp_path, monkeypatch, path, shown):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    absolute = Path(os.path.normpath(tmp_path / "here" / path))
    assert short(absolute) == (shown or str(absolute))
