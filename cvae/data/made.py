"""Datasets that are drawn: a folder in the course layout, made on first use, its content a function of its settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cvae.console import progress
from cvae.data.cache import cache_places, cache_root, make_once
from cvae.data.layout import SPLITS
from cvae.data.packed import PackedSplit
from cvae.data.pool import map_in_processes
from cvae.data.store import VideoData
from cvae.errors import UserError, is_whole, require

PER_FOLDER = 256
_MOST = 10**7  # sequences of a split

Drawn = tuple[Iterable[NDArray[np.uint8]], NDArray[Any], NDArray[Any]]  # frames HWC, actions T4, positions T3


@dataclass(frozen=True)
class Maker:
    """What draws a dataset."""

    title: str
    """What messages call it."""
    draw: Callable[[tuple[int, ...]], Drawn]
    """A function of a module: numbers that name a sequence, to the sequence."""
    numbers: tuple[int, ...]
    """Those of the dataset, such as its seed; a sequence adds its split's and its own."""
    batch: int
    """How many sequences a worker writes between two reports."""
    in_process: int
    """Up to so many sequences, starting workers costs more than it saves."""
    ready: Callable[[], None] | None = None
    """Raises UserError where something that drawing needs is not installed."""


def counted(train: int, validate: int, test: int, world_seed: int) -> dict[str, int]:
    """The number of sequences of each split; UserError for numbers that are too small."""
    counts = dict(zip(SPLITS, (train, validate, test), strict=True))
    for name, least in (("train", 1), ("validate", 1), ("test", 0)):
        require(
            is_whole(counts[name], least, _MOST), f"data.{name}", counts[name], f"give a number of sequences, at least {least}"
        )
    require(is_whole(world_seed, 0, 2**63 - 1), "data.world_seed", world_seed, "give a whole number of at least 0")
    return counts


def place_for(kind: str, name: str, cache_dir: str | None) -> str:
    """Where a dataset of this name lies in a cache, or will; the cache may be read-only if it is there."""
    made = (place / kind / name for place in cache_places(cache_dir))
    return str(next(filter(_is_there, made), None) or cache_root(cache_dir) / kind / name)


class MadeData(VideoData):
    """A dataset that need not be there yet."""

    def __init__(self, counts: dict[str, int], maker: Maker, root: str, **others: Any) -> None:
        super().__init__(root, **others)
        self.counts, self.maker = counts, maker

    def check(self) -> None:
        if not is_made(self.root, self.counts, self.maker) and self.maker.ready is not None:
            self.maker.ready()

    def _changed(self, source: Path) -> None:
        raise UserError(f"{source} is not as it was made: remove {self.root}, it is made anew")

    def _open(self, name: str) -> PackedSplit:
        write_made(self.root, self.counts, self.maker, self.workers)
        split = super()._open(name)
        if len(split) != self.counts[name]:
            raise UserError(
                f"{self.root / name} has {len(split)} of its {self.counts[name]} sequences: remove {self.root}, it is made anew"
            )
        return split


def write_made(root: Path, counts: dict[str, int], maker: Maker, workers: int | None = None) -> None:
    """Make ROOT with so many sequences in each split, all or nothing; nothing is done if it is there already.

    The files depend on ``maker`` and a sequence's split and number alone: not on ``workers`` nor how many there are. Frames
    are 64x64 PNGs; row t of the tables belongs to frame t.

    Raises:
        UserError: ROOT cannot be written, holds something else, or a worker was killed.
    """
    make_once(root, lambda folder: _fill(folder, root, counts, maker, workers), lambda made: is_made(made, counts, maker))


def is_made(root: Path, counts: dict[str, int], maker: Maker) -> bool:
    """Whether ROOT is there: it is renamed into place when complete, so looking at its ends is enough."""
    if not _is_there(root):
        return False
    for split, count in counts.items():
        last_is_there = count == 0 or folder_of(root, split, count - 1).is_dir()
        if not (root / split).is_dir() or not last_is_there or folder_of(root, split, count).exists():
            raise UserError(f"{root} holds other data than a {maker.title} of {counts}: set another data.root")
    return True


def folder_of(root: Path, split: str, number: int) -> Path:
    """Where a sequence lies."""
    first = number - number % PER_FOLDER
    return root / split / f"traj_{first}_to_{first + PER_FOLDER - 1}" / str(number - first)


def _is_there(root: Path) -> bool:
    try:
        return root.is_dir() and any(root.iterdir())
    except OSError:  # then it cannot be written either, and that is told
        return False


@dataclass(frozen=True)
class _Job:
    root: Path
    maker: Maker
    split: str
    first: int
    end: int


def _fill(folder: Path, root: Path, counts: dict[str, int], maker: Maker, workers: int | None) -> None:
    if maker.ready is not None:
        maker.ready()
    jobs: list[_Job] = []
    for split, count in counts.items():
        (folder / split).mkdir()
        for first in range(0, count, PER_FOLDER):
            folder_of(folder, split, first).parent.mkdir()
        firsts = range(0, count, maker.batch)
        jobs += [_Job(folder, maker, split, first, min(first + maker.batch, count)) for first in firsts]
    total = sum(counts.values())
    with progress(f"making {maker.title} in {root}", total) as advance:
        for done in map_in_processes(_write_batch, jobs, 1 if total <= maker.in_process else workers):
            advance(done)


def _write_batch(job: _Job) -> int:
    for number in range(job.first, job.end):
        # The last two numbers name the sequence: no two splits share one.
        frames, actions_T4, positions_T3 = job.maker.draw((*job.maker.numbers, SPLITS.index(job.split), number))
        folder = folder_of(job.root, job.split, number)
        folder.mkdir()
        for t, frame_HWC in enumerate(frames):
            Image.fromarray(frame_HWC).save(folder / f"{t}.png", compress_level=1)
        np.savetxt(folder / "actions.csv", actions_T4, fmt="%.7f", delimiter=",")
        np.savetxt(folder / "endeffector_positions.csv", positions_T3, fmt="%.7f", delimiter=",")
    return job.end - job.first
