"""Uneven ground and obstacles under a robot of MuJoCo."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Ground"]

_FLAT, _RAMP = 1.0, 1.0  # metres around the start, and to the full height
_BEHIND, _RESOLUTION = 20.0, 0.1
_FIRST_BAR, _APART, _BARS, _HALF_THICKNESS = 3.0, 3.0, 100, 0.05
_DEPTH = 1.0  # of the solid ground below zero


class Ground:
    """A model of MuJoCo whose floor is a height field, with bars across the way.

    The heights and the bars are zero at first. The fall check of the task (its property
    ``is_healthy``) then counts the robot's height from the ground below it.

    Args:
        env: a task of gymnasium in MuJoCo, unwrapped, whose floor is a plane named "floor".

    Raises:
        ValueError: it has no such floor.
    """

    def __init__(self, env: Any) -> None:
        import mujoco

        path = getattr(env, "fullpath", None)
        spec = mujoco.MjSpec() if path is None else mujoco.MjSpec.from_file(path)
        floor = spec.geom("floor")
        if floor is None or floor.type != mujoco.mjtGeom.mjGEOM_PLANE:
            raise ValueError("Uneven ground and obstacles need a task whose floor is a plane.")
        is_planar = env.model.jnt_type[0] != mujoco.mjtJoint.mjJNT_FREE
        # A planar robot runs as far as 500 m; a free one in any direction, but forward most.
        length, width, self._cell = (600.0, 6.0, 0.1) if is_planar else (300.0, 100.0, 0.25)
        self._first = np.array([-_BEHIND, -width / 2])
        self._heights = _hills(length, width, self._cell, self._first, is_planar)
        rows, columns = self._heights.shape
        spec.add_hfield(
            name="ground",
            nrow=rows,
            ncol=columns,
            size=[length / 2, width / 2, 1.0, _DEPTH],
            userdata=self._heights.ravel(),
        )
        floor.type, floor.hfieldname = mujoco.mjtGeom.mjGEOM_HFIELD, "ground"
        floor.pos = [length / 2 - _BEHIND, 0.0, 0.0]
        for index in range(_BARS):
            spec.worldbody.add_geom(
                name=f"bar{index}",
                type=mujoco.mjtGeom.mjGEOM_BOX,
                size=[_HALF_THICKNESS, width / 2, _DEPTH / 2],
                pos=[_FIRST_BAR + _APART * index, 0.0, -_DEPTH],
                rgba=[0.6, 0.4, 0.3, 1.0],
            )
        self._env = env
        self._height_at = 1 if is_planar else 2
        self._original = env.model, env.data, type(env)
        self._model = spec.compile()
        self._bars = [self._model.geom(f"bar{index}").id for index in range(_BARS)]
        self._scale = 0.0
        self._install(self._model, mujoco.MjData(self._model))
        if hasattr(type(env), "is_healthy"):
            env.__class__ = _above(type(env), self)
        self.set(0.0, 0.0)

    def set(self, height: float, bars: float) -> None:
        """Change the ground, before a robot is put on it.

        Args:
            height: of the highest hill, in metres.
            bars: how far bars stand out of the level ground, in metres.
        """
        self._scale = height
        self._model.hfield_size[0, 2] = max(height, 1e-6)  # MuJoCo wants more than zero
        self._model.geom_pos[self._bars, 2] = bars - _DEPTH / 2

    def height(self, x: float, y: float) -> float:
        """Of the ground at a place, in metres."""
        column, row = (np.array([x, y]) - self._first) / self._cell
        rows, columns = self._heights.shape
        column, row = np.clip(column, 0, columns - 1.001), np.clip(row, 0, rows - 1.001)
        left, low = int(column), int(row)
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
        model, data, kind = self._original
        self._env.__class__ = kind
        self._install(model, data)

    def _install(self, model: Any, data: Any) -> None:
        self._env.model, self._env.data = model, data
        self._env.mujoco_renderer.close()
        self._env.mujoco_renderer.model, self._env.mujoco_renderer.data = model, data


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
    length: float, width: float, cell: float, first: NDArray[np.float64], is_planar: bool
) -> NDArray[np.float64]:
    """Heights from 0 to 1 on a grid ``(rows, columns)``: waves of one to four metres, and none
    around the start."""
    chance = np.random.default_rng(0)
    x = first[0] + cell * np.arange(round(length / cell) + 1)
    y = first[1] + cell * np.arange(round(width / cell) + 1)
    across, along = np.meshgrid(x, y)
    total = np.zeros_like(across)
    for wavelength in (1.0, 1.6, 2.5, 4.0):
        angle = 0.0 if is_planar else chance.uniform(-np.pi / 3, np.pi / 3)
        phase = chance.uniform(0, 2 * np.pi)
        place = np.cos(angle) * across + np.sin(angle) * along
        total += np.sin(2 * np.pi * place / wavelength + phase)
    hills = (total - total.min()) / np.ptp(total)
    distance = np.abs(across) if is_planar else np.hypot(across, along)
    return hills * np.clip((distance - _FLAT) / _RAMP, 0.0, 1.0)
