"""A grid with two paths to a goal: over a bridge, or through a tunnel."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from maxentflow.envs.arguments import PATHS, check_blocked, check_render_mode
from maxentflow.envs.rollouts import BatchFunction, Rollouts, picture, save

__all__ = ["TwoPathsGridEnv"]

_MOVES = np.array([[-1, 0], [0, 1], [1, 0], [0, -1]])  # up, right, down, left


class TwoPathsGridEnv(gym.Env[NDArray[np.float32], np.int64]):
    r"""A corridor around a block of walls, with the start on its left and the goal on its right.

    .. code-block:: text

        . . . . . . .   the bridge, ``height`` rows above
        . # # # # # .
        S # # # # # G
        . # # # # # .
        . . . . . . .   the tunnel, ``height + detour`` rows below

    Observation: the present cell, one-hot. Actions: 0 up, 1 right, 2 down, 3 left; a move into a
    wall stays where it is. Every step costs 1, and the episode ends at the goal: a return is minus
    the number of steps, at least ``2 * height + width - 1`` over the bridge and ``2 * detour``
    more through the tunnel. The registered task truncates after 100 steps. ``info["path"]`` is 0
    where the goal was entered from the bridge, 1 from the tunnel, and -1 elsewhere.

    A path can be blocked in its middle, from the start of an episode or from a later step on,
    without a word in the observation: does a policy that was trained with both paths open have a
    plan B?

    Args:
        width: columns, at least 3.
        height: rows from the start up to the bridge, at least 1.
        detour: rows that the tunnel lies further off than the bridge, at least 0.
        slip: probability, below 1, that an action drawn from all four takes the place of the
            agent's.
        blocked: ``"bridge"`` or ``"tunnel"``, the path whose middle cell is a wall; ``None`` for
            both open.
        blocked_from: number of steps in an episode before it becomes one; a cell that the agent
            stands on becomes a wall when it has left.
        render_mode: ``"rgb_array"`` or ``None``.

    Raises:
        ValueError: an argument is out of range; from ``step``, an action that is none of the four.

    Example:
        >>> env = gym.make("maxentflow/TwoPathsGrid-v0", detour=1)
        >>> observation, info = env.reset(seed=0)
        >>> observation.shape, info["path"]
        ((22,), -1)
        >>> for action in [0, 0, 1, 1, 1, 1, 1, 1, 2, 2]:
        ...     _, reward, terminated, _, info = env.step(action)
        >>> reward, terminated, info["path"]
        (-1.0, True, 0)
    """

    preset: ClassVar[dict[str, Any]] = {
        "total_steps": 20_000,
        "warmup_steps": 1_000,
        "temperature": 0.3,
    }
    """Training defaults."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        *,
        width: int = 7,
        height: int = 2,
        detour: int = 0,
        slip: float = 0.0,
        blocked: str | None = None,
        blocked_from: int = 0,
        render_mode: str | None = None,
    ) -> None:
        if min(width - 2, height, detour + 1, blocked_from + 1) < 1:
            raise ValueError(
                "width must be at least 3, height at least 1, detour and blocked_from at least 0, "
                f"got {width}, {height}, {detour} and {blocked_from}."
            )
        if not 0 <= slip < 1:
            raise ValueError(f"slip must be in [0, 1), got {slip}.")
        check_blocked(blocked)
        check_render_mode(render_mode)
        self.render_mode = render_mode
        self.slip, self.blocked_from = slip, blocked_from
        self._shape = 2 * height + detour + 1, width
        bottom = self._shape[0] - 1
        sides = [(row, column) for row in range(bottom + 1) for column in (0, width - 1)]
        ends = [(row, column) for column in range(1, width - 1) for row in (0, bottom)]
        self.cells = np.array(sorted({*sides, *ends}))
        """Row and column of each cell, shape ``(cells, 2)``, in the order of the observation."""
        self._index = {(row, column): place for place, (row, column) in enumerate(self.cells)}
        self.start = self._index[height, 0]
        """The cell where episodes begin."""
        self.goal = self._index[height, width - 1]
        """The cell where they end."""
        middles = {"bridge": (0, width // 2), "tunnel": (bottom, width // 2)}
        self._closes = None if blocked is None else self._index[middles[blocked]]
        self.observation_space = gym.spaces.Box(0.0, 1.0, (len(self.cells),), np.float32)
        self.action_space = gym.spaces.Discrete(4)
        self._cell, self._steps, self._is_closed = self.start, 0, False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self._cell, self._steps, self._is_closed = self.start, 0, False
        self._close()
        return self._observation(), {"path": -1}

    def step(
        self, action: np.int64 | int
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        if isinstance(action, bool) or action not in (0, 1, 2, 3):
            raise ValueError(f"action must be 0, 1, 2 or 3, got {action}.")
        if self.slip and self.np_random.random() < self.slip:
            action = int(self.np_random.integers(4))
        before, self._cell = self._cell, self._after(self._cell, int(action))
        self._steps += 1
        self._close()
        reached = self._cell == self.goal
        info = {"path": self._side(before) if reached else -1}
        return self._observation(), -1.0, bool(reached), False, info

    def model(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The decision process, with a path that is blocked from the start.

        Returns:
            The probability of each next cell, shape ``(cells, 4, cells)``, with the goal kept for
            ever; and the rewards, shape ``(cells, 4)``, which are 0 there.
        """
        count = len(self.cells)
        closed = self._is_closed
        self._is_closed = self._closes is not None and self.blocked_from == 0
        moved = np.zeros((count, 4, count))
        for cell in range(count):
            for action in range(4):
                moved[cell, action, self._after(cell, action)] = 1.0
        self._is_closed = closed
        transition = (1 - self.slip) * moved + self.slip * moved.mean(1, keepdims=True)
        reward = np.full((count, 4), -1.0)
        transition[self.goal], reward[self.goal] = np.eye(count)[self.goal], 0.0
        return transition, reward

    def path_of(self, cell: int) -> int:
        """0 for a cell on the way over the bridge, 1 for one through the tunnel, -1 for the start
        and the goal."""
        return -1 if cell in (self.start, self.goal) else self._side(cell)

    def _side(self, cell: int) -> int:
        return int(self.cells[cell, 0] > self.cells[self.goal, 0])

    def _after(self, cell: int, action: int) -> int:
        row, column = self.cells[cell] + _MOVES[action]
        after = self._index.get((int(row), int(column)), cell)
        return cell if self._is_closed and after == self._closes else after

    def _close(self) -> None:
        if self._closes is not None and self._steps >= self.blocked_from:
            self._is_closed = self._is_closed or self._cell != self._closes

    def _observation(self) -> NDArray[np.float32]:
        observation = np.zeros(len(self.cells), np.float32)
        observation[self._cell] = 1.0
        return observation

    def state_dict(self) -> dict[str, Any]:
        """The episode so far, see :class:`maxentflow.envs.Savable`."""
        return {"cell": self._cell, "steps": self._steps, "is_closed": self._is_closed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state of :meth:`state_dict`."""
        self._cell, self._steps = int(state["cell"]), int(state["steps"])
        self._is_closed = bool(state["is_closed"])

    def render(self) -> NDArray[np.uint8] | None:
        """The grid with its walls, the goal and the agent, 48 pixels a cell."""
        if self.render_mode is None:
            return None
        return picture(0.48 * self._shape[1], 0.48 * self._shape[0], self._draw)

    def _draw(self, axes: Any) -> None:
        colors = np.full((*self._shape, 3), 0.25)
        colors[tuple(self.cells.T)] = 0.95
        colors[tuple(self.cells[self.goal])] = 0.5, 0.8, 0.5
        if self._is_closed and self._closes is not None:
            colors[tuple(self.cells[self._closes])] = 0.6, 0.4, 0.3
        axes.imshow(colors, aspect="auto")
        row, column = self.cells[self._cell]
        axes.plot(column, row, "o", color="tab:red", markersize=12)

    @staticmethod
    def summary(
        act: BatchFunction, path: Path, value: BatchFunction | None = None, **options: Any
    ) -> str:
        """Draw how often sampled episodes visit each cell, and the soft value if there is one.

        Args:
            act: samples actions ``(n,)`` for observations ``(n, cells)``.
            path: where the figure goes; missing folders are made.
            value: the soft values ``(n,)`` of observations ``(n, cells)``.
            options: keyword arguments of the task.

        Returns:
            The share of episodes that take each path, as a sentence.

        Raises:
            ValueError: the figure cannot be written.
        """
        from matplotlib.figure import Figure

        make = partial(TwoPathsGridEnv, **options)
        env = make()
        rollouts = Rollouts.sample(make, act, 200, outcome="path", max_steps=100)
        visits = np.mean([path.max(0) for path in rollouts.paths], axis=0)
        shown = {"share of episodes that visit it": visits}
        if value is not None:
            shown["soft value V(s)"] = value(np.eye(len(env.cells), dtype=np.float32))
        figure = Figure(figsize=(5.4, 3.0 * len(shown)), layout="constrained")
        for axes, (label, numbers) in zip(
            figure.subplots(len(shown), squeeze=False).flat, shown.items(), strict=True
        ):
            grid = np.full(env._shape, np.nan)
            grid[tuple(env.cells.T)] = numbers
            axes.set_facecolor("0.25")
            figure.colorbar(axes.imshow(grid, cmap="viridis"), ax=axes, label=label)
            axes.set(xticks=[], yticks=[])
            for name, cell in (("S", env.start), ("G", env.goal)):
                row, column = env.cells[cell]
                axes.text(column, row, name, color="white", ha="center", va="center")
        save(figure, path)
        shares = ", ".join(
            f"{name} {(rollouts.outcomes == index).mean():.0%}" for index, name in enumerate(PATHS)
        )
        return f"Sampled episodes that take each path: {shares}"
