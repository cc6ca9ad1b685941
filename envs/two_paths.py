"""A plane with two ways around a block: over a bridge, or through a tunnel."""

from __future__ import annotations

from collections import deque
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from maxentflow.envs.arguments import PATHS, check_blocked, check_render_mode, finite_numbers
from maxentflow.envs.rollouts import BatchFunction, Rollouts, contour, picture, save
from maxentflow.envs.walls import Rectangle, WaysAround, move

__all__ = ["TwoPathsEnv", "draw"]

START, GOAL, RADIUS = np.array([-5.0, 0.0]), np.array([5.0, 0.0]), 0.5
_X, _Y = 6.0, 4.0
_ARENA = (
    Rectangle(-_X - 2, -_X, -_Y - 2, _Y + 2),
    Rectangle(_X, _X + 2, -_Y - 2, _Y + 2),
    Rectangle(-_X - 2, _X + 2, -_Y - 2, -_Y),
    Rectangle(-_X - 2, _X + 2, _Y, _Y + 2),
)
_STEP_COST = 0.1


class TwoPathsEnv(gym.Env[NDArray[np.float32], NDArray[np.float32]]):
    r"""A point that has to go around a block, above it or below it.

    Observation: the position in :math:`[-6, 6] \times [-4, 4]`. Action: a displacement in
    :math:`[-1, 1]^2`; along walls the point slides, and contact is exact. Starting around
    :math:`(-5, 0)`, with a standard deviation of 0.1, a step gives the reward

    .. math:: d(s) - d(s') - 0.1

    where :math:`d` is the length of the shortest way to the goal, a disc of radius 0.5 around
    :math:`(5, 0)`, where the episode ends. The block reaches from -3 to 3 and from -2 to 2. The
    registered task truncates after 60 steps. ``info["path"]`` is 0 where the goal was reached over
    the bridge, above the block, 1 through the tunnel, below it, and -1 elsewhere.

    A path can be blocked in its middle, from the start of an episode or from a later step on,
    without a word in the observation; the shortest way is then one that is open.

    Args:
        offset: how far the block is moved up, between -1.5 and 1.5: a way over the bridge is then
            longer than one through the tunnel.
        blocked: ``"bridge"`` or ``"tunnel"``, the path with a gate that is shut; ``None`` for
            both open.
        blocked_from: number of steps in an episode before it shuts; it waits for a point in it.
        render_mode: ``"rgb_array"`` or ``None``.

    Raises:
        ValueError: an argument is out of range; from ``step``, an action that is not two finite
            numbers.

    Example:
        >>> env = gym.make("maxentflow/TwoPaths-v0")
        >>> observation, info = env.reset(seed=0)
        >>> observation.shape, info["path"]
        ((2,), -1)
    """

    preset: ClassVar[dict[str, Any]] = {
        "total_steps": 15_000,
        "warmup_steps": 1_000,
        "temperature": 0.1,
        "gamma": 0.95,
        "log_sigma": (-5.0, 0.0),
    }
    """Training defaults."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        *,
        offset: float = 0.0,
        blocked: str | None = None,
        blocked_from: int = 0,
        render_mode: str | None = None,
    ) -> None:
        if not -1.5 <= offset <= 1.5:
            raise ValueError(f"offset must be between -1.5 and 1.5, got {offset}.")
        check_blocked(blocked)
        if blocked_from < 0:
            raise ValueError(f"blocked_from must be at least 0, got {blocked_from}.")
        check_render_mode(render_mode)
        self.render_mode, self.blocked_from = render_mode, blocked_from
        block = Rectangle(-3.0, 3.0, -2.0 + offset, 2.0 + offset)
        self.walls = (block,)
        """Those inside of the arena, while no gate is shut."""
        # Gates reach into their neighbours: a point may slide along the seam of two walls.
        self._gate = {
            None: None,
            "bridge": Rectangle(-0.25, 0.25, block.top - 0.5, _Y + 0.5),
            "tunnel": Rectangle(-0.25, 0.25, -_Y - 0.5, block.bottom + 0.5),
        }[blocked]
        self._ways = {
            shut: WaysAround(GOAL, block.corners(), self._walls(shut))
            for shut in ((False,) if blocked is None else (False, True))
        }
        self.observation_space = gym.spaces.Box(
            np.array([-_X, -_Y], np.float32), np.array([_X, _Y], np.float32), dtype=np.float32
        )
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
        # The latest positions; a picture has no use for more.
        self._path: deque[NDArray[np.float64]] = deque([START], maxlen=1_000)
        self._steps, self._side, self._is_shut = 0, -1, False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self._path.clear()
        self._path.append(START + self.np_random.normal(0.0, 0.1, 2))
        self._steps, self._side, self._is_shut = 0, -1, False
        self._shut()
        return self._observation(), {"path": -1}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        before, ways = self._path[-1], self._ways[self._is_shut]
        after = move(
            before,
            np.clip(finite_numbers(action, 2), -1.0, 1.0),
            (*self._walls(self._is_shut), *_ARENA),
        )
        self._path.append(after)
        if (before[0] < 0.0) != (after[0] < 0.0):  # the block is in between
            self._side = int(after[1] < self.walls[0].bottom + 1.0)
        reward = ways.length(before) - ways.length(after) - _STEP_COST
        reached = bool(np.hypot(*(after - GOAL)) <= RADIUS)
        self._steps += 1
        self._shut()
        info = {"path": self._side if reached else -1}
        return self._observation(), float(reward), reached, False, info

    def _walls(self, is_shut: bool) -> tuple[Rectangle, ...]:
        return (*self.walls, self._gate) if is_shut and self._gate is not None else self.walls

    def _shut(self) -> None:
        """Shut the gate where it is time."""
        if self._gate is not None and not self._is_shut and self._steps >= self.blocked_from:
            x, y = self._path[-1]
            gate = self._gate
            self._is_shut = not (gate.left < x < gate.right and gate.bottom < y < gate.top)

    def _observation(self) -> NDArray[np.float32]:
        return self._path[-1].astype(np.float32)

    def state_dict(self) -> dict[str, Any]:
        """The episode's latest positions, see :class:`maxentflow.envs.Savable`."""
        return {
            "path": [position.tolist() for position in self._path],
            "steps": self._steps,
            "side": self._side,
            "is_shut": self._is_shut,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state of :meth:`state_dict`."""
        self._path.clear()
        self._path.extend(np.array(state["path"]))
        self._steps, self._side = int(state["steps"]), int(state["side"])
        self._is_shut = bool(state["is_shut"])

    def render(self) -> NDArray[np.uint8] | None:
        """The walls, the goal and the episode's path, as ``(240, 360, 3)`` bytes."""
        if self.render_mode is None:
            return None
        return picture(3.6, 2.4, self._draw)

    def _draw(self, axes: Any) -> None:
        axes.set(xlim=(-_X, _X), ylim=(-_Y, _Y))
        _draw_map(axes, self._walls(self._is_shut), "0.3")
        path = np.array(self._path)
        axes.plot(*path.T, color="tab:blue", linewidth=1)
        axes.plot(*path[-1], "o", color="tab:red", markersize=6)

    @staticmethod
    def summary(
        act: BatchFunction, path: Path, value: BatchFunction | None = None, **options: Any
    ) -> str:
        """Draw sampled episodes, over the contour of the soft value if there is one.

        Args:
            act: samples actions ``(n, 2)`` for observations ``(n, 2)``.
            path: where the figure goes; missing folders are made.
            value: the soft values ``(n,)`` of observations ``(n, 2)``.
            options: keyword arguments of the task.

        Returns:
            The share of episodes that take each path, as a sentence.

        Raises:
            ValueError: the figure cannot be written.
        """
        from matplotlib.figure import Figure

        rollouts = Rollouts.sample(
            partial(TwoPathsEnv, **options), act, 100, outcome="path", max_steps=60
        )
        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        axes = figure.subplots()
        contour(figure, axes, value, _X, _Y)
        draw(axes, rollouts, TwoPathsEnv(**options))
        save(figure, path)
        shares = ", ".join(
            f"{name} {(rollouts.outcomes == index).mean():.0%}" for index, name in enumerate(PATHS)
        )
        return f"Sampled episodes that take each path: {shares}"


def draw(axes: Any, rollouts: Rollouts, env: TwoPathsEnv) -> None:
    """Draw paths and walls into axes.

    Args:
        axes: of matplotlib.
        rollouts: of TwoPaths.
        env: whose walls are drawn, with its gate shut.
    """
    for path in rollouts.paths:
        axes.plot(*path.T, color="white", alpha=0.5, linewidth=0.7)
    _draw_map(axes, env._walls(is_shut=True), "black")


def _draw_map(axes: Any, walls: tuple[Rectangle, ...], color: str) -> None:
    from matplotlib import patches

    for wall in walls:
        size = wall.right - wall.left, wall.top - wall.bottom
        axes.add_patch(patches.Rectangle((wall.left, wall.bottom), *size, color=color))
    axes.add_patch(patches.Circle(tuple(GOAL), RADIUS, color="tab:green", alpha=0.6))
