"""The folder DST/.convert of a conversion under way: what is done, in a journal, so that a killed conversion goes on.

DST/.convert/plan.json       what is converted, and how: another command is refused
             journal.jsonl   a line an episode, in order, written when the episode is in place
             train/ ...      the splits so far; they move to DST at the end
             parts/          of workers, for the packed arrays
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cvae.data.converted import UNFINISHED
from cvae.data.layout import IMAGE_SIZE
from cvae.data.packed import array_shapes
from cvae.data.packing import CHUNK, npy_header, write_meta
from cvae.data.tables import Tables, width
from cvae.errors import UserError

FRAME = IMAGE_SIZE * IMAGE_SIZE * 3
_ORDER = ("test", "train", "validate")  # in which they move: without validate nothing is read


class Work:
    """A conversion under way, held by this process alone.

    Attributes:
        folder: DST/.convert.
        entries: the journal: a dict an episode.
    """

    def __init__(self, target: Path, plan: dict[str, Any]) -> None:
        self.target, self.folder = target, target / UNFINISHED
        self._plan, self.entries = plan, list[dict[str, Any]]()

    @contextlib.contextmanager
    def open(self) -> Iterator[Work]:
        """Hold the folder; what another process did of the same plan is taken over.

        Raises:
            UserError: another process holds it, or it is of another plan.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(f"{self.target} is being converted to by another process: wait for it") from error
            except OSError:  # a file system without locks
                pass
            self._compare()
            self._read_journal()
            shutil.rmtree(self.parts, ignore_errors=True)
            self.parts.mkdir()
            with (self.folder / "journal.jsonl").open("a") as self._journal:
                yield self

    @property
    def parts(self) -> Path:
        return self.folder / "parts"

    def note(self, entry: dict[str, Any]) -> None:
        """Add an episode to the journal: from now on it counts as done."""
        self.entries.append(entry)
        self._journal.write(json.dumps(entry) + "\n")
        self._journal.flush()

    def finish(self, splits: list[str], record: dict[str, Any]) -> None:
        """Move the splits to DST, write dataset.json, and remove the folder. It may be interrupted, and done again."""
        for split in sorted(splits, key=_ORDER.index):
            if (self.folder / split).exists():
                (self.folder / split).rename(self.target / split)
        (self.folder / "dataset.json").write_text(json.dumps(record, indent=1) + "\n")
        (self.folder / "dataset.json").rename(self.target / "dataset.json")
        shutil.rmtree(self.folder)

    def _compare(self) -> None:
        path = self.folder / "plan.json"
        text = json.dumps(self._plan, indent=1, sort_keys=True)
        if not path.exists():
            scratch = path.with_suffix(".partial")
            scratch.write_text(text)
            scratch.rename(path)
        try:
            known = json.loads(path.read_text())
        except ValueError:
            known = {}
        for key, value in json.loads(text).items():
            if known.get(key) != value:
                raise UserError(
                    f"{self.target} holds the beginning of another conversion ({key} was {known.get(key)!r}, is {value!r}): "
                    f"run that command again, or remove {self.folder}"
                )

    def _read_journal(self) -> None:
        """Take the lines that are whole; the last one may have been cut by a kill."""
        path = self.folder / "journal.jsonl"
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        self.entries = [json.loads(line) for line in whole.splitlines()]
        if whole != content:
            os.truncate(path, len(whole))


class PackedWriter:
    """A split of packed arrays that grows by one episode after another (see ``cvae.data.packed``).

    Args:
        folder: where they are made.
        tables: those of the conditions.
        entries: what the journal holds of the split: files that are longer are cut, which a kill may have left.
    """

    def __init__(self, folder: Path, tables: Tables, entries: list[dict[str, Any]]) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self._tables = folder, tables
        self.names, self.lengths, self.checksums = list[str](), list[int](), list[int]()
        self._chunks: list[str] = []
        for entry in entries:
            self._take(entry)
        self._ahead = {name: len(head) for name, head in self._headers().items()}
        for name, head in self._headers().items():
            path = folder / name
            if not path.exists():
                path.write_bytes(head)
            whole = len(head) + sum(self.lengths) * self._size(name)
            if path.stat().st_size < whole:
                raise UserError(f"{path} is shorter than it was: remove {folder.parent} and begin anew")
            os.truncate(path, whole)
        self._chunk = hashlib.sha256()
        for index in range(len(self._chunks) * CHUNK, len(self.lengths)):
            self._feed(index)

    def add(self, sequences: list[str], lengths: list[int], parts: tuple[Path, Path]) -> dict[str, Any]:
        """Append an episode's sequences, and remove the files that hold them; returns what the journal is to keep."""
        checksums, chunks = [], list[str]()
        with contextlib.ExitStack() as files:
            frames, cond = (files.enter_context(path.open("rb")) for path in parts)
            all_frames, all_cond = (files.enter_context((self.folder / name).open("ab")) for name in self._ahead)
            for length in lengths:
                frames_THWC, cond_TA = frames.read(length * FRAME), cond.read(length * self._size("cond.npy"))
                all_frames.write(frames_THWC)
                all_cond.write(cond_TA)
                self._chunk.update(frames_THWC)
                self._chunk.update(cond_TA)
                checksums.append(zlib.crc32(frames_THWC))
                if (len(self.lengths) + len(checksums)) % CHUNK == 0:
                    chunks.append(self._chunk.hexdigest())
                    self._chunk = hashlib.sha256()
        for path in parts:
            path.unlink()
        entry = {"names": sequences, "lengths": lengths, "checksums": checksums, "chunks": chunks}
        self._take(entry)
        return entry

    def close(self) -> None:
        """Write what is still missing: the length in the headers, and meta.json."""
        for name, head in self._headers().items():
            assert len(head) == self._ahead[name]  # NumPy leaves room for a number of any length
            with (self.folder / name).open("r+b") as file:
                file.write(head)
        last = [self._chunk.hexdigest()] if len(self.lengths) % CHUNK else []
        digest = hashlib.sha256(b"".join(map(bytes.fromhex, [*self._chunks, *last])))
        known = {"names": self.names, "lengths": self.lengths, "checksums": self.checksums, "content": digest.hexdigest()}
        write_meta(self.folder, {**known, "missing": {}, "short": {}}, self._headers(), self._tables)

    def _take(self, entry: dict[str, Any]) -> None:
        self.names += entry["names"]
        self.lengths += entry["lengths"]
        self.checksums += entry["checksums"]
        self._chunks += entry["chunks"]

    def _headers(self) -> dict[str, bytes]:
        return {name: npy_header(*shape) for name, shape in array_shapes(sum(self.lengths), width(self._tables)).items()}

    def _feed(self, index: int) -> None:
        """Take a sequence that is in the files into the hash of its chunk."""
        first, length = sum(self.lengths[:index]), self.lengths[index]
        for name, ahead in self._ahead.items():
            with (self.folder / name).open("rb") as file:
                file.seek(ahead + first * self._size(name))
                self._chunk.update(file.read(length * self._size(name)))

    def _size(self, name: str) -> int:
        """The bytes of a frame in a file."""
        return FRAME if name == "frames.npy" else 4 * width(self._tables)
