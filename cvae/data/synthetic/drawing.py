"""The synthetic push world as a camera sees it: shapes by signed distances, a whole sequence at once.

Suffixes beyond the usual: 2 and 3 are points on the table plane and in space (metres) or in the image (row, column).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cvae.data.synthetic.world import (
    FINGER_SPREAD,
    FRAMES,
    OBJECT_HEIGHT,
    TABLE_HIGH,
    TABLE_LOW,
    TABLE_Z,
    Array,
    Episode,
    Objects,
    finger_spread,
)

SIZE = 64
# The camera looks down at a tilt: y runs along the columns, x down the rows, and height lifts a point up the rows.
PX = 116.0  # pixels a metre along the columns
PX_X, PX_Z = 0.87 * PX, 0.52 * PX
LOOKS_AT, SEEN_AT = np.array([0.66, 0.0]), np.array([34.0, 32.0])  # a point of the table, and its row and column
LIGHT = np.array([0.35, 0.45])  # a shadow's shift along x and y for every metre of height
EDGE = 1.3  # pixels over which an edge fades
SHOULDER, WRIST_LIFT = np.array([0.05, 0.0, 0.52]), 0.075
ARM_WIDTH = (6.0, 3.8)  # pixels, half the width at the shoulder and at the wrist
ARM_SHADE = 0.27  # share of the light that the arm's shadow takes

FLOOR, RIM, TABLE = (0.36, 0.38, 0.42), (0.57, 0.47, 0.38), (0.80, 0.755, 0.68)
ARM, ARM_LIGHT, JOINT, FINGER = (0.47, 0.52, 0.60), (0.60, 0.65, 0.72), (0.95, 0.60, 0.18), (0.24, 0.26, 0.31)
SHADOW = (0.15, 0.13, 0.12)


def render(run: Episode) -> Array:
    """The frames of an episode as uint8 ``frames_THWC``."""
    canvas = _Canvas(_table(run.tint_3))
    # The nearest to the camera last: what stands before another hides it.
    for order_T in np.argsort(run.places_TO2[:, :, 0], axis=1).T:
        _draw_object(canvas, run, order_T)
    _draw_arm(canvas, run)
    return canvas.frames_THWC()


class _Canvas:
    """The images of a sequence, with a margin all round so that what leaves the view can be painted like the rest."""

    MARGIN = 16  # at least half a window

    def __init__(self, ground_CHW: Array) -> None:
        margin = self.MARGIN
        padded_CHW = np.pad(ground_CHW, ((0, 0), (margin, margin), (margin, margin)))
        self.pixels_CTHW = np.repeat(padded_CHW[:, None].astype(np.float32), FRAMES, axis=1)

    def whole(self) -> _Window:
        """The window that is the image; what is painted there is painted at once."""
        inner, span = slice(self.MARGIN, -self.MARGIN), np.arange(SIZE, dtype=np.float32)
        return _Window(self.pixels_CTHW[:, :, inner, inner], span[None, :, None], span[None, None, :])

    @contextmanager
    def around(self, centre_T2: Array, half: int) -> Iterator[_Window]:
        """A window that moves with a centre; what is painted there is put back at the end."""
        span = np.arange(-half, half + 1)
        middle_T2 = np.clip(np.rint(centre_T2), half - self.MARGIN, SIZE + self.MARGIN - half - 1).astype(int)
        rows, columns = (middle_T2[:, 0, None] + span)[:, :, None], (middle_T2[:, 1, None] + span)[:, None]
        wide = SIZE + 2 * self.MARGIN
        # Flat indices: many times faster than an index for each axis.
        flat = (np.arange(FRAMES)[:, None, None] * wide + rows + self.MARGIN) * wide + columns + self.MARGIN
        planes = self.pixels_CTHW.reshape(3, -1)
        pixels_CTHW = np.stack([plane[flat] for plane in planes])
        yield _Window(pixels_CTHW, rows.astype(np.float32), columns.astype(np.float32))
        for plane, pixels_THW in zip(planes, pixels_CTHW, strict=True):
            plane[flat] = pixels_THW

    def frames_THWC(self) -> Array:
        bytes_CTHW = (np.clip(self.whole().pixels_CTHW, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)
        return np.ascontiguousarray(bytes_CTHW.transpose(1, 2, 3, 0))


@dataclass
class _Window:
    """A part of every image, and where in the image its pixels are."""

    pixels_CTHW: Array
    rows: Array
    columns: Array

    def offsets(self, centre_T2: Array) -> tuple[Array, Array]:
        """How far down and across from a centre the pixels lie."""
        down, across = _per_frame(centre_T2.T)
        return self.rows - down, self.columns - across

    def paint(self, distance_THW: Array, colour: npt.ArrayLike, *, soft: float = EDGE, cover: float = 1.0) -> None:
        """Cover where the signed distance (pixels) is negative with a colour: 3 numbers, or T x 3."""
        alpha_THW = distance_THW * np.float32(-cover / soft)
        alpha_THW += np.float32(cover / 2)
        np.clip(alpha_THW, 0, np.float32(cover), out=alpha_THW)
        colour_CT11 = _per_frame(np.broadcast_to(colour, (FRAMES, 3)).T)
        for plane_THW, shade_T11 in zip(self.pixels_CTHW, colour_CT11, strict=True):
            plane_THW += alpha_THW * (shade_T11 - plane_THW)


def _project(points_T3: Array) -> Array:
    """Row and column at which the camera sees points in metres."""
    seen_T2: Array = SEEN_AT + (points_T3[:, :2] - LOOKS_AT) * (PX_X, PX)
    seen_T2[:, 0] -= (points_T3[:, 2] - TABLE_Z) * PX_Z
    return seen_T2


def _shadow(points_T3: Array) -> Array:
    """Where on the table the points' shadows fall."""
    height_T1 = points_T3[:, 2:] - TABLE_Z
    return np.column_stack([points_T3[:, :2] + height_T1 * LIGHT, np.full_like(height_T1, TABLE_Z)])


