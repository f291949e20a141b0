"""Frames and conditions as memory-mapped arrays, packed once from the course layout."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cvae.console import progress, say
from cvae.data.arrays import ArraySplit
from cvae.data.cache import cache_root, make_once
from cvae.data.layout import IMAGE_SIZE, TABLES, Listing, list_split, read_frames, read_table, refuse_absent
from cvae.data.pool import map_in_processes
from cvae.errors import UserError, expanded, require

__all__ = ["VideoData"]

# The tables that a choice needs: the first ones, so that their columns are the first ones of cond.npy.
CONDITIONS = {"actions_positions": list(TABLES), "actions": list(TABLES)[:1], "none": []}
_FORMAT = 1
_CHUNK = 32  # sequences a worker packs at a time: 12 MB of 30-frame sequences
_POOL_FROM = 128  # sequences below which starting worker processes costs more than it saves


class PackedSplit(ArraySplit):
    """One packed split. It unpickles to the same memory maps, so any number of worker processes may share it."""

    def __init__(self, folder: Path, condition: str) -> None:
        self.folder, self.condition = folder, condition
        self.meta: dict[str, Any] = json.loads((folder / "meta.json").read_text())
        width = sum(len(TABLES[file]) for file in CONDITIONS[condition])
        ends = np.cumsum(self.meta["lengths"])[:-1]
        frames, cond = (np.load(folder / name, mmap_mode="r") for name in ("frames.npy", "cond.npy"))
        super().__init__(np.split(frames, ends), np.split(cond[:, :width], ends), self.meta["names"])

    def __reduce__(self) -> tuple[type[PackedSplit], tuple[Path, str]]:
        return PackedSplit, (self.folder, self.condition)


class VideoData:
    """A folder in the course layout (see ``cvae.data.layout``), packed on first use.

    Args:
        root: the folder that holds train, validate and test.
        condition: ``actions_positions`` (A = 7), ``actions`` (4) or ``none`` (0). True future positions leak state
            compared with action-only benchmarks, so results name it.
        normalise, random_start, resident: see ``contract.Dataset``.
        cache_dir: where packed arrays live; None for $CVAE_CACHE or the user's cache.
        workers: processes that pack; None for one a core.

    Raises:
        UserError: as ``list_split``, ``read_frames`` and ``read_table``, when a split is first used.
    """

    def __init__(
        self,
        root: str,
        condition: str = "actions_positions",
        normalise: bool = True,
        random_start: bool = True,
        resident: str = "auto",
        cache_dir: str | None = None,
        workers: int | None = None,
    ) -> None:
        require(condition in CONDITIONS, "data.condition", condition, f"choose {', '.join(CONDITIONS)}")
        self.root, self.condition = expanded(root, "data.root"), condition
        self.normalise, self.random_start, self.resident = normalise, random_start, resident
        self.cache_dir, self.workers = cache_dir, workers

    @cached_property
    def train(self) -> PackedSplit:
        return self._open("train")

    @cached_property
    def validate(self) -> PackedSplit:
        return self._open("validate")

    @cached_property
    def test(self) -> PackedSplit:
        return self._open("test")

    @property
    def fingerprint(self) -> str:
        """A hash of the decoded train and validate splits: equal data have equal fingerprints on any machine."""
        return hashlib.sha256(f"{self.train.meta['content']} {self.validate.meta['content']}".encode()).hexdigest()[:16]

    def check(self) -> None:
        refuse_absent(self.root, "train")
        refuse_absent(self.root, "validate")

    def __str__(self) -> str:
        return f"{self.root} ({self.condition})"

    def _open(self, name: str) -> PackedSplit:
        listing = list_split(self.root, name)
        packed = cache_root(self.cache_dir) / "packed" / f"{name}-{listing.fingerprint[:24]}"
        if packed.is_dir() and not _complete(packed):
            say(f"{packed} is incomplete or of another version: packing it again")
        make_once(packed, lambda folder: _pack(self.root / name, listing, folder, self.workers), _complete)
        split = PackedSplit(packed, self.condition)
        for file in CONDITIONS[self.condition]:
            if missing := split.meta["missing"].get(file):
                raise UserError(
                    f"{self.root / name / missing / file} is missing: data.condition={self.condition} needs it in every "
                    "sequence; data.condition=none needs no CSV"
                )
        return split


# --- packing ----------------------------------------------------------------------------------------------------------


def _complete(folder: Path) -> bool:
    try:
        meta = json.loads((folder / "meta.json").read_text())
        return meta["format"] == _FORMAT and all((folder / name).stat().st_size == size for name, size in meta["sizes"].items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _pack(source: Path, listing: Listing, folder: Path, workers: int | None) -> None:
    """Write frames.npy, cond.npy and, last, meta.json."""
    offsets = np.concatenate([[0], np.cumsum(listing.lengths)])
    total = int(offsets[-1])
    shapes = {"frames.npy": (total, IMAGE_SIZE, IMAGE_SIZE, 3), "cond.npy": (total, sum(map(len, TABLES.values())))}
    for name, dtype in [("frames.npy", np.uint8), ("cond.npy", np.float32)]:
        np.lib.format.open_memmap(folder / name, mode="w+", dtype=dtype, shape=shapes[name]).flush()
    jobs = [
        (folder, listing.folders[i : i + _CHUNK], listing.lengths[i : i + _CHUNK], int(offsets[i]))
        for i in range(0, len(listing.folders), _CHUNK)
    ]
    digest = hashlib.sha256()
    missing: dict[str, str] = {}
    workers = 1 if len(listing.folders) < _POOL_FROM else workers
    with progress(f"packing {source}", len(listing.folders)) as advance:
        for (_, folders, _, _), (content, absent) in zip(jobs, map_in_processes(_pack_chunk, jobs, workers), strict=True):
            digest.update(content)
            missing = absent | missing
            advance(len(folders))
    meta = {
        "format": _FORMAT,
        "names": [f"{path.parent.name}/{path.name}" for path in listing.folders],
        "lengths": listing.lengths,
        "missing": missing,
        "content": digest.hexdigest(),
        "sizes": {name: (folder / name).stat().st_size for name in shapes},
    }
    (folder / "meta.json").write_text(json.dumps(meta))


def _pack_chunk(job: tuple[Path, list[Path], list[int], int]) -> tuple[bytes, dict[str, str]]:
    """Decode some sequences into their rows; return a hash of them and the first missing table of each kind."""
    target, folders, lengths, row = job
    frames_NHWC = np.load(target / "frames.npy", mmap_mode="r+")
    cond_NA = np.load(target / "cond.npy", mmap_mode="r+")
    digest = hashlib.sha256()
    missing: dict[str, str] = {}
    for folder, length in zip(folders, lengths, strict=True):
        rows = slice(row, row + length)
        frames_NHWC[rows] = read_frames(folder, length)
        tables = []
        for file, columns in TABLES.items():
            table = read_table(folder, file, length)
            if table is None:
                missing.setdefault(file, f"{folder.parent.name}/{folder.name}")
                table = np.zeros((length, len(columns)), np.float32)
            tables.append(table)
        cond_NA[rows] = np.concatenate(tables, axis=1)
        digest.update(frames_NHWC[rows])
        digest.update(cond_NA[rows])
        row += length
    return digest.digest(), missing
