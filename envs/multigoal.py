"""The four-goal point mass of soft Q-learning, as MEow sets it."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

__all__ = ["GOALS", "MultiGoalEnv"]

GOALS = np.array([[5.0, 0.0], [-5.0, 0.0], [0.0, 5.0], [0.0, -5.0]])
"""The goals' positions, shape (4, 2)."""


class MultiGoalEnv(gym.Env[NDArray[np.float32], NDArray[np.float32]]):
    r"""A point on a plane with four equally good goals.

    Observation: the position in :math:`[-7, 7]^2`. Action: a displacement in :math:`[-1, 1]^2`.
    Starting from :math:`\mathcal N(0, 0.1^2)`, a step moves to :math:`s' = \mathrm{clip}(s + a)`
    and pays

    .. math:: -30 |a|^2 - \min_g |s' - g|^2 + 10 \cdot [\min_g |s' - g| \le 1]

    ending the episode within 1 of a goal (Haarnoja et al. 2017, arXiv:1702.08165, section 5.1,
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

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}.")
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(-7.0, 7.0, (2,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self._path: list[NDArray[np.float64]] = [np.zeros(2)]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self._path = [self.np_random.normal(0.0, 0.1, 2)]
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
            axes.add_artist(_disc(goal))
        path = np.array(self._path)
        axes.plot(path[:, 0], path[:, 1], color="tab:blue", linewidth=1)
        axes.plot(path[-1, 0], path[-1, 1], "o", color="tab:red", markersize=6)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()

    def _observation(self) -> NDArray[np.float32]:
        return self._path[-1].astype(np.float32)


def _disc(centre: NDArray[np.float64]) -> Any:
    from matplotlib.patches import Circle

    return Circle((centre[0], centre[1]), 1.0, color="tab:green", alpha=0.4)
