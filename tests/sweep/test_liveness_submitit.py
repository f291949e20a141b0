"""Killed at random moments, a sweep of ``hydra/launcher=submitit_local`` and its jobs lose nothing."""

from __future__ import annotations

import pytest
from toys import kill_at_random


@pytest.mark.slow
def test_kills_lose_nothing() -> None:
    kill_at_random("submitit", 12, 3, 8, "seconds=1", pause=6.0)
