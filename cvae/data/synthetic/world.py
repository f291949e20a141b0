"""A robot gripper pushes objects over a table: the physics of the synthetic push world.

Suffixes beyond the usual: O objects, 2 the table plane (x away from the robot, y to its left), 3 = (x, y, z),
4 = (dx, dy, dz, grip) of an action or (x, y, z, opening) of the hand; lengths are metres in the robot's base frame,
times are frames. The objects' glide and slip are hidden from frames and conditions, and drawn from their own seed, so
that one scene and one run of actions have many futures: where an object goes, and how far, shows only after the push.
World 2 is world 1 and a cart beside it (``cvae.data.synthetic.cart``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cvae.data.synthetic.cart import STOPS, drive

Array = npt.NDArray[Any]
Seed = int | Sequence[int]

FRAMES = 30
SUBSTEPS = 3

TABLE_LOW, TABLE_HIGH = np.array([0.44, -0.25]), np.array([0.92, 0.25])  # the rim's inner edges
TABLE_Z = 0.10
REACH_LOW, REACH_HIGH = np.array([0.51, -0.22, 0.12]), np.array([0.88, 0.22, 0.24])  # the gripper's workspace
HIGH = REACH_HIGH[2] - 0.02  # where the hand travels
HAND_STEP = np.array([0.045, 0.045, 0.05, 0.4])  # metres, and share of the opening, a frame at action 1
DRAGS = 0.2  # share of the policy's plans that grasp; the others push

OBJECT_RADIUS = (0.043, 0.061)  # of the disc with the same area
OBJECT_HEIGHT = 0.045
CLEAR_Z = TABLE_Z + OBJECT_HEIGHT + 0.01  # above this the fingers pass over everything
FINGER_RADIUS, FINGER_SPREAD = 0.018, (0.014, 0.034)  # spread of closed and open fingers, to each side
GRASP_RADIUS = 0.04

GLIDE = (0.6, 0.95)  # hidden: share of its speed an object keeps over a frame
SLIP = (0.5, 1.2)  # hidden: radians by which a push may turn an object's way; the side is drawn at every contact
KICK = (0.9, 2.2)  # hidden: an object's speed over the gripper's, drawn at every contact
SPIN = 0.45  # hidden: radians a frame at most
ESCAPE = (0.04, 0.2)  # hidden: chance a frame that an object slips out of closed and of open fingers
TOP_SPEED = 0.065

PALETTE = np.array([
    (0.80, 0.26, 0.22), (0.20, 0.42, 0.72), (0.22, 0.55, 0.36), (0.92, 0.72, 0.20),
    (0.52, 0.32, 0.64), (0.12, 0.58, 0.62), (0.88, 0.46, 0.54), (0.95, 0.94, 0.90),
])  # fmt: skip
DISC = 40  # corners enough to be round
SHAPES = np.array([(3, 1.0), (4, 1.0), (4, 1.45), (6, 1.0), (DISC, 1.0), (DISC, 1.0)])  # corners, length over width


@dataclass
class Objects:
    """What lies on the table, how it moves, and the state of its contacts with the hand."""

    corners_O: Array
    aspect_O: Array
    radius_O: Array
    colour_O3: Array
    place_O2: Array
    angle_O: Array
    glide_O: Array
    slip_O: Array
    speed_O2: Array = field(init=False)
    spin_O: Array = field(init=False)
    bend_O: Array = field(init=False)
    kick_O: Array = field(init=False)
    untouched_O: Array = field(init=False)  # substeps since the last contact
    held_O: Array = field(init=False)

    def __post_init__(self) -> None:
        count = len(self.radius_O)
        self.speed_O2 = np.zeros((count, 2))
        self.spin_O, self.bend_O, self.kick_O = np.zeros((3, count))
        self.untouched_O = np.full(count, SUBSTEPS)
        self.held_O = np.zeros(count, dtype=bool)


@dataclass
class Episode:
    """What happened in one sequence, before it is drawn."""

    actions_T4: Array
    positions_T3: Array
    opening_T: Array
    places_TO2: Array
    angles_TO: Array
    objects: Objects
    tint_3: Array
    cart_T: Array | None = None  # in world 2: where the cart is along y


def play(seed: Seed, *, noise_seed: Seed | None = None, actions_T4: Array | None = None, world: int = 1) -> Episode:
    """One sequence of the push world, a pure function of its arguments.

    ``seed`` draws the scene, the actions, and (unless ``noise_seed`` does) what is hidden: glide and slip, and in ``world`` 2
    the cart's course. ``actions_T4`` replaces the policy's actions, so that the futures of one scene under the same actions
    can be compared.

    Raises:
        ValueError: ``actions_T4`` is not 30 x 4.
    """
    if actions_T4 is not None and np.shape(actions_T4) != (FRAMES, 4):
        raise ValueError(f"actions_T4 must be {FRAMES} x 4, not {np.shape(actions_T4)}")
    scene, choices, noise = (np.random.default_rng(part) for part in np.random.SeedSequence(seed).spawn(3))
    if noise_seed is not None:
        noise = np.random.default_rng(noise_seed)
    objects = _draw_objects(scene, noise)
    policy = _Policy(choices, objects)
    hand_4 = policy.start_4
    seen = []
    for t in range(FRAMES):
        wanted_4 = policy.act(hand_4) if actions_T4 is None else actions_T4[t]
        action_4 = np.clip(np.asarray(wanted_4, dtype=np.float32), -1, 1)
        seen.append((action_4, hand_4, objects.place_O2.copy(), objects.angle_O.copy()))
        next_4 = _within_reach(hand_4 + action_4 * HAND_STEP)
        _move_objects(objects, hand_4, next_4, noise)
        hand_4 = next_4
    taken_T4, hands_T4, places_TO2, angles_TO = map(np.array, zip(*seen, strict=True))
    positions_T3, tint_3 = hands_T4[:, :3].astype(np.float32), scene.uniform(-0.015, 0.015, 3)
    cart_T = None if world == 1 else drive(noise, FRAMES, int(scene.integers(len(STOPS))))
    return Episode(taken_T4, positions_T3, hands_T4[:, 3], places_TO2, angles_TO, objects, tint_3, cart_T)


def _draw_objects(scene: np.random.Generator, noise: np.random.Generator) -> Objects:
    count = int(scene.integers(2, 5))
    shapes_O2 = SHAPES[scene.integers(len(SHAPES), size=count)]
    radius_O = scene.uniform(*OBJECT_RADIUS, count)
    return Objects(
        corners_O=shapes_O2[:, 0],
        aspect_O=shapes_O2[:, 1],
        radius_O=radius_O,
        colour_O3=PALETTE[scene.permutation(len(PALETTE))[:count]],
        place_O2=_scatter(scene, count),
        angle_O=scene.uniform(0, 2 * np.pi, count),
        glide_O=noise.uniform(*GLIDE, count),
        slip_O=noise.uniform(*SLIP, count),
    )


def _scatter(scene: np.random.Generator, count: int) -> Array:
    """Places for the objects: the first of many draws in which none lies in another, or else the widest spaced."""
    draws_NO2 = scene.uniform(TABLE_LOW + 0.08, TABLE_HIGH - 0.08, (100, count, 2))
    gaps_NOO = np.linalg.norm(draws_NO2[:, :, None] - draws_NO2[:, None], axis=-1) + np.eye(count)
    enough = 2 * OBJECT_RADIUS[1] + 0.01
    best_O2: Array = draws_NO2[np.minimum(gaps_NOO.min(axis=(1, 2)), enough).argmax()]
    return best_O2


class _Policy:
    """Goes to an object and pushes it, or grasps and drags it; then the next one."""

    def __init__(self, choices: np.random.Generator, objects: Objects) -> None:
        self.choices, self.objects = choices, objects
        self.last_4 = np.zeros(4)
        # The first push begins at once: two past frames and ten future ones should see it.
        _, self.start_4, *self.plan = self._push()

    def act(self, hand_4: Array) -> Array:
        """The action of this hand: smoothed and jittered steps toward the next way point."""
        if self.plan and np.linalg.norm((self.plan[0] - hand_4)[:3]) < 0.03:
            self.plan = self.plan[1:]
        if not self.plan:
            self.plan = self._drag() if self.choices.random() < DRAGS else self._push()
        wanted_4 = np.clip((self.plan[0] - hand_4) / HAND_STEP, -1, 1)
        jitter_4 = self.choices.normal(0, (0.12, 0.12, 0.05, 0.05))
        self.last_4 = np.clip(0.3 * self.last_4 + 0.7 * wanted_4 + jitter_4, -1, 1)
        return self.last_4

    def _push(self) -> list[Array]:
        """Way points: above the start, down at the start, and through an object to its far side."""
        one, places_O2 = int(self.choices.integers(len(self.objects.radius_O))), self.objects.place_O2
        opening = self.choices.uniform(0, 1)
        turns_N = self.choices.uniform(0, 2 * np.pi, 16)
        ways_N2 = np.column_stack([np.cos(turns_N), np.sin(turns_N)])
        back_N = self.objects.radius_O[one] + FINGER_RADIUS + finger_spread(opening) * np.abs(ways_N2[:, 1])
        starts_N2 = places_O2[one] - (back_N + self.choices.uniform(0.04, 0.08))[:, None] * ways_N2
        ends_N2 = places_O2[one] + self.choices.uniform(0.14, 0.26) * ways_N2
        # The best of a few ways: it stays within reach, does not start in another object, and does not push away from
        # the camera, where the arm would hide the object.
        beyond_N = sum(np.abs(p - np.clip(p, REACH_LOW[:2], REACH_HIGH[:2])).sum(axis=1) for p in (starts_N2, ends_N2))
        gaps_NO = np.linalg.norm(_away(starts_N2[:, None], opening, places_O2), axis=-1) - self.objects.radius_O
        crowded_N = np.maximum(FINGER_RADIUS - np.delete(gaps_NO, one, axis=1).min(axis=1), 0)
        way = int(np.argmin(beyond_N + 5 * crowded_N + 0.05 * np.maximum(-ways_N2[:, 0], 0)))
        points = ((starts_N2[way], HIGH), (starts_N2[way], REACH_LOW[2]), (ends_N2[way], REACH_LOW[2]))
        return [_within_reach(np.array([*place_2, z, opening])) for place_2, z in points]

    def _drag(self) -> list[Array]:
        """Way points: above an object with open fingers, down on it, close, and off to somewhere on the table."""
        place_2 = self.objects.place_O2[self.choices.integers(len(self.objects.radius_O))]
        goal_2, low = self.choices.uniform(REACH_LOW[:2] + 0.05, REACH_HIGH[:2] - 0.05), REACH_LOW[2]
        points = ((place_2, HIGH, 1.0), (place_2, low, 1.0), (place_2, low, 0.0), (goal_2, low, 0.0))
        return [_within_reach(np.array([*place_2, z, opening])) for place_2, z, opening in points]


def finger_spread(opening: Array | float) -> Array | float:
    """How far to each side the fingers stand."""
    return FINGER_SPREAD[0] + (FINGER_SPREAD[1] - FINGER_SPREAD[0]) * opening


def _away(hand_2: Array, opening: float, place_2: Array) -> Array:
    """From the nearest point of the line between the fingers to a place."""
    spread, away_2 = finger_spread(opening), place_2 - hand_2
    away_2[..., 1] -= np.minimum(np.maximum(away_2[..., 1], -spread), spread)
    return away_2


def _within_reach(hand_4: Array) -> Array:
    reached_4: Array = np.clip(hand_4, [*REACH_LOW, 0.0], [*REACH_HIGH, 1.0])
    return reached_4


def _move_objects(objects: Objects, from_4: Array, to_4: Array, noise: np.random.Generator) -> None:
    """One frame of the objects while the hand goes evenly from one place to the next."""
    step_4 = (to_4 - from_4) / SUBSTEPS
    # Python's own power: NumPy's has other last digits on a CPU with AVX-512 (cvae.data.synthetic.drawing.direction).
    keep_O = np.array([glide ** (1 / SUBSTEPS) for glide in objects.glide_O.tolist()])
    low = from_4[2] < CLEAR_Z
    for k in range(1, SUBSTEPS + 1):
        hand_4 = from_4 + k * step_4
        was_low, low = low, hand_4[2] < CLEAR_Z
        if low:
            _grasp(objects, hand_4, was_low, noise)
            _touch(objects, hand_4, step_4[:2] * SUBSTEPS, noise)
        else:
            objects.held_O[:] = False
        _collide(objects)
        fast_O = np.hypot(objects.speed_O2[:, 0], objects.speed_O2[:, 1])
        objects.speed_O2 *= (keep_O * np.minimum(1, TOP_SPEED / np.maximum(fast_O, 1e-9)))[:, None]
        objects.spin_O *= keep_O
        objects.place_O2 += objects.speed_O2 / SUBSTEPS
        objects.place_O2[objects.held_O] += step_4[:2]
        objects.angle_O += objects.spin_O / SUBSTEPS
        _stay_on_table(objects)


def _grasp(objects: Objects, hand_4: Array, was_low: bool, noise: np.random.Generator) -> None:
    """Fingers that come down on both sides of an object carry it along until they rise or it slips out."""
    escapes_O = noise.random(len(objects.held_O)) < (ESCAPE[0] + (ESCAPE[1] - ESCAPE[0]) * hand_4[3]) / SUBSTEPS
    if was_low:
        objects.held_O &= ~escapes_O
    else:
        objects.held_O = np.hypot(*(objects.place_O2 - hand_4[:2]).T) < GRASP_RADIUS
    objects.speed_O2[objects.held_O] = 0
    objects.spin_O[objects.held_O] = 0


def _touch(objects: Objects, hand_4: Array, hand_speed_2: Array, noise: np.random.Generator) -> None:
    """The fingers push what they reach; every new contact draws to which side it slips, how fast, and its spin."""
    away_O2 = _away(hand_4[:2], hand_4[3], objects.place_O2)
    far_O = np.maximum(np.hypot(away_O2[:, 0], away_O2[:, 1]), 1e-6)
    overlap_O = objects.radius_O + FINGER_RADIUS - far_O
    for one in np.flatnonzero((overlap_O > 0) & ~objects.held_O):
        if objects.untouched_O[one] >= SUBSTEPS:
            side = noise.choice((-1.0, 1.0))
            objects.bend_O[one] = side * objects.slip_O[one] * noise.uniform(0.4, 1)
            objects.kick_O[one] = noise.uniform(*KICK)
            objects.spin_O[one] = side * SPIN * noise.uniform(0.2, 1)
        normal_2 = away_O2[one] / far_O[one]
        objects.place_O2[one] += overlap_O[one] * normal_2
        pushed = max(float(hand_speed_2 @ normal_2), 0.0)
        if objects.speed_O2[one] @ normal_2 < pushed:
            cos, sin = math.cos(objects.bend_O[one]), math.sin(objects.bend_O[one])
            bent_2 = normal_2 @ np.array([[cos, sin], [-sin, cos]])
            objects.speed_O2[one] = objects.kick_O[one] * pushed * bent_2
    objects.untouched_O = np.where((overlap_O > 0) & ~objects.held_O, 0, objects.untouched_O + 1)


def _collide(objects: Objects) -> None:
    """Objects that meet part and trade their speeds along the line between them."""
    places, radii = objects.place_O2.tolist(), objects.radius_O.tolist()
    for a in range(len(radii)):
        for b in range(a):
            far = math.dist(places[a], places[b])
            overlap = radii[a] + radii[b] - far
            if overlap <= 0:
                continue
            normal_2 = (objects.place_O2[a] - objects.place_O2[b]) / max(far, 1e-6)
            objects.place_O2[a] += overlap / 2 * normal_2
            objects.place_O2[b] -= overlap / 2 * normal_2
            traded_2 = min(float((objects.speed_O2[a] - objects.speed_O2[b]) @ normal_2), 0.0) * normal_2
            objects.speed_O2[a] -= traded_2
            objects.speed_O2[b] += traded_2


def _stay_on_table(objects: Objects) -> None:
    """The rim throws an object back with half its speed."""
    radius_O1 = objects.radius_O[:, None]
    inside_O2 = np.minimum(np.maximum(objects.place_O2, TABLE_LOW + radius_O1), TABLE_HIGH - radius_O1)
    objects.speed_O2[inside_O2 != objects.place_O2] *= -0.5
    objects.place_O2 = inside_O2
