"""Training: the loop, experience, evaluation, diagnosis, and what a run leaves on disk."""

from maxentflow.agents.task_errors import TaskError
from maxentflow.agents.training.callbacks import Callback, Schedule, StopAtReturn
from maxentflow.agents.training.collection import check_dataset, collect, write_dataset
from maxentflow.agents.training.config import TrainerConfig
from maxentflow.agents.training.diagnosis import Diagnosis, diagnose
from maxentflow.agents.training.disturbances import Robustness, robustness
from maxentflow.agents.training.evaluation import Evaluation, evaluate, record_video
from maxentflow.agents.training.experience import (
    Demonstrations,
    Experience,
    ReplayBuffer,
    RolloutBuffer,
)
from maxentflow.agents.training.loop import NonFiniteError
from maxentflow.agents.training.replay import Replay
from maxentflow.agents.training.run_folder import RunFolder
from maxentflow.agents.training.saving import load, save
from maxentflow.agents.training.trainer import Trainer, train

__all__ = [
    "Callback",
    "Demonstrations",
    "Diagnosis",
    "Evaluation",
    "Experience",
    "NonFiniteError",
    "Replay",
    "ReplayBuffer",
    "Robustness",
    "RolloutBuffer",
    "RunFolder",
    "Schedule",
    "StopAtReturn",
    "TaskError",
    "Trainer",
    "TrainerConfig",
    "check_dataset",
    "collect",
    "diagnose",
    "evaluate",
    "load",
    "record_video",
    "robustness",
    "save",
    "train",
    "write_dataset",
]
