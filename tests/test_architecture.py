"""Rules of the code that no linter knows."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_one_place_turns_configs_into_objects():
    users = [path for path in (ROOT / "cvae").rglob("*.py") if "instantiate(" in path.read_text()]
    assert users == [ROOT / "cvae/config.py"]
