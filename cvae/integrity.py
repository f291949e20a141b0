"""Damage on the disk, found before it is believed: a checkpoint's own seal, and the lines of metrics.jsonl that it stands for.

A checkpoint is a zip archive. PyTorch checks none of its checksums, so ``seal`` adds a comment at its very end, which readers
of archives skip: a checksum of every byte before it, and facts about the run. It needs nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

Facts = dict[str, Any]
"""``epoch`` and ``iteration`` of the checkpoint; ``best_epoch`` of the run, 0 if it is not known; ``lines``, ``bytes`` and
``lines_sha256`` of metrics.jsonl at that moment; ``config_sha256`` of .hydra/config.yaml as it lies; ``dataset``, the
fingerprint of the data; ``run``, the nonce of run.json; ``name``, best or last; ``size`` and ``crc32`` of the archive.
"""

# The rows of a run by file, of epochs and of validations within them, and what stands before the names of their facts.
LINES = {"metrics.jsonl": "", "validations.jsonl": "inside_"}
_OF_LINES: Facts = {"lines": 0, "bytes": 0, "lines_sha256": ""}
_DEFAULTS: Facts = {
    **{"epoch": 0, "iteration": 0, "best_epoch": 0, "crc32": ""},
    **{f"{prefix}{key}": value for prefix in LINES.values() for key, value in _OF_LINES.items()},
}
_END = b"PK\x05\x06"  # the end record of an archive: 22 bytes, the last two of them the length of the comment that follows
_TAIL = 4096  # more than the end record and a seal
_CHUNK = 1 << 20
RECORD = 16 << 20  # bytes of run.json that are read
_SETTINGS = 1 << 20  # bytes; no config is nearly as long


class Damaged(ValueError):
    """A file is not what was written; the message says in a few words how that shows."""


class Lines:
    """The running hash of a file of ``LINES``, so that a checkpoint costs no second look at it."""

    def __init__(self, content: bytes = b"", name: str = "metrics.jsonl") -> None:
        self._prefix = LINES[name]
        self._digest, self.count, self.size = hashlib.sha256(), 0, 0
        self.add(content)

    def add(self, content: bytes) -> None:
        """Whole lines that were written."""
        self._digest.update(content)
        self.count += content.count(b"\n")
        self.size += len(content)

    def facts(self) -> Facts:
        """What ``check_lines`` compares."""
        values = (self.count, self.size, self._digest.hexdigest())
        return {f"{self._prefix}{key}": value for key, value in zip(_OF_LINES, values, strict=True)}


def seal(file: BinaryIO, facts: Facts) -> None:
    """Add ``facts`` and a checksum to an archive that was just written; ``file`` is open for reading and writing.

    Raises:
        ValueError: it is no archive without a comment.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 22))
    if not file.read(4) == _END:
        raise ValueError("only an archive without a comment can be sealed")
    text = json.dumps({**facts, "size": size, "crc32": "00000000"}).encode()
    # The checksum covers the end record as well, so the length stands there before it is taken.
    file.seek(size - 2)
    file.write(struct.pack("<H", len(_mark(text) + text)))
    text = json.dumps({**facts, "size": size, "crc32": f"{checksum(file, size):08x}"}).encode()
    file.seek(size)
    file.write(_mark(text) + text)


def facts(path: Path) -> Facts | None:
    """The facts of a checkpoint, read from its last bytes alone; None for one that a version before seals wrote.

    Raises:
        Damaged: the end of the file is not what was written, it is no regular file, or another run's.
        OSError: it cannot be read.
    """
    with opened(path) as file:
        found = _facts(file)
    _check_run(path, found)
    return found


def verify(path: Path) -> Facts | None:
    """As ``facts``, after a check of every byte of the file.

    Raises:
        Damaged: it is not what was written, or another run wrote it.
        OSError: it cannot be read.
    """
    with opened(path) as file:
        found = _facts(file)
        if found is None:
            if _record_of(path).get("sealed") is True:  # so are all checkpoints of its run
                raise Damaged("it lacks its seal: something else than this package wrote it")
            _check_archive(file)
        elif f"{checksum(file, found['size']):08x}" != found["crc32"]:
            raise Damaged("its checksum is another")
        else:
            _open_archive(file)
    _check_run(path, found)
    return found


def _check_run(path: Path, facts: Facts | None) -> None:
    """Raise Damaged if a checkpoint lies in the folder of another run than the one that wrote it."""
    writer, here = (facts or {}).get("run"), _record_of(path).get("nonce")
    if None not in (writer, here) and writer != here:
        raise Damaged("it is of another run than the run.json beside it")
    if path.stem == "best" and (facts or {}).get("name") == "last":  # the other way round a run went back
        raise Damaged("it is a copy of last.pt")
    if path.stem == "best" and facts is not None and facts["epoch"]:
        _check_epoch(path, facts["epoch"])


def _check_epoch(best: Path, epoch: int) -> None:
    """Raise Damaged if best.pt is of another epoch than last.pt knows to be the best: an earlier one, put back.

    It is written before last.pt, so that it may be newer.
    """
    last: Facts = {}
    with contextlib.suppress(OSError, Damaged), opened(best.with_name("last.pt")) as file:
        last = _facts(file) or {}
    wanted = last.get("best_epoch")
    if wanted and epoch != wanted and epoch <= last["epoch"]:
        raise Damaged(f"it is of epoch {epoch}, and the run's best was epoch {wanted}")


