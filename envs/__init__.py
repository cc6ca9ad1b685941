"""Tasks, as gymnasium vector environments and as TorchRL environments."""

import gymnasium as gym

from maxentflow.envs.intersection import IntersectionEnv
from maxentflow.envs.make import check_vector, like, make, make_single, make_torchrl, task_id
from maxentflow.envs.markets import Prices, historical, simulated
from maxentflow.envs.multigoal import GOALS, MultiGoalEnv
from maxentflow.envs.perturbed import PERTURBATIONS, Perturbed
from maxentflow.envs.portfolio import Backtest, PortfolioEnv, PortfolioScoresEnv
from maxentflow.envs.resumable import Resumable, is_resumable, restore, states
from maxentflow.envs.rollouts import Rollouts
from maxentflow.envs.simplex import Simplex
from maxentflow.envs.snapshots import Savable
from maxentflow.envs.tasks import Task, is_torchrl, task_class
from maxentflow.envs.torchrl_tasks import Spaces, like_batched, make_batched, spaces
from maxentflow.envs.two_paths import TwoPathsEnv
from maxentflow.envs.two_paths_grid import TwoPathsGridEnv
from maxentflow.envs.two_paths_maze import TwoPathsMazeEnv

__all__ = [
    "GOALS",
    "PERTURBATIONS",
    "Backtest",
    "IntersectionEnv",
    "MultiGoalEnv",
    "Perturbed",
    "PortfolioEnv",
    "PortfolioScoresEnv",
    "Prices",
    "Resumable",
    "Rollouts",
    "Savable",
    "Simplex",
    "Spaces",
    "Task",
    "TwoPathsEnv",
    "TwoPathsGridEnv",
    "TwoPathsMazeEnv",
    "check_vector",
    "historical",
    "is_resumable",
    "is_torchrl",
    "like",
    "like_batched",
    "make",
    "make_batched",
    "make_single",
    "make_torchrl",
    "restore",
    "simulated",
    "spaces",
    "states",
    "task_class",
    "task_id",
]

gym.register(
    "maxentflow/MultiGoal-v0",
    entry_point="maxentflow.envs.multigoal:MultiGoalEnv",
    max_episode_steps=100,
)
gym.register(
    "maxentflow/TwoPaths-v0",
    entry_point="maxentflow.envs.two_paths:TwoPathsEnv",
    max_episode_steps=60,
)
gym.register(
    "maxentflow/TwoPathsMaze-v0",
    entry_point="maxentflow.envs.two_paths_maze:TwoPathsMazeEnv",
    max_episode_steps=150,
)
gym.register(
    "maxentflow/TwoPathsGrid-v0",
    entry_point="maxentflow.envs.two_paths_grid:TwoPathsGridEnv",
    max_episode_steps=100,
)
gym.register(
    "maxentflow/Intersection-v0", entry_point="maxentflow.envs.intersection:IntersectionEnv"
)
gym.register("maxentflow/Portfolio-v0", entry_point="maxentflow.envs.portfolio:PortfolioEnv")
gym.register(
    "maxentflow/PortfolioScores-v0",
    entry_point="maxentflow.envs.portfolio:PortfolioScoresEnv",
)
