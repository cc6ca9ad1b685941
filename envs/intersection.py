"""Cross an intersection of highway-env by the accelerator alone."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from maxentflow.envs.arguments import (
    check_render_mode,
    finite_numbers,
    is_number,
    is_whole,
)
from maxentflow.envs.rollouts import BatchFunction, Rollouts, save

__all__ = ["DURATION", "OUTCOMES", "IntersectionEnv"]

OUTCOMES = ("collision", "arrival")
"""How an episode can end; ``info["outcome"]`` is the index, and -1 before and where time is up."""

DURATION = 13
"""Seconds, and decisions, of an episode."""

_SEEN = 6  # cars, the own one first
_FEATURES = ("presence", "x", "y", "vx", "vy", "cos_h", "sin_h")
_EPISODES = 20  # of the figure


class IntersectionEnv(gym.Env[NDArray[np.float32], NDArray[np.float32]]):
    r"""A car that crosses an intersection straight ahead, among drivers who have right of way.

    The cars of highway-env's ``intersection-v2`` follow its models of human drivers. The own car
    comes from the south at 10 m/s and keeps to its lane; once a second it chooses its
    acceleration. It can pass before another car or behind it, and both may be right.

    Observation: of the own car and the five others that are nearest along its lane, presence,
    position and velocity in units of 100 m and 20 m/s, and cosine and sine of the heading, shape
    ``(42,)``; zeros where there is no car. Action: an acceleration in :math:`[-1, 1]`, in units of
    5 m/s². Reward: each second up to 1 for a speed between 7 and 9 m/s, -5 more for a collision; 1
    for the arrival 25 m behind the intersection. Both end the episode, which is truncated after 13
    seconds. ``info["outcome"]`` is 1 after the arrival, 0 after a collision and -1 else;
    ``info["speed"]`` is in m/s.

    Args:
        vehicles: cars at the start, at least 1.
        spawn_probability: of another car that comes, each second.
        render_mode: ``"rgb_array"`` or ``None``.

    Raises:
        ImportError: highway-env is missing.
        ValueError: an argument is out of range; from ``step``, an action that is not one finite
            number.

    Example:
        >>> env = gym.make("maxentflow/Intersection-v0")
        >>> observation, info = env.reset(seed=0)
        >>> observation.shape, info["outcome"]
        ((42,), -1)
    """

    preset: ClassVar[dict[str, Any]] = {
        "total_steps": 20_000,
        "warmup_steps": 1_000,
        "temperature": 0.1,
        "gamma": 0.95,
        "log_sigma": (-5.0, 0.0),
    }
    """Training defaults."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 2}  # noqa: RUF012

    def __init__(
        self,
        *,
        vehicles: int = 10,
        spawn_probability: float = 0.6,
        render_mode: str | None = None,
    ) -> None:
        check_render_mode(render_mode)
        if not is_whole(vehicles) or vehicles < 1:
            raise ValueError(f"vehicles must be a whole number, at least 1, got {vehicles!r}.")
        if not is_number(spawn_probability) or not 0 <= spawn_probability <= 1:
            raise ValueError(f"spawn_probability must be in [0, 1], got {spawn_probability!r}.")
        try:
            from highway_env.envs.intersection_env import ConnectedLaneIntersectionEnv
        except ImportError as error:
            raise ImportError(
                "Intersection needs highway-env: pip install 'maxentflow[driving]'."
            ) from error
        config = {
            "observation": {
                "type": "Kinematics",
                "vehicles_count": _SEEN,
                "features": list(_FEATURES),
                "features_range": {
                    "x": [-100, 100],
                    "y": [-100, 100],
                    "vx": [-20, 20],
                    "vy": [-20, 20],
                },
                "absolute": True,
                "see_behind": True,
            },
            "action": {
                "type": "ContinuousAction",
                "longitudinal": True,
                "lateral": False,
                "speed_range": [0, 12],
            },
            "destination": "o2",
            "duration": DURATION,
            "simulation_frequency": 5,
            "initial_vehicle_count": int(vehicles),
            "spawn_probability": float(spawn_probability),
        }
        self._road: Any = ConnectedLaneIntersectionEnv(config, render_mode)
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (_SEEN * len(_FEATURES),), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        # Of its own generator where there is no seed, so that it goes on from the last episode.
        observation, _ = self._road.reset(seed=int(self.np_random.integers(2**31)))
        return self._seen(observation), self._info(False)

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, _ = self._road.step(finite_numbers(action, 1))
        over = bool(terminated)
        return (
            self._seen(observation),
            float(reward),
            over,
            bool(truncated) and not over,
            self._info(over),
        )

    def render(self) -> Any:
        return None if self.render_mode is None else self._road.render()

    def close(self) -> None:
        self._road.close()

    def _seen(self, observation: NDArray[Any]) -> NDArray[np.float32]:
        return observation.reshape(-1).astype(np.float32).clip(-1.0, 1.0)

    def _info(self, over: bool) -> dict[str, Any]:
        vehicle = self._road.vehicle
        outcome = int(not vehicle.crashed) if over else -1
        return {"outcome": outcome, "speed": float(vehicle.speed)}

    @staticmethod
    def summary(
        act: BatchFunction, path: Path, value: BatchFunction | None = None, **options: Any
    ) -> str:
        """Draw how far sampled episodes are from the intersection, second by second.

        Args:
            act: samples actions ``(n, 1)`` for observations ``(n, 42)``.
            path: where the figure goes; missing folders are made.
            value: not used.
            options: keyword arguments of the task.

        Returns:
            The shares of arrivals and collisions, as a sentence.

        Raises:
            ValueError: the figure cannot be written.
        """
        from matplotlib.figure import Figure

        make = partial(IntersectionEnv, **options)
        rollouts = Rollouts.sample(make, act, _EPISODES, outcome="outcome", max_steps=DURATION)
        figure = Figure(figsize=(5.4, 3.6), layout="constrained")
        axes = figure.subplots()
        y = _FEATURES.index("y")
        kinds = [("arrival", 1, "#0072B2"), ("collision", 0, "#D55E00"), ("time is up", -1, "0.5")]
        for label, index, color in kinds:
            for episode in np.flatnonzero(rollouts.outcomes == index):
                axes.plot(-100 * rollouts.paths[episode][:, y], color=color, linewidth=0.8)
            axes.plot([], [], color=color, label=label)
        axes.set(xlabel="seconds", ylabel="metres past the middle")
        axes.legend(frameon=False)
        save(figure, path)
        shares = [(rollouts.outcomes == index).mean() for index in (1, 0)]
        return (
            f"Of {_EPISODES} sampled episodes {shares[0]:.0%} arrive and {shares[1]:.0%} end in a "
            "collision."
        )
