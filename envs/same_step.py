"""Copies of a task in one process, with little around their steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

__all__ = ["SameStepVectorEnv"]


class SameStepVectorEnv(SyncVectorEnv):
    """:class:`gymnasium.vector.SyncVectorEnv` that resets in the step in which an episode ends.

    What it gives is the same. Gymnasium's goes through a general rule of iterating over actions,
    one of putting observations together and one of copying them, which take as long as a sixth of
    a step of Hopper-v4.

    Args:
        copies: functions that make the environments; their observations and actions are arrays.

    Example:
        >>> env = SameStepVectorEnv([lambda: gym.make("Pendulum-v1")] * 2)
        >>> _ = env.reset(seed=0)
        >>> env.step(np.zeros((2, 1), np.float32))[0].shape
        (2, 3)
    """

    def __init__(self, copies: Sequence[Callable[[], gym.Env[Any, Any]]]) -> None:
        super().__init__(copies, autoreset_mode=AutoresetMode.SAME_STEP)

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Take a step in each environment.

        Args:
            actions: shape ``(num_envs, *action_shape)``.

        Returns:
            Observations ``(num_envs, *observation_shape)``, rewards, terminations and truncations
            ``(num_envs,)``, and infos as gymnasium puts them together; where an episode ended,
            the observation is the next one's first, and its own last is in ``"final_obs"``.

        Raises:
            ValueError: there are not as many actions as environments.
        """
        observations = np.empty_like(self._observations)
        rewards = np.empty(self.num_envs)
        terminations = np.empty(self.num_envs, np.bool_)
        truncations = np.empty(self.num_envs, np.bool_)
        infos: dict[str, Any] = {}
        for index, (env, action) in enumerate(zip(self.envs, actions, strict=True)):
            observation, rewards[index], terminated, truncated, info = env.step(action)
            terminations[index], truncations[index] = terminated, truncated
            if terminated or truncated:
                ended = {"final_obs": observation, "final_info": info}
                infos = self._add_info(infos, ended, index)
                observation, info = env.reset()
            # gymnasium's reset of some of the environments reads those of the others here
            self._env_obs[index] = observations[index] = observation
            infos = self._add_info(infos, info, index)
        return observations, rewards, terminations, truncations, infos
