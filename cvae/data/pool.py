"""Worker processes for work that is done once: decoding and drawing thousands of files."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from cvae.errors import UserError

Job = TypeVar("Job")
Done = TypeVar("Done")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_in_processes(function: Callable[[Job], Done], jobs: Sequence[Job], workers: int | None) -> Iterator[Done]:
    """``map(function, jobs)``, in order, in ``workers`` processes; None for one a core, 1 for this process.

    However it ends, no worker runs on after it: not after Ctrl-C, which only this process handles, and not when
    this process is killed.

    Raises:
        UserError: a worker was killed.
    """
    workers = min(workers or cores(), len(jobs))
    if workers <= 1 or multiprocessing.current_process().daemon:  # a daemon, as a loader's worker is, may have no children
        yield from map(function, jobs)
        return
    # Spawned, not forked: torch's threads do not survive a fork.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), end_with_parent)
    try:
        # Workers inherit a blocked signal; a terminal sends Ctrl-C to all of them. The pool is made before, because the
        # helper process that it starts would unblock the signal.
        blocked_before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with main_apart(function):
                futures = [pool.submit(function, job) for job in jobs]
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked_before)
        for future in futures:
            yield future.result()
    except BrokenProcessPool as error:
        raise UserError("a worker process was killed: free some memory, or use fewer (data.workers=1)") from error
    finally:
        # Waits for the jobs under way: after this nobody writes any more.
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def main_apart(function: Callable[..., object]) -> Iterator[None]:
    """Keep workers that start meanwhile from importing the main module, unless ``function`` is there.

    A script without ``if __name__ == "__main__"`` would start over in each of them, and wait for this process for ever.
    """
    main = sys.modules["__main__"]
    if function.__module__ != "__main__":
        sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
