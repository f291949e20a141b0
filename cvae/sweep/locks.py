"""The lock of a study, in its storage, under which its trials are claimed; and the leases by which they are held."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.trial import FrozenTrial

from cvae.errors import UserError
from cvae.process import Process
from cvae.sweep.filelock import FileLock
from cvae.sweep.storage import hidden, open_storage

LEASE = 120.0  # seconds after which an owner that did not renew its lease has lost it
SWEEPER, JOB = "cvae:sweeper", "cvae:job"  # the two leases of a trial, its system's attributes


@contextlib.contextmanager
def locked(url: str, name: str) -> Iterator[None]:
    """Hold the lock under which trials of this study are claimed. It is released when its process dies."""
    storage = open_storage(url)
    if isinstance(storage, JournalStorage):
        path = Path(url.removeprefix("journal://"))
    elif isinstance(storage, RDBStorage) and storage.engine.dialect.name == "sqlite":
        path = Path(storage.engine.url.database or "")
    else:
        yield from _locked_in_database(storage, url, name)
        return
    with FileLock(path.with_name(path.name + ".claim")):
        yield


def _locked_in_database(storage: BaseStorage, url: str, study: str) -> Iterator[None]:
    assert isinstance(storage, RDBStorage)
    from sqlalchemy import text
    from sqlalchemy.exc import SQLAlchemyError

    locks = {
        "postgresql": ("SELECT pg_advisory_lock(hashtext(:name))", "SELECT pg_advisory_unlock(hashtext(:name))"),
        "mysql": ("SELECT GET_LOCK(:name, -1)", "SELECT RELEASE_LOCK(:name)"),
    }
    dialect = storage.engine.dialect.name
    if dialect not in locks:
        raise UserError(f"storage={hidden(url)}: {dialect} is not supported; use postgresql, mysql, sqlite or journal")
    take, release = locks[dialect]
    name = {"name": f"cvae {study}"[:64]}
    with storage.engine.connect() as connection:
        connection.execute(text(take), name)
        try:
            yield
        finally:
            # A server that was restarted has released the lock already.
            with contextlib.suppress(SQLAlchemyError):
                connection.execute(text(release), name)


# --- leases -----------------------------------------------------------------------------------------------------------


def lease_of(owner: Process) -> dict[str, Any]:
    """A lease that begins now, as it is kept with a trial."""
    return {**asdict(owner), "until": time.time() + LEASE}


def owned(trial: FrozenTrial) -> bool:
    """Whether its sweeper or its job lives."""
    return any(lives(lease) for role in (SWEEPER, JOB) if (lease := trial.system_attrs.get(role)))


def lives(lease: dict[str, Any]) -> bool:
    """Whether the owner of a lease lives: on this host it is seen, on another one the lease's end tells it."""
    alive = Process(lease["host"], lease["pid"], lease["started"]).alive()
    return bool(time.time() < lease["until"]) if alive is None else alive
