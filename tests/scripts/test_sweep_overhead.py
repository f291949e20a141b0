"""The script that measures what the sweeper adds to a job."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "sweep_overhead.py"


@pytest.mark.slow
def test_it_measures_three_sweeps() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--trials", "0"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seconds = {line[:32].strip(): float(line[32:].split()[0]) for line in done.stdout.splitlines()}
    assert list(seconds) == ["Hydra's own sweeper", "optuna, basic", "optuna, local"]
    assert all(0 < value < 60 for value in seconds.values()), seconds
