"""MultiGoal, the four-goal point mass of soft Q-learning, and its figure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

__all__ = ["GOALS", "MultiGoalEnv", "Rollouts"]

BatchFunction = Callable[[NDArray[np.float32]], NDArray[np.floating[Any]]]
"""From observations ``(n, 2)`` to actions ``(n, 2)``, or to values ``(n,)``."""

GOALS = np.array([[5.0, 0.0], [-5.0, 0.0], [0.0, 5.0], [0.0, -5.0]])
"""The goals' positions, shape (4, 2)."""


class MultiGoalEnv(gym.Env[NDArray[np.float32], NDArray[np.float32]]):
    r"""A point on a plane with four equally good goals.

    Observation: the position in :math:`[-7, 7]^2`. Action: a displacement in :math:`[-1, 1]^2`.
    Starting from :math:`\mathcal N(0, 0.1^2)`, a step moves to :math:`s' = \mathrm{clip}(s + a)`
    and gives the reward

    .. math:: -30 |a|^2 - \min_g |s' - g|^2 + 10 \cdot [\min_g |s' - g| \le 1]

    The episode ends within 1 of a goal (Haarnoja et al. 2017, arXiv:1702.08165, section 5.1,
    with the constants of Chao et al. 2024, arXiv:2405.13629). The registered task truncates after
    100 steps. ``info["goal"]`` is the index in :data:`GOALS` of the goal reached, or -1.

    Args:
        render_mode: ``"rgb_array"`` or ``None``.

    Raises:
        ValueError: from ``step``, an action that is not two finite numbers.

    Example:
        >>> env = gym.make("maxentflow/MultiGoal-v0")
        >>> observation, info = env.reset(seed=0)
        >>> observation.shape, info["goal"]
        ((2,), -1)
    """

    preset: ClassVar[dict[str, Any]] = {
        "total_steps": 4_000,
        "warmup_steps": 1_000,
        "temperature": 2.5,
        "tau": 0.0005,
        "gamma": 0.9,
        "log_sigma": (-2.0, 1.0),
        "max_episode_steps": 40,
    }
    """Training defaults: the paper's, which leaves open when episodes are truncated; see
    docs/measurements/learning.md."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}.")
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(-7.0, 7.0, (2,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
        # The latest positions; a picture has no use for more.
        self._path: deque[NDArray[np.float64]] = deque([np.zeros(2)], maxlen=1_000)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self._path.clear()
        self._path.append(self.np_random.normal(0.0, 0.1, 2))
        return self._observation(), {"goal": -1}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        action = np.asarray(action, dtype=np.float64)
        if action.shape != (2,) or not np.isfinite(action).all():
            raise ValueError(f"action must be two finite numbers, got {action.tolist()}.")
        action = np.clip(action, -1.0, 1.0)
        position = np.clip(self._path[-1] + action, -7.0, 7.0)
        self._path.append(position)
        squared_distances = ((position - GOALS) ** 2).sum(-1)
        nearest = int(squared_distances.argmin())
        reached = bool(squared_distances[nearest] <= 1.0)
        reward = -30.0 * (action**2).sum() - squared_distances[nearest] + 10.0 * reached
        info = {"goal": nearest if reached else -1}
        return self._observation(), float(reward), reached, False, info

    def state_dict(self) -> dict[str, Any]:
        """The episode's latest positions, see :class:`maxentflow.envs.Savable`."""
        return {"path": [position.tolist() for position in self._path]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state of :meth:`state_dict`."""
        self._path.clear()
        self._path.extend(np.array(state["path"]))

    def render(self) -> NDArray[np.uint8] | None:
        """The plane, the goals and the episode's path, as ``(288, 288, 3)`` bytes."""
        if self.render_mode is None:
            return None
        # Imported here: drawing is rare, and matplotlib is slow to import.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(2.88, 2.88), dpi=100)
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1), xlim=(-7, 7), ylim=(-7, 7), xticks=[], yticks=[])
        for goal in GOALS:
            axes.add_artist(_disc(goal, color="tab:green", alpha=0.4))
        path = np.array(self._path)
        axes.plot(path[:, 0], path[:, 1], color="tab:blue", linewidth=1)
        axes.plot(path[-1, 0], path[-1, 1], "o", color="tab:red", markersize=6)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()

    @staticmethod
    def summary(act: BatchFunction, path: Path, value: BatchFunction | None = None) -> str:
        """Draw sampled episodes, over the contour of the soft value if there is one.

        Args:
            act: samples actions ``(n, 2)`` for observations ``(n, 2)``.
            path: where the figure goes; missing folders are made.
            value: the soft values ``(n,)`` of observations ``(n, 2)``.

        Returns:
            The share of episodes that end at each goal, as a sentence.

        Raises:
            ValueError: the figure cannot be written.
        """
        rollouts = Rollouts.sample(act, 100)
        rollouts.draw(path, value)
        shares = ", ".join(
            f"({goal[0]:+.0f}, {goal[1]:+.0f}) {(rollouts.goals == index).mean():.0%}"
            for index, goal in enumerate(GOALS)
        )
        return f"Sampled episodes that end at each goal: {shares}"

    def _observation(self) -> NDArray[np.float32]:
        return self._path[-1].astype(np.float32)


