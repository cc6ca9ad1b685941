"""Autoregressive layers: each entry is transformed given the ones before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from maxentflow.flows.elementwise import Elementwise, ElementwiseAffine, with_function
from maxentflow.flows.layer import Layer, broadcast_batch, own_context, passes
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

    Weights have no bound: an entry is as sensitive to those before it as the network is, and the
    direction of n passes multiplies these sensitivities. Networks that are very steep lose digits
    there, however many entries later.

    Args:
        dim: size of the variable.
        context_dim: size of the context, or ``None`` for an unconditional layer.
        function: the monotone functions, such as
            :class:`~maxentflow.flows.ElementwiseAffine`.
        order: ``"ascending"``, ``"descending"``, or a permutation of the entries.
        hidden: widths of the network's hidden layers.
        mlp: further options of :class:`~maxentflow.flows.masked_mlp.MaskedMLP`.

    Raises:
        ValueError: ``dim`` is below 1, ``order`` is no permutation, or an option of the network is
            wrong, or (in both directions) the context is missing.

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

    def keeps_box(self, bound: float) -> bool:
        return self.function.keeps_box(bound)

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
        context = own_context(self, context)
        return (x, None) if context is None else broadcast_batch(x, context)


class AutoregressiveAffine(Autoregressive):
    r"""Affine autoregressive layer, MAF (Papamakarios et al. 2017, arXiv:1705.07057), with a
    bounded log-scale.

    .. math:: z_i = x_i\, e^{-\ell_i(x_{<i}, s)} + t_i(x_{<i}, s)

    ``Inverse(layer)`` is IAF (Kingma et al. 2016, arXiv:1606.04934). Options, shapes and errors
    are those of :class:`Autoregressive` and of :class:`~maxentflow.flows.ElementwiseAffine`.

    Example:
        >>> layer = AutoregressiveAffine(3, 2, max_log_scale=0.5)
        >>> layer.forward_cost, layer.inverse_cost, Inverse(layer).forward_cost
        ('3 passes', '1 pass', '1 pass')
    """

    def __init__(self, dim: int, context_dim: int | None = None, **options: Any) -> None:
        super().__init__(dim, context_dim, **with_function(ElementwiseAffine, options))


class AutoregressiveSpline(Autoregressive):
    """Autoregressive layer of monotone rational-quadratic splines
    (Durkan et al. 2019, arXiv:1906.04032, section 3.2).

    Options, shapes and errors are those of :class:`Autoregressive` and of
    :class:`~maxentflow.flows.ElementwiseSpline`.

    Example:
        >>> AutoregressiveSpline(2, 3, order="descending", bins=4).function.bins
        4
    """

    def __init__(self, dim: int, context_dim: int | None = None, **options: Any) -> None:
        super().__init__(dim, context_dim, **with_function(ElementwiseSpline, options))
