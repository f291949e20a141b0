"""The embedded data set: sequences of the push world, written as files in the course layout (``cvae.data.layout``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cvae.console import progress
from cvae.data.cache import cache_places, cache_root, make_once
from cvae.data.layout import SPLITS
from cvae.data.packed import PackedSplit
from cvae.data.pool import map_in_processes
from cvae.data.store import VideoData
from cvae.data.synthetic.drawing import render
from cvae.data.synthetic.world import play
from cvae.errors import UserError, require

__all__ = ["synthetic_push"]

PER_FOLDER = 256
BATCH = 4  # sequences that a worker writes between two reports
IN_PROCESS = 48  # up to so many sequences, starting workers costs more than it saves
WORLDS = (1, 2)  # versions of what the world looks like and does: the files of one never change

Job = tuple[Path, int, int, str, int, int]  # folder, world, seed, split, first sequence, one past the last


def synthetic_push(
    train: int = 480,
    validate: int = 60,
    test: int = 60,
    world_seed: int = 0,
    world: int = 1,
    root: str | None = None,
    cache_dir: str | None = None,
    **others: Any,
) -> VideoData:
    """The push world with so many sequences in each split, made when one is first used.

    Args:
        world: 1, the table alone; 2, a cart drives before it, on a course that nothing given tells. A run of before world 2
            has no such setting: its world is 1.
        root: where to make it; None for a folder of the cache whose name tells these numbers.
        others: those of ``VideoData``.

    Raises:
        UserError: a number is bad; when data are used: the world cannot be written.
    """
    counts = dict(zip(SPLITS, (train, validate, test), strict=True))
    for name, least in (("train", 1), ("validate", 1), ("test", 0)):
        require(counts[name] >= least, f"data.{name}", counts[name], f"give a number of sequences, at least {least}")
    require(world_seed >= 0, "data.world_seed", world_seed, "give a whole number of at least 0")
    require(world in WORLDS, "data.world", world, f"choose {' or '.join(map(str, WORLDS))}")
    name = f"push-v{world}-seed{world_seed}-{train}-{validate}-{test}"
    if root is None:
        made = (place / "synthetic" / name for place in cache_places(cache_dir))  # perhaps in a cache that is read-only
        root = str(next(filter(_is_there, made), None) or cache_root(cache_dir) / "synthetic" / name)
    return _PushData(counts, world_seed, world, root, cache_dir=cache_dir, **others)


class _PushData(VideoData):
    """A world that need not be there yet."""

    def __init__(self, counts: dict[str, int], seed: int, world: int, root: str, **others: Any) -> None:
        super().__init__(root, **others)
        self.counts, self.seed, self.world = counts, seed, world

    def check(self) -> None:
        _is_made(self.root, self.counts)

    def _changed(self, source: Path) -> None:
        raise UserError(f"{source} is not as it was made: remove {self.root}, it is made anew")

    def _open(self, name: str) -> PackedSplit:
        write_world(self.root, self.counts, self.seed, self.workers, self.world)
        split = super()._open(name)
        if len(split) != self.counts[name]:
            raise UserError(
                f"{self.root / name} has {len(split)} of its {self.counts[name]} sequences: remove {self.root}, it is made anew"
            )
        return split


def write_world(root: Path, counts: dict[str, int], seed: int, workers: int | None = None, world: int = 1) -> None:
    """Make ROOT with so many sequences in each split, all or nothing; nothing is done if it is there already.

    The files depend on ``world``, ``seed`` and a sequence's split and number alone: not on ``workers`` nor how many there
    are. Frames are 64x64 PNGs; row t of the tables (actions in [-1, 1], gripper position in metres) belongs to frame t.

    Raises:
        UserError: ROOT cannot be written, holds something else, or a worker was killed.
    """
    make_once(root, lambda folder: _fill(folder, root, counts, (world, seed), workers), lambda made: _is_made(made, counts))


def _is_made(root: Path, counts: dict[str, int]) -> bool:
    """Whether ROOT is there: it is renamed into place when complete, so looking at its ends is enough."""
    if not _is_there(root):
        return False
    for split, count in counts.items():
        last_is_there = count == 0 or _folder(root, split, count - 1).is_dir()
        if not (root / split).is_dir() or not last_is_there or _folder(root, split, count).exists():
            raise UserError(f"{root} holds other data than a synthetic world of {counts}: set another data.root")
    return True


def _is_there(root: Path) -> bool:
    try:
        return root.is_dir() and any(root.iterdir())
    except OSError:  # then it cannot be written either, and that is told
        return False


def _fill(folder: Path, root: Path, counts: dict[str, int], which: tuple[int, int], workers: int | None) -> None:
    jobs: list[Job] = []
    for split, count in counts.items():
        (folder / split).mkdir()
        for first in range(0, count, PER_FOLDER):
            _folder(folder, split, first).parent.mkdir()
        jobs += [(folder, *which, split, first, min(first + BATCH, count)) for first in range(0, count, BATCH)]
    total = sum(counts.values())
    with progress(f"making synthetic push world in {root}", total) as advance:
        for done in map_in_processes(_write_batch, jobs, 1 if total <= IN_PROCESS else workers):
            advance(done)


def _write_batch(job: Job) -> int:
    root, world, seed, split, first, end = job
    for number in range(first, end):
        # The three numbers name the sequence: no two splits or seeds share one.
        episode = play((seed, SPLITS.index(split), number), world=world)
        folder = _folder(root, split, number)
        folder.mkdir()
        for t, frame_HWC in enumerate(render(episode)):
            Image.fromarray(frame_HWC).save(folder / f"{t}.png", compress_level=1)
        np.savetxt(folder / "actions.csv", episode.actions_T4, fmt="%.7f", delimiter=",")
        np.savetxt(folder / "endeffector_positions.csv", episode.positions_T3, fmt="%.7f", delimiter=",")
    return end - first


def _folder(root: Path, split: str, number: int) -> Path:
    first = number - number % PER_FOLDER
    return root / split / f"traj_{first}_to_{first + PER_FOLDER - 1}" / str(number - first)
