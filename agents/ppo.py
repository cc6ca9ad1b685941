"""Proximal policy optimisation on TorchRL's loss and advantages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import gymnasium as gym
import torch
from torch import nn
from torchrl.modules import ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

from maxentflow import envs
from maxentflow.agents.agent import Agent, Rollout, Step
from maxentflow.agents.parts.networks import categorical_actor, gaussian_actor, mlp
from maxentflow.agents.parts.spaces import continuous_sizes, discrete_sizes
from maxentflow.agents.registry import register
from maxentflow.agents.settings import AgentConfig, Count, Fraction, Positive, Widths

__all__ = ["PpoConfig", "ppo"]


@dataclass
class PpoConfig(AgentConfig):
    """Settings of PPO."""

    training: ClassVar[Mapping[str, Any]] = {"num_envs": 8, "warmup_steps": 0}

    gae_lambda: Fraction = 0.95
    """Lambda of the generalised advantage estimate."""
    clip: Positive = 0.2
    """How far the ratio of probabilities may move from 1."""
    entropy_coefficient: Fraction = 0.0
    """Weight of the entropy in the loss."""
    learning_rate: Positive = 3e-4
    """Learning rate of Adam."""
    max_grad_norm: Positive | None = 0.5
    """Clip the gradient's norm; None for no clipping."""
    rollout_steps: Count = 2_048
    """Environment steps between learning phases, of all environments together."""
    epochs: Count = 10
    """Passes over a rollout."""
    minibatch_size: Count = 64
    """Transitions in an update."""
    hidden: Widths = (64, 64)
    """Hidden widths of actor and critic."""


@register("ppo", PpoConfig)
def ppo(
    env: gym.vector.VectorEnv,
    config: PpoConfig | None = None,
    *,
    device: str = "cpu",
    **overrides: Any,
) -> Agent:
    """Proximal policy optimisation (Schulman et al. 2017, arXiv:1707.06347) with the clipped
    objective and generalised advantages (Schulman et al. 2016, arXiv:1506.02438).

    Args:
        env: a vector environment with continuous or discrete actions.
        config: settings; the usual ones by default.
        device: where its networks are.
        overrides: settings to replace.

    Raises:
        ValueError: the action space is neither, or a setting is out of range.

    Example:
        >>> from maxentflow import envs
        >>> ppo(envs.make("CartPole-v1"), rollout_steps=256).rollout.steps
        256
    """
    config = replace(config or PpoConfig.for_task(envs.task_id(env)), **overrides)
    if isinstance(env.single_action_space, gym.spaces.Discrete):
        observation, n_actions = discrete_sizes(env, "ppo")
        policy = categorical_actor(observation, n_actions, config.hidden, device, nn.Tanh)
    else:
        observation, action_dim = continuous_sizes(env, "ppo")
        policy = gaussian_actor(
            observation, action_dim, config.hidden, device, least_scale=1e-2, activation=nn.Tanh
        )
    critic = ValueOperator(
        mlp(observation, 1, config.hidden, device, nn.Tanh), in_keys=["observation"]
    )
    entropy = ("loss_entropy",) if config.entropy_coefficient else ()
    loss = ClipPPOLoss(
        policy,
        critic,
        clip_epsilon=config.clip,
        entropy_bonus=bool(entropy),
        entropy_coeff=config.entropy_coefficient or None,
        critic_coeff=0.5,
        loss_critic_type="l2",
        normalize_advantage=True,
    )
    estimator = GAE(
        gamma=config.gamma,
        lmbda=config.gae_lambda,
        value_network=critic,
        device=torch.device(device),
    )
    optimizer = torch.optim.Adam(loss.parameters(), lr=config.learning_rate, eps=1e-5, fused=True)
    return Agent(
        name="ppo",
        policy=policy,
        loss=loss,
        steps=[
            Step(
                ("loss_objective", "loss_critic", *entropy),
                optimizer,
                max_grad_norm=config.max_grad_norm,
            )
        ],
        rollout=Rollout(config.rollout_steps, config.epochs, config.minibatch_size, estimator),
        config=config,
    )
