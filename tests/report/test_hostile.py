"""One folder that means harm, or is damaged, costs the report a line; the other runs are shown."""

from __future__ import annotations

import json
import re
import shutil
import time
import tracemalloc
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from fakes import fake_checkpoint, fake_run
from hostile import FOLDERS

from cvae.pages.document import one_line
from cvae.process import Process
from cvae.report.html.data import page_data
from cvae.report.html.render import render
from cvae.report.markdown import markdown_blocks
from cvae.runs.collection import collect


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return fake_run(tmp_path_factory.mktemp("whole") / "run")


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_hostile_folder_costs_its_line(tmp_path, whole, kind, capsys):
    spoil, line = FOLDERS[kind]
    shutil.copytree(whole, tmp_path / "runs" / "good")
    shutil.copytree(whole, tmp_path / "runs" / "bad")
    spoil(tmp_path / "runs" / "bad")
    tracemalloc.start()
    began = time.thread_time()
    found = collect(["runs"])
    view = page_data(found, "", "", 48, False)
    seconds, (_, peak) = time.thread_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "good" in [run["name"] for run in view["runs"]]
    shown = [one_line(each, 400) for each in found.problems] + capsys.readouterr().out.splitlines()
    assert len(shown) == bool(line), shown
    assert line in "".join(shown)
    assert not any("\x1b" in each or "\n" in each for each in shown)
    assert peak < 50e6
    assert seconds < 10  # a second without tracing, on a machine that does nothing else
    assert not Path("pwned").exists()


def test_a_page_of_all_of_them_is_written(tmp_path, whole, monkeypatch, capsys):
    monkeypatch.setattr("cvae.report.markdown.group_curves", lambda groups: None)  # drawn from rows, in a second
    shutil.copytree(whole, tmp_path / "runs" / "good")
    for number, (kind, (spoil, _)) in enumerate(FOLDERS.items()):
        if not kind.startswith(("many", "huge")):
            spoil(shutil.copytree(whole, tmp_path / "runs" / str(number) / f"{kind} <b>"))
    found = collect(["runs"])
    page = render(page_data(found, "", "", 48, False))
    view = json.loads(re.search(r'<script type="application/json" id="view">(.*?)</script>', page, re.S)[1])
    assert len(view["runs"]) + len(view["unreadable"]) > len(FOLDERS) - 20
    assert markdown_blocks(found, "", "", False)
    assert sum(run.name == "good" for run in found.runs) == 1


def test_a_folder_of_a_million_files_is_not_listed_to_its_end(tmp_path, whole, monkeypatch):
    monkeypatch.setattr("cvae.runs.run._PICTURES", 10)
    monkeypatch.setattr("cvae.runs.collection._MOST", 10)
    run = shutil.copytree(whole, tmp_path / "runs" / "run")
    for place in (run / "samples", tmp_path / "runs" / "crowd"):
        place.mkdir(exist_ok=True)
        for number in range(11):
            (place / f"epoch_{number:04d}.gif").touch()
    found = collect(["runs"])
    assert [run.video for run in found.runs] == [""]
    assert found.problems == ["runs/crowd: it holds more than 10 files", "runs/run: samples: it holds more than 10 files"]


def test_folders_within_folders_have_an_end(tmp_path, whole):
    shutil.copytree(whole, tmp_path / "runs" / "good")
    (tmp_path / "runs" / Path(*["x"] * 60)).mkdir(parents=True)
    (tmp_path / "runs" / "loop").symlink_to("loop")
    found = collect(["runs"])
    assert len(found.runs) == 1
    assert ["nested too deeply" in line for line in found.problems] == [True]


def test_the_terminal_names_each_folder_in_a_line_and_the_page_too(command, tmp_path, whole):
    shutil.copytree(whole, tmp_path / "runs" / "good")
    odd = shutil.copytree(whole, tmp_path / "runs" / "<b>\x1b[31mred\nnext\u202e")
    (odd / "run.json").write_text("{")
    failed = shutil.copytree(whole, tmp_path / "runs" / "failed")
    for name in ("run.json", "metrics.jsonl"):
        (failed / name).unlink()
    (failed / "failure.txt").write_text("data.root=/x does not exist: check the path\x1b[0m\nTraceback\n")
    result = command("report", "runs=runs", "videos=0")
    assert result.code == 0, result.err
    assert "\x1b" not in result.out
    *lines, last = result.out.splitlines()
    assert last == "1 run, 1 failed to start, 1 unreadable: report.html"
    assert lines == [
        "warning: runs/failed failed to start: data.root=/x does not exist: check the path\\u001b[0m",
        "warning: runs/<b>\\u001b[31mred next\\u202e: run.json is damaged (Expecting property name enclosed in double quotes: "
        "line 1 column 2 (char 1))",
    ]
    page = Path("report.html").read_text()
    assert "<b>\x1b" not in page
    assert "data.root=/x does not exist" in page
    assert command("report", "runs=runs", "format=md").code == 0
    text = Path("report.md").read_text()
    assert "## Starts that failed" in text
    assert "| runs/failed | data.root=/x does not exist: check the path" in text


def test_many_bad_folders_are_a_few_lines(command, tmp_path, whole):
    shutil.copytree(whole, tmp_path / "runs" / "good")
    for number in range(25):
        (tmp_path / "runs" / str(number) / ".hydra").mkdir(parents=True)
    result = command("report", "runs=runs", "videos=0")
    assert len(result.out.splitlines()) == 22
    assert "warning: 5 more folders have such problems" in result.out


def test_a_run_that_failed_later_says_why_and_how_to_go_on(tmp_path):
    run = fake_run(tmp_path / "run", epochs=9)
    fake_checkpoint(run)
    (run / "failure.txt").write_text("cannot write metrics.jsonl (No space left on device): free some space\nmore\n")
    (read,) = collect(["run"]).runs
    assert (read.state, read.note) == ("failed", "cannot write metrics.jsonl (No space left on device): free some space")
    assert read.resume == "python -m cvae.train resume=run"


def test_the_owner_of_a_run_says_whether_it_goes_on(tmp_path):
    me = Process.of()
    owners = {
        "alive": ({**asdict(me), "until": 0}, "running"),
        "dead": ({**asdict(replace(me, started=1.0)), "until": 9e9}, "stopped"),
        "far": ({**asdict(replace(me, host="elsewhere")), "until": 9e9}, "running"),
        "lost": ({**asdict(replace(me, host="elsewhere")), "until": 0}, "stopped"),
        "odd": ([1], "running"),
    }
    for name, (owner, _) in owners.items():
        run = fake_run(tmp_path / "runs" / name, epochs=9)
        (run / "owner.json").write_text(json.dumps(owner))
    assert {run.name: run.state for run in collect(["runs"]).runs} == {name: state for name, (_, state) in owners.items()}
