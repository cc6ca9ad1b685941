"""An energy-based flow as a torch distribution, and as an actor's network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

__all__ = ["FlowDistribution", "ObservationOf"]


class FlowDistribution(Distribution):
    """The policy of a flow, given observations, as a :class:`torch.distributions.Distribution`.

    Samples are reparameterised, log-densities exact. :meth:`rsample_and_log_prob` scores a sample
    on its way from the latent, so that its log-density is exact at the ends of the action's bounds
    too, where an inverse could not tell.

    Args:
        observation: shape ``(*batch, obs_dim)``.
        flow: an :class:`~maxentflow.flows.EnergyBasedFlow`.

    Example:
        >>> flow = build("affine", 2, 3, temperature=1.0, heads=0).eval()
        >>> policy = FlowDistribution(torch.zeros(5, 3), flow)
        >>> action, log_prob = policy.rsample_and_log_prob()
        >>> action.shape, torch.allclose(policy.log_prob(action), log_prob, atol=1e-4)
        (torch.Size([5, 2]), True)
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012
    has_rsample = True

    def __init__(self, observation: Tensor, flow: Any) -> None:
        self.observation = observation
        self.flow = flow
        entries = 1 if flow.encoder is None else 3  # of an image
        batch = observation.shape[: observation.ndim - entries]
        super().__init__(batch, torch.Size([flow.action_dim]), False)

    @property
    def mode(self) -> Tensor:
        """The deterministic action, shape ``(*batch, action_dim)``."""
        return self.flow.mode(self.observation)

    deterministic_sample = mode

    def rsample_and_log_prob(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """Actions ``(*sample_shape, *batch, action_dim)`` and their log-densities."""
        return self.flow.sample(self.observation, sample_shape)

    @torch.no_grad()
    def sample_and_log_prob(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """The same without gradients."""
        return self.rsample_and_log_prob(sample_shape)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Actions ``(*sample_shape, *batch, action_dim)``."""
        return self.rsample_and_log_prob(sample_shape)[0]

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-densities of actions, shape ``(*sample_shape, *batch)``."""
        return self.flow.log_prob(value, self.observation)


class ObservationOf(nn.Module):
    """Gives an observation on to a :class:`FlowDistribution`; the flow's parameters are its own.

    A TorchRL actor finds the parameters of its distribution in the network that feeds it.

    Args:
        flow: of the distribution.

    Example:
        >>> network = ObservationOf(build("affine", 2, 3, temperature=1.0, heads=0))
        >>> network(torch.ones(3))
        tensor([1., 1., 1.])
    """

    def __init__(self, flow: nn.Module) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, observation: Tensor) -> Tensor:
        """The observation as it is, shape ``(*batch, obs_dim)``."""
        return observation