def _table(tint_3: Array) -> Array:
    """The table with its rim, seen from the camera, C H W."""
    rows_H1, columns_1W = (axis.astype(np.float32) for axis in np.ogrid[:SIZE, :SIZE])
    corners_22 = _project(np.array([[*TABLE_LOW, TABLE_Z], [*TABLE_HIGH, TABLE_Z]]))
    middle_2, half_2 = corners_22.mean(axis=0), (corners_22[1] - corners_22[0]) / 2
    image_CHW: Array = np.array(FLOOR)[:, None, None] * np.ones((1, SIZE, SIZE))
    light_HW = 1.04 + 0.0008 * ((columns_1W - middle_2[1]) - (rows_H1 - middle_2[0]))
    for wider, colour in ((2.5, np.array(RIM)), (0.0, np.array(TABLE) + tint_3)):
        distance_HW = _box(rows_H1 - middle_2[0], columns_1W - middle_2[1], half_2 + wider, 3.0)
        image_CHW += np.clip(0.5 - distance_HW / EDGE, 0, 1) * (colour[:, None, None] * light_HW - image_CHW)
    return image_CHW


def _box(down: Array, across: Array, half_2: Array, corner: float) -> Array:
    """Signed distance to a box with rounded corners."""
    below, beside = np.abs(down) - (half_2[0] - corner), np.abs(across) - (half_2[1] - corner)
    outside = np.hypot(np.maximum(below, 0), np.maximum(beside, 0))
    distance: Array = outside + np.minimum(np.maximum(below, beside), 0) - corner
    return distance


def _capsule(window: _Window, from_T2: Array, to_T2: Array, widths: tuple[float, float]) -> Array:
    """Signed distance to a thick line whose half width goes from one to the other."""
    down, across = window.offsets(from_T2)
    way_down, way_across = _per_frame((to_T2 - from_T2).T)
    length = np.maximum(np.hypot(way_down, way_across), np.float32(1e-3))
    along = (down * way_down + across * way_across) / (length * length)
    np.clip(along, 0, 1, out=along)
    off_down, off_across = down - along * way_down, across - along * way_across
    distance: Array = np.sqrt(off_down * off_down + off_across * off_across)
    distance -= np.float32(widths[0]) + along * np.float32(widths[1] - widths[0])
    return distance


def _per_frame(values_xT: Array) -> Array:
    """Numbers of a frame in a form that meets T H W."""
    return values_xT.astype(np.float32)[..., None, None]


