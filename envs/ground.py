"""Uneven ground and obstacles under a robot of MuJoCo."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Ground"]

_FLAT, _RAMP = 1.0, 1.0  # metres around the start, and to the full height
_BEHIND = 20.0
_FIRST_BAR, _APART, _HALF_THICKNESS = 3.0, 3.0, 0.05
_DEPTH = 1.0  # of the solid ground below zero
# Length and width in metres, and cells along and across. A planar robot may run a kilometre; a
# free one goes anywhere, but forward most.
_PLANAR = 1_020.0, 1.0, 10_200, 10
_FREE = 320.0, 100.0, 1_280, 400


class Ground:
    """A model of MuJoCo whose floor is a height field, with bars across the way.

    The heights and the bars are zero at first. The fall check of the task (its property
    ``is_healthy``) then counts the robot's height from the ground below it.

    Args:
        env: a task of gymnasium in MuJoCo, unwrapped, whose floor is a plane named "floor" at
            height 0.

    Raises:
        ValueError: it has no such floor, or nothing of the robot touches it.
    """

    def __init__(self, env: Any) -> None:
        import mujoco

        path = getattr(env, "fullpath", None)
        spec = mujoco.MjSpec() if path is None else mujoco.MjSpec.from_file(path)
        floor = spec.geom("floor")
        if (
            floor is None
            or floor.type != mujoco.mjtGeom.mjGEOM_PLANE
            or floor.pos[2] != 0.0
            or not _is_touched(env.model)
        ):
            raise ValueError(
                "Uneven ground and obstacles need a robot on a floor that is a plane at height 0."
            )
        self._env = env
        is_planar = env.model.jnt_type[0] != mujoco.mjtJoint.mjJNT_FREE
        length, width, columns, rows = _PLANAR if is_planar else _FREE
        self._first = np.array([-_BEHIND, -width / 2])
        self._cell = np.array([length / columns, width / rows])
        self._heights = _hills(self._first, self._cell, columns, rows, is_planar)
        spec.add_hfield(
            name="ground",
            nrow=rows + 1,
            ncol=columns + 1,
            size=[length / 2, width / 2, 1.0, _DEPTH],
            userdata=self._heights.ravel(),
        )
        floor.type, floor.hfieldname = mujoco.mjtGeom.mjGEOM_HFIELD, "ground"
        floor.pos = [length / 2 - _BEHIND, 0.0, 0.0]
        # In a body of their own: contacts are sought by boxes around a body's geoms, which follow
        # the body where it is moved, but not a geom.
        bars = spec.worldbody.add_body(name="bars", pos=[0.0, 0.0, -2 * _DEPTH])
        own = env.model.geom("floor")
        for x in np.arange(_FIRST_BAR, length - _BEHIND, _APART):
            bars.add_geom(
                type=mujoco.mjtGeom.mjGEOM_BOX,
                size=[_HALF_THICKNESS, width / 2, _DEPTH / 2],
                pos=[x, 0.0, -_DEPTH / 2],
                mass=0.0,  # HalfCheetah's total is set by its file
                contype=own.contype[0],
                conaffinity=own.conaffinity[0],
                condim=own.condim[0],
                friction=own.friction,
                solref=own.solref,
                solimp=own.solimp,
                margin=own.margin[0],
                rgba=[0.6, 0.4, 0.3, 1.0],
            )
        self._original = env.model, env.data, env.mujoco_renderer, type(env)
        model = spec.compile()
        self._model, self._scratch = model, mujoco.MjData(model)
        # Of the task's own size, for the camera.
        model.stat.extent, model.stat.center[:] = env.model.stat.extent, env.model.stat.center
        for name in ("offwidth", "offheight"):
            setattr(model.vis.global_, name, getattr(env.model.vis.global_, name))
        self._bars = model.body("bars").id
        self._height_at = 1 if is_planar else 2
        self._scale = 0.0
        shown = env.mujoco_renderer
        # A free camera otherwise looks at the middle of all geoms, bars included.
        view = {
            "lookat": np.median(env.data.geom_xpos, axis=0),
            **(shown.default_cam_config or {}),
        }
        env.model, env.data = model, mujoco.MjData(model)
        env.mujoco_renderer = type(shown)(
            model,
            env.data,
            view,
            shown.width,
            shown.height,
            shown.max_geom,
            shown.camera_id,
        )
        if hasattr(type(env), "is_healthy"):
            env.__class__ = _above(type(env), self)
        self.set(0.0, 0.0)

    def set(self, height: float, bars: float) -> None:
        """Change the ground, before a robot is put on it.

        Args:
            height: of the highest hill, in metres.
            bars: how far bars stand out of the level ground, in metres.
        """
        import mujoco

        self._scale = height
        self._model.hfield_size[0, 2] = max(height, 1e-6)  # MuJoCo wants more than zero
        self._model.body_pos[self._bars, 2] = bars if bars else -2 * _DEPTH
        mujoco.mj_setConst(self._model, self._scratch)  # boxes around what has changed

    def height(self, x: float, y: float) -> float:
        """Of the ground at a place, in metres."""
        column, row = (np.array([x, y]) - self._first) / self._cell
        rows, columns = self._heights.shape
        left = int(np.clip(column, 0, columns - 2))
        low = int(np.clip(row, 0, rows - 2))
        right, up = column - left, row - low
        corners = self._heights[low : low + 2, left : left + 2]
        weights = np.outer([1 - up, up], [1 - right, right])
        return self._scale * float((corners * weights).sum())

    def robot_above(self) -> tuple[int, float]:
        """The entry of ``qpos`` that is the robot's height, and the ground's height below it."""
        x, y = self._env.data.qpos[0], self._env.data.qpos[1]
        return self._height_at, self.height(x, y if self._height_at == 2 else 0.0)

    def close(self) -> None:
        """Give the task its own model back."""
        self._env.mujoco_renderer.close()
        env = self._env
        env.model, env.data, env.mujoco_renderer, env.__class__ = self._original


def _is_touched(model: Any) -> bool:
    """Whether anything of the robot can touch the floor."""
    floor = model.geom("floor").id
    robot = model.geom_bodyid > 0
    masks = (model.geom_contype & model.geom_conaffinity[floor]) | (
        model.geom_contype[floor] & model.geom_conaffinity
    )
    return bool((masks[robot] != 0).any())


def _above(kind: type, ground: Ground) -> type:
    """A class of tasks whose fall check counts heights from the ground."""

    inherited = kind.is_healthy.fget  # type: ignore[attr-defined]

    def is_healthy(self: Any) -> bool:
        index, height = ground.robot_above()
        kept = self.data.qpos[index]
        self.data.qpos[index] = kept - height
        try:
            return inherited(self)
        finally:
            self.data.qpos[index] = kept

    made = type(kind.__name__, (kind,), {"is_healthy": property(is_healthy)})
    made.__module__ = kind.__module__
    return made


def _hills(
    first: NDArray[np.float64],
    cell: NDArray[np.float64],
    columns: int,
    rows: int,
    is_planar: bool,
) -> NDArray[np.float64]:
    """Heights from 0 to 1 on a grid ``(rows + 1, columns + 1)``: waves of one to four metres, and
    none around the start."""
    chance = np.random.default_rng(0)
    across, along = np.meshgrid(
        first[0] + cell[0] * np.arange(columns + 1), first[1] + cell[1] * np.arange(rows + 1)
    )
    total = np.zeros_like(across)
    for wavelength in (1.0, 1.6, 2.5, 4.0):
        angle = 0.0 if is_planar else chance.uniform(-np.pi / 3, np.pi / 3)
        phase = chance.uniform(0, 2 * np.pi)
        place = np.cos(angle) * across + np.sin(angle) * along
        total += np.sin(2 * np.pi * place / wavelength + phase)
    hills = (total - total.min()) / np.ptp(total)
    distance = np.abs(across) if is_planar else np.hypot(across, along)
    return hills * np.clip((distance - _FLAT) / _RAMP, 0.0, 1.0)
