"""State-conditioned linear map with a full matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from maxentflow.flows.bounded import bounded, check_bound
from maxentflow.flows.layer import Layer, own_context
from maxentflow.flows.mlp import context_network

__all__ = ["StateLinear"]


class StateLinear(Layer):
    r"""A full linear map that depends on the context alone, as a product of triangles.

    .. math::
        z = L(s)\, U(s)\, x, \qquad \log U_{ii} = \frac{f_{ii}(s)}{1 + |f_{ii}(s)| / m}

    with ones on the diagonal of L. Linear: its log-determinant :math:`\sum_i \log U_{ii}(s)` is
    counted in V (Chao et al. 2024, arXiv:2405.13629, section 3.2; LU form as in Kingma and
    Dhariwal 2018, arXiv:1807.03039, eq. 10). Unlike a scale it can make the entries of an action
    depend on each other. Both directions cost a network pass; variable to latent, as in learning
    from given actions, takes a product, and latent to variable solves two triangular systems.

    Args:
        dim: size of the variable.
        context_dim: size of the context, or ``None`` for one map for all.
        hidden: widths of the network's hidden layers.
        max_log_scale: the bound :math:`m` on the logarithms of U's diagonal, positive.
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
        """L without its ones, U with its diagonal, and that diagonal's logarithms."""
        assert self.dim is not None
        raw = self.net(own_context(self, context)).unflatten(-1, (self.dim, self.dim))
        log_diagonal = bounded(raw.diagonal(dim1=-2, dim2=-1), self.max_log_scale)
        return raw.tril(-1), raw.triu(1) + log_diagonal.exp().diag_embed(), log_diagonal

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        lower, upper, log_diagonal = self._factors(context)
        solve = torch.linalg.solve_triangular
        x = solve(lower, z.unsqueeze(-1), upper=False, unitriangular=True)
        x = solve(upper, x, upper=True).squeeze(-1)
        return x, -log_diagonal.sum(-1).expand(x.shape[:-1])

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        lower, upper, log_diagonal = self._factors(context)
        matrix = upper + lower @ upper
        one_for_all = matrix.ndim == 2
        z = x @ matrix.mT if one_for_all else (matrix @ x.unsqueeze(-1)).squeeze(-1)
        return z, log_diagonal.sum(-1).expand(z.shape[:-1])
