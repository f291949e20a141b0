"""The errors that a user can put right."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

FAILURE = "failure.txt"  # in a run folder: the reason of a start that failed, in its first line


PARTS: set[str] = set()  # packages of others from which this process has built components


class UserError(Exception):
    """Bad input: one line that names the file, key or value, and how to put it right.

    Entry points print the message alone and exit with status 1; a multirun counts the job as failed and goes on.
    """


class BadArgument(UserError):
    """A value that a component cannot work with. Who builds it from a config knows the key in place of the class."""

    def __init__(self, component: object, name: str, why: str) -> None:
        super().__init__(f"{type(component).__name__}.{name} {why}")
        self.kind, self.said = type(component), f"{name} {why}"


class Diverged(UserError):
    """A loss became NaN or infinite, or a weight. The message names it; the state at that moment was written for inspection."""


def require(valid: bool, key: str, value: object, hint: str) -> None:
    """Raise UserError unless the setting ``key`` has a valid value; ``hint`` says what to give instead."""
    if not valid:
        raise UserError(f"{key} is {value!r}: {hint}")


def is_whole(value: object, least: int, most: float = math.inf) -> bool:
    """Whether a value is a whole number within bounds; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_number(value: object) -> bool:
    """Whether a value is a number; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def first_line(error: BaseException) -> str:
    """The first line of what another package's error says, at most 120 letters; its type if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


def brief(error: BaseException) -> str:
    """All that an error says, in one line of at most 120 letters; of the system's errors without number and path."""
    said = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return " ".join(said.split())[:120] or type(error).__name__


@contextlib.contextmanager
def writing(path: Path, hint: str = "free some space, then go on with resume=") -> Iterator[None]:
    """Turn a failed write (disk full, no permission) into a UserError that names ``path`` and how to put it right."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror or error}): {hint}") from error


@contextlib.contextmanager
def named(what: str | os.PathLike[str]) -> Iterator[None]:
    """Have an error of the system say what it is about, where it does not: a failed write or lock names no file."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or os.fspath(what)
        raise


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a file to write that then becomes ``path``: it is there as a whole or as it was before, however this ends.

    A device or a pipe (``/dev/stdout``) is written to as it is.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    scratch = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")  # another process may write the same
    try:
        yield scratch
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def write_whole(path: Path, text: str, hint: str) -> None:
    """Write a text file as a whole.

    Raises:
        UserError: it could not be written.
    """
    with writing(path, hint), whole(path) as scratch:
        scratch.write_text(text)


def expanded(path: str | os.PathLike[str], key: str) -> Path:
    """The absolute path of a setting, ``~`` expanded; UserError if ``~name`` names no user, or it cannot be a path."""
    if "\0" in os.fspath(path):
        raise UserError(f"{key}={os.fspath(path)!r} holds a zero byte: write the path without it")
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:
        raise UserError(f"{key}={path} names no user's home: write the whole path") from error
