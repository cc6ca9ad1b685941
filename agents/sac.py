"""Soft actor-critic on TorchRL's loss, with its critics and its actor as networks or flows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import gymnasium as gym
import torch
from torchrl.data import Bounded
from torchrl.modules import ProbabilisticActor
from torchrl.objectives import SACLoss

from maxentflow import envs
from maxentflow.agents.agent import Agent, Step
from maxentflow.agents.parts.critic import twin_critics
from maxentflow.agents.parts.networks import averaged, gaussian_actor, learned
from maxentflow.agents.parts.spaces import continuous_sizes, entropy_of
from maxentflow.agents.parts.temperature import TemperatureConfig, dual_step, follow_schedule
from maxentflow.agents.registry import register
from maxentflow.agents.settings import (
    Finite,
    FractionBelowOne,
    Positive,
    PositiveFraction,
    Temperature,
    Widths,
)
from maxentflow.objectives import PolyakUpdate

__all__ = ["SacConfig", "sac", "soft_actor_critic"]


@dataclass
class SacConfig(TemperatureConfig):
    """Settings of SAC."""

    temperature: Temperature = 1.0
    """Entropy weight alpha, in units of reward; at first, where it is learned or scheduled."""
    target_entropy: Finite | None = -1.0
    """Entropy of each entry of the action, in nats, that the temperature is learned towards; None
    for a temperature that is not learned."""
    temperature_learning_rate: Positive = 3e-4
    """Learning rate of the temperature's logarithm."""
    tau: PositiveFraction = 0.005
    """Fraction by which the targets move in an update."""
    actor_learning_rate: Positive = 3e-4
    """Learning rate of the actor."""
    critic_learning_rate: Positive = 1e-3
    """Learning rate of the critics."""
    max_grad_norm: Positive | None = None
    """Clip the gradient's norm; None for no clipping."""
    average_decay: FractionBelowOne = 0.0
    """Decay of the average of weights that the policy is used with; 0 for the newest weights."""
    hidden: Widths = (256, 256)
    """Hidden widths of actor and critics."""
    critic_flow: str | None = None
    """Read Q off an energy-based flow of this architecture; None for a network."""
    reward_shift: bool = False
    """Add a learned function of the observation to each Q (LRS)."""


@register("sac", SacConfig)
def sac(
    env: gym.vector.VectorEnv,
    config: SacConfig | None = None,
    *,
    device: str = "cpu",
    **overrides: Any,
) -> Agent:
    """Soft actor-critic (Haarnoja et al. 2018, arXiv:1812.05905): two critics, a tanh-Gaussian
    actor, a temperature learned towards an entropy of minus the action's size.

    Args:
        env: a vector environment with continuous actions.
        config: settings; the usual ones by default.
        device: where its networks are.
        overrides: settings to replace.

    Raises:
        ValueError: the action space is not continuous, or a setting is out of range.

    Example:
        >>> from maxentflow import envs
        >>> sac(envs.make("Pendulum-v1"), hidden=(64, 64)).config.hidden
        (64, 64)
    """
    config = replace(config or SacConfig.for_task(envs.task_id(env)), **overrides)
    sizes = continuous_sizes(env, "sac")
    actor = gaussian_actor(*sizes, config.hidden, device, least_scale=1e-4)
    return soft_actor_critic("sac", actor, env, config, device)


def soft_actor_critic(
    name: str,
    newest: ProbabilisticActor,
    env: gym.vector.VectorEnv,
    config: SacConfig,
    device: str,
) -> Agent:
    """SAC around any actor that samples with gradients and gives log-probabilities.

    Args:
        name: of the agent.
        newest: the actor.
        env: the environment.
        config: settings.
        device: where networks are.
    """
    space: Any = env.single_action_space
    loss = SACLoss(
        newest,
        twin_critics(env, name, config, device),
        num_qvalue_nets=2,
        loss_function="l2",
        alpha_init=config.temperature,
        fixed_alpha=config.target_entropy is None,
        target_entropy=entropy_of(space, config.target_entropy or 0.0),
        action_spec=Bounded(space.low, space.high),
    )
    loss.make_value_estimator(gamma=config.gamma, device=torch.device(device))
    adam = partial(torch.optim.Adam, fused=True)
    critic = adam(learned(loss.qvalue_network_params), lr=config.critic_learning_rate)
    actor = adam(learned(loss.actor_network_params), lr=config.actor_learning_rate)
    policy, average = averaged(newest, config.average_decay)
    return Agent(
        name=name,
        policy=policy,
        behavior=newest,
        loss=loss,
        steps=[
            Step(("loss_qvalue",), critic, max_grad_norm=config.max_grad_norm),
            Step(("loss_actor",), actor, max_grad_norm=config.max_grad_norm),
            *dual_step(loss.log_alpha, config),
        ],
        target_updaters=[PolyakUpdate(loss, tau=config.tau), *average],
        state=follow_schedule(loss, config),
        config=config,
    )
