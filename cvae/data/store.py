"""Frames and conditions as memory-mapped arrays, packed once from the course layout.

Nothing here is random: a batch is a pure function of the sequence indices and starts that are asked for, and
``training_windows`` gives these as a pure function of (seed, epoch).
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cvae.console import progress, say
from cvae.data.cache import cache_root, make_once
from cvae.data.layout import ACTION_DIM, IMAGE_SIZE, POSITION_DIM, Listing, list_split, read_frames, read_table, refuse_absent
from cvae.data.pool import map_in_processes
from cvae.errors import UserError, expanded

__all__ = ["VideoData"]

Frames = NDArray[np.uint8]

CONDITIONS = {
    "actions_positions": slice(0, ACTION_DIM + POSITION_DIM),
    "actions": slice(0, ACTION_DIM),
    "none": slice(0, 0),
}
_FORMAT = 1
_CHUNK = 32  # sequences a worker packs at a time: 12 MB of 30-frame sequences
_POOL_FROM = 128  # sequences below which starting worker processes costs more than it saves


class Split:
    """One packed split: a map from an index to a whole sequence, and ``gather`` for batches of windows.

    It holds no state and unpickles to the same memory maps, so any number of worker processes may share it.
    """

    def __init__(self, folder: Path, condition: str, source: Path) -> None:
        self.folder, self.condition, self.source = folder, condition, source
        self.meta: dict[str, Any] = json.loads((folder / "meta.json").read_text())
        self.frames_NHWC: Frames = np.load(folder / "frames.npy", mmap_mode="r")
        self.cond_NA: NDArray[np.float32] = np.load(folder / "cond.npy", mmap_mode="r")[:, CONDITIONS[condition]]
        self.lengths: NDArray[np.int64] = np.asarray(self.meta["lengths"], np.int64)
        self._offsets = np.concatenate([[0], np.cumsum(self.lengths)])

    def __reduce__(self) -> tuple[type[Split], tuple[Path, str, Path]]:
        return Split, (self.folder, self.condition, self.source)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> tuple[Frames, NDArray[np.float32]]:
        """The whole sequence ``index``: ``frames_THWC`` and ``cond_TA``."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"sequence {index} of {len(self)}")
        index %= len(self)
        rows = slice(self._offsets[index], self._offsets[index + 1])
        return np.array(self.frames_NHWC[rows]), np.array(self.cond_NA[rows])

    def name(self, index: int) -> str:
        """The source folder of a sequence, as ``<traj folder>/<k>``."""
        return str(self.meta["names"][index])

    def gather(
        self, indices: NDArray[np.int64], starts: NDArray[np.int64] | int, length: int
    ) -> tuple[Frames, NDArray[np.float32]]:
        """Windows of ``length`` frames from ``starts``: uint8 ``frames_BTHWC`` and raw ``cond_BTA``."""
        rows_BT = self.rows(indices, starts, length)
        return self.frames_NHWC[rows_BT], self.cond_NA[rows_BT]

    def rows(self, indices: NDArray[np.int64], starts: NDArray[np.int64] | int, length: int) -> NDArray[np.int64]:
        """Where the frames of these windows lie in ``frames_NHWC``, as ``BT``."""
        return np.asarray((self._offsets[indices] + starts)[:, None] + np.arange(length), np.int64)

    def require(self, n_past: int, n_future: int) -> None:
        """Raise UserError unless every sequence has ``n_past + n_future`` frames."""
        shortest = int(self.lengths.argmin())
        if self.lengths[shortest] < n_past + n_future:
            raise UserError(
                f"{self.source / self.name(shortest)} has {self.lengths[shortest]} frames where n_past + n_future = {n_past} + "
                f"{n_future} = {n_past + n_future} are needed: lower n_future, or remove the sequence"
            )


