"""What a run is of, and how a run folder's ``config.yaml`` says it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from maxentflow.agents import registry
from maxentflow.agents.agent import Agent
from maxentflow.agents.cli import plain
from maxentflow.agents.training import RunFolder, TrainerConfig

__all__ = ["Compile", "Description", "Options", "read"]

Compile = Literal["auto", "on", "off"]
Options = dict[str, bool | int | float | str]

_WORTH_COMPILING = 10_000  # updates; more than a minute saved for less than one spent


@dataclass(frozen=True)
class Description:
    """A run in words and numbers.

    Attributes:
        agent: a registered name.
        agent_config: the agent's settings.
        env: a gymnasium id.
        trainer_config: the trainer's settings.
        env_options: keyword arguments of the task.
        compile: whether updates are compiled; ``"auto"`` where that saves time.
    """

    agent: str
    agent_config: Any
    env: str
    trainer_config: TrainerConfig
    env_options: dict[str, Any] = field(default_factory=dict)
    compile: Compile = "auto"

    def compiles(self, agent: Agent) -> bool:
        """Whether the updates of a whole run of its agent are to be compiled."""
        if self.compile != "auto":
            return self.compile == "on"
        return _updates(agent, self.trainer_config) >= _WORTH_COMPILING


def read(folder: RunFolder) -> Description:
    """The description in a run folder.

    Raises:
        ValueError: there is no run; its configuration is damaged; or it was trained with parts
            that a configuration does not hold.
    """
    content = folder.config()
    if content["custom"]:
        raise ValueError(_own_parts(folder, content["custom"]))
    try:
        name = plain.converted(content["agent"], str)
        env = plain.converted(content["env"], str)
        env_options = plain.converted(content["env_options"], dict[str, Any])
        compile_ = plain.converted(content["compile"], Compile)
        plain.converted(content["custom"], list[str])
    except TypeError:
        raise ValueError(f"{folder.config_path} is not a run's configuration.") from None
    agent_type = registry.config_type(name)
    try:
        agent_settings = plain.settings(agent_type, content["agent_config"])
        agent_config = registry.config(name, env, **agent_settings)
        trainer_config = TrainerConfig(**plain.settings(TrainerConfig, content["trainer_config"]))
    except ValueError as error:
        raise ValueError(f"{folder.config_path} is not a run's configuration: {error}") from error
    return Description(name, agent_config, env, trainer_config, env_options, compile_)


def _updates(agent: Agent, config: TrainerConfig) -> float:
    """How many there are in a run."""
    if agent.rollout is None:
        return (config.total_steps - config.warmup_steps) * config.utd_ratio
    rollout = agent.rollout
    steps = rollout.steps // config.num_envs * config.num_envs
    return config.total_steps // steps * rollout.epochs * (steps // rollout.minibatch_size)


def _own_parts(folder: RunFolder, custom: Any) -> str:
    parts = ", ".join(map(str, custom)) if isinstance(custom, list) else str(custom)
    return (
        f"{folder} was trained with parts of your own ({parts}), which config.yaml does not hold: "
        "in Python, make agent, environment and configuration as you did, then "
        f"folder = RunFolder({str(folder)!r}), trainer = Trainer(agent, env, config, folder) and "
        "trainer.restore(folder.load_checkpoint())."
    )