def _draw_object(canvas: _Canvas, run: Episode, order_T: Array) -> None:
    """One object a frame: its shadow, its side, its top with a pale mark that shows how it turns."""
    each_T = np.arange(FRAMES)
    place_T2, angle_T = run.places_TO2[each_T, order_T], run.angles_TO[each_T, order_T]
    colour_T3, radius_T = run.objects.colour_O3[order_T], run.objects.radius_O[order_T]

    def seen(shift_2: Array, height: float) -> Array:
        return _project(np.column_stack([place_T2 + shift_2, np.full(FRAMES, TABLE_Z + height)]))

    with canvas.around(seen(np.zeros(2), OBJECT_HEIGHT / 2), 15) as window:
        foot, top, cast = (
            _polygon(window, seen(shift * LIGHT, height), angle_T, run.objects, order_T)
            for shift, height in ((0, 0), (0, OBJECT_HEIGHT), (OBJECT_HEIGHT, 0))
        )
        window.paint(np.minimum(foot, cast), SHADOW, soft=3.0, cover=0.4)
        window.paint(np.minimum(foot, top), 0.55 * colour_T3)
        window.paint(top, colour_T3)
        mark_T2 = 0.42 * radius_T[:, None] * np.column_stack([np.cos(angle_T), np.sin(angle_T)])
        mark = np.hypot(*window.offsets(seen(mark_T2, OBJECT_HEIGHT))) - np.float32(1.5)
        window.paint(mark, 0.4 * colour_T3 + 0.6)


def _polygon(window: _Window, centre_T2: Array, angle_T: Array, objects: Objects, order_T: Array) -> Array:
    """Signed distance to the objects' outlines: polygons whose area is that of a disc of their radius."""
    cos, sin = _per_frame(np.array([np.cos(angle_T), np.sin(angle_T)]))
    corners_O = objects.corners_O
    inner_O = PX * objects.radius_O * np.sqrt(np.pi / (corners_O * np.tan(np.pi / corners_O)))
    shapes_3O = np.array([np.sqrt(objects.aspect_O), 2 * np.pi / corners_O, inner_O])
    aspect, sector, inner = _per_frame(shapes_3O[:, order_T])
    down, across = window.offsets(centre_T2)
    down *= np.float32(PX / PX_X)
    along, beside = (down * cos + across * sin) / aspect, (across * cos - down * sin) * aspect
    turn = np.arctan2(beside, along)
    # The turn from the middle of the nearest side: there a polygon is a straight line.
    turn -= sector * np.rint(turn / sector)
    distance: Array = np.sqrt(along * along + beside * beside) * np.cos(turn) - inner
    return distance


def _draw_arm(canvas: _Canvas, run: Episode) -> None:
    """The arm's shadow, the hand's fingers, the arm from the shoulder to the wrist, and the hand."""
    tip_T3 = run.positions_T3
    wrist_T3, shoulder_T3 = tip_T3 + np.array([-0.01, 0, WRIST_LIFT]), np.broadcast_to(SHOULDER, tip_T3.shape)
    tip_T2, wrist_T2, shoulder_T2 = _project(tip_T3), _project(wrist_T3), _project(shoulder_T3)
    tip_cast_T2, wrist_cast_T2, shoulder_cast_T2 = (_project(_shadow(p)) for p in (tip_T3, wrist_T3, shoulder_T3))
    whole = canvas.whole()
    limb_shadow = _capsule(whole, shoulder_cast_T2, wrist_cast_T2, ARM_WIDTH)
    hand_shadow = _capsule(whole, wrist_cast_T2, tip_cast_T2, (4.0, 2.5))
    whole.paint(np.minimum(limb_shadow, hand_shadow), SHADOW, soft=3.0, cover=ARM_SHADE)
    spread_T = PX * finger_spread(run.opening_T)
    with canvas.around((tip_T2 + wrist_T2) / 2, 11) as hand:
        for side in (-1, 1):
            aside_T2 = np.column_stack([np.zeros(FRAMES), side * spread_T])
            hand.paint(_capsule(hand, wrist_T2 + aside_T2, tip_T2 + aside_T2, (1.6, 1.5)), FINGER)
    limb = _capsule(whole, shoulder_T2, wrist_T2, ARM_WIDTH)
    whole.paint(limb, ARM)
    whole.paint(limb + np.float32(2.0), ARM_LIGHT)
    with canvas.around(wrist_T2, 8) as hand:
        palm_2 = np.array([2.4, PX * FINGER_SPREAD[1] + 1.6])
        hand.paint(_box(*hand.offsets(wrist_T2), palm_2, 1.5), FINGER)
        hand.paint(np.hypot(*hand.offsets(wrist_T2)) - np.float32(2.2), JOINT)
