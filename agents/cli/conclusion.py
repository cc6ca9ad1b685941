"""Say and draw what a run has come to."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from maxentflow import envs
from maxentflow.agents.agent import Agent
from maxentflow.agents.cli import figures
from maxentflow.agents.cli.curves import read_curves
from maxentflow.agents.task_errors import close
from maxentflow.agents.training import RunFolder, Trainer, evaluate
from maxentflow.agents.training.description import Description, make_env
from maxentflow.agents.training.evaluation import AT_ONCE

__all__ = ["conclude"]


def conclude(description: Description, trainer: Trainer, folder: RunFolder) -> None:
    """Evaluate the policy, draw the task's own figure if it has one, and the learning curve."""
    config, policy = trainer.config, trainer.agent.policy
    env = make_env(description, min(config.eval_episodes, AT_ONCE))
    result = evaluate(policy, env, episodes=config.eval_episodes, device=config.device)
    close(env)
    print(f"{description.env} after {trainer.step} steps, mode: {result}")
    summary = getattr(envs.task_class(description.env), "summary", None)
    if summary is not None:
        path = folder.figures_path / f"{description.env.rpartition('/')[2]}.png"
        draw = partial(summary, **description.env_kwargs)
        print(f"{_summarise(draw, trainer.agent, path, config.device)}\nFigure: {path}")
    if config.eval_every:
        path = folder.figures_path / "returns.png"
        figures.learning_curves(read_curves([folder]), path)
        print(f"Figure: {path}")


@torch.no_grad()
def _summarise(summary: Any, agent: Agent, path: Path, device: str) -> str:
    """What a task says and draws of a policy, by the staticmethod ``summary`` of its class."""
    soft_value: Any = getattr(getattr(agent.policy, "flow", None), "value", None)

    act = partial(agent.predict, deterministic=False)

    def value(observation: NDArray[Any]) -> NDArray[Any]:
        return soft_value(torch.from_numpy(observation).to(device)).amin(-1).cpu().numpy()

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return summary(act, path, None if soft_value is None else value)
