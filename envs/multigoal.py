"""MultiGoal, the four-goal point mass of soft Q-learning, and its figure."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from maxentflow.envs.arguments import check_render_mode, finite_numbers
from maxentflow.envs.rollouts import BatchFunction, Rollouts, contour, picture, save

__all__ = ["GOALS", "MultiGoalEnv", "draw"]

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
        check_render_mode(render_mode)
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
        action = np.clip(finite_numbers(action, 2), -1.0, 1.0)
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
        return picture(2.88, 2.88, self._draw)

    def _draw(self, axes: Any) -> None:
        axes.set(xlim=(-7, 7), ylim=(-7, 7))
        for goal in GOALS:
            axes.add_artist(_disc(goal, color="tab:green", alpha=0.4))
        path = np.array(self._path)
        axes.plot(path[:, 0], path[:, 1], color="tab:blue", linewidth=1)
        axes.plot(path[-1, 0], path[-1, 1], "o", color="tab:red", markersize=6)

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
        rollouts = Rollouts.sample(MultiGoalEnv, act, 100, outcome="goal")
        draw(rollouts, path, value)
        shares = ", ".join(
            f"({goal[0]:+.0f}, {goal[1]:+.0f}) {(rollouts.outcomes == index).mean():.0%}"
            for index, goal in enumerate(GOALS)
        )
        return f"Sampled episodes that end at each goal: {shares}"

    def _observation(self) -> NDArray[np.float32]:
        return self._path[-1].astype(np.float32)


def draw(rollouts: Rollouts, path: Path, value: BatchFunction | None = None) -> None:
    """Write a figure of sampled paths, over the contour of a value if there is one.

    Args:
        rollouts: of MultiGoal.
        path: where the figure goes; missing folders are made.
        value: the soft values ``(n,)`` of observations ``(n, 2)``.

    Raises:
        ValueError: it cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 4.4), layout="constrained")
    axes = figure.subplots()
    contour(figure, axes, value, 7, 7)
    for trajectory in rollouts.paths:
        axes.plot(*trajectory.T, color="white", alpha=0.45, linewidth=0.7)
    for goal in GOALS:
        axes.add_patch(_disc(goal, fill=False, color="tab:red", linewidth=1.5))
    axes.set_title(f"MultiGoal: {len(rollouts.paths)} sampled episodes")
    save(figure, path)


def _disc(centre: NDArray[np.float64], **style: Any) -> Any:
    from matplotlib.patches import Circle

    return Circle((centre[0], centre[1]), 1.0, **style)