@dataclass(frozen=True)
class Rollouts:
    """Episodes of MultiGoal: each path ``(steps + 1, 2)``, and the goal reached or -1."""

    paths: list[NDArray[np.float64]]
    goals: NDArray[np.int64]

    @classmethod
    def sample(cls, act: BatchFunction, episodes: int, seed: int = 0) -> Rollouts:
        """Episodes from the start, to a goal or for 1,000 steps.

        Args:
            act: actions ``(n, 2)`` for observations ``(n, 2)``.
            episodes: how many.
            seed: episode ``i`` starts from ``seed + i``.

        Example:
            >>> rollouts = Rollouts.sample(lambda x: np.tile([0.0, 1.0], (len(x), 1)), 2)
            >>> rollouts.goals, rollouts.paths[1].shape
            (array([2, 2]), (5, 2))
        """
        copies = [MultiGoalEnv() for _ in range(episodes)]
        starts = [env.reset(seed=seed + index)[0] for index, env in enumerate(copies)]
        paths, goals = [[start] for start in starts], np.full(episodes, -1)
        running = list(range(episodes))
        for _ in range(1_000):
            if not running:
                break
            # Ended episodes too: the policy's random numbers then do not depend on which ended.
            actions = act(np.stack([path[-1] for path in paths]))
            for index in list(running):
                observation, _, reached, _, info = copies[index].step(actions[index])
                paths[index].append(observation)
                if reached:
                    goals[index] = info["goal"]
                    running.remove(index)
        return cls([np.array(path) for path in paths], goals)

    def draw(self, path: Path, value: BatchFunction | None = None) -> None:
        """Write a figure of the paths, over the contour of a value if there is one.

        Args:
            path: where the figure goes; missing folders are made.
            value: the soft values ``(n,)`` of observations ``(n, 2)``.

        Raises:
            ValueError: it cannot be written.
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5.2, 4.4), layout="constrained")
        axes = figure.subplots()
        if value is None:
            axes.set_facecolor("0.3")
        else:
            grid = np.linspace(-7, 7, 141, dtype=np.float32)
            x, y = np.meshgrid(grid, grid)
            heights = value(np.stack([x, y], -1).reshape(-1, 2)).reshape(x.shape)
            contour = axes.contourf(x, y, heights, levels=24, cmap="viridis")
            figure.colorbar(contour, ax=axes, label="soft value V(s)")
        for trajectory in self.paths:
            axes.plot(*trajectory.T, color="white", alpha=0.45, linewidth=0.7)
        for goal in GOALS:
            axes.add_patch(_disc(goal, fill=False, color="tab:red", linewidth=1.5))
        axes.set(xlim=(-7, 7), ylim=(-7, 7), aspect="equal", xlabel="x", ylabel="y")
        axes.set_title(f"MultiGoal: {len(self.paths)} sampled episodes")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=150)
        except (OSError, ValueError) as error:
            raise ValueError(f"Cannot write the figure {path}: {error}.") from error


def _disc(centre: NDArray[np.float64], **style: Any) -> Any:
    from matplotlib.patches import Circle

    return Circle((centre[0], centre[1]), 1.0, **style)
