"""Coupling layers: part of the variable passes through and conditions the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from maxentflow.flows.elementwise import Elementwise, ElementwiseAffine
from maxentflow.flows.layer import Layer, broadcast_batch, required_context
from maxentflow.flows.mixture_cdf import ElementwiseMixtureCDF
from maxentflow.flows.mlp import MLP, Constant, context_network
from maxentflow.flows.spline import ElementwiseSpline

__all__ = [
    "AdditiveCoupling",
    "AffineCoupling",
    "ElementwiseCoupling",
    "Mask",
    "MixtureCDFCoupling",
    "SplineCoupling",
    "alternating_mask",
]

Mask = Literal["even", "odd"] | Sequence[int] | Sequence[bool] | Tensor
"""Which entries pass through: the even or odd ones, or a 0/1 entry for each."""


def alternating_mask(dim: int, mask: Mask) -> Tensor:
    """The 0/1 mask, shape ``(dim,)``: 1 where an entry passes through unchanged.

    Raises:
        ValueError: not "even", "odd" or ``dim`` zeros and ones, or all ones where something could
            change.

    Example:
        >>> alternating_mask(3, "even")
        tensor([1., 0., 1.])
    """
    if isinstance(mask, str):
        if mask not in ("even", "odd"):
            raise ValueError(f"mask must be 'even', 'odd' or {dim} zeros and ones, got {mask!r}.")
        offset = 0 if mask == "even" else 1
        return torch.tensor([float(i % 2 == offset) for i in range(dim)])
    entries = torch.as_tensor(mask, dtype=torch.get_default_dtype())
    if entries.shape != (dim,) or not bool(((entries == 0) | (entries == 1)).all()):
        raise ValueError(
            f"mask must be 'even', 'odd' or {dim} zeros and ones, got {entries.tolist()}."
        )
    if dim > 1 and bool(entries.all()):
        raise ValueError("mask passes every entry through; leave at least one to change.")
    return entries


_NETWORK = {"layer_norm": True, "dropout": 0.1, "init": "orthogonal"}
"""Options of the MLP that are the reference's."""


