"""The simulated Sawyer at its table: MuJoCo moves and draws the arm that Meta-World ships, with objects of our own."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cvae.data.layout import IMAGE_SIZE
from cvae.data.sawyer.policy import HAND_STEP, REACH_HIGH, REACH_LOW
from cvae.errors import UserError, first_line

Array = npt.NDArray[Any]
Act = Callable[[Array, Array], Array]

CONTROLS, STEPS = 4, 5  # a frame is so many controls under one action, a control so many steps of physics, 2.5 ms each
_FINER = 2  # pictures are drawn so many times larger, and their pixels averaged
_HOME_3 = np.array([0.0, 0.6, 0.2])
_SETTLE, _COME = 800, 160  # steps: the arm finds its place from where its file puts it; from there it comes to the start
_HAND_DOWN = (1, 0, 1, 0)  # a quaternion
_WELD = (0, 0, 0, 0, 0, 0, -1, 0, 0, 0, 5)  # the hand is where the mocap body is
_LOOK_AT, _DISTANCE, _AZIMUTH, _ELEVATION = (0.0, 0.65, 0.0), 0.86, -90, -52  # the camera: in front of the robot, as BAIR's
_LEFT_OUT = ("pedestal", "base", "head", "tablebody", "l0", "l1")  # meshes of which it sees next to nothing: half the time
_TRAY = (0.35, 0.63, 0.26, 0.02)  # half its width, its middle from the robot, half its depth and its height
_ARM = 9  # joints of arm and fingers, the first of all


def need_meta_world() -> None:
    """Raise UserError unless Meta-World is installed; nothing is imported."""
    if any(importlib.util.find_spec(package) is None for package in ("metaworld", "mujoco")):
        raise UserError("the simulated Sawyer needs Meta-World and MuJoCo: pip install 'cvae[sim]' (not for Python 3.14)")


def mujoco() -> Any:
    """The package mujoco, set up to draw without a window.

    Raises:
        UserError: it or Meta-World is not installed, or a library that it draws with.
    """
    need_meta_world()
    os.environ.setdefault("MUJOCO_GL", "osmesa")  # on a GPU egl is faster
    os.environ.setdefault("LP_NUM_THREADS", "0")  # Mesa draws in each worker's own thread
    try:
        return importlib.import_module("mujoco")
    except Exception as error:  # PyOpenGL's are of several kinds
        what = f"MuJoCo cannot draw with MUJOCO_GL={os.environ['MUJOCO_GL']} ({first_line(error)})"
        raise UserError(f"{what}: apt-get install libosmesa6, and leave MUJOCO_GL unset or set it to osmesa") from error


class Scene:
    """A model with 2 to 4 objects of drawn shapes and sizes; any number of sequences can be played with them.

    Args:
        seed: numbers that name it.
    """

    def __init__(self, seed: tuple[int, ...]) -> None:
        self._mj = mujoco()
        shapes = np.random.default_rng(seed)
        self.count = int(shapes.integers(2, 5))
        self._model = self._compiled(shapes)
        self._model.eq_data[0] = _WELD
        self._data = self._mj.MjData(self._model)
        self._objects = self._model.geom_bodyid[[self._model.geom(f"object{o}").id for o in range(self.count)]]
        self._renderer = self._mj.Renderer(self._model, IMAGE_SIZE * _FINER, IMAGE_SIZE * _FINER)
        self._camera, self._option = self._mj.MjvCamera(), self._mj.MjvOption()
        self._camera.lookat[:], self._camera.distance = _LOOK_AT, _DISTANCE
        self._camera.azimuth, self._camera.elevation = _AZIMUTH, _ELEVATION
        self._option.sitegroup[:] = 0
        for effect in (self._mj.mjtRndFlag.mjRND_SHADOW, self._mj.mjtRndFlag.mjRND_REFLECTION):
            self._renderer.scene.flags[effect] = 0  # they would take most of the time
        self._place(np.array([[0.3, 0.8 - 0.1 * o, 0.1] for o in range(self.count)]), np.zeros(self.count))
        self._go(_HOME_3, _SETTLE)
        self._home = self._data.qpos[:_ARM].copy()

    def close(self) -> None:
        """Free what it draws with."""
        self._renderer.close()

    def begin(self, places_O2: Array, turns_O: Array, colours_O3: Array, start_3: Array) -> None:
        """Put the objects down in new colours, and the hand at its start."""
        self._mj.mj_resetData(self._model, self._data)
        self._data.qpos[:_ARM] = self._home
        for o, colour_3 in enumerate(colours_O3):
            self._model.geom(f"object{o}").rgba[:3] = colour_3
        self._place(np.column_stack([places_O2, np.full(self.count, 0.05)]), turns_O)
        self._go(start_3, _COME)

    def play(self, act: Act, frames: int) -> tuple[Array, Array, Array]:
        """Take actions, one a frame: ``frames_THWC``, ``actions_T4``, and hand positions ``T3`` taken with the frames.

        Args:
            act: the hand's position and the objects' places ``O2`` to an action, each value in [-1, 1].
        """
        seen = []
        for _ in range(frames):
            hand_3 = self._data.body("hand").xpos.astype(np.float32)
            action_4 = np.asarray(act(hand_3, self._data.xpos[self._objects, :2].copy()), np.float32)
            seen.append((self._picture(), action_4, hand_3))
            self._take(action_4)
        frames_THWC, actions_T4, hands_T3 = map(np.array, zip(*seen, strict=True))
        return frames_THWC, actions_T4, hands_T3

    def _compiled(self, shapes: np.random.Generator) -> Any:
        """Meta-World's arm and table without its object, with ours in a tray."""
        mj = self._mj
        package = importlib.util.find_spec("metaworld")
        assert package is not None
        assert package.origin is not None
        spec = mj.MjSpec.from_file(str(Path(package.origin).with_name("assets") / "sawyer_xyz/sawyer_reach_v3.xml"))
        spec.detach_body(spec.body("obj"))
        for o in range(self.count):
            _add_object(mj, spec, f"object{o}", shapes)
        wide, middle, deep, high = _TRAY
        for side in (-1, 1):
            for place, size in (([0, side * deep], [wide, 0.008]), ([side * wide, 0], [0.008, deep])):
                place = [place[0], middle + place[1], high]
                spec.worldbody.add_geom(type=mj.mjtGeom.mjGEOM_BOX, pos=place, size=[*size, high], rgba=[0.35, 0.4, 0.45, 1])
        for geom in spec.geoms:
            if geom.name.endswith(("claw_it", "pad_geom")):
                geom.rgba = [0.15, 0.15, 0.17, 1]
        for geom in spec.geoms:
            if geom.meshname in _LEFT_OUT:
                geom.group = 5
        model = spec.compile()
        model.vis.quality.offsamples = 0  # pictures are drawn larger instead
        return model

    def _place(self, places_O3: Array, turns_O: Array) -> None:
        for o in range(self.count):
            turned = (np.cos(turns_O[o] / 2), 0, 0, np.sin(turns_O[o] / 2))
            self._data.qpos[_ARM + 7 * o : _ARM + 7 * o + 7] = (*places_O3[o], *turned)

    def _go(self, goal_3: Array, steps: int) -> None:
        """Let the open hand go somewhere above the table while the objects come to rest."""
        self._data.ctrl[:] = (-1, 1)
        for step in range(steps):
            share = min(1.0, 2 * (step + 1) / steps) if steps == _COME else 1.0
            self._data.mocap_pos[0] = _HOME_3 + share * (goal_3 - _HOME_3)
            self._data.mocap_quat[0] = _HAND_DOWN
            self._mj.mj_step(self._model, self._data)

    def _take(self, action_4: Array) -> None:
        self._data.ctrl[:] = (action_4[3], -action_4[3])
        for _ in range(CONTROLS):
            moved_3 = self._data.mocap_pos[0] + action_4[:3] * HAND_STEP / CONTROLS
            self._data.mocap_pos[0] = np.clip(moved_3, REACH_LOW, REACH_HIGH)
            self._mj.mj_step(self._model, self._data, STEPS)

    def _picture(self) -> Array:
        self._renderer.update_scene(self._data, self._camera, self._option)
        fine = self._renderer.render().reshape(IMAGE_SIZE, _FINER, IMAGE_SIZE, _FINER, 3)
        picture_HWC: Array = (fine.mean(axis=(1, 3)) + 0.5).astype(np.uint8)
        return picture_HWC


def _add_object(mj: Any, spec: Any, name: str, shapes: np.random.Generator) -> None:
    kinds = (mj.mjtGeom.mjGEOM_BOX, mj.mjtGeom.mjGEOM_CYLINDER, mj.mjtGeom.mjGEOM_ELLIPSOID)
    kind = kinds[shapes.choice(3, p=(0.45, 0.35, 0.2))]
    size = shapes.uniform((0.02, 0.02, 0.018), (0.042, 0.042, 0.034))
    if kind == mj.mjtGeom.mjGEOM_CYLINDER:
        size = np.array([size[0], size[2], 0])
    body = spec.worldbody.add_body(name=name)
    body.add_freejoint()
    body.explicitinertial, body.mass = True, 0.2
    body.inertia = [0.2 * 0.4 * float(size.max()) ** 2] * 3
    friction = [shapes.uniform(0.25, 0.6), 0.01, 0.001]
    body.add_geom(name=name, type=kind, size=size, condim=4, friction=friction, rgba=[1, 1, 1, 1])
