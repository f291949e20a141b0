"""Runs that are started as processes, and what makes two of them the same."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import torch

ENTRY = [sys.executable, "-m", "cvae.train"]


def start(*words: str, entry: list[str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen([*(entry or ENTRY), *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, _ = process.communicate(timeout=400)
    return process.returncode, out


def history(run: Path) -> list[dict]:
    """metrics.jsonl without what the clock wrote."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in ("seconds", "frames_per_second")} for row in rows]


def checkpoint(run: Path, name: str = "last") -> dict:
    return torch.load(run / "checkpoints" / f"{name}.pt", weights_only=True)


def assert_same(run: Path, whole: Path) -> None:
    """Same history, and bit for bit the same weights, optimizer and generator."""
    assert history(run) == history(whole)
    assert (run / "validations.jsonl").read_bytes() == (whole / "validations.jsonl").read_bytes()
    for name in ("last", "best"):
        a, b = checkpoint(run, name), checkpoint(whole, name)
        a.pop("elapsed"), b.pop("elapsed")
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def wait_for(path: Path, lines: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not path.exists() or path.read_text().count("\n") < lines:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)
