"""Where the hand of the simulated Sawyer goes: to an object and through it, or it grasps one and drags it; then the next one.

Suffixes beyond the usual: O objects, 2 the table plane (x along the robot's front, y away from it), 3 = (x, y, z),
4 = (dx, dy, dz, gripper) of an action. Metres; times are frames.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

REACH_LOW, REACH_HIGH = np.array([-0.24, 0.48, 0.05]), np.array([0.24, 0.78, 0.20])  # of the hand
HAND_STEP = 0.04  # how far the hand is sent in a frame by an action of 1
HIGH = 0.15  # where the hand travels, above everything
OPEN, CLOSED = -1.0, 1.0
DRAGS = 0.25  # share of the plans that grasp


class Policy:
    """Plans of way points, followed by smoothed and jittered actions; it sees where the objects are when it plans."""

    def __init__(self, noise: np.random.Generator, places_O2: Array) -> None:
        self._noise, self._last_4 = noise, np.zeros(4)
        # The first push begins at once: two given frames and ten predicted ones should see it.
        (self.start_3, _), *self._plan = self._push(places_O2)

    def act(self, hand_3: Array, places_O2: Array) -> Array:
        """The action of this hand, each value in [-1, 1]."""
        if self._plan and np.linalg.norm(self._plan[0][0] - hand_3) < 0.025:
            self._plan = self._plan[1:]
        if not self._plan:
            self._plan = self._drag(places_O2) if self._noise.random() < DRAGS else self._push(places_O2)
        goal_3, grip = self._plan[0]
        wanted_4 = np.append(np.clip((goal_3 - hand_3) / HAND_STEP, -1, 1), grip)
        jitter_4 = self._noise.normal(0, (0.12, 0.12, 0.05, 0.1))
        self._last_4 = np.clip(0.3 * self._last_4 + 0.7 * wanted_4 + jitter_4, -1, 1)
        return self._last_4

    def _push(self, places_O2: Array) -> list[tuple[Array, float]]:
        """Above a start beside an object, down, and through the object to its far side."""
        place_2 = places_O2[self._noise.integers(len(places_O2))]
        turn = self._noise.uniform(0, 2 * np.pi)
        way_2 = np.array([np.cos(turn), np.sin(turn)])
        # Of the two ways through it, the one whose start is within reach.
        if np.abs(place_2 - 0.09 * way_2 - _inside(place_2 - 0.09 * way_2)).sum() > 0.01:
            way_2 = -way_2
        start_2, end_2 = place_2 - self._noise.uniform(0.07, 0.1) * way_2, place_2 + self._noise.uniform(0.08, 0.2) * way_2
        grip = self._noise.choice((OPEN, CLOSED))
        return [_point(start_2, HIGH, grip), _point(start_2, REACH_LOW[2], grip), _point(end_2, REACH_LOW[2], grip)]

    def _drag(self, places_O2: Array) -> list[tuple[Array, float]]:
        """Above an object, down on it with open fingers, close them, and off to somewhere on the table."""
        place_2 = places_O2[self._noise.integers(len(places_O2))]
        goal_2 = self._noise.uniform(REACH_LOW[:2], REACH_HIGH[:2])
        low, up = REACH_LOW[2], self._noise.choice((REACH_LOW[2], HIGH))
        return [
            _point(place_2, HIGH, OPEN),
            _point(place_2, low, OPEN),
            _point(place_2, low + 0.003, CLOSED),
            _point(goal_2, up, CLOSED),
        ]


def scatter(scene: np.random.Generator, count: int, apart: float) -> Array:
    """Places for objects: the first of many draws in which all are apart, or else the widest spaced."""
    draws_NO2 = scene.uniform(REACH_LOW[:2] + 0.05, REACH_HIGH[:2] - 0.05, (100, count, 2))
    gaps_N = (np.linalg.norm(draws_NO2[:, :, None] - draws_NO2[:, None], axis=-1) + np.eye(count)).min(axis=(1, 2))
    chosen_O2: Array = draws_NO2[np.minimum(gaps_N, apart).argmax()]
    return chosen_O2


def _point(place_2: Array, z: float, grip: float) -> tuple[Array, float]:
    return np.append(_inside(place_2), z), grip


def _inside(place_2: Array) -> Array:
    inside_2: Array = np.clip(place_2, REACH_LOW[:2], REACH_HIGH[:2])
    return inside_2
