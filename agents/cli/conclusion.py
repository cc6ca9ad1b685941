"""Say and draw what a run has come to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from tensordict import TensorDict
from torchrl.envs.utils import ExplorationType, set_exploration_type

from maxentflow import envs
from maxentflow.agents.agent import Agent
from maxentflow.agents.cli import figures
from maxentflow.agents.cli.assemble import make_env
from maxentflow.agents.cli.description import Description
from maxentflow.agents.training import RunFolder, Trainer, evaluate

__all__ = ["AT_ONCE", "conclude"]

AT_ONCE = 10
"""Episodes of an evaluation that run together."""


def conclude(description: Description, trainer: Trainer, folder: RunFolder) -> None:
    """Evaluate the policy, draw the task's own figure if it has one, and the learning curve.

    Raises:
        ValueError: a figure cannot be written.
    """
    config = trainer.config
    env = make_env(description, min(config.eval_episodes, AT_ONCE))
    result = evaluate(
        trainer.agent.policy, env, episodes=config.eval_episodes, device=config.device
    )
    env.close()
    print(f"{description.env} after {trainer.step} steps, mode: {result}")
    path = folder.figures_path / f"{description.env.rpartition('/')[2]}.png"
    sentence = _summarise(description.env, trainer.agent, path, config.device)
    if sentence is not None:
        print(f"{sentence}\nFigure: {path}")
    if config.eval_every:
        path = folder.figures_path / "returns.png"
        figures.learning_curves([folder], path)
        print(f"Figure: {path}")


def _summarise(env_id: str, agent: Agent, path: Path, device: str) -> str | None:
    """What a task says and draws of a policy, by the staticmethod ``summary`` of its class."""
    summary = getattr(envs.task_class(env_id), "summary", None)
    if summary is None:
        return None
    soft_value: Any = getattr(getattr(agent.policy, "flow", None), "value", None)

    def act(observation: NDArray[Any]) -> NDArray[Any]:
        seen = torch.from_numpy(observation).to(device)
        return agent.policy(TensorDict({"observation": seen}, [len(seen)]))["action"].cpu().numpy()

    def value(observation: NDArray[Any]) -> NDArray[Any]:
        return soft_value(torch.from_numpy(observation).to(device)).amin(-1).cpu().numpy()

    exploration = set_exploration_type(ExplorationType.RANDOM)
    with torch.random.fork_rng(), torch.no_grad(), exploration:
        torch.manual_seed(0)
        return summary(act, path, None if soft_value is None else value)
