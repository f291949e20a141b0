"""A simulated Sawyer that pushes objects over a table, written as files in the course layout; it needs the extra ``sim``.

The arm and its table are Meta-World's; view, objects and actions are like BAIR's. Each 25 sequences in a row have objects of
their own, each sequence has its own colours, places and way of the hand.
"""

from __future__ import annotations

import colorsys
from pathlib import Path
from typing import Any

import numpy as np

from cvae.data.made import Drawn, MadeData, Maker, counted, place_for, write_made
from cvae.data.sawyer.policy import Policy, scatter
from cvae.data.sawyer.scene import Scene, need_meta_world
from cvae.data.store import VideoData

__all__ = ["sawyer_push"]

FRAMES = 30
ALIKE = 25  # sequences with the same objects: to make a model takes more than a second
_LOOKS, _PLAYS = 0, 1  # what is drawn from a sequence's numbers

_scene: dict[tuple[int, ...], Scene] = {}  # the one that this process has made last


def sawyer_push(
    train: int = 800,
    validate: int = 100,
    test: int = 100,
    world_seed: int = 0,
    root: str | None = None,
    cache_dir: str | None = None,
    **others: Any,
) -> VideoData:
    """So many sequences of the simulated Sawyer in each split, made when one is first used.

    Args:
        root: where to make it; None for a folder of the cache whose name tells these numbers.
        others: those of ``VideoData``.

    Raises:
        UserError: a number is bad; when data are used: the extra ``sim`` is missing, or the world cannot be written.
    """
    counts = counted(train, validate, test, world_seed)
    root = place_for("sawyer", f"sawyer-v1-seed{world_seed}-{train}-{validate}-{test}", cache_dir) if root is None else root
    return MadeData(counts, _maker(world_seed), root, cache_dir=cache_dir, **others)


def write_sawyer(root: Path, counts: dict[str, int], seed: int, workers: int | None = None) -> None:
    """Make ROOT with so many sequences in each split (``cvae.data.made.write_made``).

    Actions (dx, dy, dz, gripper) lie in [-1, 1]: 1 is 4 cm a frame, and closes the gripper. Hand positions are metres.

    Raises:
        UserError: the extra ``sim`` is missing, or ROOT cannot be written.
    """
    write_made(root, counts, _maker(seed), workers)


def _maker(seed: int) -> Maker:
    return Maker("simulated Sawyer", _draw, (seed,), ALIKE, 0, need_meta_world)


def _draw(numbers: tuple[int, ...]) -> Drawn:
    seed, split, number = numbers
    key = (seed, split, number // ALIKE)
    if key not in _scene:
        for old in _scene.values():
            old.close()
        _scene.clear()
        _scene[key] = Scene(key)
    scene, looks, plays = _scene[key], *(np.random.default_rng((*numbers, which)) for which in (_LOOKS, _PLAYS))
    places_O2 = scatter(looks, scene.count, 0.1)
    hues = looks.uniform(0, 1, (scene.count, 3)) * (1, 0.5, 0.5) + (0, 0.5, 0.5)
    colours_O3 = np.array([colorsys.hsv_to_rgb(*hue) for hue in hues])
    policy = Policy(plays, places_O2)
    scene.begin(places_O2, looks.uniform(0, 2 * np.pi, scene.count), colours_O3, policy.start_3)
    return scene.play(policy.act, FRAMES)
