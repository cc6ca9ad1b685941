"""Settings of a run that no algorithm owns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from maxentflow.agents import registry
from maxentflow.agents.presets import preset
from maxentflow.agents.settings import Count, NotNegative, Positive, Threads, check

__all__ = ["LEARNING_SETTINGS", "Logger", "TrainerConfig"]

LEARNING_SETTINGS = (
    "warmup_steps",
    "max_episode_steps",
    "num_envs",
    "utd_ratio",
    "batch_size",
    "replay_size",
)
"""Those that change what is learned; a run keeps them to its end."""

Logger = Literal["tensorboard", "csv", "wandb", "mlflow", "trackio", "none"]
"""Where metrics go beside ``metrics.csv``."""


@dataclass
class TrainerConfig:
    """Settings of a run that no algorithm owns. Steps are environment steps."""

    seed: NotNegative = 0
    """Seed of the environments; the command line seeds torch with it too."""
    total_steps: Count = 1_000_000
    """Length of the run."""
    warmup_steps: NotNegative = 5_000
    """Uniformly random steps before the first update."""
    max_episode_steps: Count | None = None
    """Truncate episodes of training after so many steps, if the task itself does not before."""
    num_envs: Count = 1
    """Copies of the environment, stepped together."""
    workers: bool = False
    """Step each copy in a process of its own."""
    actors: NotNegative = 0
    """Processes of a Ray cluster that act and step num_envs copies each, while this one learns; 0
    to do both here, in turns."""
    actor_steps: Count = 50
    """Steps of each copy that an actor sends at once."""
    max_lag: Count | None = None
    """Updates that the policy of a step may be behind, with actors; by default twice what they
    come to in a round."""
    utd_ratio: Positive = 1.0
    """Updates for each step of an environment (update-to-data ratio)."""
    batch_size: Count = 256
    """Transitions in an update."""
    replay_size: Count = 1_000_000
    """Transitions that are kept."""
    replay_on: Literal["memory", "disk"] = "memory"
    """Where they are kept: a replay larger than the memory is mapped from a file."""
    eval_every: NotNegative = 10_000
    """Steps between evaluations; 0 for none."""
    eval_episodes: Count = 10
    """Episodes of an evaluation."""
    eval_video_every: NotNegative = 0
    """Steps between films of an evaluation's first episode, to videos/ in the run's folder, at the
    next evaluation; 0 for none."""
    log_every: Count = 1_000
    """Steps between rows of the metrics."""
    logger: Logger = "tensorboard"
    """Where metrics go beside metrics.csv; W&B, MLflow and trackio need their packages."""
    checkpoint_every: NotNegative = 10_000
    """Steps between checkpoints; 0 for one at the end only."""
    threads: Threads = 1
    """Threads that torch computes with, at most one a core; small networks gain little."""
    device: str = "cpu"
    """Where networks and replay are."""

    def __post_init__(self) -> None:
        check(self)
        if self.seed >= 2**32:
            raise ValueError(f"seed must be below 2**32, got {self.seed}.")
        if self.num_envs > 2**16:  # the list of more would be made until memory ends
            raise ValueError(f"num_envs must be at most 65536, got {self.num_envs}.")
        if self.eval_video_every and not self.eval_every:
            raise ValueError("eval_video_every needs evaluations: eval_every must not be 0.")
        if self.replay_size < self.batch_size:
            raise ValueError(
                f"replay_size must be at least batch_size ({self.batch_size}), "
                f"got {self.replay_size}."
            )
        if self.actors and self.max_lag is not None and self.max_lag < self.updates_in_a_round:
            raise ValueError(
                f"max_lag must be at least {self.updates_in_a_round}, the updates from one batch "
                f"of an actor to its next, got {self.max_lag}."
            )

    @property
    def steps_at_once(self) -> int:
        """Environment steps that the training loop takes in together."""
        return self.num_envs * (self.actor_steps if self.actors else 1)

    @property
    def updates_in_a_round(self) -> int:
        """Updates in which each actor has sent its steps once."""
        return math.ceil(self.actors * self.steps_at_once * self.utd_ratio)

    def is_due(self, step: int, interval: int) -> bool:
        """Whether a multiple of an interval, or the end, lies in the steps just taken.

        Args:
            step: taken so far, of all environments.
            interval: in steps; 0 for never.

        Example:
            >>> config = TrainerConfig(total_steps=1_000, num_envs=3)
            >>> [config.is_due(step, 20) for step in (18, 21, 24, 1_002)]
            [False, True, False, True]
        """
        if interval == 0:
            return False
        return step >= self.total_steps or step % interval < self.steps_at_once

    @classmethod
    def for_task(
        cls, env_id: str | None, agent: str | None = None, *, paper: bool = False
    ) -> TrainerConfig:
        """The length and truncation that suit a gymnasium id, and the number of environments that
        suits an agent; with ``paper``, the warm-up that MEow's paper tunes for the task."""
        task = preset(env_id)
        warmup = task.warmup_steps if paper else min(cls.warmup_steps, task.warmup_steps)
        chosen: dict[str, Any] = {
            "total_steps": task.total_steps,
            "warmup_steps": warmup,
            "max_episode_steps": task.max_episode_steps,
            "eval_every": min(10_000, task.total_steps // 8),
            "log_every": min(1_000, task.total_steps // 40),
        }
        if task.num_envs > 1:
            chosen |= {
                "num_envs": task.num_envs,
                "replay_size": 15_000 * task.num_envs,
                "utd_ratio": 1 / task.num_envs,
            }
        if agent is not None:
            chosen |= registry.config_type(agent).training
        return cls(**chosen)
