"""Workers that crash, hang or take too much memory: the job is named, the others are done, in order."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import psutil
import pytest

from cvae.data.convert.workers import Lost, each_in_processes
from cvae.errors import UserError


class Misbehave:
    """A task: each job says what is to happen."""

    def __call__(self, job: str, alive: Callable[[], None]) -> object:
        if job == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if job == "leave":
            os._exit(3)
        if job == "hang":
            time.sleep(600)
        if job == "slow":
            for _ in range(8):
                time.sleep(0.5)
                alive()
        if job == "grow":
            try:
                return len(bytearray(1 << 40))
            except MemoryError:
                return "no memory"
        if job == "stop":
            raise UserError("stop here")
        return job


def test_each_fault_is_its_jobs_own() -> None:
    jobs = ["a", "crash", "b", "grow", *"cdefgh", "leave", *"ijklmnopqrstuvwxyz"]
    found = list(each_in_processes(Misbehave(), jobs, 2))
    assert found[1] == Lost("the program that reads it was ended by SIGSEGV")
    assert found[10] == Lost("the program that reads it ended with code 3")
    assert found[3] == "no memory"
    assert [each for each in found if not isinstance(each, Lost)] == [
        "no memory" if job == "grow" else job for job in jobs if job not in ("crash", "leave")
    ]
    assert not [child for child in psutil.Process().children() if "cvae" in " ".join(child.cmdline())]


@pytest.mark.slow  # it waits for seconds
def test_no_sign_of_life() -> None:
    found = list(each_in_processes(Misbehave(), ["slow", "hang", "x"], 1, seconds=3.0))
    assert found == ["slow", Lost("reading it gave no sign of life for 3 seconds"), "x"]


def test_an_error_of_the_users_ends_all() -> None:
    with pytest.raises(UserError, match="stop here"):
        list(each_in_processes(Misbehave(), ["a", "stop", "b"], 1))


def test_nothing_to_do() -> None:
    assert list(each_in_processes(Misbehave(), [], 2)) == []
