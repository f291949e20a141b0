"""Where the camera sees a point of the world. It looks down at a tilt: y runs along the columns, x down the rows, and
height lifts a point up the rows. Suffix 3 is a point in metres, 2 a row and a column."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cvae.data.synthetic.world import TABLE_Z, Array

TILT, LIFT = 0.87, 0.52  # pixels down the rows for a metre along x, and up for one of height, over those for one along y
LOOKS_AT = np.array([0.66, 0.0])  # a point of the table
LIGHT = np.array([0.35, 0.45])  # a shadow's shift along x and y for every metre of height


@dataclass(frozen=True)
class Camera:
    """A place to look from.

    Attributes:
        px: pixels a metre along the columns.
        seen_at: the row and column at which it sees ``LOOKS_AT``.
    """

    px: float
    seen_at: tuple[float, float]

    @property
    def scale(self) -> float:
        """How large it sees what the near camera sees in so many pixels."""
        return self.px / NEAR_PX

    def project(self, points_T3: Array) -> Array:
        """Row and column at which it sees points."""
        seen_T2: Array = np.array(self.seen_at) + (points_T3[:, :2] - LOOKS_AT) * (TILT * self.px, self.px)
        seen_T2[:, 0] -= (points_T3[:, 2] - TABLE_Z) * (LIFT * self.px)
        return seen_T2


NEAR_PX = 116.0
NEAR = Camera(NEAR_PX, (34.0, 32.0))  # the table fills the view
FAR = Camera(96.0, (26.0, 32.0))  # there is room for the floor before the table


def shadow(points_T3: Array) -> Array:
    """Where on the table the points' shadows fall."""
    height_T1 = points_T3[:, 2:] - TABLE_Z
    return np.column_stack([points_T3[:, :2] + height_T1 * LIGHT, np.full_like(height_T1, TABLE_Z)])
