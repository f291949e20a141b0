"""Killed at random moments, a sweep in one process completes its study and loses nothing."""

from __future__ import annotations

import pytest
from toys import kill_at_random


@pytest.mark.slow
def test_kills_lose_nothing() -> None:
    kill_at_random("basic", 12, 0, 15, "seconds=1")
