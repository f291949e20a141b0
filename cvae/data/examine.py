"""One sequence of a dataset, each of its files read once: what is wrong with it, and what is known of it."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cvae.data.layout import COURSE, SPLITS, Naming, broken_chunks, content_of, read_frame, read_table
from cvae.data.listing import NoSequence, frames_in
from cvae.data.packed import PackedSplit
from cvae.data.sealed import Damaged
from cvae.data.tables import Tables, read_tables
from cvae.errors import UserError

FAILS, BAD, NOTE = "fails", "bad", "note"  # training would end with an error; it would learn wrong things; to be known


@dataclass(frozen=True)
class Problem:
    """What is wrong with a file, a folder or a sequence, in a line that begins with its place."""

    what: str
    level: str
    sequence: tuple[str, str] | None = None  # its split and name


@dataclass
class Seen:
    """What is known of a sequence once it is read; arrays are empty if it cannot be read."""

    split: str
    name: str
    problems: list[Problem] = field(default_factory=list)
    length: int = 0
    naming: Naming = COURSE
    packed: int | None = None  # its number in a packed split
    # NaN in the columns of tables that are not there.
    cond_TA: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    missing: list[str] = field(default_factory=list)  # tables that are not there
    marks_T: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))  # hashes of the frames
    changes_T: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))  # RMSE, pixels in [0, 1]

    def add(self, what: str, level: str) -> None:
        self.problems.append(Problem(what, level, (self.split, self.name)))

    def has(self, column: int) -> bool:
        """Whether there are values in a column of the tables."""
        return bool(len(self.cond_TA)) and not np.isnan(self.cond_TA[0, column])

    @property
    def good(self) -> bool:
        """Whether training may have it."""
        return all(problem.level == NOTE for problem in self.problems)


@dataclass(frozen=True)
class Job:
    """A sequence to read: that of a folder, or one of a packed split."""

    split: str
    name: str
    folder: Path
    tables: Tables
    index: int | None = None
    """Its number in the packed split that lies in ``folder``."""


def examine(job: Job, alive: Callable[[], None]) -> Seen:
    """Read a sequence and say what is wrong with each file: a task of ``cvae.data.convert.workers``."""
    seen, folder = Seen(job.split, job.name), job.folder
    if job.index is not None:
        return _examine_packed(seen, folder, job.index)
    try:
        seen.length, seen.naming, _ = frames_in(folder)
    except NoSequence as reason:
        seen.add(f"{folder} is not read as a sequence: {reason}", NOTE)
        return seen
    except UserError as error:
        seen.add(str(error), FAILS)
        return seen
    frames = list(_frames(folder, seen, alive))
    _read_tables(folder, job.tables, seen)
    if len(frames) == seen.length:
        _look_at(frames, seen)
    return seen


def _examine_packed(seen: Seen, folder: Path, index: int) -> Seen:
    try:
        split = _opened_once(folder)
    except Damaged as error:  # a moment ago it was whole
        seen.add(f"{folder} is damaged ({error})", FAILS)
        return seen
    seen.length, seen.packed = int(split.lengths[index]), index
    seen.missing = [file for file, name in split.meta["missing"].items() if name == seen.name]
    try:
        frames_THWC, seen.cond_TA = split[index]
    except UserError as error:
        seen.add(str(error), FAILS)
        return seen
    if not np.isfinite(seen.cond_TA).all():
        seen.add(f"{seen.split}/{seen.name} holds values that are no finite numbers in {folder / 'cond.npy'}", FAILS)
    _look_at(list(frames_THWC), seen)
    return seen


def is_packed(root: Path, split: str) -> bool:
    """Whether a split lies there as packed arrays, not as files."""
    return any((root / split / name).exists() for name in ("meta.json", "frames.npy"))


def tables_of(root: Path) -> Tables:
    """The tables of a dataset of either kind; UserError if what declares them cannot be read."""
    for split in SPLITS:
        if is_packed(root, split):
            with contextlib.suppress(Damaged):
                return opened(root / split).tables
    return read_tables(root)


def opened(folder: Path) -> PackedSplit:
    """A packed split; Damaged if its arrays or tables are not as they were written."""
    return PackedSplit(folder, "actions_positions", "convert the source again into a new folder")


_opened_once = lru_cache(maxsize=3)(opened)  # in a worker


def _look_at(frames: list[NDArray[np.uint8]], seen: Seen) -> None:
    seen.marks_T = np.array([mark(frame_HWC) for frame_HWC in frames], np.uint64)
    seen.changes_T = np.array([_rmse(*pair) for pair in pairwise(frames)], np.float32)
    if seen.length > 1 and not seen.changes_T.any():
        seen.add(f"{seen.split}/{seen.name}: all {seen.length} frames are the same", NOTE)


def mark(frame_HWC: NDArray[np.uint8]) -> int:
    """A hash of a frame's pixels, in 64 bits."""
    return int.from_bytes(hashlib.blake2b(np.ascontiguousarray(frame_HWC).data, digest_size=8).digest(), "little")


def _frames(folder: Path, seen: Seen, alive: Callable[[], None]) -> Iterator[NDArray[np.uint8]]:
    """The frames that can be read. What is wrong with the others, or with their colours, goes to ``seen``."""
    modes: dict[str, list[str]] = {}
    for t in range(seen.length):
        path = folder / seen.naming.name(t)
        if t % 100 == 99:
            alive()
        try:
            frame_HWC, mode = read_frame(path)
        except UserError as error:
            seen.add("; ".join([str(error), *_other_chunks(path)]), FAILS)
            continue
        modes.setdefault(mode, []).append(path.name)
        yield frame_HWC
    for mode, names in modes.items():
        if mode != "RGB":
            seen.add(f"{folder / names[0]}: {len(names)} frames are {mode}, not RGB: they are converted", NOTE)


def _other_chunks(path: Path) -> list[str]:
    """What is wrong with the chunks of a PNG file behind the first of which it is said."""
    with contextlib.suppress(OSError, ValueError):
        return list(broken_chunks(content_of(path)))[1:]
    return []


def _read_tables(folder: Path, wanted: Tables, seen: Seen) -> None:
    tables: list[NDArray[Any]] = [np.zeros((seen.length, 0), np.float32)]
    for file, columns in wanted.items():
        try:
            found = read_table(folder, file, seen.length, columns)
        except UserError as error:
            seen.add(str(error), FAILS)
            continue
        if found is None:
            seen.missing.append(file)
            found = np.full((seen.length, len(columns)), np.nan, np.float32), seen.length
        table_TA, rows = found
        if rows > seen.length:
            level = FAILS if seen.naming.first == 1 else NOTE  # then the first frame may be the one that is missing
            seen.add(f"{folder / file} has {rows} rows for {seen.length} frames", level)
        tables.append(table_TA)
    if len(tables) == len(wanted) + 1:
        seen.cond_TA = np.concatenate(tables, axis=1)


def _rmse(one_HWC: NDArray[np.uint8], other_HWC: NDArray[np.uint8]) -> float:
    apart = one_HWC.astype(np.int16) - other_HWC
    return float(np.sqrt(np.square(apart.astype(np.float32)).mean()) / 255)
