"""The synthetic push world as a camera sees it: shapes by signed distances, a whole sequence at once.

Suffixes beyond the usual: 2 and 3 are points on the table plane and in space (metres) or in the image (row, column).
"""

from __future__ import annotations

import functools

import numpy as np

from cvae.data.synthetic.camera import FAR, LIFT, LIGHT, NEAR, TILT, Camera, shadow
from cvae.data.synthetic.canvas import EDGE, SIZE, Canvas, Window, box, capsule, per_frame
from cvae.data.synthetic.cart import STOPS
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

SHOULDER, WRIST_LIFT = np.array([0.05, 0.0, 0.52]), 0.075
ARM_WIDTH = (6.0, 3.8)  # pixels, half the width at the shoulder and at the wrist
ARM_SHADE = 0.27  # share of the light that the arm's shadow takes
CART_X, CART_HALF, CART_HEIGHT = 1.04, (0.05, 0.10), 0.11  # metres: its middle, half its depth and width

FLOOR, RIM, TABLE = (0.36, 0.38, 0.42), (0.57, 0.47, 0.38), (0.80, 0.755, 0.68)
ARM, ARM_LIGHT, JOINT, FINGER = (0.47, 0.52, 0.60), (0.60, 0.65, 0.72), (0.95, 0.60, 0.18), (0.24, 0.26, 0.31)
CART, TRAY, LAMP, LANE, STOP = (0.95, 0.72, 0.22), (0.99, 0.85, 0.47), (1.0, 0.97, 0.85), (0.30, 0.32, 0.36), (0.80, 0.80, 0.76)
SHADOW = (0.15, 0.13, 0.12)


def render(run: Episode) -> Array:
    """The frames of an episode as uint8 ``frames_THWC``."""
    camera = NEAR if run.cart_T is None else FAR
    canvas = Canvas(_ground(camera, run.tint_3, lane=run.cart_T is not None))
    # The nearest to the camera last: what stands before another hides it.
    for order_T in np.argsort(run.places_TO2[:, :, 0], axis=1).T:
        _draw_object(canvas, camera, run, order_T)
    _draw_arm(canvas, camera, run)
    if run.cart_T is not None:
        _draw_cart(canvas, camera, run.cart_T)
    return canvas.frames_THWC()


def _ground(camera: Camera, tint_3: Array, *, lane: bool) -> Array:
    """The floor, with the cart's lane if there is one, and the table with its rim, C H W."""
    rows_H1, columns_1W = (axis.astype(np.float32) for axis in np.ogrid[:SIZE, :SIZE])
    corners_22 = camera.project(np.array([[*TABLE_LOW, TABLE_Z], [*TABLE_HIGH, TABLE_Z]]))
    middle_2, half_2 = corners_22.mean(axis=0), (corners_22[1] - corners_22[0]) / 2
    image_CHW: Array = np.array(FLOOR)[:, None, None] * np.ones((1, SIZE, SIZE))
    if lane:
        _paint_lane(image_CHW, camera, rows_H1, columns_1W)
    light_HW = 1.04 + 0.0008 * ((columns_1W - middle_2[1]) - (rows_H1 - middle_2[0]))
    for wider, colour in ((2.5 * camera.scale, np.array(RIM)), (0.0, np.array(TABLE) + tint_3)):
        distance_HW = box(rows_H1 - middle_2[0], columns_1W - middle_2[1], half_2 + wider, 3.0 * camera.scale)
        image_CHW += np.clip(0.5 - distance_HW / EDGE, 0, 1) * (colour[:, None, None] * light_HW - image_CHW)
    return image_CHW


def _paint_lane(image_CHW: Array, camera: Camera, rows_H1: Array, columns_1W: Array) -> None:
    """A darker strip of floor with a pale field at every stop."""
    stops_S2 = camera.project(np.array([[CART_X, y, TABLE_Z] for y in STOPS]))
    half_2 = camera.px * np.array([TILT * CART_HALF[0], CART_HALF[1]])
    strip_H1 = np.abs(rows_H1 - stops_S2[0, 0]) - 1.4 * half_2[0]
    image_CHW += np.clip(0.5 - strip_H1 / EDGE, 0, 1) * (np.array(LANE)[:, None, None] - image_CHW)
    for row, column in stops_S2:
        ring_HW = np.abs(box(rows_H1 - row, columns_1W - column, half_2, 2.0)) - 0.5
        image_CHW += 0.6 * np.clip(0.5 - ring_HW / EDGE, 0, 1) * (np.array(STOP)[:, None, None] - image_CHW)


