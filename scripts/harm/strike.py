"""Meet a command at a chosen moment of its writing: a signal, a full disk, a pause.

The package writes by Python's file objects and by ``os``. Within a command's own process these are replaced by ones that
count, and strike when a file whose path matches is opened, written, synced or renamed the n-th time. A struck write has put
half of its bytes on the disk, as after a real kill between two of the kernel's writes.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REFUSALS = {"ENOSPC": errno.ENOSPC, "EROFS": errno.EROFS, "EIO": errno.EIO}


@dataclass
class Strike:
    """What happens at the ``nth`` event on a path that ``where``, a regular expression, is found in.

    Args:
        act: the name of a signal; of an error in ``REFUSALS``, which from then on every event on such a path meets; ``pause``,
            which waits until the file ``gate`` is there; or empty, which only counts.
        gate: where ``pause`` waits; it makes ``gate.reached`` first.
        log: a file that gets a line for each event, its kind and path.
    """

    where: str = ""
    nth: int = 1
    act: str = ""
    gate: Path | None = None
    log: Path | None = None

    def install(self) -> None:
        """Replace, in this process, what opens, writes, syncs and renames files."""
        self._count, self._busy = 0, False
        self._log_file = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if self.log else None
        usual = io.open

        def hooked(file: Any, mode: str = "r", *rest: Any, **further: Any) -> Any:
            if not (set(mode) & set("wax+")) or isinstance(file, int):
                return usual(file, mode, *rest, **further)
            path = os.path.abspath(os.fsdecode(file))  # noqa: PTH100 - links are not followed
            self._meet("open", path)
            return _opened(self, path, mode, *rest, **further)

        builtins.open = io.open = hooked
        self._wrap("fsync", lambda fd, *_: _path_of(fd))
        for name in ("replace", "rename"):
            self._wrap(name, lambda source, target, *_: os.fsdecode(target))
        for name in ("mkdir", "truncate"):
            self._wrap(name, lambda path, *_: _path_of(path) if isinstance(path, int) else os.fsdecode(path))

    def _wrap(self, name: str, path_of: Callable[..., str]) -> None:
        usual = getattr(os, name)

        def hooked(*arguments: Any, **further: Any) -> Any:
            self._meet(name, os.path.abspath(path_of(*arguments)))  # noqa: PTH100 - links are not followed
            return usual(*arguments, **further)

        setattr(os, name, hooked)

    def write(self, path: str, data: Any, usual: Callable[[Any], int | None]) -> int | None:
        """Write ``data``, struck in its middle if this is the moment."""
        if not self._counts("write", path):
            return usual(data)
        half = memoryview(data).cast("B")[: memoryview(data).nbytes // 2]
        done = usual(half) or 0
        self._strike(path)
        return done + (usual(memoryview(data).cast("B")[done:]) or 0)

    def _meet(self, kind: str, path: str) -> None:
        if self._counts(kind, path):
            self._strike(path)

    def _counts(self, kind: str, path: str) -> bool:
        """Whether this event is the one to strike at, or a later one that a refusal meets too."""
        if self._busy or not re.search(self.where, path):
            return False
        self._count += 1
        if self._log_file is not None:
            os.write(self._log_file, f"{kind} {path}\n".encode())
        return bool(self.act) and (self._count == self.nth or (self.act in REFUSALS and self._count > self.nth))

    def _strike(self, path: str) -> None:
        if self.act in REFUSALS:
            raise OSError(REFUSALS[self.act], os.strerror(REFUSALS[self.act]), path)
        if self.act == "pause":
            assert self.gate is not None
            self._busy = True
            self.gate.with_name(self.gate.name + ".reached").touch()
            while not self.gate.exists():
                time.sleep(0.01)
            self._busy = False
        else:
            os.kill(os.getpid(), signal.Signals[self.act])


class _Raw(io.FileIO):
    """A file whose writes are counted. It is a real file object: descriptors, locks and memory maps work on it."""

    strike: Strike
    path: str

    def write(self, data: Any) -> int | None:
        return self.strike.write(self.path, data, super().write)


def _opened(
    strike: Strike,
    path: str,
    mode: str,
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Any = None,
) -> Any:
    """What ``open`` returns for a file that is written, with counted writes below."""
    raw = _Raw(path, re.sub("[bt]", "", mode), closefd, opener)
    raw.strike, raw.path = strike, path
    if "b" in mode and buffering == 0:
        return raw
    size = buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE
    buffered = io.BufferedRandom(raw, size) if "+" in mode else io.BufferedWriter(raw, size)
    if "b" in mode:
        return buffered
    text = io.TextIOWrapper(buffered, encoding, errors, newline, line_buffering=buffering == 1)
    text.mode = mode
    return text


def _path_of(descriptor: Any) -> str:
    number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
    try:
        return str(Path(f"/proc/self/fd/{number}").readlink())
    except OSError:
        return ""
