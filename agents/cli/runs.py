"""What a run is of: to ``config.yaml``, and from there to task, agent and trainer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
import tyro
from gymnasium.vector import VectorEnv

from maxentflow import envs
from maxentflow.agents import registry
from maxentflow.agents.agent import Agent
from maxentflow.agents.training import RunFolder, Trainer, TrainerConfig

__all__ = ["Description", "make_env", "make_trainer", "read", "restored", "settings", "trained"]

Compile = Literal["auto", "on", "off"]

_WORTH_COMPILING = 10_000  # updates; more than a minute saved for less than one spent


@dataclass(frozen=True)
class Description:
    """A run in words and numbers."""

    agent: tyro.conf.Suppress[str]
    """A registered name."""
    agent_config: Any
    """Settings of the agent."""
    env: str
    """A gymnasium id."""
    trainer_config: TrainerConfig
    """Settings of the trainer."""
    env_options: dict[str, bool | int | float | str] = field(default_factory=dict)
    """Keyword arguments of the task by name and value."""
    compile: Compile = "auto"
    """Compile the update, which takes half a minute; auto does where the run is long enough."""

    def compiles(self, agent: Agent) -> bool:
        """Whether the updates of a whole run of its agent are to be compiled."""
        config, rollout = self.trainer_config, agent.rollout
        updates = (config.total_steps - config.warmup_steps) * config.utd_ratio
        if rollout is not None:
            steps = rollout.steps // config.num_envs * config.num_envs
            minibatches = rollout.epochs * (steps // rollout.minibatch_size)
            updates = config.total_steps // steps * minibatches
        return self.compile == "on" or (self.compile == "auto" and updates >= _WORTH_COMPILING)


def read(folder: RunFolder) -> Description:
    """The description in a run folder.

    Raises:
        ValueError: there is no run; its configuration is damaged; or it was trained with parts
            that a configuration does not hold.
    """
    content = folder.config()
    if custom := content.pop("custom"):
        raise ValueError(
            f"{folder} was trained with parts of your own ({', '.join(map(str, custom))}), which "
            "config.yaml does not hold: in Python, make agent, environment and configuration as "
            f"you did, then folder = RunFolder({str(folder)!r}), trainer = Trainer(agent, env, "
            "config, folder) and trainer.restore(folder.load_checkpoint())."
        )
    try:
        content["env_options"] = dict(content["env_options"])
        ...
    except ValueError as error:
        raise ValueError(f"{folder.config_path} is not a run's configuration: {error}") from error
