"""Agents assembled from flows, objectives and environments; training, evaluation, command line."""

from maxentflow.agents.agent import Agent, CompilationError, config, make, register, registered
from maxentflow.agents.evaluation import Evaluation, evaluate
from maxentflow.agents.flat_adam import FlatAdam
from maxentflow.agents.loop import BatchingError, NonFiniteError, train
from maxentflow.agents.meow import MeowConfig, meow
from maxentflow.agents.replay import Replay
from maxentflow.agents.run_folder import RunFolder
from maxentflow.agents.sac import SacConfig, sac
from maxentflow.agents.trainer import Trainer, TrainerConfig

__all__ = [
    "Agent",
    "BatchingError",
    "CompilationError",
    "Evaluation",
    "FlatAdam",
    "MeowConfig",
    "NonFiniteError",
    "Replay",
    "RunFolder",
    "SacConfig",
    "Trainer",
    "TrainerConfig",
    "config",
    "evaluate",
    "make",
    "meow",
    "register",
    "registered",
    "sac",
    "train",
]
