"""A network that samples actions, and the critics that it learns from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict.nn import InteractionType
from tensordict.nn.probabilistic import interaction_type
from torch import Tensor, nn

from maxentflow.agents.parts.networks import mlp

__all__ = ["SteinSampler", "TwinCritic"]


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
