"""Soft actor-critic on TorchRL's loss."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import torch
from torchrl.data import Bounded
from torchrl.objectives import SACLoss

from maxentflow import envs
from maxentflow.agents.agent import Agent, Step
from maxentflow.agents.networks import averaged, gaussian_actor, q_networks
from maxentflow.agents.registry import register
from maxentflow.agents.settings import (
    AgentConfig,
    FractionBelowOne,
    Positive,
    PositiveFraction,
    Widths,
)
from maxentflow.agents.spaces import continuous_sizes
from maxentflow.objectives import PolyakUpdate

__all__ = ["SacConfig", "sac"]


@dataclass
class SacConfig(AgentConfig):
    """Settings of SAC with a learned temperature."""

    tau: PositiveFraction = 0.005
    """Fraction by which the targets move in an update."""
    actor_learning_rate: Positive = 3e-4
    """Learning rate of the actor and the temperature."""
    critic_learning_rate: Positive = 1e-3
    """Learning rate of the critics."""
    max_grad_norm: Positive | None = None
    """Clip the gradient's norm; None for no clipping."""
    average_decay: FractionBelowOne = 0.0
    """Decay, for each update, of the average of weights that the policy is evaluated and used
    with; 0 for the newest weights."""
    hidden: Widths = (256, 256)
    """Hidden widths of actor and critics."""
    alpha_init: Positive = 1.0
    """Temperature at the start."""


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
    obs_dim, action_dim = continuous_sizes(env, "sac")
    if config is None:
        config = SacConfig.for_task(envs.task_id(env))
    config = replace(config, **overrides)
    newest = gaussian_actor(obs_dim, action_dim, config.hidden, device, least_scale=1e-4)
    loss = SACLoss(
        newest,
        q_networks(obs_dim, action_dim, config.hidden, device),
        num_qvalue_nets=2,
        loss_function="l2",
        alpha_init=config.alpha_init,
        target_entropy=-float(action_dim),
        action_spec=Bounded(-1.0, 1.0, (action_dim,)),
    )
    loss.make_value_estimator(gamma=config.gamma, device=torch.device(device))
    critic = list(loss.qvalue_network_params.values(True, True))
    actor = list(loss.actor_network_params.values(True, True))
    policy, average = averaged(newest, config.average_decay)
    return Agent(
        name="sac",
        policy=policy,
        behavior=newest,
        loss=loss,
        steps=[
            Step(
                ("loss_qvalue",),
                torch.optim.Adam(critic, lr=config.critic_learning_rate, fused=True),
                max_grad_norm=config.max_grad_norm,
            ),
            Step(
                ("loss_actor", "loss_alpha"),
                torch.optim.Adam(
                    [*actor, loss.log_alpha], lr=config.actor_learning_rate, fused=True
                ),
                max_grad_norm=config.max_grad_norm,
            ),
        ],
        target_updaters=[PolyakUpdate(loss, tau=config.tau), *average],
        config=config,
    )
