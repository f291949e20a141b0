"""The embedded data set: sequences of the push world, written as files in the course layout (``cvae.data.layout``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cvae.data.made import Drawn, MadeData, Maker, counted, place_for, write_made
from cvae.data.store import VideoData
from cvae.data.synthetic.drawing import render
from cvae.data.synthetic.world import play
from cvae.errors import is_whole, require

__all__ = ["synthetic_push"]

BATCH = 4
IN_PROCESS = 48
WORLDS = (1, 2)  # versions of what the world looks like and does: the files of one never change


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
    counts = counted(train, validate, test, world_seed)
    require(is_whole(world, min(WORLDS), max(WORLDS)), "data.world", world, f"choose {' or '.join(map(str, WORLDS))}")
    name = f"push-v{world}-seed{world_seed}-{train}-{validate}-{test}"
    root = place_for("synthetic", name, cache_dir) if root is None else root
    return MadeData(counts, _maker(world, world_seed), root, cache_dir=cache_dir, **others)


def write_world(root: Path, counts: dict[str, int], seed: int, workers: int | None = None, world: int = 1) -> None:
    """Make ROOT with so many sequences in each split (``cvae.data.made.write_made``).

    Actions lie in [-1, 1], gripper positions are metres.
    """
    write_made(root, counts, _maker(world, seed), workers)


def _maker(world: int, seed: int) -> Maker:
    return Maker("synthetic push world", _draw, (world, seed), BATCH, IN_PROCESS)


def _draw(numbers: tuple[int, ...]) -> Drawn:
    world, *seed = numbers
    episode = play(seed, world=world)
    return render(episode), episode.actions_T4, episode.positions_T3
