"""The tools that guard the code, run as tests, so that one command judges all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "command",
    [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"], ["lint-imports", "--no-cache"]],
    ids=" ".join,
)
def test_tool_is_content(command):
    program = Path(sys.executable).with_name(command[0])
    done = subprocess.run([str(program), *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_one_place_turns_configs_into_objects():
    users = [path for path in (ROOT / "cvae").rglob("*.py") if "instantiate(" in path.read_text()]
    assert users == [ROOT / "cvae/config.py"]
