"""Trained policies as functions of NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from tensordict import TensorDict
from torchrl.envs.utils import ExplorationType, set_exploration_type

from maxentflow import agents
from maxentflow.envs import Rollouts

__all__ = ["episodes", "value"]


@torch.no_grad()
def episodes(
    policy: Any,
    make: Callable[[], gym.Env[Any, Any]],
    count: int,
    *,
    outcome: str,
    deterministic: bool = False,
    seed: int = 0,
    max_steps: int = 1_000,
) -> Rollouts:
    """Episodes of a policy's samples, or of its mode; see :meth:`Rollouts.sample`."""

    def act(observation: NDArray[np.float32]) -> NDArray[Any]:
        seen = TensorDict({"observation": torch.from_numpy(observation)}, [len(observation)])
        return policy(seen)["action"].numpy()

    kind = ExplorationType.DETERMINISTIC if deterministic else ExplorationType.RANDOM
    with torch.random.fork_rng(), set_exploration_type(kind):
        torch.manual_seed(seed)
        return Rollouts.sample(make, act, count, outcome=outcome, seed=seed, max_steps=max_steps)


@torch.no_grad()
def value(agent: agents.Agent, observation: NDArray[np.float32]) -> NDArray[np.float32]:
    """Soft values of observations, the least over heads."""
    return agent.policy.flow.value(torch.from_numpy(observation)).amin(-1).numpy()
