"""Killed at random moments, a sweep of ``hydra/launcher=joblib`` and its jobs lose nothing."""

from __future__ import annotations

import pytest
from toys import kill_at_random


@pytest.mark.slow
def test_kills_lose_nothing() -> None:
    kill_at_random("joblib", 12, 2, 15, "seconds=1")
