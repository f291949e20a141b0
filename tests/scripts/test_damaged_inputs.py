"""Damaged files are named in one line, or read as another reader reads them; scripts/damaged_inputs.py has thousands."""

from __future__ import annotations

from pathlib import Path

import damaged_inputs
import pytest


@pytest.mark.parametrize("cases", [75, pytest.param(1000, marks=pytest.mark.slow)])
def test_each_is_named_or_read_alike(cases: int) -> None:
    counts, faults = damaged_inputs.run(cases, workers=1)
    assert not faults
    assert {kind: sum(found.values()) for kind, found in counts.items()} == dict.fromkeys(damaged_inputs.KINDS, cases // 5)
    assert all(found["named"] for found in counts.values())
    assert sum(found["read"] for found in counts.values()) > cases // 20


def test_a_reader_that_believes_all_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(damaged_inputs, "KINDS", ("png",))
    check = damaged_inputs.Check(tmp_path, {"png": damaged_inputs.png()})
    monkeypatch.setattr("cvae.data.layout.check_chunks", lambda content: None)
    outcomes = {check(job, lambda: None)[0] for job in range(60)}
    assert "FAULT AssertionError: a chunk fails its CRC, and the file is not named" in outcomes
