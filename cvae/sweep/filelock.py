"""A lock between processes on a file of its own: flock(2), which the kernel releases when its holder dies."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

from cvae.errors import UserError

_held: set[FileLock] = set()  # of this process, and what waits for one
_changing = threading.Lock()  # of ``_held``


class FileLock:
    """A lock with the interface of Optuna's, and a context manager. Not for NFS.

    A process that is forked while it is held does not hold it: it has no descriptor of it, so that the lock ends with the
    process that took it, and it releases nothing.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._descriptor = path, -1

    def acquire(self) -> bool:
        """Wait for the lock.

        Raises:
            UserError: its file cannot be written, or the file system has no locks.
        """
        try:
            with _changing:
                self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
                _held.add(self)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        except OSError as error:
            self._drop()
            raise UserError(
                f"cannot lock {self._path} ({error.strerror or error}): put the study on a local disk with "
                "hydra.sweeper.storage=journal://FILE, or into a database"
            ) from error
        except BaseException:  # Ctrl-C while it waits
            self._drop()
            raise
        return True

    def release(self) -> None:
        if self._descriptor >= 0:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # closing it would not do while a forked process has it too
            self._drop()

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def _drop(self) -> None:
        with _changing:
            descriptor, self._descriptor = self._descriptor, -1
            _held.discard(self)
            if descriptor >= 0:
                os.close(descriptor)


def _forked() -> None:
    """In a forked process: hold nothing."""
    for lock in _held:
        os.close(lock._descriptor)  # not unlocked: that would unlock it for its holder
        lock._descriptor = -1
    _held.clear()
    _changing.release()


os.register_at_fork(before=_changing.acquire, after_in_parent=_changing.release, after_in_child=_forked)
