"""The measuring of conversions, of a few records: killed and resumed they give the same files."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/convert_rate.py"


@pytest.mark.slow
@pytest.mark.parametrize("words", [("--records", "120", "--kills", "5"), ("--records", "40", "--kills", "2", "--to", "png")])
def test_killed_and_resumed(words: tuple[str, ...], tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"killed [1-9] times and resumed: the same files", done.stdout)
    assert int(re.search(r"at most (\d+) MB of private memory", done.stdout)[1]) > 0
