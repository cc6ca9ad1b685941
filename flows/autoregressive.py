"""Autoregressive layers: each entry is transformed given the ones before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from maxentflow.flows.elementwise import Elementwise, ElementwiseAffine
from maxentflow.flows.layer import Layer, broadcast_batch, passes, required_context
from maxentflow.flows.masked_mlp import MaskedMLP
from maxentflow.flows.spline import ElementwiseSpline

__all__ = ["Autoregressive", "AutoregressiveAffine", "AutoregressiveSpline", "Order"]

Order = Literal["ascending", "descending"] | Sequence[int]
"""Which entry comes first, second and so on."""


def _ranks(dim: int, order: Order) -> list[int]:
    """The place of each entry in the order, from 1."""
    if dim < 1:
        raise ValueError(f"An autoregressive layer needs dim >= 1, got {dim}.")
    if order == "ascending":
        order = range(dim)
    elif order == "descending":
        order = range(dim)[::-1]
    if isinstance(order, str) or sorted(order) != list(range(dim)):
        raise ValueError(
            f"order must be 'ascending', 'descending' or a permutation of 0 to {dim - 1}, "
            f"got {order!r}."
        )
    return [list(order).index(entry) + 1 for entry in range(dim)]


class Autoregressive(Layer):
    r"""Entries through monotone functions whose parameters depend on the entries before them.

    .. math:: z_i = f^{-1}(x_i;\, \theta_i(x_{<i}, s))

    (Kingma et al. 2016, arXiv:1606.04934; Papamakarios et al. 2017, arXiv:1705.07057). As it
    stands the layer has the orientation of a masked autoregressive flow: the inverse, from action
    to latent, takes one pass of the network, the forward takes one for each entry. So learning
    from given actions is fast and acting slow. ``Inverse(layer)`` is the orientation of an inverse
    autoregressive flow: acting takes one pass, learning one for each entry.

    Args:
        dim: size of the variable.
        context_dim: size of the context, or ``None`` for an unconditional layer.
        function: the monotone functions, such as
            :class:`~maxentflow.flows.ElementwiseAffine`.
        order: ``"ascending"``, ``"descending"``, or the entries in an order of one's own.
        hidden: widths of the network's hidden layers.
        mlp: further options of :class:`~maxentflow.flows.masked_mlp.MaskedMLP`.

    Raises:
        ValueError: ``dim`` is below 1, ``order`` is no permutation, or an option of the network is
            wrong.

    Example:
        >>> layer = Autoregressive(2, 3, function=ElementwiseSpline(bins=4)).eval()
        >>> z, context = torch.randn(5, 2), torch.randn(5, 3)
        >>> x, log_det = layer(z, context)
        >>> torch.allclose(layer.inverse(x, context)[0], z, atol=1e-4)
        True
    """

    def __init__(
        self,
        dim: int,
        context_dim: int | None = None,
        *,
        function: Elementwise,
        order: Order = "ascending",
        hidden: Sequence[int] = (64, 64),
        **mlp: Any,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.context_dim = context_dim
        self.function = function
        iterative = function.forward_cost == "iterative"
        self.forward_cost = "iterative" if iterative else passes(dim)
        self.net = MaskedMLP(
            _ranks(dim, order),
            context_dim,
            function.parameters_per_entry,
            hidden=hidden,
            **{"dropout": 0.1, "init": "orthogonal", **mlp},
        )

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        assert self.dim is not None
        z, context = self._broadcast(z, context)
        x, log_slope = torch.zeros_like(z), torch.zeros_like(z)
        for _ in range(self.dim):  # each pass sets one more entry right, whatever the others are
            x, log_slope = self.function.forward(z, self.net(x, context))
        return x, log_slope.sum(-1)

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x, context = self._broadcast(x, context)
        z, log_slope = self.function.inverse(x, self.net(x, context))
        return z, log_slope.sum(-1)

    def _broadcast(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if self.context_dim is None:
            return x, None
        return broadcast_batch(x, required_context(self, context))


class AutoregressiveAffine(Autoregressive):
    r"""Affine autoregressive layer, MAF (Papamakarios et al. 2017, arXiv:1705.07057), with a
    bounded log-scale.

    .. math:: z_i = x_i\, e^{-\ell_i(x_{<i}, s)} + t_i(x_{<i}, s)

    The inverse takes one pass, the forward ``dim``; ``Inverse(layer)`` turns that round, IAF
    (Kingma et al. 2016, arXiv:1606.04934). See :class:`Autoregressive`.

    Args:
        dim: size of the variable.
        context_dim: size of the context, or ``None`` for an unconditional layer.
        order: as in :class:`Autoregressive`.
        hidden: widths of the network's hidden layers.
        max_log_scale: the bound on :math:`|\ell|`, positive.
        mlp: further options of :class:`~maxentflow.flows.masked_mlp.MaskedMLP`.

    Raises:
        ValueError: as in :class:`Autoregressive`, or ``max_log_scale`` is not positive and finite.

    Example:
        >>> layer = AutoregressiveAffine(3, 2)
        >>> layer.forward_cost, layer.inverse_cost, Inverse(layer).forward_cost
        ('3 passes', '1 pass', '1 pass')
    """

    def __init__(
        self,
        dim: int,
        context_dim: int | None = None,
        *,
        order: Order = "ascending",
        hidden: Sequence[int] = (64, 64),
        max_log_scale: float = 2.0,
        **mlp: Any,
    ) -> None:
        function = ElementwiseAffine(max_log_scale)
        super().__init__(dim, context_dim, function=function, order=order, hidden=hidden, **mlp)


class AutoregressiveSpline(Autoregressive):
    """Autoregressive layer of monotone rational-quadratic splines
    (Durkan et al. 2019, arXiv:1906.04032, section 3.2).

    The inverse takes one pass, the forward ``dim``. See :class:`Autoregressive`.

    Args:
        dim: size of the variable.
        context_dim: size of the context, or ``None`` for an unconditional layer.
        order: as in :class:`Autoregressive`.
        hidden: widths of the network's hidden layers.
        bins: bins of each spline, at least 1.
        bound: splines act on ``[-bound, bound]``; outside they are the identity.
        min_bin: least size of a bin, see :class:`~maxentflow.flows.ElementwiseSpline`.
        min_slope: least slope at a knot.
        mlp: further options of :class:`~maxentflow.flows.masked_mlp.MaskedMLP`.

    Raises:
        ValueError: as in :class:`Autoregressive`, or an option of the splines is out of range.

    Example:
        >>> layer = AutoregressiveSpline(2, 3).eval()
        >>> z, context = torch.randn(5, 2), torch.randn(5, 3)
        >>> x, log_det = layer(z, context)
        >>> torch.allclose(layer.inverse(x, context)[0], z, atol=1e-4)
        True
    """

    def __init__(
        self,
        dim: int,
        context_dim: int | None = None,
        *,
        order: Order = "ascending",
        hidden: Sequence[int] = (64, 64),
        bins: int = 8,
        bound: float = 5.0,
        min_bin: float = 0.01,
        min_slope: float = 1e-3,
        **mlp: Any,
    ) -> None:
        function = ElementwiseSpline(bins, bound, min_bin=min_bin, min_slope=min_slope)
        super().__init__(dim, context_dim, function=function, order=order, hidden=hidden, **mlp)
