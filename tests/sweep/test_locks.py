"""Locks end with the process that took them, forked or not, and forked workers claim each trial once."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from cvae.errors import UserError
from cvae.sweep.filelock import FileLock
from cvae.sweep.storage import absolute
from cvae.sweep.study import SweepStudy

# Whether others get the lock is asked through a descriptor of its own.
HOLDER = """
import fcntl, os, signal, sys, time
from pathlib import Path
from cvae.sweep.filelock import FileLock

def free():
    with open("lock", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

def fork(action):
    ready, told = os.pipe()
    child = os.fork()
    if not child:
        action()
        os.write(told, b"x")
        time.sleep(1000)
    os.read(ready, 1)
    return child

lock = FileLock(Path("lock"))
with lock:
    first = fork(lock.release)
    assert not free(), "a forked process released what it does not hold"
assert free(), "a forked process kept it"
with lock:
    assert not free()

holder = os.fork()
if not holder:
    lock.acquire()
    orphan = fork(lambda: None)
    Path("orphan").write_text(str(orphan))
    os.kill(os.getpid(), signal.SIGKILL)
os.waitpid(holder, 0)
assert free(), "it outlived its holder in a forked process"
os.kill(first, signal.SIGKILL)
os.kill(int(Path("orphan").read_text()), signal.SIGKILL)
"""

WORKERS = """
import os, sys, warnings
warnings.filterwarnings("ignore")
import optuna
from cvae.sweep.study import SweepStudy
optuna.logging.set_verbosity(optuna.logging.ERROR)
study = SweepStudy("s", sys.argv[1], {}, ["maximize"], optuna.samplers.RandomSampler())
ours = sys.argv[2] == "claimed"
go, started = os.pipe()
children = []
for worker in range(4):
    if not (child := os.fork()):
        os.read(go, 1)  # all at once
        while trial := study.claim(40) if ours else study.study.ask():
            with open("begun.txt", "a") as file:
                file.write(f"{trial.number}\\n")
            trial.suggest_float("x", 0, 1)
            study.study.tell(trial, 1.0)
            if not ours and trial.number > 30:
                break
        os._exit(0)
    children.append(child)
os.write(started, b"xxxx")
assert all(os.waitpid(child, 0)[1] == 0 for child in children)
"""


def run(code: str, *words: str) -> None:
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr


def test_a_forked_process_neither_holds_nor_releases_a_lock() -> None:
    run(HOLDER)


@pytest.mark.parametrize("how", ["claimed", "asked for"])
@pytest.mark.parametrize("url", ["journal://one.journal", pytest.param("sqlite:///one.db", marks=pytest.mark.slow)])
def test_forked_workers_get_each_trial_once(url: str, how: str) -> None:
    """Also by Optuna's own means: with their parent's worker id two of them get the same one."""
    run(WORKERS, absolute(url), how)
    begun = sorted(map(int, Path("begun.txt").read_text().split()))
    assert begun == list(range(len(begun)))
    study = SweepStudy("s", absolute(url), {}, ["maximize"], optuna.samplers.RandomSampler())
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * len(begun)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_one_line(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(UserError) as caught:
        SweepStudy("s", absolute("journal://one.journal"), {}, ["maximize"])
    assert "one.journal.claim" in str(caught.value)
    assert os.strerror(number) in str(caught.value)
    assert "hydra.sweeper.storage=journal://FILE" in str(caught.value)


def test_a_lock_that_cannot_be_written_is_one_line() -> None:
    with pytest.raises(UserError, match=r"cannot lock nowhere/lock \(No such file"):
        FileLock(Path("nowhere/lock")).acquire()