class VideoData:
    """A folder in the course layout (see ``cvae.data.layout``), packed on first use.

    Args:
        root: the folder that holds train, validate and test.
        condition: ``actions_positions`` (A = 7), ``actions`` (4) or ``none`` (0). True future positions leak state
            compared with action-only benchmarks, so results name it.
        normalise: whether the model standardises conditions by the train split's mean and deviation.
        random_start: whether training windows start anywhere in a sequence, or always at frame 0.
        resident: where the train split lies in training on a GPU: ``gpu``, ``host``, or ``auto`` (see ``training.feed``).
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
        if condition not in CONDITIONS:
            raise UserError(f"data.condition is {condition!r}: choose {', '.join(CONDITIONS)}")
        if resident not in ("auto", "gpu", "host"):
            raise UserError(f"data.resident is {resident!r}: choose auto, gpu or host")
        self.root, self.condition = expanded(root, "data.root"), condition
        self.normalise, self.random_start, self.resident = normalise, random_start, resident
        self.cache_dir, self.workers = cache_dir, workers

    def check(self) -> None:
        """Raise UserError if the data are not there; no frame is read."""
        refuse_absent(self.root)

    @cached_property
    def train(self) -> Split:
        return self._open("train")

    @cached_property
    def validate(self) -> Split:
        return self._open("validate")

    @cached_property
    def test(self) -> Split:
        return self._open("test")

    @property
    def cond_dim(self) -> int:
        return len(range(ACTION_DIM + POSITION_DIM)[CONDITIONS[self.condition]])

    @property
    def fingerprint(self) -> str:
        """A hash of the decoded train and validate splits: equal data have equal fingerprints on any machine."""
        return hashlib.sha256(f"{self.train.meta['content']} {self.validate.meta['content']}".encode()).hexdigest()[:16]

    def condition_statistics(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and deviation ``A`` of the train split's conditions; 0 and 1 if ``normalise`` is off."""
        if not self.normalise:
            return np.zeros(self.cond_dim, np.float32), np.ones(self.cond_dim, np.float32)
        cond_NA = self.train.cond_NA.astype(np.float64)
        std_A = cond_NA.std(axis=0)
        # A column that never changes carries nothing; dividing by its zero deviation would carry NaN.
        return cond_NA.mean(axis=0).astype(np.float32), np.where(std_A > 1e-8, std_A, 1.0).astype(np.float32)

    def _open(self, name: str) -> Split:
        listing = list_split(self.root, name)
        packed = cache_root(self.cache_dir) / "packed" / f"{name}-{listing.fingerprint[:24]}"
        if packed.is_dir() and not _complete(packed):
            say(f"{packed} is cut short or of another version: packing it anew")
        make_once(packed, lambda folder: _pack(self.root / name, listing, folder, self.workers), _complete)
        split = Split(packed, self.condition, self.root / name)
        for file, columns in [
            ("actions.csv", slice(0, ACTION_DIM)),
            ("endeffector_positions.csv", slice(ACTION_DIM, 7)),
        ]:
            missing = split.meta["missing"].get(file)
            if missing is not None and len(range(7)[CONDITIONS[self.condition]][columns]):
                raise UserError(
                    f"{self.root / name / missing / file} is missing: data.condition={self.condition} needs it in every "
                    "sequence; data.condition=none needs no CSV"
                )
        return split


def training_windows(
    lengths: NDArray[np.int64], *, seed: int, epoch: int, batches: int, batch_size: int, length: int, random_start: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sequence indices and start frames ``[batches, B]`` of an epoch: a pure function of its arguments.

    Sequences come in shuffled passes over the whole split, one pass after another, cut off where the epoch ends.
    """
    generator = np.random.default_rng([seed, epoch])
    total = batches * batch_size
    passes = -(-total // len(lengths))
    indices = np.concatenate([generator.permutation(len(lengths)) for _ in range(passes)])[:total]
    starts = np.zeros(total, np.int64)
    if random_start:
        starts = generator.integers(0, lengths[indices] - length + 1)
    return indices.reshape(batches, batch_size), starts.reshape(batches, batch_size)


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
    shapes = {"frames.npy": (total, IMAGE_SIZE, IMAGE_SIZE, 3), "cond.npy": (total, ACTION_DIM + POSITION_DIM)}
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
        for file, columns in [("actions.csv", ACTION_DIM), ("endeffector_positions.csv", POSITION_DIM)]:
            table = read_table(folder, columns, length)
            if table is None:
                missing.setdefault(file, f"{folder.parent.name}/{folder.name}")
                table = np.zeros((length, columns), np.float32)
            tables.append(table)
        cond_NA[rows] = np.concatenate(tables, axis=1)
        digest.update(frames_NHWC[rows])
        digest.update(cond_NA[rows])
        row += length
    return digest.digest(), missing
