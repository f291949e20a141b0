"""A study's journal: Optuna's file of operations, a JSON object a line, whose lines are checked.

Each line that this package writes ends in ``"cvae_check": "BYTES-CRC"``: the CRC-32 of the file's first BYTES bytes and of the
line itself. So a byte that changed, or lines that are missing, doubled or in another order, are found at the first line behind
them. Optuna and its dashboard ignore the key. Lines that they write have none; the next line that has one covers them. BYTES is
what the writer had seen: the dashboard takes another lock and may write a line just before it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import zlib
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from cvae.console import short, warn
from cvae.errors import UserError, named
from cvae.sweep.filelock import FileLock

_CHECK = re.compile(rb',"cvae_check":"(\d+)-([0-9a-f]{8})"\}\Z')
_SPOILT = re.compile(rb'"cvae_check":|"\d+-[0-9a-f]{8}"\}\Z')  # what is left of a check after one of its bytes changed
_LONGEST = 64  # bytes of a check
_SET_STATE, _FINISHED = 6, (1, 2, 3)  # Optuna's operation, and its states that are final


class Damaged(UserError):
    """A journal that is not what was written into it."""


class Journal(BaseJournalBackend):
    """A journal file as Optuna's storage reads and writes it.

    Its lock ends with its process, and a line that a full disk or a kill cut off is removed before the next one is written.

    Args:
        read_only: never create, lock or repair it; what is missing at its end is ignored.

    Raises:
        Damaged: at opening, reading and writing: a line is not what was written.
        OSError: it cannot be read or written.
    """

    def __init__(self, path: Path, read_only: bool = False) -> None:
        self.path, self._lock = path, FileLock(path.with_name(path.name + ".flock"))
        self._ends, self._sums = [0], [0]  # of the lines that were read: bytes up to there, and their CRC
        self._good = 0  # the last line whose check was right, counted from 1
        self.at = 0  # the line that was handed out last, counted from 1
        if not read_only:
            path.open("ab").close()
            if not _is_complete(path):
                with self._lock:
                    self._catch_up()

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        with self.path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < self._ends[-1]:
                raise Damaged(f"{short(self.path)} became shorter while it was in use: put back a copy of it")
            file.seek(self._ends[log_number_from])
            for number, line in enumerate(file, start=log_number_from):
                if not line.endswith(b"\n"):  # another process is writing it
                    return
                if number + 1 == len(self._ends):
                    self._check(number, line)
                self.at = number + 1
                yield self._parsed(number, line)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        with self._lock:
            for log in logs:
                self._catch_up()
                line = json.dumps(log, separators=(",", ":")).encode()
                check = b',"cvae_check":"%d-%08x"}\n' % (self._ends[-1], zlib.crc32(line, self._sums[-1]))
                with named(self.path), self.path.open("ab") as file:
                    file.write(line[:-1] + check)
                    file.flush()
                    os.fsync(file.fileno())

    def _catch_up(self) -> None:
        """Read what other processes wrote, and repair the end. The lock is held."""
        for _ in self.read_logs(len(self._ends) - 1):
            pass
        if not _is_complete(self.path):
            self._mend()
            self._catch_up()

    def _mend(self) -> None:
        """End an incomplete last line if only its end is missing, else remove it: what is written behind it would be lost."""
        with self.path.open("rb+") as file:
            file.seek(self._ends[-1])
            rest = file.read()
            for whole in (rest, rest[:-1]):
                if _CHECK.search(whole[-_LONGEST:]) and self._is_right(len(self._ends) - 1, whole):
                    file.seek(self._ends[-1] + len(whole))
                    file.write(b"\n")
                    file.truncate()
                    return
            file.truncate(self._ends[-1])
        warn(f"{short(self.path)}: its last line was cut off and is removed; {len(self._ends) - 1} lines before it are good")

    def _check(self, number: int, line: bytes) -> None:
        """Check the next line and count it."""
        text = line[:-1]
        checked = _CHECK.search(text[-_LONGEST:])
        if checked and not self._is_right(number, text):
            between = number - self._good  # lines without a check: this one's covers them
            before = f", or in one of the {between} before it, which have no check" if between else ""
            raise Damaged(_advice(self.path, f"line {number + 1}{before}", self._good))
        if not checked and _SPOILT.search(text[-_LONGEST:]):
            raise self._spoilt(number)
        self._parsed(number, line)
        self._good = number + 1 if checked else self._good
        self._ends.append(self._ends[-1] + len(line))
        self._sums.append(zlib.crc32(line, self._sums[-1]))

    def _is_right(self, number: int, text: bytes) -> bool:
        """Whether a line's check fits it and what is before it."""
        found = _CHECK.search(text[-_LONGEST:])
        assert found is not None
        seen, crc = int(found[1]), int(found[2], 16)
        index = bisect_left(self._ends, seen, hi=number + 1)
        # Who writes a check has seen all lines before it that have one.
        if not self._good <= index <= number or self._ends[index] != seen:
            return False
        own = text[: len(text) - len(found[0])] + b"}"
        return zlib.crc32(own, self._sums[index]) == crc

    def _parsed(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            log = json.loads(line)
            if isinstance(log, dict) and type(log.get("op_code")) is int:
                return log
        except (ValueError, RecursionError):
            pass
        raise self._spoilt(number)

    def _spoilt(self, number: int) -> Damaged:
        return Damaged(_advice(self.path, f"line {number + 1}", number))


def _advice(path: Path, where: str, good: int) -> str:
    name = short(path)
    aside, whole = shlex.quote(f"{name}.damaged"), shlex.quote(name)
    with path.open("rb") as file:
        logs = [json.loads(line) for _, line in zip(range(good), file, strict=False)]
    done = sum(log.get("op_code") == _SET_STATE and log.get("state") in _FINISHED for log in logs)
    return (
        f"{name} is damaged in {where}: the first {good} lines are good, with {done} finished trials. Put a copy back, or "
        f"keep these lines: mv {whole} {aside} && head -n {good} {aside} > {whole}"
    )


def unreadable(journal: Journal, error: BaseException) -> Damaged:
    """What to raise when Optuna cannot apply a line: one without a check, of another program or an earlier version."""
    reason = " ".join(str(error).split())[:80] or type(error).__name__
    return Damaged(_advice(journal.path, f"line {journal.at} ({reason})", max(journal.at - 1, 0)))


def _is_complete(path: Path) -> bool:
    """Whether a journal ends with a whole line."""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