class AdditiveCoupling(Layer):
    r"""Additive coupling, NICE (Dinh et al. 2014, arXiv:1410.8516).

    .. math:: x = z + (1 - b) \odot t(b \odot z, s)

    Volume preserving: its log-determinant is zero, so that the mode of the base stays the mode of
    the flow. In one dimension the mask ``"even"`` makes it the identity and ``"odd"`` a shift by
    a function of the context.

    Args:
        dim: size of the variable.
        context_dim: size of the context, or ``None`` for an unconditional layer.
        mask: ``"even"``, ``"odd"``, or ``dim`` entries that are 1 where the variable passes
            through.
        hidden: widths of the conditioner's hidden layers.
        mlp: further options of :class:`~maxentflow.flows.MLP`; by default LayerNorm, dropout 0.1
            and orthogonal weights, as the reference has them.

    Raises:
        ValueError: the mask does not fit ``dim``, or an option of the MLP is wrong.

    Example:
        >>> layer = AdditiveCoupling(2, 3).eval()
        >>> z, context = torch.randn(5, 2), torch.randn(5, 3)
        >>> x, log_det = layer(z, context)
        >>> torch.allclose(layer.inverse(x, context)[0], z, atol=1e-6), log_det.sum().item()
        (True, 0.0)
    """

    is_linear = True
    is_volume_preserving = True
    mask: Tensor
    passing: Tensor
    changing: Tensor
    net: MLP | Constant

    def __init__(
        self,
        dim: int,
        context_dim: int | None = None,
        *,
        mask: Mask = "even",
        hidden: Sequence[int] = (64, 64),
        **mlp: Any,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.context_dim = context_dim
        self.register_buffer("mask", alternating_mask(dim, mask))
        self.register_buffer("passing", self.mask.nonzero().flatten(), persistent=False)
        self.register_buffer("changing", (1 - self.mask).nonzero().flatten(), persistent=False)
        options = {"hidden": hidden, **_NETWORK, **mlp}
        if context_dim is not None:
            # Masked, not picked out, as the reference has it: the same weights, the same numbers.
            self.net = MLP(dim + context_dim, dim, **options)
        elif len(self.changing):
            self.net = context_network(len(self.passing) or None, len(self.changing), **options)

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = z + self._translation(z, context)
        return x, x.new_zeros(x.shape[:-1])

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z = x - self._translation(x, context)
        return z, z.new_zeros(z.shape[:-1])

    def _translation(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Zero where entries pass through."""
        if self.context_dim is not None:
            return (1 - self.mask) * self.net(self.mask * x, required_context(self, context))
        translation = torch.zeros_like(x)
        if not len(self.changing):
            return translation
        output = self.net(x.index_select(-1, self.passing))
        return translation.index_copy(-1, self.changing, output.expand(*x.shape[:-1], -1))


class ElementwiseCoupling(Layer):
    r"""Coupling through monotone functions of one variable.

    .. math:: x_i = f(z_i;\, \theta_i(z_b, s)) \quad \text{where } b_i = 0

    with :math:`z_b` the entries that pass through. Both directions take one pass of the network.
    In one dimension the mask ``"even"`` makes it the identity, without a network, and ``"odd"`` a
    function that the context chooses.

    Args:
        dim: size of the variable.
        context_dim: size of the context, or ``None`` for an unconditional layer.
        function: the monotone functions, such as :class:`~maxentflow.flows.ElementwiseAffine`.
        mask: as in :class:`AdditiveCoupling`.
        hidden: widths of the conditioner's hidden layers.
        mlp: further options of :class:`~maxentflow.flows.MLP`, with the defaults of
            :class:`AdditiveCoupling`.

    Raises:
        ValueError: the mask does not fit ``dim``, or an option of the MLP is wrong.

    Example:
        >>> layer = ElementwiseCoupling(3, 2, function=ElementwiseAffine(), mask=[1, 0, 0])
        >>> layer.net[-1].out_features  # two entries change, by a scale and a translation
        4
    """

    passing: Tensor
    changing: Tensor
    net: MLP | Constant

    def __init__(
        self,
        dim: int,
        context_dim: int | None = None,
        *,
        function: Elementwise,
        mask: Mask = "even",
        hidden: Sequence[int] = (64, 64),
        **mlp: Any,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.context_dim = context_dim
        self.function = function
        self.forward_cost = function.forward_cost
        passes = alternating_mask(dim, mask).bool()
        self.register_buffer("passing", passes.nonzero().flatten(), persistent=False)
        self.register_buffer("changing", (~passes).nonzero().flatten(), persistent=False)
        inputs = len(self.passing) + (context_dim or 0)
        outputs = len(self.changing) * function.parameters_per_entry
        if outputs:
            options = {"hidden": hidden, **_NETWORK, **mlp}
            self.net = context_network(inputs or None, outputs, **options)

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._map(self.function.forward, z, context)

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._map(self.function.inverse, x, context)

    def _map(
        self,
        function: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
        x: Tensor,
        context: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        if not len(self.changing):
            return x, x.new_zeros(x.shape[:-1])
        context = None if self.context_dim is None else required_context(self, context)
        entries = x.index_select(-1, self.passing)
        x, parameters = broadcast_batch(x, self.net(entries, context))
        parameters = parameters.unflatten(-1, (-1, self.function.parameters_per_entry))
        image, log_slope = function(x.index_select(-1, self.changing), parameters)
        # Where x is expanded, torch's compiler would write every copy into the same place.
        x = x.contiguous()
        return x.index_copy(-1, self.changing, image), log_slope.sum(-1)


class AffineCoupling(ElementwiseCoupling):
    r"""Affine coupling, RealNVP (Dinh et al. 2017, arXiv:1605.08803), with a bounded log-scale.

    .. math:: x_i = (z_i - t_i)\, e^{\ell_i}, \quad \ell_i = \frac{r_i}{1 + |r_i| / m}, \quad
        (t, r) = f(z_b, s) \qquad \text{where } b_i = 0

    Both directions take one pass. See :class:`ElementwiseCoupling`.

    Args:
        dim: size of the variable.
        context_dim: size of the context, or ``None`` for an unconditional layer.
        mask: as in :class:`AdditiveCoupling`.
        hidden: widths of the conditioner's hidden layers.
        max_log_scale: the bound :math:`m` on :math:`|\ell_i|`, positive.
        mlp: further options of :class:`~maxentflow.flows.MLP`, with the defaults of
            :class:`AdditiveCoupling`.

    Raises:
        ValueError: the mask does not fit ``dim``, ``max_log_scale`` is not positive, or an option
            of the MLP is wrong.

    Example:
        >>> layer = AffineCoupling(2, 3).eval()
        >>> z, context = torch.randn(5, 2), torch.randn(5, 3)
        >>> x, log_det = layer(z, context)
        >>> z_again, log_det_back = layer.inverse(x, context)
        >>> torch.allclose(z_again, z, atol=1e-5), torch.allclose(log_det, -log_det_back)
        (True, True)
    """

    def __init__(
        self,
        dim: int,
        context_dim: int | None = None,
        *,
        mask: Mask = "even",
        hidden: Sequence[int] = (64, 64),
        max_log_scale: float = 2.0,
        **mlp: Any,
    ) -> None:
        function = ElementwiseAffine(max_log_scale)
        super().__init__(dim, context_dim, function=function, mask=mask, hidden=hidden, **mlp)


class SplineCoupling(ElementwiseCoupling):
    r"""Coupling with monotone rational-quadratic splines, neural spline flows
    (Durkan et al. 2019, arXiv:1906.04032, section 3).

    Both directions take one pass. See :class:`ElementwiseCoupling`.

    Args:
        dim: size of the variable.
        context_dim: size of the context, or ``None`` for an unconditional layer.
        mask: as in :class:`AdditiveCoupling`.
        hidden: widths of the conditioner's hidden layers.
        bins: bins of each spline, at least 1.
        bound: splines act on ``[-bound, bound]``; outside they are the identity.
        min_bin: least size of a bin, see :class:`~maxentflow.flows.ElementwiseSpline`.
        min_slope: least slope at a knot.
        mlp: further options of :class:`~maxentflow.flows.MLP`, with the defaults of
            :class:`AdditiveCoupling`.

    Raises:
        ValueError: the mask does not fit ``dim``, an option of the splines is out of range, or one
            of the MLP is wrong.

    Example:
        >>> layer = SplineCoupling(2, 3).eval()
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
        mask: Mask = "even",
        hidden: Sequence[int] = (64, 64),
        bins: int = 8,
        bound: float = 5.0,
        min_bin: float = 0.01,
        min_slope: float = 1e-3,
        **mlp: Any,
    ) -> None:
        function = ElementwiseSpline(bins, bound, min_bin=min_bin, min_slope=min_slope)
        super().__init__(dim, context_dim, function=function, mask=mask, hidden=hidden, **mlp)


class MixtureCDFCoupling(ElementwiseCoupling):
    """Coupling through distribution functions of logistic mixtures, Flow++
    (Ho et al. 2019, arXiv:1902.00275, section 3.2).

    The inverse takes one pass; the forward finds a root, see
    :class:`~maxentflow.flows.ElementwiseMixtureCDF`. So learning from given actions is fast and
    acting slow.

    Args:
        dim: size of the variable.
        context_dim: size of the context, or ``None`` for an unconditional layer.
        mask: as in :class:`AdditiveCoupling`.
        hidden: widths of the conditioner's hidden layers.
        components: logistics in each mixture, at least 1.
        max_log_scale: the bound on log-scales, positive.
        spread: half the width over which their means start, at least 0.
        mlp: further options of :class:`~maxentflow.flows.MLP`, with the defaults of
            :class:`AdditiveCoupling`.

    Raises:
        ValueError: the mask does not fit ``dim``, ``components``, ``max_log_scale`` or ``spread``
            is out of range, or an option of the MLP is wrong.

    Example:
        >>> layer = MixtureCDFCoupling(2, 3).eval()
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
        mask: Mask = "even",
        hidden: Sequence[int] = (64, 64),
        components: int = 8,
        max_log_scale: float = 2.0,
        spread: float = 2.0,
        **mlp: Any,
    ) -> None:
        function = ElementwiseMixtureCDF(components, max_log_scale, spread)
        super().__init__(dim, context_dim, function=function, mask=mask, hidden=hidden, **mlp)
