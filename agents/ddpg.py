"""DDPG on TorchRL's loss: one critic, a deterministic actor, noise to explore."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import torch
from tensordict.nn import TensorDictSequential
from torchrl.objectives import DDPGLoss

from maxentflow import envs
from maxentflow.agents.agent import Agent, Step
from maxentflow.agents.parts.networks import (
    deterministic_actor,
    gaussian_noise,
    learned,
    q_networks,
)
from maxentflow.agents.parts.spaces import continuous_sizes
from maxentflow.agents.registry import register
from maxentflow.agents.settings import AgentConfig, Positive, PositiveFraction, Widths
from maxentflow.objectives import PolyakUpdate

__all__ = ["DdpgConfig", "ddpg"]


@dataclass
class DdpgConfig(AgentConfig):
    """Settings of DDPG, with the learning rate and the noise of TD3's paper."""

    tau: PositiveFraction = 0.005
    """Fraction by which the targets move towards the networks."""
    learning_rate: Positive = 1e-3
    """Learning rate of actor and critic."""
    exploration_noise: Positive = 0.1
    """Standard deviation of the noise that explores, in units of an action in [-1, 1]."""
    hidden: Widths = (256, 256)
    """Hidden widths of actor and critic."""


@register("ddpg", DdpgConfig)
def ddpg(
    env: gym.vector.VectorEnv,
    config: DdpgConfig | None = None,
    *,
    device: str = "cpu",
    **overrides: Any,
) -> Agent:
    """Deep deterministic policy gradient (Lillicrap et al. 2016, arXiv:1509.02971).

    Args:
        env: a vector environment with continuous actions.
        config: settings; the usual ones by default.
        device: where its networks are.
        overrides: settings to replace.

    Raises:
        ValueError: the action space is not continuous, or a setting is out of range.

    Example:
        >>> from maxentflow import envs
        >>> [step.losses for step in ddpg(envs.make("Pendulum-v1")).steps]
        [('loss_value',), ('loss_actor',)]
    """
    observation, action_dim = continuous_sizes(env, "ddpg")
    config = replace(config or DdpgConfig.for_task(envs.task_id(env)), **overrides)
    policy = deterministic_actor(observation, action_dim, config.hidden, device)
    (critic,) = q_networks(observation, action_dim, config.hidden, device, count=1)
    loss = DDPGLoss(policy, critic, loss_function="l2", delay_actor=True, delay_value=True)
    loss.make_value_estimator(gamma=config.gamma, device=torch.device(device))
    parameters = {
        "loss_value": learned(loss.value_network_params),
        "loss_actor": learned(loss.actor_network_params),
    }
    return Agent(
        name="ddpg",
        policy=policy,
        behavior=TensorDictSequential(
            policy, gaussian_noise(action_dim, config.exploration_noise, device)
        ),
        loss=loss,
        steps=[
            Step((name,), torch.optim.Adam(each, lr=config.learning_rate, fused=True))
            for name, each in parameters.items()
        ],
        target_updaters=[PolyakUpdate(loss, tau=config.tau)],
        config=config,
    )
