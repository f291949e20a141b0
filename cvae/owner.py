"""One writer: a process owns a run folder while it trains there. A second one is refused, a dead one is replaced, by one alone.

The owner stands in ``owner.json``, with a token, and renews ``until`` in place, in the same inode. On its own host a process is
dead when it is gone, on others when ``until`` has passed. Whoever replaces a dead owner first makes the file
``.owner.after-TOKEN``, which the file system lets only one of them do, and only then renames its own over ``owner.json``. If it
dies in between, the next one stands after it. So nothing needs a lock, which some shared file systems do not have.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from cvae import integrity
from cvae.console import say, short
from cvae.errors import UserError, writing
from cvae.process import Process

NAME = "owner.json"
LEASE = 120.0  # seconds without a sign of life after which an owner on another host counts as lost
_BEAT = 20.0  # seconds between two signs of life
_SIZE = 512  # bytes of the file, so that it is rewritten in one piece
_TRIES = 300
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class InUse(UserError):
    """Another process owns the folder."""


@dataclass(frozen=True)
class Claim:
    """An owner as it is written. ``process`` is None for a file that cannot be read."""

    token: str
    until: float
    process: Process | None = None

    def alive(self) -> bool:
        alive = self.process.alive() if self.process is not None else None
        return time.time() < self.until if alive is None else alive

    def text(self) -> bytes:
        assert self.process is not None
        return json.dumps({**asdict(self.process), "until": round(self.until, 1), "token": self.token}).encode().ljust(_SIZE)


class Owner:
    """This process as the owner of a folder; ``hold`` makes one. A thread shows that it lives."""

    def __init__(self, folder: Path, token: str, file: BinaryIO) -> None:
        self.folder, self._token, self._file = folder, token, file
        self._process, self._lost, self._closed = Process.of(), False, threading.Event()
        self._thread = threading.Thread(target=self._beat, name="owner", daemon=True)
        self._thread.start()

    def check(self, look: bool = True) -> None:
        """Raise UserError if another process has taken the folder over, as it may while a machine sleeps.

        Args:
            look: at the file; else only at what the last sign of life found.
        """
        if self._lost or (look and not self._ours()):
            now = _read(self.folder / NAME)
            by = f"taken over by {_who(now)}" if now is not None else f"released: its {NAME} is gone"
            raise UserError(f"{short(self.folder)} was {by}: this process writes no more there")

    def release(self) -> None:
        """Let the next process have the folder at once. A second call does nothing."""
        if self._closed.is_set() or os.getpid() != self._process.pid:  # in a fork the folder is the parent's
            return
        self._closed.set()
        self._thread.join(timeout=10)
        with contextlib.suppress(OSError):
            if self._ours():
                (self.folder / NAME).unlink()
        if not self._thread.is_alive():
            self._file.close()

    def _ours(self) -> bool:
        try:
            found = (self.folder / NAME).stat()
        except FileNotFoundError:
            return False
        except OSError:  # the file server does not answer
            return True
        return os.path.samestat(found, os.fstat(self._file.fileno()))

    def _beat(self) -> None:
        while not self._closed.wait(_BEAT):
            with contextlib.suppress(OSError):
                if not self._ours():
                    self._lost = True
                    return
                os.pwrite(self._file.fileno(), Claim(self._token, time.time() + LEASE, self._process).text(), 0)


_held: dict[Path, Owner] = {}


def held(folder: Path) -> Owner | None:
    """This process as the owner of ``folder``, if it is."""
    return _held.get(_place(folder))


def _place(folder: Path) -> Path:
    """A folder by its one name; ``Path.resolve`` raises where links lead round in a circle."""
    return Path(os.path.realpath(folder))


@contextlib.contextmanager
def hold(folder: Path, patient: bool = False) -> Iterator[Owner]:
    """Own a folder, which is made if need be. Within a process that owns it already, this does nothing.

    Args:
        patient: wait for an owner on another host that may be dead, until that is certain.

    Raises:
        InUse: another process owns it.
        UserError: it cannot be written to.
    """
    place = _place(folder)
    if place in _held:
        yield _held[place]
        return
    with writing(folder / NAME, "choose another run folder"):
        made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        mine = _held[place] = _patiently(folder) if patient else _take(folder)
    try:
        yield mine
    finally:
        del _held[place]
        mine.release()
        if made:
            with contextlib.suppress(OSError):
                folder.rmdir()  # nothing was written


def _patiently(folder: Path) -> Owner:
    """Wait for the end of the lease that stands there now; an owner that renews it lives."""
    end = None
    while True:
        try:
            return _take(folder)
        except InUse as refused:
            owner = _owners(folder)[-1][1]
            if end is None and (owner.process is None or owner.process.alive() is None):
                say(f"{refused}; waiting")
                end = owner.until
            elif end is None or owner.until > end:
                raise
            time.sleep(1.0)


def _take(folder: Path) -> Owner:
    token = secrets.token_hex(8)
    scratch = folder / f".owner.{token}.partial"
    file = scratch.open("w+b", buffering=0)
    try:
        file.write(Claim(token, time.time() + LEASE, Process.of()).text())
        for _ in range(_TRIES):
            owners = _owners(folder)
            if (last := owners[-1][1]).alive():
                raise InUse(_refusal(folder, last))
            successor = _successor(folder, last.token)
            if not _made_first(scratch, successor):
                time.sleep(0.01)
                continue
            if _owners(folder)[-1][1].token != token:  # another came first, and went further
                successor.unlink(missing_ok=True)
                continue
            scratch.replace(folder / NAME)
            for path in [*(path for path, _ in owners[1:]), successor, *_left_behind(folder)]:
                path.unlink(missing_ok=True)
            return Owner(folder.absolute(), token, file)
        raise UserError(f"{short(folder)} cannot be owned: remove {NAME} and .owner.* there, if no process trains in it")
    except BaseException:
        file.close()
        raise
    finally:
        scratch.unlink(missing_ok=True)


def _left_behind(folder: Path) -> list[Path]:
    """What processes left that were killed while they claimed the folder."""
    left = []
    for path in folder.glob(".owner.*"):
        with contextlib.suppress(FileNotFoundError):  # another claims the folder just now
            if time.time() - path.lstat().st_mtime > LEASE:
                left.append(path)
    return left


def _made_first(scratch: Path, path: Path) -> bool:
    """Make ``path`` what ``scratch`` is; False if it is there already."""
    try:
        try:
            os.link(scratch, path)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            with path.open("xb") as file:
                file.write(scratch.read_bytes())
    except FileExistsError:
        return False
    return True


def _owners(folder: Path) -> list[tuple[Path, Claim]]:
    """The owner and who stands after it, one after another; the last one counts. Without an owner, a dead one begins."""
    owners = [(folder / NAME, _read(folder / NAME) or Claim("nobody", 0.0))]
    while len(owners) < 100 and (after := _read(path := _successor(folder, owners[-1][1].token))) is not None:
        owners.append((path, after))
    return owners


def _successor(folder: Path, token: str) -> Path:
    return folder / f".owner.after-{token}"


def _read(path: Path) -> Claim | None:
    """The owner in a file, None if there is no file."""
    try:
        with integrity.opened(path) as file:
            written = json.loads(file.read(_SIZE))
        process = Process(str(written["host"]), int(written["pid"]), float(written["started"]))
        token = str(written["token"])
        if not token.isalnum() or not 0 < process.pid < 2**31:  # the token becomes a part of a name
            raise ValueError(token)
        return Claim(token, min(float(written["until"]), 1e12), process)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        with contextlib.suppress(FileNotFoundError):
            found = path.stat()
            return Claim(f"{found.st_ino}x{found.st_mtime_ns}", found.st_mtime + LEASE)
        return None


def _who(owner: Claim) -> str:
    return f"process {owner.process.pid} on {owner.process.host.split()[0]}" if owner.process else f"whoever wrote its {NAME}"


def _refusal(folder: Path, owner: Claim) -> str:
    place = short(folder)
    if owner.process is not None and owner.process.alive():
        return f"{place} is in use by {_who(owner)}: wait until it has ended, or stop it"
    left = max(1, round(owner.until - time.time()))
    return (
        f"{place} is in use by {_who(owner)}: without a sign of life from there it counts as lost in {left} s; start again "
        f"then, or remove {place}/{NAME} if that process is gone"
    )
