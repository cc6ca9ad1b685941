"""State-conditioned linear map with a full matrix."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from maxentflow.flows.bounded import bounded, check_bound, within_unit_ball
from maxentflow.flows.layer import Layer, own_context
from maxentflow.flows.mlp import context_network

__all__ = ["StateLinear"]


class StateLinear(Layer):
    r"""A full linear map that depends on the context alone, as a product of triangles.

    .. math::
        z = (I + A(s))\, D(s)\, (I + B(s))\, x, \qquad
        A = \frac{f_<(s)}{\sqrt{1 + \|f_<(s)\|^2}}, \quad
        B = \frac{f_>(s)}{\sqrt{1 + \|f_>(s)\|^2}}, \quad
        \log D_{ii} = \frac{f_{ii}(s)}{1 + |f_{ii}(s)| / m}

    where :math:`f_<` and :math:`f_>` are the network's matrix below and above its diagonal, with
    their Frobenius norms. Linear: its log-determinant :math:`\sum_i \log D_{ii}(s)` is counted in
    V (Chao et al. 2024, arXiv:2405.13629, section 3.2; LU form as in Kingma and Dhariwal 2018,
    arXiv:1807.03039, eq. 10). Unlike a scale it can make the entries of an action depend on each
    other. Both directions cost a network pass; variable to latent, as in learning from given
    actions, takes two products, and latent to variable solves two triangular systems.

    The condition number is at most :math:`50\, e^{2m}` in any dimension, whatever the network
    gives: a round trip is off by at most so many units of rounding of the largest entry, and a
    shear is never above 1. Larger condition numbers take a larger :math:`m` or several maps.

    Args:
        dim: size of the variable.
        context_dim: size of the context, or ``None`` for one map for all.
        hidden: widths of the network's hidden layers.
        max_log_scale: the bound :math:`m` on the logarithms of the diagonal D, positive.
        mlp: further options of :class:`~maxentflow.flows.MLP`. Weights start at zero by default,
            so that the map starts close to the identity and the same for every context.

    Raises:
        ValueError: ``max_log_scale`` is not positive and finite, or an option of the MLP is wrong.

    Example:
        >>> layer = StateLinear(2, 3)
        >>> z, context = torch.randn(5, 2), torch.randn(5, 3)
        >>> x, log_det = layer(z, context)
        >>> torch.allclose(layer.inverse(x, context)[0], z, atol=1e-5), log_det.shape
        (True, torch.Size([5]))
    """

    is_linear = True

    def __init__(
        self,
        dim: int,
        context_dim: int | None = None,
        *,
        hidden: Sequence[int] = (64, 64),
        max_log_scale: float = 2.0,
        **mlp: Any,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.context_dim = context_dim
        self.max_log_scale = check_bound("max_log_scale", max_log_scale)
        self.net = context_network(
            context_dim, dim * dim, hidden=hidden, **{"init": "zero", **mlp}
        )

    def _factors(self, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """A, B and the logarithms of D's diagonal."""
        assert self.dim is not None
        raw = self.net(own_context(self, context)).unflatten(-1, (self.dim, self.dim))
        log_diagonal = bounded(raw.diagonal(dim1=-2, dim2=-1), self.max_log_scale)
        return within_unit_ball(raw.tril(-1)), within_unit_ball(raw.triu(1)), log_diagonal

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        lower, upper, log_diagonal = self._factors(context)
        solve = partial(torch.linalg.solve_triangular, unitriangular=True)
        x = solve(lower, z.unsqueeze(-1), upper=False)
        x = x * (-log_diagonal).exp().unsqueeze(-1)
        x = solve(upper, x, upper=True).squeeze(-1)
        return x, -log_diagonal.sum(-1).expand(x.shape[:-1])

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        lower, upper, log_diagonal = self._factors(context)
        z = (x + _product(upper, x)) * log_diagonal.exp()
        z = z + _product(lower, z)
        return z, log_diagonal.sum(-1).expand(z.shape[:-1])


def _product(matrix: Tensor, x: Tensor) -> Tensor:
    """Of one matrix for all rows, or of one for each."""
    return x @ matrix.mT if matrix.ndim == 2 else (matrix @ x.unsqueeze(-1)).squeeze(-1)
