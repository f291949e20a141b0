"""Worker processes for files that may be damaged: a job may take only so much time and memory, and one that crashes is told."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar

from cvae.data.pool import cores, pool_of, submitted

Job = TypeVar("Job")
Done = TypeVar("Done")

SECONDS = 60  # of processor time for a job: a busy machine does not count
MEMORY = 2**30  # bytes beyond those that a worker starts with


@dataclass(frozen=True)
class Crashed(Generic[Job]):
    """A job that ended its worker, or asked for too much memory."""

    job: Job


def map_carefully(
    function: Callable[[Job], Done],
    jobs: Sequence[Job],
    workers: int | None = None,
    seconds: float = SECONDS,
    memory: int = MEMORY,
) -> Iterator[Done | Crashed[Job]]:
    """``map(function, jobs)``, in order, in worker processes, None for one a core; never in this process.

    When a worker dies, the jobs that it may have had are done again one by one: so the one that kills is known.
    """
    workers = max(1, min(workers or cores(), len(jobs)))
    limited, start, done = partial(_limited, function, seconds), partial(_limit_memory, memory), 0
    while done < len(jobs):
        with contextlib.suppress(BrokenProcessPool), pool_of(workers, start) as pool:
            for future in submitted(pool, limited, jobs[done:]):
                result = future.result()
                yield result
                done += 1
        # A pool hands out one job more than it has workers.
        for job in islice(jobs, done, min(len(jobs), done + workers + 1)):
            with pool_of(1, start) as pool:
                try:
                    result = submitted(pool, limited, [job])[0].result()
                except BrokenProcessPool:
                    result = Crashed(job)
            yield result
            done += 1


def _limited(function: Callable[[Job], Done], seconds: float, job: Job) -> Done | Crashed[Job]:
    signal.setitimer(signal.ITIMER_PROF, seconds)  # its signal ends the process, also in the midst of C code
    try:
        return function(job)
    except MemoryError:
        return Crashed(job)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _limit_memory(memory: int) -> None:
    with contextlib.suppress(OSError, ValueError):  # where there is no /proc, memory has no limit
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * os.sysconf("SC_PAGE_SIZE") + memory
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
