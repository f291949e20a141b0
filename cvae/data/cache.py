"""Folders that are made once, whole, and shared by every run on the machine."""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from cvae.errors import UserError, expanded, writing


def cache_root(configured: str | os.PathLike[str] | None = None) -> Path:
    """The folder for made and packed data: ``configured``, else $CVAE_CACHE, else the user's cache folder.

    Where the user's cache folder cannot be written to, it is the temporary folder; a chosen place is never replaced.

    Raises:
        UserError: the chosen folder cannot be made or written to.
    """
    chosen = configured or os.environ.get("CVAE_CACHE")
    if chosen:
        path = expanded(chosen, "data.cache_dir or CVAE_CACHE")
        if not _writable(path):
            raise UserError(f"{path} cannot be written to: set data.cache_dir (or CVAE_CACHE) to a folder that can")
        return path
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "cvae"
    if _writable(path):
        return path
    fallback = Path(tempfile.gettempdir()) / f"cvae-{os.getuid()}"
    if not _writable(fallback):
        raise UserError(f"neither {path} nor {fallback} can be written to: set data.cache_dir to a folder that can")
    return fallback


def make_once(target: Path, build: Callable[[Path], None], complete: Callable[[Path], bool] = Path.is_dir) -> None:
    """Make the folder ``target`` unless it is complete: ``build`` fills a scratch folder that is renamed into place.

    Whoever else starts the same meanwhile waits and finds it done. Ctrl-C and kill -9 leave no half folder: scratch
    folders are removed on the way out, or by the next process that gets the lock.

    Raises:
        UserError: the disk is full or the place cannot be written to.
    """
    if complete(target):
        return
    with writing(target, "free some space or choose another place (data.cache_dir or CVAE_CACHE)"):
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.with_name(target.name + ".lock").open("a") as lock:
            # The kernel drops an flock with its holder, so a killed process leaves nothing to clean.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if complete(target):
                return
            # Holding the lock, any scratch folder found is a dead process's.
            for stale in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):
                shutil.rmtree(stale, ignore_errors=True)
            scratch = target.with_name(f".{target.name}.{os.getpid()}.partial")
            scratch.mkdir()
            try:
                build(scratch)
                if target.exists():
                    shutil.rmtree(target)
                scratch.rename(target)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)


def _writable(path: Path) -> bool:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(path, os.W_OK | os.X_OK)
