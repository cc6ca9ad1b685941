"""Soft Q-learning for discrete actions: one energy model, one regression."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import torch

from maxentflow import envs, flows
from maxentflow.agents.agent import Agent, Step
from maxentflow.agents.networks import averaged
from maxentflow.agents.registry import register
from maxentflow.agents.settings import (
    AgentConfig,
    Count,
    FractionBelowOne,
    Positive,
    PositiveFraction,
    Widths,
)
from maxentflow.agents.spaces import discrete_sizes
from maxentflow.objectives import PolyakUpdate, SoftBellmanLoss

__all__ = ["SoftQConfig", "soft_q"]


@dataclass
class SoftQConfig(AgentConfig):
    """Settings of soft Q-learning."""

    temperature: Positive = 0.1
    """Entropy weight alpha, in units of reward."""
    tau: PositiveFraction = 0.02
    """Fraction by which the target moves in an update."""
    learning_rate: Positive = 1e-3
    """Learning rate of Adam."""
    max_grad_norm: Positive | None = None
    """Clip the gradient's norm; None for no clipping."""
    average_decay: FractionBelowOne = 0.995
    """Decay, for each update, of the average of weights that the policy is evaluated and used
    with; 0 for the newest weights."""
    heads: Count = 2
    """Independent Q networks; the target takes their minimum."""
    hidden: Widths = (256, 256)
    """Hidden widths."""


@register("soft-q", SoftQConfig)
def soft_q(
    env: gym.vector.VectorEnv,
    config: SoftQConfig | None = None,
    *,
    device: str = "cpu",
    **overrides: Any,
) -> Agent:
    r"""Soft Q-learning with a Boltzmann policy (Haarnoja et al. 2017, arXiv:1702.08165, eq. 4
    to 6, where the sum over actions is exact).

    .. math:: V(s) = \alpha \log \sum_a e^{Q(s, a) / \alpha}, \qquad
        \pi(a \mid s) = e^{(Q(s, a) - V(s)) / \alpha}

    Args:
        env: a vector environment with discrete actions.
        config: settings; the usual ones by default.
        device: where its networks are.
        overrides: settings to replace.

    Raises:
        ValueError: the action space is not discrete, or a setting is out of range.

    Example:
        >>> from maxentflow import envs
        >>> agent = soft_q(envs.make("CartPole-v1"), temperature=0.5)
        >>> agent.loss.temperature
        0.5
    """
    obs_dim, n_actions = discrete_sizes(env, "soft-q")
    config = replace(config or SoftQConfig.for_task(envs.task_id(env)), **overrides)
    model = flows.CategoricalEnergy(
        n_actions,
        obs_dim,
        temperature=config.temperature,
        heads=config.heads,
        hidden=config.hidden,
    ).to(device)
    loss = SoftBellmanLoss(model)
    loss.make_value_estimator(gamma=config.gamma, device=torch.device(device))
    newest = flows.FlowPolicy(model)
    policy, average = averaged(newest, config.average_decay)
    optimizer = torch.optim.Adam(loss.parameters(), lr=config.learning_rate, fused=True)
    return Agent(
        name="soft-q",
        policy=policy,
        behavior=newest,
        loss=loss,
        steps=[Step(("loss",), optimizer, max_grad_norm=config.max_grad_norm)],
        target_updaters=[PolyakUpdate(loss, tau=config.tau), *average],
        critic=policy.flow,
        config=config,
    )
