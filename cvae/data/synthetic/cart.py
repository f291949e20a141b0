"""A cart drives before the table from stop to stop: when it leaves, and where to, nothing that is given tells.

It is what world 2 adds: large, with few and clear futures. A standing cart leaves at any frame with the same chance, so
that the frames in which it stood say nothing of when; the stops it does not stand at are equally likely. What an observer
knows is where it stands, or how it moves.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["drive"]

STOPS = np.array([-0.22, 0.0, 0.22])  # metres along y
LEAVES = 0.4  # chance a frame that a standing cart starts
TRIP = (4, 7)  # frames to the next stop, and to the one after it, which it passes between two frames
GIVEN = 2  # it stands in so many frames at least before it first starts


def drive(noise: np.random.Generator, frames: int, stop: int) -> npt.NDArray[np.float64]:
    """Where the cart is along y in each frame, ``T``, in metres. It begins at a stop, 0 to 2, and stands there at first."""
    course_T = np.full(frames, STOPS[stop])
    t = GIVEN
    while t < frames:
        if noise.random() >= LEAVES:
            t += 1
            continue
        goal = int(noise.choice([other for other in range(len(STOPS)) if other != stop]))
        share = np.arange(1, TRIP[abs(goal - stop) - 1] + 1) / TRIP[abs(goal - stop) - 1]
        way = STOPS[stop] + (STOPS[goal] - STOPS[stop]) * share**2 * (3 - 2 * share)  # it starts and brakes softly
        seen = way[: frames - t]
        course_T[t : t + len(seen)] = seen
        course_T[t + len(seen) :] = STOPS[goal]
        t, stop = t + len(way), goal
    return course_T
