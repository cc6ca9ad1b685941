"""Steps that were taken elsewhere, with copies of the policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from tensordict import TensorDictBase

from maxentflow.agents.agent import Agent

__all__ = ["Collected", "Collector"]


class Collected(NamedTuple):
    """Steps that follow each other, in some of the environments.

    Attributes:
        steps: one step of each of ``num_envs`` environments at a time, batch size ``(num_envs,)``,
            as an experience takes them.
        episodes: return and length of each episode that ended.
        largest_reward: the largest magnitude of a reward.
    """

    steps: Sequence[TensorDictBase]
    episodes: Sequence[tuple[float, int]]
    largest_reward: float


class Collector(Protocol):
    """Acts and steps environments elsewhere, in place of the training loop."""

    columns: tuple[str, ...]
    """Names in :meth:`report`."""

    def collect(self, agent: Agent, *, random: bool) -> Collected:
        """The next steps.

        Args:
            agent: up to date; steps that are begun now are taken by its behaviour.
            random: whether those are to be uniformly random instead.

        Raises:
            FloatingPointError: an action, an observation or a reward is not finite.
        """
        ...

    def report(self) -> dict[str, float]:
        """What to log about the steps since the last call."""
        ...
