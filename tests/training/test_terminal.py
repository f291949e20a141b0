"""The time that a run still takes, and what the start table says of a busy machine."""

from __future__ import annotations

import os

import pytest
import torch

from cvae.schedules import Constant, Linear, Step
from cvae.training.runtime import busy
from cvae.training.terminal import TimeLeft


def whole(t: float) -> float:
    return 1.0


def seconds_left(free, forced: float, slower: float, until: int, total: int = 1000, done: int = 0, share=whole) -> float:
    """What is said after ``until`` iterations of a ``share`` of a window: ``forced`` seconds each, ``slower`` more if free."""
    left = TimeLeft(total, done, lambda t: (share(t), share(t) * free(t)))
    for step in range(done, until, 10):
        left.note(step + 10, truth(free, forced, slower, step, total, share, step + 10))
    return left.seconds


def truth(free, forced: float, slower: float, until: int, total: int = 1000, share=whole, end: int | None = None) -> float:
    times = [(step + 0.5) / total for step in range(until, end or total)]
    return sum(share(t) * (forced + slower * free(t)) for t in times)


@pytest.mark.parametrize("schedule", [Step(0.5), Linear(), Constant(1.0), Constant(0.0), Constant(0.3)])
@pytest.mark.parametrize("slower", [0.0, 0.05, 0.2])
def test_time_left_is_right_once_both_kinds_were_seen(schedule, slower):
    def free(t: float) -> float:
        return 1 - schedule(t)

    for until in (700, 990):
        assert seconds_left(free, 0.1, slower, until) == pytest.approx(truth(free, 0.1, slower, until), rel=0.1)


def test_a_run_that_is_still_forced_knows_that_free_running_takes_longer():
    def free(t: float) -> float:
        return float(t >= 0.5)

    told = seconds_left(free, 0.1, 0.1, until=100)
    assert told == pytest.approx(truth(free, 0.1, 0.1, 100), rel=0.01)  # 40 s forced and 100 s free, not 90 s
    assert seconds_left(free, 0.1, 0.1, until=300, done=200) == pytest.approx(120, rel=0.01)  # a resumed run


def test_short_windows_that_grow_are_not_taken_for_the_pace_of_the_run():
    def share(t: float) -> float:
        return min(1.0, 0.25 + 1.5 * t)

    def free(t: float) -> float:
        return float(t >= 0.5)

    for until in (100, 600):
        told = seconds_left(free, 0.1, 0.1, until, share=share)
        assert told == pytest.approx(truth(free, 0.1, 0.1, until, share=share), rel=0.02)


def test_nothing_is_said_before_a_first_step():
    left = TimeLeft(10, 0, lambda t: (1.0, 0.0))
    left.note(0, 1.0)
    assert left.seconds is None
    left.note(10, 1.0)
    assert left.seconds == 0


@pytest.mark.parametrize(("load", "threads", "said"), [(7.0, 2, True), (7.0, 1, False), (1.5, 2, False)])
def test_a_busy_machine_is_named_where_fewer_threads_would_help(monkeypatch, load, threads, said):
    monkeypatch.setattr(os, "getloadavg", lambda: (load, load, load))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    torch.set_num_threads(threads)
    hint = busy()
    torch.set_num_threads(1)
    assert bool(hint) == said
    if said:
        assert hint == "2, on 2 cores with a load of 7.0: OMP_NUM_THREADS=1 before the command is likely faster"
