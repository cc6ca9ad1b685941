"""Soft Q-learning with Stein's sampler, the first maximum-entropy agent for continuous actions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import torch
from tensordict.nn import InteractionType, TensorDictModule
from tensordict.nn.probabilistic import interaction_type
from torch import Tensor, nn

from maxentflow import envs
from maxentflow.agents.agent import Agent, Step
from maxentflow.agents.networks import learned, mlp
from maxentflow.agents.registry import register
from maxentflow.agents.settings import Count, Positive, PositiveFraction, Widths
from maxentflow.agents.spaces import continuous_sizes
from maxentflow.agents.temperature import TemperatureConfig, follow_schedule
from maxentflow.objectives import PolyakUpdate, SteinSoftQLoss

__all__ = ["SqlConfig", "SteinSampler", "TwinCritic", "sql"]


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
        super().__post_init__()
        if self.target_entropy is not None:
            raise ValueError(
                "The entropy of Stein's sampler is not known, so that no temperature is learned: "
                f"target_entropy must be None, got {self.target_entropy}."
            )


class SteinSampler(nn.Module):
    """A network of an observation and Gaussian noise, whose outputs are the policy's samples.

    Args:
        obs_dim: size of an observation.
        action_dim: size of an action, and of the noise.
        hidden: hidden widths.
        device: where it is.

    Example:
        >>> SteinSampler(3, 2, (32,))(torch.zeros(5, 3)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self, obs_dim: int, action_dim: int, hidden: Sequence[int], device: str = "cpu"
    ) -> None:
        super().__init__()
        self.action_dim = action_dim
        self.network = mlp((obs_dim,), action_dim, hidden, device, others=action_dim)

    def raw_action(self, observation: Tensor, noise: Tensor) -> Tensor:
        """Actions before the tanh, shape ``(*batch, action_dim)``."""
        return self.network(observation, noise)

    def forward(self, observation: Tensor) -> Tensor:
        """Actions in (-1, 1), shape ``(*batch, action_dim)``; that of no noise where a
        deterministic one is asked for."""
        shape = (*observation.shape[:-1], self.action_dim)
        if interaction_type() in (None, InteractionType.RANDOM):
            noise = torch.randn(shape, dtype=observation.dtype, device=observation.device)
        else:
            noise = observation.new_zeros(shape)
        return self.raw_action(observation, noise).tanh()


class TwinCritic(nn.Module):
    """Two Q networks of an observation and an action.

    Args:
        obs_dim: size of an observation.
        action_dim: size of an action.
        hidden: hidden widths.
        device: where they are.

    Example:
        >>> TwinCritic(3, 2, (32,))(torch.zeros(5, 3), torch.zeros(5, 2)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self, obs_dim: int, action_dim: int, hidden: Sequence[int], device: str = "cpu"
    ) -> None:
        super().__init__()
        self.networks = nn.ModuleList(
            mlp((obs_dim,), 1, hidden, device, others=action_dim) for _ in range(2)
        )

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        """Q of each, shape ``(*batch, 2)``."""
        return torch.cat([network(observation, action) for network in self.networks], -1)


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
