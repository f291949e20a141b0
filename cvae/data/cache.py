"""Folders that are made once, whole, and shared by every run on the machine."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from cvae.errors import UserError, expanded, writing

HINT = "free some space or choose another place (data.cache_dir or CVAE_CACHE)"


def cache_places(configured: str | os.PathLike[str] | None = None) -> list[Path]:
    """Where made and packed data may lie: ``configured``, else $CVAE_CACHE, else the user's cache or the temporary folder.

    A folder that another user has put into the temporary one does not count.
    """
    chosen = configured or os.environ.get("CVAE_CACHE")
    if chosen:
        return [expanded(chosen, "data.cache_dir or CVAE_CACHE")]
    places = []
    with contextlib.suppress(RuntimeError):  # a user without a home
        places = [Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "cvae"]
    temporary = Path(tempfile.gettempdir()) / f"cvae-{os.getuid()}"
    return [*places, temporary] if _is_mine(temporary) else places


def cache_root(configured: str | os.PathLike[str] | None = None) -> Path:
    """The first of ``cache_places`` that can be written to. A chosen place is never replaced.

    Raises:
        UserError: the chosen folder cannot be made or written to.
    """
    places = cache_places(configured)
    for path in places:
        if _writable(path):
            return path
    tried = " and ".join(map(str, places)) or "the user's cache"
    raise UserError(f"{tried} cannot be written to: set data.cache_dir (or CVAE_CACHE) to a folder that can")


def make_once(target: Path, build: Callable[[Path], None], complete: Callable[[Path], bool] = Path.is_dir) -> None:
    """Make the folder ``target`` unless it is complete: ``build`` fills a scratch folder that is renamed into place.

    Whoever else starts the same meanwhile waits and finds it done. Ctrl-C and kill -9 leave no half folder: scratch
    folders are removed on the way out, or by the next process that gets the lock.

    Raises:
        UserError: the disk is full or the place cannot be written to.
    """
    with writing(target, HINT):
        if complete(target):
            return
        with locked(target) as alone:
            if complete(target):
                return
            with scratch(target, alone) as folder:
                build(folder)
                put(folder, target, complete)


@contextlib.contextmanager
def locked(target: Path) -> Iterator[bool]:
    """Hold the lock of ``target``; yields whether it is held: some file systems have none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(target.name + ".lock").open("a") as lock:
        # The kernel drops an flock with its holder, so a killed process leaves nothing to clean.
        held = False
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
            held = True
        yield held


@contextlib.contextmanager
def scratch(target: Path, alone: bool) -> Iterator[Path]:
    """A new folder beside ``target``, gone afterwards if it is still there. Whoever holds the lock removes those of the dead.

    Without a lock several may work at once, each in a folder of its own: the first one's result stays.
    """
    if alone:
        for stale in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):
            shutil.rmtree(stale, ignore_errors=True)
    folder = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def put(folder: Path, target: Path, complete: Callable[[Path], bool]) -> None:
    """Rename ``folder`` to ``target``, unless a complete one came there first; one that is not complete gives way."""
    for _ in range(9):  # without a lock another process may put its own there in between
        try:
            folder.rename(target)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        if complete(target):
            return
        shutil.rmtree(target)


def _writable(path: Path) -> bool:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError):
        return False
    return os.access(path, os.W_OK | os.X_OK)


def _is_mine(path: Path) -> bool:
    """Whether a folder that others might have made in a shared place is this user's, or not there."""
    try:
        return path.lstat().st_uid == os.getuid() and not path.is_symlink()
    except OSError:
        return True
