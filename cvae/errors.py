"""The errors that a user can mend."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


class UserError(Exception):
    """Bad input: one line that names the file, key or value, and the mend.

    Entry points print the message alone and exit with status 1; a multirun counts the job as failed and goes on.
    """


class Diverged(UserError):
    """A loss became NaN or infinite. The message names the term; the state was written for inspection."""


@contextlib.contextmanager
def writing(path: Path, mend: str = "free some space, then go on with resume=") -> Iterator[None]:
    """Turn a failed write (disk full, no permission) into a UserError that names ``path`` and the mend."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch wraps a failed write in a RuntimeError
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "is the disk full?"
        raise UserError(f"cannot write {path} ({reason}): {mend}") from error
