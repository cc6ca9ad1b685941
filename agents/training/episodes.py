"""Returns and lengths of the episodes of training, and the size of rewards."""

from __future__ import annotations

from typing import Any

import numpy as np
from tensordict import TensorDictBase

__all__ = ["EpisodeStatistics"]


class EpisodeStatistics:
    """Sums the rewards of each environment's episode, and keeps those of finished ones.

    ``episodes`` have ended, and ``largest_reward`` is the largest magnitude of a reward.

    Args:
        num_envs: environments that are stepped together.

    Example:
        >>> statistics = EpisodeStatistics(num_envs=1)
        >>> for done in (False, True):
        ...     following = TensorDict(reward=torch.ones(1, 1), done=torch.tensor([[done]]))
        ...     statistics.add(TensorDict(next=following))
        >>> statistics.take()
        {'train_return': 2.0, 'train_length': 2.0}
    """

    def __init__(self, num_envs: int) -> None:
        self.episodes = 0
        self.largest_reward = 0.0
        self._returns = np.zeros(num_envs)
        self._lengths = np.zeros(num_envs, dtype=np.int64)
        self._finished: list[tuple[float, int]] = []

    def add(self, transitions: TensorDictBase) -> None:
        """Take one step of every environment."""
        following = transitions["next"]
        rewards = following["reward"].numpy(force=True)[:, 0]
        self.largest_reward = max(self.largest_reward, float(np.abs(rewards).max()))
        self._returns += rewards
        self._lengths += 1
        done = following["done"].numpy(force=True)[:, 0]
        if done.any():
            self._finished += zip(
                self._returns[done].tolist(), self._lengths[done].tolist(), strict=True
            )
            self.episodes += int(done.sum())
            self._returns[done] = 0.0
            self._lengths[done] = 0

    def take(self) -> dict[str, float]:
        """Mean return and length of the episodes finished since the last call, if any."""
        if not self._finished:
            return {}
        returns, lengths = zip(*self._finished, strict=True)
        self._finished = []
        return {
            "train_return": sum(returns) / len(returns),
            "train_length": sum(lengths) / len(lengths),
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "episodes": self.episodes,
            "largest_reward": self.largest_reward,
            "returns": self._returns.tolist(),
            "lengths": self._lengths.tolist(),
            "finished": list(self._finished),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.episodes = state["episodes"]
        self.largest_reward = state["largest_reward"]
        self._returns = np.array(state["returns"])
        self._lengths = np.array(state["lengths"], dtype=np.int64)
        self._finished = [tuple(entry) for entry in state["finished"]]
