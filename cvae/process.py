"""A process that others can ask after, once it is dead as well: who runs a trial, whether a run goes on."""

from __future__ import annotations

import contextlib
import functools
import platform
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Process:
    """A process: ``started``, in seconds after boot, tells it from a later one with the same id."""

    host: str
    pid: int
    started: float

    @classmethod
    def of(cls, pid: int | None = None) -> Process:
        process = psutil.Process(pid)
        return cls(_host(), process.pid, _since_boot(process))

    def alive(self) -> bool | None:
        """Whether it lives; None for one of another host, of which nothing can be told."""
        if self.host != _host():
            return None
        try:
            process = psutil.Process(self.pid)
            return abs(_since_boot(process) - self.started) < 0.5 and bool(process.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False


@functools.cache
def _host() -> str:
    """This machine and its process ids: containers and copies of a machine may share its name."""
    parts = [platform.node()]
    for name in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with contextlib.suppress(OSError):
            path = Path(name)
            parts.append(path.readlink().name if path.is_symlink() else path.read_text().strip()[:8])
    return " ".join(parts)


def _since_boot(process: psutil.Process) -> float:
    """When a process started. By the clock it would change whenever the clock is set, as after a machine's sleep."""
    return float(process.create_time() - psutil.boot_time())