def _draw_object(canvas: Canvas, camera: Camera, run: Episode, order_T: Array) -> None:
    """One object a frame: its shadow, its side, its top with a pale mark that shows how it turns."""
    each_T = np.arange(FRAMES)
    place_T2, angle_T = run.places_TO2[each_T, order_T], run.angles_TO[each_T, order_T]
    colour_T3, radius_T = run.objects.colour_O3[order_T], run.objects.radius_O[order_T]

    def seen(shift_2: Array, height: float) -> Array:
        return camera.project(np.column_stack([place_T2 + shift_2, np.full(FRAMES, TABLE_Z + height)]))

    with canvas.around(seen(np.zeros(2), OBJECT_HEIGHT / 2), 15) as window:
        foot, top, cast = (
            _polygon(window, camera, seen(shift * LIGHT, height), angle_T, run.objects, order_T)
            for shift, height in ((0, 0), (0, OBJECT_HEIGHT), (OBJECT_HEIGHT, 0))
        )
        window.paint(np.minimum(foot, cast), SHADOW, soft=3.0, cover=0.4)
        window.paint(np.minimum(foot, top), 0.55 * colour_T3)
        window.paint(top, colour_T3)
        mark_T2 = 0.42 * radius_T[:, None] * np.column_stack([np.cos(angle_T), np.sin(angle_T)])
        mark = np.hypot(*window.offsets(seen(mark_T2, OBJECT_HEIGHT))) - np.float32(1.5 * camera.scale)
        window.paint(mark, 0.4 * colour_T3 + 0.6)


def _polygon(window: Window, camera: Camera, centre_T2: Array, angle_T: Array, objects: Objects, order_T: Array) -> Array:
    """Signed distance to the objects' outlines: polygons whose area is that of a disc of their radius."""
    cos, sin = per_frame(np.array([np.cos(angle_T), np.sin(angle_T)]))
    corners_O = objects.corners_O
    inner_O = camera.px * objects.radius_O * np.sqrt(np.pi / (corners_O * np.tan(np.pi / corners_O)))
    shapes_3O = np.array([np.sqrt(objects.aspect_O), 2 * np.pi / corners_O, inner_O])
    aspect, sector, inner = per_frame(shapes_3O[:, order_T])
    down, across = window.offsets(centre_T2)
    down *= np.float32(1 / TILT)
    along, beside = (down * cos + across * sin) / aspect, (across * cos - down * sin) * aspect
    turn = direction(beside, along)
    # The turn from the middle of the nearest side: there a polygon is a straight line.
    turn -= sector * np.rint(turn / sector)
    distance: Array = np.sqrt(along * along + beside * beside) * np.cos(turn) - inner
    return distance


# Of fdlibm's arc tangent (Sun Microsystems): from where on which of the fractions (a x + b) / (c x + d) takes the place of x,
# the angle that is added for it in two parts, and the coefficients of a series in x^2, the odd ones and the even ones.
_EDGES = np.array([0.4375, 0.6875, 1.1875, 2.4375], np.float32)
_A, _B = np.array([1, 2, 1, 1, 0], np.float32), np.array([0, -1, -1, -1.5, -1], np.float32)
_C, _D = np.array([0, 1, 1, 1.5, 1], np.float32), np.array([1, 2, 1, 1, 0], np.float32)
_ADDED = np.array([0, 4.6364760399e-01, 7.8539812565e-01, 9.8279368877e-01, 1.5707962513e00], np.float32)
_REST = np.array([0, 5.0121582440e-09, 3.7748947079e-08, 3.4473217170e-08, 7.5497894159e-08], np.float32)
_ODD = np.array(
    [1.6285819933e-02, 4.9768779427e-02, 6.6610731184e-02, 9.0908870101e-02, 1.4285714924e-01, 3.3333334327e-01], np.float32
)
_EVEN = np.array([-3.6531571299e-02, -5.8335702866e-02, -7.6918758452e-02, -1.1111110449e-01, -2.0000000298e-01], np.float32)
_PI, _PI_REST = np.float32(np.pi), np.float32(-8.7422776573e-08)


