"""Tasks, as gymnasium vector environments and as TorchRL environments."""

import gymnasium as gym

from maxentflow.envs.make import make, make_single, make_torchrl, restore, states
from maxentflow.envs.multigoal import GOALS, MultiGoalEnv
from maxentflow.envs.resumable import Resumable

__all__ = [
    "GOALS",
    "MultiGoalEnv",
    "Resumable",
    "make",
    "make_single",
    "make_torchrl",
    "restore",
    "states",
]

gym.register(
    "maxentflow/MultiGoal-v0",
    entry_point="maxentflow.envs.multigoal:MultiGoalEnv",
    max_episode_steps=100,
)
