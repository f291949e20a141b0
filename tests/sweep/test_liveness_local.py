"""Killed at random moments, a sweep of ``hydra/launcher=local`` and its jobs lose nothing."""

from __future__ import annotations

import pytest
from toys import kill_at_random


@pytest.mark.slow
def test_kills_lose_nothing() -> None:
    kill_at_random("local", 12, 1, 15, "seconds=1")
