"""Settings of a run that no algorithm owns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from maxentflow.agents import registry
from maxentflow.agents.presets import preset

__all__ = ["TrainerConfig"]


@dataclass
class TrainerConfig:
    """Settings of a run that no algorithm owns. Steps are environment steps."""

    seed: int = 0
    """Seed of the environments; the command line seeds torch with it too."""
    total_steps: int = 1_000_000
    """Length of the run."""
    warmup_steps: int = 5_000
    """Uniformly random steps before the first update."""
    max_episode_steps: int | None = None
    """Truncate episodes of training after so many steps, if the task itself does not before."""
    num_envs: int = 1
    """Copies of the environment, stepped together."""
    workers: bool = False
    """Step each copy in a process of its own."""
    utd_ratio: float = 1.0
    """Updates for each step of an environment (update-to-data ratio)."""
    batch_size: int = 256
    """Transitions in an update."""
    replay_size: int = 1_000_000
    """Transitions that are kept."""
    eval_every: int = 10_000
    """Steps between evaluations; 0 for none."""
    eval_episodes: int = 10
    """Episodes of an evaluation."""
    log_every: int = 1_000
    """Steps between rows of the metrics."""
    checkpoint_every: int = 10_000
    """Steps between checkpoints; 0 for one at the end only."""
    threads: int = 1
    """Threads that torch computes with; small networks gain little from more."""
    device: str = "cpu"
    """Where networks and replay are."""

    def __post_init__(self) -> None:
        positive = (
            "total_steps",
            "max_episode_steps",
            "num_envs",
            "batch_size",
            "replay_size",
            "eval_episodes",
            "log_every",
            "threads",
        )
        for name in positive:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        for name in ("seed", "warmup_steps", "eval_every", "checkpoint_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}.")
        if not 0 < self.utd_ratio < float("inf"):
            raise ValueError(f"utd_ratio must be positive and finite, got {self.utd_ratio}.")
        if self.seed >= 2**32:
            raise ValueError(f"seed must be below 2**32, got {self.seed}.")
        if self.replay_size < self.batch_size:
            raise ValueError(
                f"replay_size must be at least batch_size ({self.batch_size}), "
                f"got {self.replay_size}."
            )

    @classmethod
    def for_task(cls, env_id: str | None, agent: str | None = None) -> TrainerConfig:
        """The length, warm-up and truncation that suit a gymnasium id, with the paper's for its
        tasks, and the number of environments that suits an agent."""
        task = preset(env_id)
        chosen: dict[str, Any] = {
            "total_steps": task.total_steps,
            "warmup_steps": task.warmup_steps,
            "max_episode_steps": task.max_episode_steps,
            "eval_every": min(10_000, task.total_steps // 8),
            "log_every": min(1_000, task.total_steps // 40),
        }
        if agent is not None:
            chosen |= registry.config_type(agent).training
        return cls(**chosen)
