"""Walls in the plane: exact contact, lines of sight, and ways around them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Rectangle", "WaysAround", "move", "sees"]

Point = NDArray[np.float64]


class Rectangle(NamedTuple):
    """A wall with its sides along the axes; a point may touch it, but not be inside.

    Between two walls that touch without overlapping a point can slide along the seam.
    """

    left: float
    right: float
    bottom: float
    top: float

    def corners(self) -> Point:
        """Shape ``(4, 2)``."""
        return np.array([(x, y) for x in (self.left, self.right) for y in (self.bottom, self.top)])


def move(position: Point, displacement: Point, walls: Sequence[Rectangle]) -> Point:
    """Where a point comes to that slides along the walls in its way, without friction.

    Where it meets a wall, what is left of its displacement loses the part into the wall. Contact
    is found by where the line enters a wall, so that no wall is too thin, and a point that has
    stopped at a wall has the very coordinate of that side.

    Args:
        position: outside of all walls, shape ``(2,)``.
        displacement: shape ``(2,)``.
        walls: in its way.

    Example:
        >>> wall = Rectangle(left=1.0, right=2.0, bottom=-1.0, top=1.0)
        >>> move(np.array([0.0, 0.0]), np.array([3.0, 0.5]), [wall])
        array([1. , 0.5])
    """
    position, left = np.array(position, float), np.array(displacement, float)
    for _ in range(2 * len(walls) + 1):
        first, axis, side = 1.0, -1, 0.0
        for wall in walls:
            entry = _entry(position, left, wall)
            if entry is not None and entry[0] < first:
                first, axis, side = entry
        position = position + first * left
        if axis < 0:
            return position
        position[axis] = side
        left = (1.0 - first) * left
        left[axis] = 0.0
    return position


def sees(position: Point, other: Point, walls: Sequence[Rectangle]) -> bool:
    """Whether the line between two points enters no wall; it may touch one.

    Example:
        >>> wall = Rectangle(left=1.0, right=2.0, bottom=-1.0, top=1.0)
        >>> sees(np.array([0.0, 0.0]), np.array([3.0, 0.0]), [wall])
        False
        >>> sees(np.array([0.0, 1.0]), np.array([3.0, 1.0]), [wall])
        True
    """
    displacement = np.subtract(other, position)
    return all(_entry(np.asarray(position), displacement, wall) is None for wall in walls)


class WaysAround:
    """Lengths of the shortest ways to a goal around walls.

    Args:
        goal: shape ``(2,)``.
        corners: points where ways may turn, shape ``(n, 2)``, such as the walls' corners that are
            inside of the arena.
        walls: in the way.

    Example:
        >>> wall = Rectangle(left=1.0, right=2.0, bottom=-1.0, top=2.0)
        >>> ways = WaysAround(np.array([2.0, -1.0]), wall.corners(), [wall])
        >>> ways.length(np.array([1.0, 1.0]))
        3.0
    """

    def __init__(self, goal: Point, corners: Point, walls: Sequence[Rectangle]) -> None:
        self._walls = walls
        self._nodes = np.concatenate([goal[None], corners])
        count = len(self._nodes)
        between = np.full((count, count), np.inf)
        for one in range(count):
            for other in range(count):
                if sees(self._nodes[one], self._nodes[other], walls):
                    between[one, other] = np.linalg.norm(self._nodes[one] - self._nodes[other])
        for via in range(count):
            between = np.minimum(between, between[:, via, None] + between[via])
        self._left = between[0]

    def length(self, position: Point) -> float:
        """From a position outside of all walls; infinity where the goal cannot be reached."""
        return min(
            float(np.hypot(*(node - position)) + left)
            if sees(position, node, self._walls)
            else np.inf
            for node, left in zip(self._nodes, self._left, strict=True)
        )


def _entry(
    position: Point, displacement: Point, wall: Rectangle
) -> tuple[float, int, float] | None:
    """The part of a displacement, in [0, 1), after which it is in a wall, and the axis and the
    coordinate of the side through which it goes; ``None`` where it does not."""
    enters, leaves, axis, side = -np.inf, np.inf, 0, 0.0
    for index in (0, 1):
        low, high = wall[2 * index], wall[2 * index + 1]
        start, step = float(position[index]), float(displacement[index])
        if step == 0.0:
            if not low < start < high:
                return None
            continue
        near, far = (low, high) if step > 0 else (high, low)
        if (near - start) / step > enters:
            enters, axis, side = (near - start) / step, index, near
        leaves = min(leaves, (far - start) / step)
    if enters >= min(leaves, 1.0) or leaves <= 0.0:
        return None
    return max(enters, 0.0), axis, side
