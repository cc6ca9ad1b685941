"""Coupling layers: part of the variable passes through and conditions the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from maxentflow.flows.elementwise import Elementwise, ElementwiseAffine, with_function
from maxentflow.flows.layer import Layer, broadcast_batch, own_context
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
    the flow. The conditioner reads and writes all entries, masked, as the reference's does. In one
    dimension the mask ``"even"`` makes it the identity and ``"odd"`` a shift by a function of the
    context.

    Args:
        dim: size of the variable.
        context_dim: size of the context, or ``None`` for an unconditional layer.
        mask: ``"even"``, ``"odd"``, or ``dim`` entries that are 1 where the variable passes
            through.
        hidden: widths of the conditioner's hidden layers.
        mlp: further options of :class:`~maxentflow.flows.MLP`; by default LayerNorm, dropout 0.1
            and orthogonal weights, as the reference has them.

    Raises:
        ValueError: the mask does not fit ``dim``, an option of the MLP is wrong, or (in both
            directions) the context is missing.

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
        if context_dim is None:  # with one, the reference's initial weights
            mlp = {"fan_in": max(1, int(self.mask.sum())), **mlp}
        options = {"hidden": hidden, **_NETWORK, **mlp}
        self.net = MLP(dim + (context_dim or 0), dim, **options)

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = z + self._translation(z, context)
        return x, x.new_zeros(x.shape[:-1])

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z = x - self._translation(x, context)
        return z, z.new_zeros(z.shape[:-1])

    def _translation(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Zero where entries pass through."""
        return (1 - self.mask) * self.net(self.mask * x, own_context(self, context))


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
        ValueError: the mask does not fit ``dim``, an option of the MLP is wrong, or (in both
            directions) the context is missing.

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

    def keeps_box(self, bound: float) -> bool:
        return self.function.keeps_box(bound)

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
        entries = x.index_select(-1, self.passing)
        x, parameters = broadcast_batch(x, self.net(entries, own_context(self, context)))
        parameters = parameters.unflatten(-1, (-1, self.function.parameters_per_entry))
        image, log_slope = function(x.index_select(-1, self.changing), parameters)
        # Where x is expanded, torch's compiler would write every copy into the same place.
        x = x.contiguous()
        return x.index_copy(-1, self.changing, image), log_slope.sum(-1)


class AffineCoupling(ElementwiseCoupling):
    r"""Affine coupling, RealNVP (Dinh et al. 2017, arXiv:1605.08803), with a bounded log-scale.

    .. math:: x_i = (z_i - t_i)\, e^{\ell_i}, \quad \ell_i = \frac{r_i}{1 + |r_i| / m}, \quad
        (t, r) = f(z_b, s) \qquad \text{where } b_i = 0

    Options, shapes and errors are those of :class:`ElementwiseCoupling` and of
    :class:`~maxentflow.flows.ElementwiseAffine`.

    Example:
        >>> AffineCoupling(2, 3, mask="odd", max_log_scale=0.5).function.max_log_scale
        0.5
    """

    def __init__(self, dim: int, context_dim: int | None = None, **options: Any) -> None:
        super().__init__(dim, context_dim, **with_function(ElementwiseAffine, options))


class SplineCoupling(ElementwiseCoupling):
    """Coupling with monotone rational-quadratic splines, neural spline flows
    (Durkan et al. 2019, arXiv:1906.04032, section 3).

    Options, shapes and errors are those of :class:`ElementwiseCoupling` and of
    :class:`~maxentflow.flows.ElementwiseSpline`.

    Example:
        >>> SplineCoupling(2, 3, mask="odd", bins=4).function.bins
        4
    """

    def __init__(self, dim: int, context_dim: int | None = None, **options: Any) -> None:
        super().__init__(dim, context_dim, **with_function(ElementwiseSpline, options))


class MixtureCDFCoupling(ElementwiseCoupling):
    """Coupling through distribution functions of logistic mixtures, Flow++
    (Ho et al. 2019, arXiv:1902.00275, section 3.2).

    The inverse takes one pass; the forward finds a root, so that learning from given actions is
    fast and acting slow. Options, shapes and errors are those of :class:`ElementwiseCoupling` and
    of :class:`~maxentflow.flows.ElementwiseMixtureCDF`.

    Example:
        >>> MixtureCDFCoupling(2, 3, components=4).forward_cost
        'iterative'
    """

    def __init__(self, dim: int, context_dim: int | None = None, **options: Any) -> None:
        super().__init__(dim, context_dim, **with_function(ElementwiseMixtureCDF, options))
