"""Where a study is kept: in a journal file on one host, or in a database that several hosts share.

A storage is named by a URL. ``journal:///ABSOLUTE`` and ``journal://RELATIVE`` (to the working folder) are journal files; all
others are SQLAlchemy's. A URL with a password must not stand in files that people share: ``hidden`` gives what goes into
them, and ``revealed`` finds the password again in a process that the sweeper started.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, ParamSpec, TypeVar

from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, SQLAlchemyError

from cvae.console import warn
from cvae.errors import UserError, named

P = ParamSpec("P")
T = TypeVar("T")

PATIENCE = 600.0  # seconds to wait for a database that does not answer
_JOURNAL, _SQLITE = "journal://", "sqlite:///"
_VARIABLE = "CVAE_STORAGE"  # holds the URL with its password, for the jobs of a sweep


def absolute(url: str) -> str:
    """The URL with an absolute path, so that it holds in any working folder."""
    if url.startswith(_SQLITE) and not url.startswith((_SQLITE + "/", _SQLITE + ":memory:")):
        return f"{_SQLITE}{Path(url.removeprefix(_SQLITE)).absolute()}"
    if not url.startswith(_JOURNAL):
        return url
    path = Path(url.removeprefix(_JOURNAL)).expanduser()
    if path.name in ("", ".", ".."):
        raise UserError(f"storage={url} names no file: write it as journal://multirun/studies/NAME.journal")
    return f"{_JOURNAL}{path.absolute()}"


@functools.cache
def open_storage(url: str) -> BaseStorage:
    """Open a storage; create it if it does not exist. It is opened once a process, since a journal is read from its beginning.

    Raises:
        UserError: it cannot be reached, read or written. The message shows no password.
    """
    if absolute(url) != url:
        return open_storage(absolute(url))
    if url.startswith(_JOURNAL):
        return _open_journal(Path(url.removeprefix(_JOURNAL)))
    try:
        return _open_database(url)
    except ImportError as error:
        raise UserError(
            f"storage={hidden(url)} needs a driver that is not installed ({error}): pip install 'cvae[sweep]'"
        ) from error
    except Exception as error:  # each driver has errors of its own
        reason = " ".join(str(error.__cause__ or error).split())[:200].replace(url, hidden(url))
        raise UserError(f"storage={hidden(url)} cannot be opened ({reason}): check the URL and that its server runs") from error


def _open_database(url: str) -> RDBStorage:
    url = _with_driver(url)
    for pause in (0.2, 0.5, 1.0):
        # pool_pre_ping: a connection that a restarted server has closed is noticed and replaced.
        with contextlib.suppress(SQLAlchemyError):
            return _Patient(url, engine_kwargs={"pool_pre_ping": True})
        # If several processes create the tables at once, only one succeeds; the others find them at the next attempt.
        time.sleep(pause)
    return _Patient(url, engine_kwargs={"pool_pre_ping": True})


def _with_driver(url: str) -> str:
    """The URL with an installed driver if it names none. SQLAlchemy's own choice differs between its versions."""
    given = make_url(url)
    found = next((name for name in ("psycopg", "psycopg2") if find_spec(name)), None)
    if given.drivername != "postgresql" or found is None:
        return url
    return given.set(drivername=f"postgresql+{found}").render_as_string(hide_password=False)


def patient(call: Callable[P, T]) -> Callable[P, T]:
    """``call``, tried again while the database is away, for up to ``PATIENCE`` seconds."""

    @functools.wraps(call)
    def try_again(*args: P.args, **kwargs: P.kwargs) -> T:
        deadline, pause = time.monotonic() + PATIENCE, 0.1
        while True:
            try:
                return call(*args, **kwargs)
            except Exception as error:
                if not _away(error) or time.monotonic() > deadline:
                    raise
                if 1.0 < pause < 3.0:  # once, and not for a short interruption
                    warn("the sweep's storage does not answer: waiting for it")
            time.sleep(pause)
            pause = min(2 * pause, 5.0)

    return try_again


def _away(error: BaseException | None) -> bool:
    """Whether the reason is the connection, and not what was asked over it."""
    while error is not None:
        if isinstance(error, OperationalError) or (isinstance(error, DBAPIError) and error.connection_invalidated):
            return True
        error = error.__cause__
    return False


class _Patient(RDBStorage):
    """A database that may be away for a while, for example while it is restarted: all its methods wait for it."""

    _METHODS = BaseStorage.__abstractmethods__ | {"_get_trials", "get_trial_system_attrs"}

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        return patient(found) if name in _Patient._METHODS else found


def _open_journal(path: Path) -> JournalStorage:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(_Journal(path))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"storage=journal://{path} cannot be used ({error}): restore it from a copy, or choose another file"
        ) from error


def read_journal(url: str) -> JournalStorage:
    """Open a journal for reading only: nothing is written, created or locked.

    Optuna ignores a last line that is not complete yet.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError, KeyError and others of Optuna's: it is no journal.
    """
    path = Path(absolute(url).removeprefix(_JOURNAL))
    if not path.is_file():
        raise FileNotFoundError(path)
    return JournalStorage(JournalFileBackend(str(path)))


class _Journal(JournalFileBackend):
    """Optuna's journal file, with a lock that ends with its process, and repaired after a write that a full disk cut off."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), lock_obj=_Flock(path))  # type: ignore[arg-type]
        self._path = path
        self._repair()

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        with named(self._path):
            self._repair()
            super().append_logs(logs)

    def _repair(self) -> None:
        """Remove an incomplete last line: Optuna would append to it, and nobody could read the study any more."""
        with self._path.open("rb") as file:
            if _is_complete(file):
                return
        lock = _Flock(self._path)
        lock.acquire()
        try:
            with self._path.open("rb+") as file:
                if not _is_complete(file):
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)
        finally:
            lock.release()


def _is_complete(file: BinaryIO) -> bool:
    """Whether a journal ends with a whole line."""
    if file.seek(0, os.SEEK_END) == 0:
        return True
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


class _Flock:
    """Optuna's lock interface over flock(2), on a file beside the journal. The kernel releases it when its process dies.

    Not for NFS.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(path.name + ".flock")
        self._descriptor = -1

    def acquire(self) -> bool:
        with named(self._path):
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        os.close(self._descriptor)  # and the lock with it


# --- passwords --------------------------------------------------------------------------------------------------------


def hidden(url: str) -> str:
    """The URL with ``***`` for its password."""
    if url.startswith(_JOURNAL):
        return url
    try:
        parsed = make_url(url)
        if any("password" in key.lower() for key in parsed.query):
            raise UserError("storage has its password after the question mark: write USER:PASSWORD@HOST, or set PGPASSWORD")
        return parsed.render_as_string(hide_password=True)
    except ArgumentError as error:
        raise UserError(
            f"storage is not a URL: write journal://FILE, sqlite:///FILE or postgresql://USER@HOST/NAME ({error})"
        ) from None


def hide(url: str) -> str:
    """``hidden(url)``; the whole URL is put into the environment, where ``revealed`` finds it, in child processes too."""
    shown = hidden(url)
    if shown != url:
        os.environ[_VARIABLE] = url
    return shown


def revealed(shown: str) -> str:
    """The whole URL that belongs to ``shown``, what ``hide`` returned.

    Raises:
        UserError: its password is not known here.
    """
    url = os.environ.get(_VARIABLE, "")
    if "***" not in shown:
        return shown
    if url and hidden(url) == shown:
        return url
    raise UserError(f"storage={shown}: its password is not known here: set {_VARIABLE} to the whole URL, or set PGPASSWORD")
