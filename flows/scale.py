"""State-conditioned diagonal scale: the linear layer that carries a flow's log-sigma."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from maxentflow.flows.layer import Layer, own_context
from maxentflow.flows.mlp import context_network

__all__ = ["StateScale"]


class StateScale(Layer):
    r"""A diagonal scale that depends on the context alone.

    .. math::
        x = \sigma(s) \odot z, \qquad
        \log \sigma(s) = \ell + \tfrac{h - \ell}{2} (\tanh(f(s) + c) + 1), \quad
        (\ell, h) = bounds

    with :math:`c` such that a network of zero gives the initial log-sigma. Linear: its
    log-determinant :math:`\sum_i \log \sigma_i(s)` is counted in V. On top of a standard normal
    base it is the reference's state-conditioned Gaussian prior (Chao et al. 2024,
    arXiv:2405.13629, appendix A.4).

    Args:
        dim: size of the variable.
        context_dim: size of the context, or ``None`` for one scale for all.
        bounds: lowest and highest log-sigma.
        initial: log-sigma where the network gives zero; the middle of the bounds by default.
        hidden: widths of the network's hidden layers.
        mlp: further options of :class:`~maxentflow.flows.MLP`. Weights start at zero by default,
            so that the scale starts close to the middle of its bounds.

    Raises:
        ValueError: ``bounds`` are not finite and increasing, or ``initial`` is not between them.

    Example:
        >>> layer = StateScale(2, 3, bounds=(-5.0, -0.3))
        >>> x, log_det = layer(torch.ones(4, 2), torch.zeros(4, 3))
        >>> bool((log_det >= -10.0).all() and (log_det <= -0.6).all())
        True
    """

    is_linear = True

    def __init__(
        self,
        dim: int,
        context_dim: int | None = None,
        *,
        bounds: tuple[float, float] = (-5.0, -0.3),
        initial: float | None = None,
        hidden: Sequence[int] = (64, 64),
        **mlp: Any,
    ) -> None:
        super().__init__()
        low, high = bounds
        if not -float("inf") < low < high < float("inf"):
            raise ValueError(
                f"bounds of log-sigma must be finite and increasing, got ({low}, {high})."
            )
        if initial is not None and not low < initial < high:
            raise ValueError(
                f"The initial log-sigma must be between its bounds {low} and {high}, "
                f"got {initial}."
            )
        self.dim = dim
        self.context_dim = context_dim
        self.bounds = (float(low), float(high))
        self.initial = initial
        middle = 0.0 if initial is None else 2 * (initial - low) / (high - low) - 1
        self._offset = math.atanh(middle)
        self.net = context_network(context_dim, dim, hidden=hidden, **{"init": "zero", **mlp})

    def log_sigma(self, context: Tensor | None = None) -> Tensor:
        """The bounded log-scale, shape ``(*batch, dim)``, or ``(dim,)`` without a context."""
        low, high = self.bounds
        raw = self.net(own_context(self, context))
        if self._offset:
            raw = raw + self._offset
        return low + 0.5 * (high - low) * (torch.tanh(raw) + 1)

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_sigma = self.log_sigma(context)
        x = z * log_sigma.exp()
        return x, log_sigma.sum(-1).expand(x.shape[:-1])

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_slope = -self.log_sigma(context)
        z = x * log_slope.exp()
        return z, log_slope.sum(-1).expand(z.shape[:-1])
