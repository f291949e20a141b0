"""Small file systems of a process's own: nobody else sees them, and they end with it."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_NEWNS, _NEWUSER = 0x00020000, 0x10000000
_RDONLY, _REMOUNT, _REC, _PRIVATE = 0x1, 0x20, 0x4000, 0x40000


class NoMounts(Exception):
    """This system does not let the process mount anything."""


def enter() -> None:
    """Give this process mounts of its own.

    Raises:
        NoMounts: it is neither root nor allowed a user namespace.
    """
    user, group = os.getuid(), os.getgid()
    try:
        _call("unshare", ctypes.c_int(_NEWNS if user == 0 else _NEWNS | _NEWUSER))
        if user != 0:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {user} 1")
            Path("/proc/self/gid_map").write_text(f"0 {group} 1")
        _mount(b"none", Path("/"), None, _REC | _PRIVATE, None)
    except OSError as error:
        raise NoMounts(str(error)) from error


class Disk:
    """A file system in memory of ``kib`` KiB at ``path``."""

    def __init__(self, path: Path, kib: int) -> None:
        """Mount it.

        Raises:
            NoMounts: as ``enter``, which has to be called before.
        """
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        try:
            _mount(b"none", path, b"tmpfs", 0, f"size={kib}k")
        except OSError as error:
            raise NoMounts(str(error)) from error

    def grow(self, kib: int) -> None:
        """Give it more space, and let it be written to."""
        _mount(b"none", self.path, None, _REMOUNT, f"size={kib}k")

    def protect(self) -> None:
        """Let nobody write to it."""
        _mount(b"none", self.path, None, _REMOUNT | _RDONLY, None)


def _mount(source: bytes, target: Path, kind: bytes | None, flags: int, options: str | None) -> None:
    data = options.encode() if options else None
    _call("mount", source, os.fsencode(target), kind, ctypes.c_ulong(flags), data)


def _call(name: str, *arguments: object) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
