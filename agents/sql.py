"""Soft Q-learning with Stein's sampler, the first maximum-entropy agent for continuous actions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import torch
from tensordict.nn import TensorDictModule

from maxentflow import envs
from maxentflow.agents.agent import Agent, Step
from maxentflow.agents.parts.networks import learned
from maxentflow.agents.parts.sampler import SteinSampler, TwinCritic
from maxentflow.agents.parts.spaces import continuous_sizes
from maxentflow.agents.parts.temperature import TemperatureConfig, follow_schedule
from maxentflow.agents.registry import register
from maxentflow.agents.settings import Count, Positive, PositiveFraction, Widths
from maxentflow.objectives import PolyakUpdate, SteinSoftQLoss

__all__ = ["SqlConfig", "sql"]


@dataclass
class SqlConfig(TemperatureConfig):
    """Settings of soft Q-learning; the temperature stays or is scheduled, since the sampler's
    entropy is not known."""

    target_entropy: None = None
    """Always None."""
    tau: PositiveFraction = 0.005
    """Fraction by which the target moves in an update."""
    learning_rate: Positive = 3e-4
    """Learning rate of sampler and critics."""
    value_samples: Count = 32
    """Uniform actions for each soft value."""
    particles: Count = 32
    """Actions of the sampler for each observation, half of which move."""
    hidden: Widths = (256, 256)
    """Hidden widths of sampler and critics."""

    def __post_init__(self) -> None:
        if self.target_entropy is not None:
            raise ValueError(
                "The entropy of Stein's sampler is not known, so that no temperature is learned: "
                f"target_entropy must be None, got {self.target_entropy}."
            )
        super().__post_init__()


@register("sql", SqlConfig)
def sql(
    env: gym.vector.VectorEnv,
    config: SqlConfig | None = None,
    *,
    device: str = "cpu",
    **overrides: Any,
) -> Agent:
    """Soft Q-learning (Haarnoja et al. 2017, arXiv:1702.08165): soft values by importance
    sampling, and a sampler that follows Stein's variational gradient.

    Args:
        env: a vector environment with continuous actions and observations that are vectors.
        config: settings; the usual ones by default.
        device: where its networks are.
        overrides: settings to replace.

    Raises:
        ValueError: the action space is not continuous, observations are not vectors, or a setting
            is out of range.

    Example:
        >>> from maxentflow import envs
        >>> sql(envs.make("Pendulum-v1"), value_samples=64).loss.value_samples
        64
    """
    observation, action_dim = continuous_sizes(env, "sql", images=False)
    config = replace(config or SqlConfig.for_task(envs.task_id(env)), **overrides)
    sizes = observation[0], action_dim, config.hidden, device
    sampler = SteinSampler(*sizes)
    loss = SteinSoftQLoss(
        sampler,
        TwinCritic(*sizes),
        temperature=config.temperature,
        value_samples=config.value_samples,
        particles=config.particles,
    ).to(device)
    loss.make_value_estimator(gamma=config.gamma, device=torch.device(device))
    parameters = {
        "loss_qvalue": learned(loss.qvalue_network_params),
        "loss_actor": learned(loss.actor_network_params),
    }
    return Agent(
        name="sql",
        policy=TensorDictModule(sampler, in_keys=["observation"], out_keys=["action"]),
        loss=loss,
        steps=[
            Step((name,), torch.optim.Adam(each, lr=config.learning_rate, fused=True))
            for name, each in parameters.items()
        ],
        target_updaters=[PolyakUpdate(loss, tau=config.tau)],
        state=follow_schedule(loss, config),
        config=config,
    )
