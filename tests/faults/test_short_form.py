"""The short form of ``scripts/torture.py``: a few harms of every kind, each judged against what is undisturbed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.faults
SCRIPT = Path(__file__).parents[2] / "scripts/torture.py"
KINDS = ("Kills and signals", "Damaged files", "Disks that are", "Two writers", "Places that cannot", "Folders of strangers")


@pytest.mark.timeout(1800)
def test_no_promise_is_broken_and_every_control_is_counted() -> None:
    """No case begins after two minutes: a busy machine tries fewer, of every kind."""
    command = [sys.executable, SCRIPT, "--short", "--minutes", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]
    totals = [line for line in done.stdout.splitlines() if line.startswith("- ")]
    assert [line for kind in KINDS for line in totals if line.startswith(f"- {kind}")] == totals
    assert len(totals) == len(KINDS)
    for line in totals:
        counted, controls = map(int, re.search(r"(\d+) of (\d+) controls counted", line).groups())
        assert counted == controls > 0, line
