"""Commands that can be pasted, and names in natural order."""

from __future__ import annotations

import random
import sys

import pytest

from cvae.console import command, natural_order


@pytest.mark.parametrize(
    "names",
    [
        ["1", "2", "9", "10", "10a", "11", "a", "a1", "a2", "a10", "a10b", "ab"],
        ["run_9/2", "run_9/10", "run_10/1"],
        ["2026-11-9_1", "2026-11-23_1", "2026-11-23_10"],
        ["07", "7", "007x", "8"],  # equal numbers: by spelling, after what follows them
        ["\u00b2", "\u00b2" + "9" * 5000, "\u00b2" + "9" * 5001],  # digits beyond what int() takes; a raised 2 is no digit
        ["", "0", "x"],
    ],
)
def test_digits_are_compared_as_numbers(names):
    shuffled = names.copy()
    random.Random(1).shuffle(shuffled)
    assert sorted(shuffled, key=natural_order) == names


@pytest.mark.parametrize(
    ("started", "named"),
    [
        ("/site/cvae/train.py", "python -m cvae.train"),
        ("/site/cvae/report/__main__.py", "python -m cvae.report"),
        ("scripts/course_study.py", "python scripts/course_study.py"),
        ("/venv/bin/cvae-report", "cvae-report"),
    ],
)
def test_a_command_is_named_as_it_can_be_pasted(monkeypatch, started, named):
    monkeypatch.setattr(sys, "argv", [started, "runs=[a,b c]"])
    assert command() == f"{named} 'runs=[a,b c]'"
