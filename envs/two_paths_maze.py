"""TwoPaths in MuJoCo: a ball in a maze of gymnasium-robotics."""

from __future__ import annotations

import contextlib
import io
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from maxentflow.envs.arguments import check_blocked, finite_numbers
from maxentflow.envs.walls import Rectangle, WaysAround

__all__ = ["TwoPathsMazeEnv"]

_MAP = (
    "#######",
    "#     #",
    "#r###g#",
    "#     #",
    "#######",
)
_BLOCK = Rectangle(-1.5, 1.5, -0.5, 0.5)
_MIDDLES = {
    "bridge": (1, 3, Rectangle(-0.5, 0.5, 0.0, 2.0)),
    "tunnel": (3, 3, Rectangle(-0.5, 0.5, -2.0, 0.0)),
}
_REPEAT, _STEP_COST = 5, 0.1


class TwoPathsMazeEnv(gym.Wrapper[NDArray[np.float64], NDArray[np.float32], Any, Any]):
    r"""A ball that rolls around a block of a maze, above it or below it.

    The map of :class:`~maxentflow.envs.TwoPathsEnv` as a PointMaze of gymnasium-robotics:

    .. code-block:: text

        # # # # # # #
        #           #   the bridge
        # S # # # G #
        #           #   the tunnel
        # # # # # # #

    Observation: position and velocity, shape ``(4,)``. Action: a force in :math:`[-1, 1]^2`, held
    for 0.05 seconds. A step gives the reward :math:`d(s) - d(s') - 0.1`, where :math:`d` is the
    length of the shortest way to the goal, within 0.45 of which the episode ends. The registered
    task truncates after 150 steps. ``info["path"]`` is as in TwoPaths.

    Args:
        blocked: ``"bridge"`` or ``"tunnel"``, the path whose middle cell is a wall; ``None`` for
            both open.
        render_mode: as of gymnasium's MuJoCo tasks.

    Raises:
        ImportError: gymnasium-robotics is missing.
        ValueError: an argument is out of range; from ``step``, an action that is not two finite
            numbers.

    Example:
        >>> env = gym.make("maxentflow/TwoPathsMaze-v0")
        >>> observation, info = env.reset(seed=0)
        >>> observation.shape, info["path"]
        ((4,), -1)
    """

    preset: ClassVar[dict[str, Any]] = {
        "total_steps": 40_000,
        "warmup_steps": 2_000,
        "temperature": 0.05,
        "gamma": 0.98,
        "log_sigma": (-5.0, 0.0),
    }
    """Training defaults."""

    def __init__(self, *, blocked: str | None = None, render_mode: str | None = None) -> None:
        check_blocked(blocked)
        try:
            # Without its notice about tasks of another kind.
            with contextlib.redirect_stderr(io.StringIO()):
                from gymnasium_robotics.envs.maze.point_maze import PointMazeEnv
        except ImportError as error:
            raise ImportError(
                "TwoPathsMaze needs gymnasium-robotics: pip install 'maxentflow[maze]'."
            ) from error
        walls = {"#": 1, " ": 0}
        maze: list[list[Any]] = [[walls.get(cell, cell) for cell in row] for row in _MAP]
        solid = [_BLOCK]
        if blocked is not None:
            row, column, rectangle = _MIDDLES[blocked]
            maze[row][column] = 1
            solid.append(rectangle)
        super().__init__(
            PointMazeEnv(maze_map=maze, render_mode=render_mode, continuing_task=False)
        )
        maze_env: Any = self.env
        self._maze = maze_env
        self._maze.position_noise_range = 0.1
        self._goal = self._maze.maze.unique_goal_locations[0]
        self._ways = WaysAround(self._goal, _BLOCK.corners(), solid)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float64)
        self._left, self._side = 0.0, -1

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        observation, _ = self._maze.reset(seed=seed)
        self._maze.goal = self._goal.copy()  # the maze moves it a little
        self._maze.update_target_site_pos()
        self._left, self._side = self._ways.length(observation["achieved_goal"]), -1
        return observation["observation"], {"path": -1}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        force = finite_numbers(action, 2)
        terminated = False
        for _ in range(_REPEAT):
            if not terminated:
                before = self._maze.data.qpos[0]
                observation, _, terminated, _, _ = self._maze.step(force)
                x, y = observation["achieved_goal"]
                if (before < 0.0) != (x < 0.0):
                    self._side = int(y < 0.0)
        left = self._ways.length(observation["achieved_goal"])
        reward, self._left = self._left - left - _STEP_COST, left
        info = {"path": self._side if terminated else -1}
        return observation["observation"], float(reward), bool(terminated), False, info
