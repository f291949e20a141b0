"""Draw videos in the course layout, of a scene that is not the package's: ``python tests/draw_video.py FOLDER``.

A hand goes where the actions move it and pushes balls; they roll, bounce off the walls, and now and then one is kicked,
which nothing given tells. The search for the default recipe (docs/default.md) trains on it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[np.float64]

SIZE = 64
HAND, BALLS = 6.0, 3  # pixels: half a hand's width; balls
KICK = 0.12  # chance a frame that a ball is kicked
LEVELS, COLUMNS = np.mgrid[:SIZE, :SIZE].astype(float)


def draw(folder: Path, seed: int, split: int, number: int, frames: int = 30) -> None:
    """One sequence. The three numbers name it: no two splits or seeds share one."""
    noise = np.random.default_rng((seed, split, number))
    ground_HWC = noise.uniform(0.1, 0.9, 3) + noise.uniform(-0.2, 0.2, 3) * (COLUMNS[..., None] / SIZE - 0.5)
    colours, radii = noise.uniform(0, 1, (BALLS, 3)), noise.uniform(4, 8, BALLS)
    hand, balls, speeds = noise.uniform(14, 50, 2), noise.uniform(10, 54, (BALLS, 2)), noise.normal(0, 1.2, (BALLS, 2))
    aim = noise.uniform(-1, 1, 2)
    actions, places = [], []
    folder.mkdir(parents=True)
    for t in range(frames):
        _frame(ground_HWC, hand, balls, radii, colours).save(folder / f"{t}.png")
        if noise.random() < 0.2:
            aim = noise.uniform(-1, 1, 2)
        action = np.clip(aim + noise.normal(0, 0.1, 2), -1, 1)
        actions.append([*action, 0.0, float(t % 8 < 4)])
        places.append([*(hand / SIZE), 0.0])
        hand = np.clip(hand + 5 * action, HAND, SIZE - HAND)
        balls, speeds = _roll(balls, speeds, radii, hand, noise)
    np.savetxt(folder / "actions.csv", actions, delimiter=",", fmt="%.6f")
    np.savetxt(folder / "endeffector_positions.csv", places, delimiter=",", fmt="%.6f")


def _roll(balls: Array, speeds: Array, radii: Array, hand: Array, noise: np.random.Generator) -> tuple[Array, Array]:
    kicked = noise.random(BALLS) < KICK
    speeds = np.where(kicked[:, None], noise.normal(0, 2.5, (BALLS, 2)), speeds * 0.98)
    apart = balls - hand
    far = np.linalg.norm(apart, axis=1, keepdims=True)
    overlap = np.maximum(radii[:, None] + HAND - far, 0)
    push = apart / np.maximum(far, 1e-6) * overlap
    balls, speeds = balls + push + speeds, speeds + 0.3 * push
    low, high = radii[:, None], SIZE - radii[:, None]
    speeds = np.where((balls < low) | (balls > high), -speeds, speeds)
    return np.clip(balls, low, high), speeds


def _frame(ground_HWC: Array, hand: Array, balls: Array, radii: Array, colours: Array) -> Image.Image:
    image_HWC = ground_HWC.copy()
    for (x, y), radius, colour in zip(balls, radii, colours, strict=True):
        _cover(image_HWC, np.hypot(LEVELS - y, COLUMNS - x) - radius, colour)
    _cover(image_HWC, np.maximum(abs(LEVELS - hand[1]), abs(COLUMNS - hand[0])) - HAND, np.array([0.95, 0.95, 0.85]))
    return Image.fromarray((np.clip(image_HWC, 0, 1) * 255 + 0.5).astype(np.uint8))


def _cover(image_HWC: Array, distance_HW: Array, colour: Array) -> None:
    alpha_HW1 = np.clip(0.5 - distance_HW, 0, 1)[..., None]
    image_HWC += alpha_HW1 * (colour - image_HWC)


def draw_all(root: Path, seed: int, counts: tuple[int, int, int]) -> None:
    """A data set of so many train, validate and test sequences."""
    for split, (name, count) in enumerate(zip(("train", "validate", "test"), counts, strict=True)):
        for number in range(count):
            draw(root / name / "drawn" / f"{number:04d}", seed, split, number)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--counts", type=int, nargs=3, default=(300, 40, 40), metavar=("TRAIN", "VALIDATE", "TEST"))
    asked = parser.parse_args()
    draw_all(asked.folder, asked.seed, tuple(asked.counts))