def _record_of(path: Path) -> dict[str, Any]:
    """The run.json of the run folder in which a checkpoint lies; empty if there is none that can be read."""
    with contextlib.suppress(OSError, ValueError, RecursionError), opened(path.parent.parent / "run.json") as file:
        record = json.loads(file.read(RECORD))
        return record if isinstance(record, dict) else {}
    return {}


def check_lines(path: Path, facts: Facts) -> None:
    """Compare a file of ``LINES`` with what a checkpoint of its run knows of it. Later lines are no damage: a kill leaves them.

    Raises:
        Damaged: lines that the checkpoint stands for were changed or lost.
        OSError: it cannot be read.
    """
    lines, size, wanted = (facts[f"{LINES[path.name]}{key}"] for key in _OF_LINES)
    if not wanted:
        return
    digest = hashlib.sha256()
    if size:
        with opened(path) as file:
            if (there := os.fstat(file.fileno()).st_size) < size:
                raise Damaged(f"{there} bytes are left of the {size} of its first {lines} lines")
            for chunk in _chunks(file, size):
                digest.update(chunk)
    if digest.hexdigest() != wanted:
        raise Damaged(f"its first {lines} lines are not those that the checkpoint was saved with")


def stamped(record: Mapping[str, Any]) -> str:
    """A record as JSON, with a checksum of its content but for ``times``: equal work has equal checksums."""
    return json.dumps({**record, "sha256": _content(record)}, indent=2) + "\n"


def check_record(record: Mapping[str, Any]) -> None:
    """Compare a record with its checksum; one that has none is of a version before.

    Raises:
        Damaged: it is not what was written.
    """
    if "sha256" in record and record["sha256"] != _content(record):
        raise Damaged("its checksum is another")


def _content(record: Mapping[str, Any]) -> str:
    rest = json.loads(json.dumps({key: value for key, value in record.items() if key not in ("sha256", "times")}))
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """The hash of a file of settings as it lies.

    Raises:
        Damaged: it is not a regular file, or too large.
        OSError: it cannot be read.
    """
    with opened(path) as file:
        if len(content := file.read(_SETTINGS + 1)) > _SETTINGS:
            raise Damaged(f"it is larger than {_SETTINGS >> 20} MiB")
    return hashlib.sha256(content).hexdigest()


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file to read; a pipe would block."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise Damaged("it is not a regular file")
        yield file


def _facts(file: BinaryIO) -> Facts | None:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL))
    tail = file.read(_TAIL)
    start = tail.rfind(_END)
    if start < 0 or len(tail) < start + 22:
        raise Damaged("it is cut off, or no checkpoint")
    comment = tail[start + 22 :]
    if len(comment) != struct.unpack("<H", tail[start + 20 : start + 22])[0]:
        raise Damaged("it is cut off")
    if not comment:
        return None
    with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
        found = json.loads(comment[9:])
        typed = all(isinstance(found.get(key, default), type(default)) for key, default in _DEFAULTS.items())
        if comment[:9] == _mark(comment[9:]) and found["size"] == size - len(comment) and typed:
            return {**_DEFAULTS, **found}
    raise Damaged("its seal is not what was written")


def _mark(text: bytes) -> bytes:
    """What stands before a seal's text: its own checksum."""
    return f"{zlib.crc32(text):08x} ".encode()


def _check_archive(file: BinaryIO) -> None:
    """The archive's own checksums; those of a version before seals."""
    try:
        with _open_archive(file) as archive:
            if broken := archive.testzip():
                raise Damaged(f"the checksum of {broken[:60]!r} is another")
    except Damaged:
        raise
    except Exception as error:  # a damaged archive can raise nearly anything
        raise Damaged(" ".join(str(error).split())[:80] or type(error).__name__) from error


def _open_archive(file: BinaryIO) -> zipfile.ZipFile:
    """An archive that takes no more in memory than on the disk: a stranger's few kB might unpack to gigabytes.

    Raises:
        Damaged: it is none, or larger than it looks.
    """
    try:
        archive = zipfile.ZipFile(file)
    except Exception as error:  # a damaged archive can raise nearly anything
        raise Damaged(" ".join(str(error).split())[:80] or type(error).__name__) from error
    records = archive.infolist()
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise Damaged("its records are compressed, and those of a checkpoint are not")
    if sum(record.file_size for record in records) > file.seek(0, os.SEEK_END):
        raise Damaged("its records are larger than the file")
    return archive


def checksum(file: BinaryIO, size: int | None = None) -> int:
    """The CRC32 of the first ``size`` bytes, or of all."""
    size = file.seek(0, os.SEEK_END) if size is None else size
    found = 0
    for chunk in _chunks(file, size):
        found = zlib.crc32(chunk, found)
    return found


def _chunks(file: BinaryIO, size: int) -> Iterator[bytes]:
    file.seek(0)
    while size > 0 and (chunk := file.read(min(size, _CHUNK))):
        yield chunk
        size -= len(chunk)
