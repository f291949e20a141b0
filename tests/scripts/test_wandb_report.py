"""The report that is saved holds the runs, plots and words that it should; what cannot be saved is one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import wandb
import wandb_report
from wandb_server import Server, run_wandb

pytestmark = pytest.mark.filterwarnings("ignore:Pydantic V1 style:DeprecationWarning")

ODD = "lr=1e-3 'and' <b>"


@pytest.fixture
def forget() -> Iterator[None]:
    """W&B reads its settings once a process."""
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.fixture
def server(monkeypatch, forget) -> Iterator[Server]:
    with run_wandb(groups={"grid": 4, ODD: 1}) as running:
        log_in(monkeypatch, running)
        yield running


def log_in(monkeypatch, server: Server) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)


def call(monkeypatch, capsys, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["wandb_report.py", *words])
    code: Any = 0
    try:
        wandb_report.main()
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    return code, out, err


def grids(spec: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The panel grids: curves, and run by run."""
    curves, runs = (block["metadata"] for block in spec["blocks"] if block["type"] == "panel-grid")
    return curves, runs


def panels(grid: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [each["config"] for each in grid["panelBankSectionConfig"]["panels"] if each["viewType"] == kind]


def filters(runset: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(each["key"]["name"], each["op"], each["value"]) for each in runset["filters"]["filters"]]


def test_what_is_saved(server, monkeypatch, capsys):
    code, out, err = call(monkeypatch, capsys, "--group", "grid", ODD, "--title", "Both groups")
    assert (code, err) == (0, "")
    assert out == f"{server.url}/me/cvae/reports/Both-groups--Vmlldzox\n"
    (saved,) = server.reports
    assert (saved["entityName"], saved["projectName"], saved["displayName"]) == ("me", "cvae", "Both groups")
    text = " ".join(block["content"] for block in saved["spec"]["blocks"] if block["type"] == "markdown-block")
    assert "free-running" in text
    curves, runs = grids(saved["spec"])
    for grid in (curves, runs):
        assert [each["name"] for each in grid["runSets"]] == ["grid", ODD]
        assert [filters(each) for each in grid["runSets"]] == [[("group", "=", "grid")], [("group", "=", ODD)]]
        assert {each["project"]["name"] for each in grid["runSets"]} == {"cvae"}
    keys = ["options.value.kl_schedule", "options.value.tf_schedule", "lr.value", "tfr.value", "beta.value"]
    assert [key["name"] for key in curves["runSets"][0]["grouping"]] == keys
    assert runs["runSets"][0]["grouping"] == []

    lines = panels(curves, "Run History Line Plot")
    assert {line["xAxis"] for line in lines} == {"epoch"}
    shown = [line["metrics"] for line in lines]
    psnrs = ["val/psnr", "val/psnr_copy", "val/psnr_best"]
    assert shown == [psnrs, ["train/mse", "val/mse"], ["train/kld"], ["kl_weight"], ["tf_ratio"], ["lr"], ["val/ssim"]]
    assert [bar["metrics"] for bar in panels(curves, "Bar Chart")] == [["val/psnr.max"], ["train/kld"]]
    (parallel,) = panels(runs, "Parallel Coordinates Plot")
    settings = ["lr.value", "tfr.value", "beta.value", "options.value.kl_schedule", "options.value.tf_schedule"]
    axes = [column["accessor"] for column in parallel["columns"]]
    assert axes == [*(f"config:{key}" for key in settings), "summary:val/psnr.max"]
    assert [each["targetKey"] for each in panels(runs, "Parameter Importance")] == ["val/psnr.max"]
    assert len(panels(runs, "Run Comparer")) == 1
    assert [each["mediaKeys"] for each in panels(runs, "Media Browser")] == [["samples"]]


def test_without_groups_it_is_about_the_project(server, monkeypatch, capsys):
    assert call(monkeypatch, capsys)[0] == 0
    (saved,) = server.reports
    assert saved["displayName"] == "cvae"
    curves, runs = grids(saved["spec"])
    for grid in (curves, runs):
        assert [filters(each) for each in grid["runSets"]] == [[]]
    assert curves["runSets"][0]["grouping"][0] == {"section": "run", "name": "group"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--project", "other"], ["me/other", "--project"]),
        (["--group", "grid", "gird"], ["no run in group gird", "multirun"]),
        (["--title", "T" * 200], ["128"]),
    ],
    ids=["project", "group", "title"],
)
def test_what_is_not_there_is_one_line(server, monkeypatch, capsys, words, told):
    code, out, err = call(monkeypatch, capsys, *words)
    assert (code, out, err.count("\n")) == (1, "", 1)
    for word in told:
        assert word in err
    assert server.reports == []


def test_a_server_that_refuses_is_one_line(forget, monkeypatch, capsys):
    monkeypatch.setattr(wandb_report, "abandon", wandb.teardown)  # a killed service would be a ResourceWarning in this process
    with run_wandb(status=401) as refusing:
        log_in(monkeypatch, refusing)
        code, out, err = call(monkeypatch, capsys)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert refusing.url in err
    assert "wandb login" in err


@pytest.mark.slow
def test_a_server_that_breaks_is_one_line_in_time():
    with run_wandb(status=500) as broken:
        login = {"WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": broken.url}
        command = [sys.executable, wandb_report.__file__]
        done = subprocess.run(command, env={**os.environ, **login}, capture_output=True, text=True, timeout=400, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1, done.stderr
    assert "wandb login" in done.stderr


def test_without_a_login_one_line_says_how(monkeypatch, capsys):
    code, out, err = call(monkeypatch, capsys)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "wandb login" in err
    assert "WANDB_API_KEY" in err


def test_without_its_package_one_line_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    code, out, err = call(monkeypatch, capsys, "--print")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "pip install -e '.[report]'" in err


def test_printed_it_is_what_would_be_saved(monkeypatch, capsys, server):
    assert call(monkeypatch, capsys, "--group", "grid")[0] == 0
    monkeypatch.delenv("WANDB_API_KEY")
    code, out, err = call(monkeypatch, capsys, "--group", "grid", "--print")
    assert (code, err) == (0, "")
    (saved,) = server.reports
    for ours, theirs in zip(grids(json.loads(out)), grids(saved["spec"]), strict=True):
        assert [each["filters"] for each in ours["runSets"]] == [each["filters"] for each in theirs["runSets"]]
        for kind in ("Run History Line Plot", "Bar Chart", "Parallel Coordinates Plot", "Media Browser"):
            assert panels(ours, kind) == panels(theirs, kind)
