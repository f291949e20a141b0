"""Where a study is kept: in a journal file on one host, or in a database that several hosts share.

A storage is named by a URL. ``journal:///ABSOLUTE`` and ``journal://RELATIVE`` (to the working folder) are journal files; all
others are SQLAlchemy's. A URL with a password must not stand in files that people share: ``hidden`` gives what goes into
them, and ``revealed`` finds the password again in a process that the sweeper started.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shlex
import sqlite3
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import quote

from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, PendingRollbackError, SQLAlchemyError
from sqlalchemy.orm import scoped_session, sessionmaker

from cvae.console import short, warn
from cvae.errors import UserError
from cvae.sweep.journal import Journal, unreadable

P = ParamSpec("P")
T = TypeVar("T")

PATIENCE = 600.0  # seconds to wait for a database that does not answer
_JOURNAL, _SQLITE = "journal://", "sqlite:///"
_VARIABLE = "CVAE_STORAGE"  # holds the URL with its password, for the jobs of a sweep
_opened: list[BaseStorage] = []  # by this process


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


def file_of(url: str) -> Path | None:
    """The file of a journal or of SQLite; None of a server."""
    scheme = next((each for each in (_JOURNAL, _SQLITE) if url.startswith(each)), None)
    return None if scheme is None else Path(absolute(url).removeprefix(scheme))


@functools.cache
def open_storage(url: str) -> BaseStorage:
    """Open a storage; create it if it does not exist. It is opened once a process, since a journal is read from its beginning.

    Raises:
        UserError: it cannot be reached, read or written, or it is damaged. The message shows no password.
    """
    if absolute(url) != url:
        return open_storage(absolute(url))
    storage = _open_journal(Path(url.removeprefix(_JOURNAL))) if url.startswith(_JOURNAL) else _open_server(url)
    _opened.append(storage)
    return storage


def _open_server(url: str) -> BaseStorage:
    if url.startswith(_SQLITE):
        _check_sqlite(Path(url.removeprefix(_SQLITE)))
    try:
        return _open_database(url)
    except ImportError as error:
        raise UserError(
            f"storage={hidden(url)} needs a driver that is not installed ({error}): pip install 'cvae[sweep]'"
        ) from error
    except Exception as error:  # each driver has errors of its own
        reason = " ".join(str(error.__cause__ or error).split())[:200].replace(url, hidden(url))
        raise UserError(f"storage={hidden(url)} cannot be opened ({reason}): check the URL and that its server runs") from error


def _check_sqlite(path: Path) -> None:
    """Raise UserError if SQLite finds its file damaged."""
    if not path.is_file():
        return  # it is made, or cannot be opened
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
            found = "; ".join(row[0] for row in connection.execute("PRAGMA quick_check(1)"))
    except sqlite3.OperationalError:
        return  # busy, or not readable: said at opening
    except sqlite3.DatabaseError as error:
        found = str(error)
    if found != "ok":
        whole, copy = shlex.quote(short(path)), shlex.quote(f"{short(path)}.recovered")
        raise UserError(
            f"storage=sqlite:///{path} is damaged ({' '.join(found.split())[:120]}): put a copy of it back, or save what can "
            f"be read: sqlite3 {whole} .recover | sqlite3 {copy}"
        )


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
        # PendingRollbackError: the connection broke while Optuna was in the middle of a transaction.
        if isinstance(error, (OperationalError, PendingRollbackError)):
            return True
        if isinstance(error, DBAPIError) and error.connection_invalidated:
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
    if path.exists() and not path.is_file():  # to open a pipe would wait for ever
        raise UserError(f"storage=journal://{path} is not a regular file: choose another file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _storage_of(Journal(path))
    except OSError as error:
        raise UserError(
            f"storage=journal://{path} cannot be used ({error}): restore it from a copy, or choose another file"
        ) from error


def read_journal(url: str, kind: type[Journal] = Journal) -> JournalStorage:
    """Open a journal for reading only: nothing is written, created or locked.

    A last line that is not complete yet is ignored. ``kind`` reads it.

    Raises:
        FileNotFoundError: there is no such file.
        Damaged: it is no journal, or not what was written into it.
    """
    path = Path(absolute(url).removeprefix(_JOURNAL))
    if not path.is_file():
        raise FileNotFoundError(path)
    return _storage_of(kind(path, read_only=True))


def _storage_of(journal: Journal) -> JournalStorage:
    try:
        return JournalStorage(journal)
    except (UserError, OSError):
        raise
    except Exception as error:  # Optuna's are of many kinds
        raise unreadable(journal, error) from error


def _forked() -> None:
    """In a forked process: open anew what was open. With its parent's worker id or connections it would claim its trials."""
    for storage in _opened:
        if isinstance(storage, JournalStorage):
            storage.__setstate__(storage.__getstate__())
        elif isinstance(storage, RDBStorage):
            storage.engine.dispose(close=False)
            storage.scoped_session = scoped_session(sessionmaker(bind=storage.engine))


os.register_at_fork(after_in_child=_forked)


# --- passwords --------------------------------------------------------------------------------------------------------


def hidden(url: str) -> str:
    """The URL with ``***`` for its password."""
    if url.startswith(_JOURNAL):
        return url
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # what it says may be a part of the password
        raise UserError(
            "storage is not a URL: write journal://FILE, sqlite:///FILE or postgresql://USER@HOST:PORT/NAME, with %40 for a @ "
            "and %2F for a / in a password"
        ) from None
    if any(re.search("passw|pwd|secret|token", key.lower()) for key in parsed.query):
        raise UserError("storage has its password after the question mark: write USER:PASSWORD@HOST, or set PGPASSWORD")
    if "@" in (parsed.host or ""):
        raise UserError("storage has a @ in its password: write %40 for it")
    return parsed.render_as_string(hide_password=True)


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
