"""Soft actor-critic for discrete actions, on TorchRL's loss."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import torch
from tensordict.nn import TensorDictModule
from torchrl.objectives import DiscreteSACLoss

from maxentflow import envs
from maxentflow.agents.agent import Agent, Step
from maxentflow.agents.parts.networks import averaged, categorical_actor, learned, mlp
from maxentflow.agents.parts.spaces import discrete_sizes
from maxentflow.agents.parts.temperature import TemperatureConfig, dual_step, follow_schedule
from maxentflow.agents.registry import register
from maxentflow.agents.settings import (
    Fraction,
    FractionBelowOne,
    Positive,
    PositiveFraction,
    Temperature,
    Widths,
)
from maxentflow.objectives import PolyakUpdate

__all__ = ["DiscreteSacConfig", "discrete_sac"]


@dataclass
class DiscreteSacConfig(TemperatureConfig):
    """Settings of discrete SAC."""

    temperature: Temperature = 0.1
    """Entropy weight alpha, in units of reward; at first, where it is learned or scheduled."""
    target_entropy: Fraction | None = 0.5
    """Entropy that the temperature is learned towards, as a fraction of that of uniform actions;
    None for a temperature that is not learned."""
    tau: PositiveFraction = 0.02
    """Fraction by which the targets move in an update."""
    learning_rate: Positive = 1e-3
    """Learning rate of actor and critics."""
    max_grad_norm: Positive | None = None
    """Clip the gradient's norm; None for no clipping."""
    average_decay: FractionBelowOne = 0.995
    """Decay, for each update, of the average of weights that the policy is evaluated and used
    with; 0 for the newest weights."""
    hidden: Widths = (256, 256)
    """Hidden widths of actor and critics."""


@register("discrete-sac", DiscreteSacConfig)
def discrete_sac(
    env: gym.vector.VectorEnv,
    config: DiscreteSacConfig | None = None,
    *,
    device: str = "cpu",
    **overrides: Any,
) -> Agent:
    """Soft actor-critic over discrete actions (Christodoulou 2019, arXiv:1910.07207): sums over
    actions take the place of samples.

    Args:
        env: a vector environment with discrete actions.
        config: settings; the usual ones by default.
        device: where its networks are.
        overrides: settings to replace.

    Raises:
        ValueError: the action space is not discrete, or a setting is out of range.

    Example:
        >>> from maxentflow import envs
        >>> agent = discrete_sac(envs.make("CartPole-v1"), target_entropy=0.25)
        >>> round(float(agent.loss.target_entropy), 3)  # a quarter of log 2
        0.173
    """
    observation, n_actions = discrete_sizes(env, "discrete-sac")
    config = replace(config or DiscreteSacConfig.for_task(envs.task_id(env)), **overrides)
    newest = categorical_actor(observation, n_actions, config.hidden, device)
    critics = [
        TensorDictModule(
            mlp(observation, n_actions, config.hidden, device), ["observation"], ["action_value"]
        )
        for _ in range(2)
    ]
    loss = DiscreteSACLoss(
        newest,
        critics,
        action_space="categorical",
        num_actions=n_actions,
        num_qvalue_nets=2,
        loss_function="l2",
        alpha_init=config.temperature,
        fixed_alpha=config.target_entropy is None,
        target_entropy=(config.target_entropy or 0.0) * math.log(n_actions),
    )
    loss.make_value_estimator(gamma=config.gamma, device=torch.device(device))
    parameters = {
        "loss_qvalue": learned(loss.qvalue_network_params),
        "loss_actor": learned(loss.actor_network_params),
    }
    policy, average = averaged(newest, config.average_decay)
    return Agent(
        name="discrete-sac",
        policy=policy,
        behavior=newest,
        loss=loss,
        steps=[
            *(
                Step(
                    (name,),
                    torch.optim.Adam(each, lr=config.learning_rate, fused=True),
                    max_grad_norm=config.max_grad_norm,
                )
                for name, each in parameters.items()
            ),
            *dual_step(loss.log_alpha, config),
        ],
        target_updaters=[PolyakUpdate(loss, tau=config.tau), *average],
        state=follow_schedule(loss, config),
        config=config,
    )
