"""Base distributions of the latents: the contract and the standard normal."""

from __future__ import annotations

import math

import torch
from normflows.distributions import BaseDistribution
from torch import Tensor

__all__ = ["Base", "StandardNormal"]


class Base(BaseDistribution):
    r"""A latent density, split into the part that depends on the latent and the rest.

    .. math:: \log p(z \mid s) = u(z, s) - c(s)

    An energy-based flow counts :math:`u` (:meth:`unnormalized_log_prob`) in Q and :math:`c`
    (:meth:`log_normalizer`) in V. Latents have shape ``(*batch, dim)``. The call
    ``base(num_samples, context)`` is normflows' own, so that a base serves as the ``q0`` of a
    :class:`normflows.ConditionalNormalizingFlow`.

    Attributes:
        dim: size of the latent.
        context_dim: size of the context, or ``None`` if the base does not read one.
        bound: half the side of the box outside which the density is zero, or ``None`` if it is
            positive everywhere. The layers of a flow must map that box onto itself.
    """

    dim: int
    context_dim: int | None = None
    bound: float | None = None

    def unnormalized_log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """The part of the log-density that depends on ``z``, shape ``(*batch,)``."""
        raise NotImplementedError

    def log_normalizer(self, context: Tensor | None = None) -> Tensor | float:
        """The normaliser :math:`c`; broadcastable to ``(*batch,)``, or a number."""
        raise NotImplementedError

    def rsample(self, shape: tuple[int, ...], context: Tensor | None = None) -> Tensor:
        """Reparameterised latents of shape ``(*shape, dim)``."""
        raise NotImplementedError

    def mode(self, context: Tensor | None = None) -> Tensor:
        """The most likely latent, broadcastable to ``(*batch, dim)``."""
        raise NotImplementedError

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Log-density of ``z``, shape ``(*batch,)``."""
        return self.unnormalized_log_prob(z, context) - self.log_normalizer(context)

    def forward(
        self, num_samples: int = 1, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """``num_samples`` latents, one per row of the context, and their log-densities."""
        z = self.rsample((num_samples,), context)
        return z, self.log_prob(z, context)


class StandardNormal(Base):
    r"""The standard normal :math:`\mathcal N(0, I)`, with
    :math:`u = -\tfrac12 |z|^2` and :math:`c = \tfrac d2 \log 2\pi`.

    Args:
        dim: size of the latent, at least 1.

    Raises:
        ValueError: ``dim`` is below 1.

    Example:
        >>> base = StandardNormal(2)
        >>> base.log_prob(torch.zeros(3, 2))
        tensor([-1.8379, -1.8379, -1.8379])
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"StandardNormal needs dim >= 1, got {dim}.")
        self.dim = dim
        self._log_normalizer = 0.5 * dim * math.log(2 * math.pi)
        # Follows the module's dtype and device; not a parameter of the density.
        self.register_buffer("_mode", torch.zeros(dim), persistent=False)

    def unnormalized_log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return -0.5 * z.square().sum(-1)

    def log_normalizer(self, context: Tensor | None = None) -> float:
        return self._log_normalizer

    def rsample(self, shape: tuple[int, ...], context: Tensor | None = None) -> Tensor:
        return torch.randn((*shape, self.dim), dtype=self._mode.dtype, device=self._mode.device)

    def mode(self, context: Tensor | None = None) -> Tensor:
        return self._mode
