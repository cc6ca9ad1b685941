"""TD3 on TorchRL's loss: two critics, a delayed actor, target noise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import torch
from tensordict.nn import TensorDictSequential
from torchrl.objectives import TD3Loss

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
from maxentflow.agents.settings import AgentConfig, Count, Positive, PositiveFraction, Widths
from maxentflow.objectives import DelayedUpdate, PolyakUpdate

__all__ = ["Td3Config", "td3"]


@dataclass
class Td3Config(AgentConfig):
    """Settings of TD3; defaults are those of its paper, with networks of 256 units."""

    tau: PositiveFraction = 0.005
    """Fraction by which the targets move towards the networks."""
    learning_rate: Positive = 1e-3
    """Learning rate of actor and critics."""
    policy_delay: Count = 2
    """Updates of the critics for each of the actor and the targets."""
    exploration_noise: Positive = 0.1
    """Standard deviation of the noise that explores, in units of an action in [-1, 1]."""
    target_noise: Positive = 0.2
    """Standard deviation of the noise on the target's action."""
    target_noise_clip: Positive = 0.5
    """Bound on that noise."""
    hidden: Widths = (256, 256)
    """Hidden widths of actor and critics."""


@register("td3", Td3Config)
def td3(
    env: gym.vector.VectorEnv,
    config: Td3Config | None = None,
    *,
    device: str = "cpu",
    **overrides: Any,
) -> Agent:
    """Twin delayed deep deterministic policy gradient (Fujimoto et al. 2018, arXiv:1802.09477).

    Args:
        env: a vector environment with continuous actions.
        config: settings; the usual ones by default.
        device: where its networks are.
        overrides: settings to replace.

    Raises:
        ValueError: the action space is not continuous, or a setting is out of range.

    Example:
        >>> from maxentflow import envs
        >>> [step.every for step in td3(envs.make("Pendulum-v1")).steps]
        [1, 2]
    """
    observation, action_dim = continuous_sizes(env, "td3")
    config = replace(config or Td3Config.for_task(envs.task_id(env)), **overrides)
    policy = deterministic_actor(observation, action_dim, config.hidden, device)
    noise = gaussian_noise(action_dim, config.exploration_noise, device)
    loss = TD3Loss(
        policy,
        q_networks(observation, action_dim, config.hidden, device),
        action_spec=noise.spec["action"],
        policy_noise=config.target_noise,
        noise_clip=config.target_noise_clip,
        loss_function="l2",
    )
    loss.make_value_estimator(gamma=config.gamma, device=torch.device(device))
    critic = learned(loss.qvalue_network_params)
    actor = learned(loss.actor_network_params)
    return Agent(
        name="td3",
        policy=policy,
        behavior=TensorDictSequential(policy, noise),
        loss=loss,
        steps=[
            Step(("loss_qvalue",), torch.optim.Adam(critic, lr=config.learning_rate, fused=True)),
            Step(
                ("loss_actor",),
                torch.optim.Adam(actor, lr=config.learning_rate, fused=True),
                every=config.policy_delay,
            ),
        ],
        target_updaters=[DelayedUpdate(PolyakUpdate(loss, tau=config.tau), config.policy_delay)],
        config=config,
    )
