"""Soft Q-learning for discrete actions: one energy model, one regression."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import torch

from maxentflow import envs, flows
from maxentflow.agents.agent import Agent, Step
from maxentflow.agents.parts.networks import averaged, encoder
from maxentflow.agents.parts.spaces import discrete_sizes
from maxentflow.agents.parts.temperature import TemperatureConfig, dual_step, temperature
from maxentflow.agents.registry import register
from maxentflow.agents.settings import (
    Count,
    Fraction,
    FractionBelowOne,
    Positive,
    PositiveFraction,
    Temperature,
    Widths,
)
from maxentflow.objectives import PolyakUpdate, SoftBellmanLoss

__all__ = ["SoftQConfig", "soft_q"]


@dataclass
class SoftQConfig(TemperatureConfig):
    """Settings of soft Q-learning."""

    temperature: Temperature = 0.1
    """Entropy weight alpha, in units of reward; at first, where it is learned or scheduled."""
    target_entropy: Fraction | None = None
    """Entropy that the temperature is learned towards, as a fraction of that of uniform actions;
    None for a temperature that is not learned."""
    tau: PositiveFraction = 0.02
    """Fraction by which the target moves in an update."""
    learning_rate: Positive = 1e-3
    """Learning rate of Adam."""
    max_grad_norm: Positive | None = None
    """Clip the gradient's norm; None for no clipping."""
    average_decay: FractionBelowOne = 0.995
    """Decay, for each update, of the average of weights that the policy is evaluated and used
    with; 0 for the newest weights."""
    shifts: bool = False
    """Use one network of energies with learned reward shifts, as MEow does (with one head LRS,
    with two SCDQ), in place of independent Q networks."""
    normalized: bool = False
    """With shifts, learn V as the shift alone."""
    heads: Count = 2
    """Independent Q networks, or shifts; the target takes their minimum."""
    hidden: Widths = (256, 256)
    """Hidden widths."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.normalized and not self.shifts:
            raise ValueError("normalized needs shifts, whose values V is.")


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
    observation, n_actions = discrete_sizes(env, "soft-q")
    config = replace(config or SoftQConfig.for_task(envs.task_id(env)), **overrides)
    encodes, obs_dim = encoder(observation, device)
    shift = None
    if config.shifts:
        shift = flows.RewardShift(
            obs_dim, config.heads, hidden=config.hidden, activation="relu", init="default"
        )
    alpha = temperature(config)
    model = flows.CategoricalEnergy(
        n_actions,
        obs_dim,
        temperature=alpha,
        heads=config.heads,
        shift=shift,
        normalized=config.normalized,
        hidden=config.hidden,
        encoder=encodes,
    ).to(device)
    target_entropy = None
    if config.target_entropy is not None:
        target_entropy = config.target_entropy * math.log(n_actions)
    loss = SoftBellmanLoss(model, target_entropy=target_entropy)
    loss.make_value_estimator(gamma=config.gamma, device=torch.device(device))
    newest = flows.FlowPolicy(model)
    policy, average = averaged(newest, config.average_decay)
    learned = [p for p in loss.parameters() if p is not getattr(alpha, "log_alpha", None)]
    optimizer = torch.optim.Adam(learned, lr=config.learning_rate, fused=True)
    steps = [Step(("loss",), optimizer, max_grad_norm=config.max_grad_norm)]
    if isinstance(alpha, flows.LearnedTemperature):
        steps += dual_step(alpha.log_alpha, config)
    return Agent(
        name="soft-q",
        policy=policy,
        behavior=newest,
        loss=loss,
        steps=steps,
        target_updaters=[PolyakUpdate(loss, tau=config.tau), *average],
        state={"temperature": alpha} if isinstance(alpha, flows.ScheduledTemperature) else {},
        critic=policy.flow,
        config=config,
    )
