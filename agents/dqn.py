"""Double deep Q-learning on TorchRL's loss."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import torch
from tensordict.nn import TensorDictSequential
from torchrl.data import Categorical
from torchrl.modules import EGreedyModule, QValueActor
from torchrl.objectives import DQNLoss

from maxentflow import envs
from maxentflow.agents.agent import Agent, Step
from maxentflow.agents.parts.networks import averaged, mlp
from maxentflow.agents.parts.spaces import discrete_sizes
from maxentflow.agents.registry import register
from maxentflow.agents.settings import (
    AgentConfig,
    Count,
    Fraction,
    FractionBelowOne,
    Positive,
    PositiveFraction,
    Widths,
)
from maxentflow.objectives import PolyakUpdate

__all__ = ["DqnConfig", "dqn"]


@dataclass
class DqnConfig(AgentConfig):
    """Settings of double deep Q-learning."""

    tau: PositiveFraction = 0.02
    """Fraction by which the target moves in an update."""
    learning_rate: Positive = 3e-4
    """Learning rate of Adam."""
    max_grad_norm: Positive | None = 10.0
    """Clip the gradient's norm; None for no clipping."""
    average_decay: FractionBelowOne = 0.995
    """Decay, for each update, of the average of weights that the policy is evaluated and used
    with; 0 for the newest weights."""
    epsilon: Fraction = 1.0
    """Share of random actions at first."""
    final_epsilon: Fraction = 0.05
    """Share of random actions in the end."""
    epsilon_steps: Count = 10_000
    """Environment steps from one to the other, in equal steps."""
    hidden: Widths = (256, 256)
    """Hidden widths."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.final_epsilon > self.epsilon:
            raise ValueError(
                f"final_epsilon must be at most epsilon ({self.epsilon}), got "
                f"{self.final_epsilon}."
            )


class _Epsilon(EGreedyModule):
    """TorchRL's exploration, which counts the steps of the environments by itself."""

    def observe(self, transitions: MutableMapping[Any, Any]) -> None:
        self.step(len(transitions))


@register("dqn", DqnConfig)
def dqn(
    env: gym.vector.VectorEnv,
    config: DqnConfig | None = None,
    *,
    device: str = "cpu",
    **overrides: Any,
) -> Agent:
    """Double deep Q-learning (Mnih et al. 2015, Nature 518; van Hasselt et al. 2016,
    arXiv:1509.06461): the hard maximum that soft Q-learning replaces.

    Args:
        env: a vector environment with discrete actions.
        config: settings; the usual ones by default.
        device: where its networks are.
        overrides: settings to replace.

    Raises:
        ValueError: the action space is not discrete, or a setting is out of range.

    Example:
        >>> from maxentflow import envs
        >>> dqn(envs.make("CartPole-v1")).loss.double_dqn
        True
    """
    observation, n_actions = discrete_sizes(env, "dqn")
    config = replace(config or DqnConfig.for_task(envs.task_id(env)), **overrides)
    spec = Categorical(n_actions, device=device)
    newest = QValueActor(
        mlp(observation, n_actions, config.hidden, device),
        in_keys=["observation"],
        spec=spec,
        action_space="categorical",
    )
    explores = _Epsilon(
        spec,
        eps_init=config.epsilon,
        eps_end=config.final_epsilon,
        annealing_num_steps=config.epsilon_steps,
        device=torch.device(device),
    )
    policy, average = averaged(newest, config.average_decay)
    loss = DQNLoss(newest, loss_function="l2", double_dqn=True, action_space="categorical")
    loss.make_value_estimator(gamma=config.gamma, device=torch.device(device))
    optimizer = torch.optim.Adam(loss.parameters(), lr=config.learning_rate, fused=True)
    return Agent(
        name="dqn",
        policy=policy,
        behavior=TensorDictSequential(newest, explores),
        loss=loss,
        steps=[Step(("loss",), optimizer, max_grad_norm=config.max_grad_norm)],
        target_updaters=[PolyakUpdate(loss, tau=config.tau), *average],
        state={"epsilon": explores},
        config=config,
    )
