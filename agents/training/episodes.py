"""Returns and lengths of the episodes of training, and the size of rewards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tensordict import TensorDictBase
from torch import Tensor

__all__ = ["EpisodeStatistics", "one_each"]

_AT_ONCE = 100


class EpisodeStatistics:
    """Sums the rewards of each environment's episode, and keeps those of finished ones.

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
        self._steps: list[tuple[Tensor, Tensor]] = []  # not yet counted, which is quick for many
        self._episodes = 0
        self._largest_reward = 0.0
        self._returns = np.zeros(num_envs)
        self._lengths = np.zeros(num_envs, dtype=np.int64)
        self._finished: list[tuple[float, int]] = []

    def add(self, transitions: TensorDictBase) -> None:
        """Take one step of every environment."""
        following = transitions["next"]
        self._steps.append((following["reward"], following["done"]))
        if len(self._steps) == _AT_ONCE:
            self._count()

    def _count(self) -> None:
        if not self._steps:
            return
        rewards, dones = (
            torch.cat(entries, -1).numpy(force=True).T
            for entries in zip(*self._steps, strict=True)
        )
        self._steps = []
        self._largest_reward = max(self._largest_reward, float(np.abs(rewards).max()))
        for reward, done in zip(rewards, dones, strict=True):
            self._returns += reward
            self._lengths += 1
            if done.any():
                self._finished += zip(
                    self._returns[done].tolist(), self._lengths[done].tolist(), strict=True
                )
                self._episodes += int(done.sum())
                self._returns[done] = 0.0
                self._lengths[done] = 0

    def add_finished(self, episodes: Sequence[tuple[float, int]], largest_reward: float) -> None:
        """Take episodes that were counted elsewhere.

        Args:
            episodes: return and length of each.
            largest_reward: the largest magnitude of a reward in all steps there.
        """
        self._finished += episodes
        self._episodes += len(episodes)
        self._largest_reward = max(self._largest_reward, largest_reward)

    def finished(self) -> list[tuple[float, int]]:
        """Return and length of the episodes that have ended since the last call."""
        self._count()
        episodes, self._finished = self._finished, []
        return episodes

    def end_episodes(self) -> None:
        """Forget what the episodes in progress have come to."""
        self._count()
        self._returns[:] = 0.0
        self._lengths[:] = 0

    @property
    def episodes(self) -> int:
        """How many have ended."""
        self._count()
        return self._episodes

    @property
    def largest_reward(self) -> float:
        """The largest magnitude of a reward."""
        self._count()
        return self._largest_reward

    def take(self) -> dict[str, float]:
        """Mean return and length of the episodes finished since the last call, if any."""
        episodes = self.finished()
        if not episodes:
            return {}
        returns, lengths = zip(*episodes, strict=True)
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
        self._steps = []
        self._episodes = state["episodes"]
        self._largest_reward = state["largest_reward"]
        self._returns[:] = one_each(state["returns"], self._returns)
        self._lengths[:] = one_each(state["lengths"], self._lengths)
        self._finished = [tuple(entry) for entry in state["finished"]]


def one_each(saved: Any, now: NDArray[Any]) -> NDArray[Any]:
    """Saved numbers, one for each environment as there are now.

    Raises:
        ValueError: they are of another number of environments, or no numbers.
    """
    numbers = np.array(saved, dtype=now.dtype)
    if numbers.shape != now.shape:
        raise ValueError(
            f"The checkpoint is of {numbers.size} environments, this run has {now.size}."
        )
    return numbers
