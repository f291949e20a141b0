"""The measuring of a large data set, of a small one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/big_data.py"


@pytest.mark.slow
def test_it_lists_packs_and_opens(tmp_path):
    command = [sys.executable, SCRIPT, "--sequences", "300"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "300 sequences, 9,600 files" in done.stdout
    assert re.findall(r"^(\w+) +[\d.]+ s", done.stdout, re.MULTILINE) == ["list", "pack", "open"]


@pytest.mark.slow
def test_it_times_the_doctor(tmp_path):
    command = [sys.executable, SCRIPT, "--sequences", "20", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert re.search(r"^check +[\d.]+ s, [\d.]+ s of processor time$", done.stdout, re.MULTILINE)
