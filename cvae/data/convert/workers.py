"""Worker processes that may crash, hang or take too much memory: what they were at is then known, and the others go on."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol, TypeVar

import psutil

from cvae.data.pool import cores, end_with_parent, main_apart
from cvae.errors import UserError

Job = TypeVar("Job")

SECONDS = 120.0  # without a sign of life
MEMORY = 2 << 30  # bytes of a worker's own memory
_RUN = 16  # jobs that a worker gets at a time: neighbours, which often lie in one file
_AHEAD = 3  # runs a worker, under way or finished before an earlier one is


class Task(Protocol):
    """What is done with a job. It is sent to each worker once."""

    def __call__(self, job: Any, alive: Callable[[], None]) -> Any:
        """The outcome. ``alive`` is to be called now and then; UserError ends everything."""


@dataclass(frozen=True)
class Lost:
    """The outcome of a job whose worker crashed or was ended."""

    reason: str


def each_in_processes(
    task: Task, jobs: Sequence[Any], workers: int | None, seconds: float = SECONDS, memory: int = MEMORY
) -> Generator[Any, None, None]:
    """The outcome of each job, in order: what ``task`` returns, or ``Lost``.

    Args:
        workers: how many processes; None for one a core.
        seconds: how long a worker may give no sign of life.
        memory: how many bytes a worker may have for itself.

    Raises:
        UserError: ``task`` raised it.
    """
    pool = _Pool(task, jobs, memory, seconds)
    try:
        yield from pool.outcomes(min(workers or cores(), -(-len(jobs) // _RUN)))
    finally:
        pool.end()


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    jobs: list[int] = field(default_factory=list)  # what is left of its run
    deadline: float = 0.0


class _Pool:
    def __init__(self, task: Task, jobs: Sequence[Any], memory: int, seconds: float) -> None:
        self._task, self._jobs, self._memory, self._seconds = task, jobs, memory, seconds
        self._runs = [list(range(i, min(i + _RUN, len(jobs)))) for i in range(0, len(jobs), _RUN)]
        self._workers: list[_Worker] = []
        self._done: dict[int, Any] = {}

    def outcomes(self, workers: int) -> Iterator[Any]:
        for next_one in range(len(self._jobs)):
            while next_one not in self._done:
                self._hand_out(next_one, workers)
                self._listen()
            yield self._done.pop(next_one)

    def end(self) -> None:
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.pipe.close()

    def _hand_out(self, next_one: int, workers: int) -> None:
        """Give runs to idle workers, but none far ahead of what is awaited: outcomes would pile up."""
        limit = next_one + _AHEAD * workers * _RUN
        while self._runs and self._runs[0][0] <= limit:
            worker = next((each for each in self._workers if not each.jobs), None)
            if worker is None:
                if len(self._workers) == workers:
                    return
                worker = self._start()
            try:
                worker.pipe.send([(index, self._jobs[index]) for index in self._runs[0]])
            except OSError:  # it died while it had nothing to do: that is no job's fault
                self._workers.remove(worker)
                continue
            worker.jobs = self._runs.pop(0)
            worker.deadline = time.monotonic() + self._seconds

    def _listen(self) -> None:
        busy = {worker.pipe: worker for worker in self._workers if worker.jobs}
        left = min(worker.deadline for worker in busy.values()) - time.monotonic()
        for pipe in wait(list(busy), max(left, 0.0)):
            worker = busy[pipe]  # type: ignore[index]  # what it was given
            try:
                said = worker.pipe.recv()
            except (EOFError, OSError):
                worker.process.join()
                self._replace(worker, _end_of(worker.process.exitcode))
                continue
            worker.deadline = time.monotonic() + self._seconds
            if isinstance(said, UserError):
                raise said
            if said is not None:
                index, outcome = said
                self._done[index] = outcome
                worker.jobs.remove(index)
        for worker in busy.values():
            if worker in self._workers and worker.jobs and time.monotonic() > worker.deadline:
                worker.process.kill()
                worker.process.join()
                self._replace(worker, f"reading it gave no sign of life for {self._seconds:g} seconds")

    def _replace(self, worker: _Worker, reason: str) -> None:
        """Drop a dead worker; its first job was what it died of, the rest of its run is for another."""
        self._workers.remove(worker)
        worker.pipe.close()
        self._done[worker.jobs[0]] = Lost(reason)
        if worker.jobs[1:]:
            self._runs.insert(0, worker.jobs[1:])

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("spawn")  # not forked: threads do not survive a fork
        own, its = context.Pipe()
        arguments = (its, self._task, self._memory)
        process = context.Process(target=_work, args=arguments, daemon=True)
        # A terminal sends Ctrl-C to all processes; only this one handles it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with main_apart(self._task):
                process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        its.close()
        self._workers.append(_Worker(process, own))
        return self._workers[-1]


def _end_of(code: int | None) -> str:
    if code is not None and code < 0:
        number = -code
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        return f"the program that reads it was ended by {name}" + " (out of memory?)" * (number == signal.SIGKILL)
    return f"the program that reads it ended with code {code}"


def _work(pipe: Connection, task: Task, memory: int) -> None:
    """A worker's life: runs of jobs come in, outcomes go out."""
    end_with_parent()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    with contextlib.suppress(ValueError, OSError, AttributeError):  # a system without this limit
        limit = memory + getattr(psutil.Process().memory_info(), "data", 0)  # threads of libraries have some already
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    with open(os.devnull, "w") as nothing:  # noqa: PTH123  # libraries print of bad files what the command says in one line
        os.dup2(nothing.fileno(), 2)
    while True:
        try:
            run = pipe.recv()
        except EOFError:
            return
        for index, job in run:
            try:
                pipe.send((index, task(job, lambda: pipe.send(None))))
            except UserError as error:
                pipe.send(error)
                return