def direction(beside: Array, along: Array) -> Array:
    """``np.arctan2`` in float32, by operations that every CPU rounds alike.

    NumPy's own has other last digits where there is AVX-512, and others again with another C library: enough to make a pixel
    here and there another, and so the same world another data set on another machine.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        x = np.where(along == 0, np.float32(1e30), np.abs(beside / along))
    part = np.digitize(x, _EDGES)
    x = (_A[part] * x + _B[part]) / (_C[part] * x + _D[part])
    square = x * x
    fourth = square * square
    odd, even = (functools.reduce(lambda total, c: total * fourth + c, series) for series in (_ODD, _EVEN))
    angle = _ADDED[part] - ((x * (square * odd + fourth * even) - _REST[part]) - x)
    turned: Array = np.copysign(np.where(along < 0, _PI - (angle - _PI_REST), angle), beside)
    return turned


def _draw_arm(canvas: Canvas, camera: Camera, run: Episode) -> None:
    """The arm's shadow, the hand's fingers, the arm from the shoulder to the wrist, and the hand."""
    tip_T3 = run.positions_T3
    wrist_T3, shoulder_T3 = tip_T3 + np.array([-0.01, 0, WRIST_LIFT]), np.broadcast_to(SHOULDER, tip_T3.shape)
    tip_T2, wrist_T2, shoulder_T2 = camera.project(tip_T3), camera.project(wrist_T3), camera.project(shoulder_T3)
    tip_cast_T2, wrist_cast_T2, shoulder_cast_T2 = (camera.project(shadow(p)) for p in (tip_T3, wrist_T3, shoulder_T3))
    whole, k = canvas.whole(), camera.scale
    widths = (k * ARM_WIDTH[0], k * ARM_WIDTH[1])
    limb_shadow = capsule(whole, shoulder_cast_T2, wrist_cast_T2, widths)
    hand_shadow = capsule(whole, wrist_cast_T2, tip_cast_T2, (4.0 * k, 2.5 * k))
    whole.paint(np.minimum(limb_shadow, hand_shadow), SHADOW, soft=3.0, cover=ARM_SHADE)
    spread_T = camera.px * finger_spread(run.opening_T)
    with canvas.around((tip_T2 + wrist_T2) / 2, 11) as hand:
        for side in (-1, 1):
            aside_T2 = np.column_stack([np.zeros(FRAMES), side * spread_T])
            hand.paint(capsule(hand, wrist_T2 + aside_T2, tip_T2 + aside_T2, (1.6 * k, 1.5 * k)), FINGER)
    limb = capsule(whole, shoulder_T2, wrist_T2, widths)
    whole.paint(limb, ARM)
    whole.paint(limb + np.float32(2.0 * k), ARM_LIGHT)
    with canvas.around(wrist_T2, 8) as hand:
        palm_2 = np.array([2.4 * k, camera.px * FINGER_SPREAD[1] + 1.6 * k])
        hand.paint(box(*hand.offsets(wrist_T2), palm_2, 1.5 * k), FINGER)
        hand.paint(np.hypot(*hand.offsets(wrist_T2)) - np.float32(2.2 * k), JOINT)


def _draw_cart(canvas: Canvas, camera: Camera, cart_T: Array) -> None:
    """The cart: its shadow, wheels, front and top, a tray on it and two lamps."""

    def seen(height: float, x: float = CART_X) -> Array:
        return camera.project(np.column_stack([np.full(FRAMES, x), cart_T, np.full(FRAMES, TABLE_Z + height)]))

    deep, wide = camera.px * TILT * CART_HALF[0], camera.px * CART_HALF[1]
    top_2, front_2 = np.array([deep, wide]), np.array([LIFT / 2 * camera.px * CART_HEIGHT, wide])
    with canvas.around(seen(CART_HEIGHT / 2), 16) as window:
        foot, top = window.offsets(seen(0.0)), window.offsets(seen(CART_HEIGHT))
        front = window.offsets(seen(CART_HEIGHT / 2, CART_X + CART_HALF[0]))
        window.paint(box(foot[0] - 1, foot[1] - 2, top_2 + 1, 2.0), SHADOW, soft=3.0, cover=0.5)
        window.paint(box(*foot, top_2 - np.array([0, 1.5]), 1.5), FINGER)
        window.paint(box(*front, front_2, 1.0), 0.62 * np.array(CART))
        window.paint(box(*top, top_2, 2.0), CART)
        window.paint(box(*top, top_2 - 2.0, 1.0), TRAY)
        for side in (-1, 1):
            window.paint(np.hypot(front[0], front[1] - side * (wide - 3)) - np.float32(1.1), LAMP)
