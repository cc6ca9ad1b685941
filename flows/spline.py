"""Monotone rational-quadratic splines, and the coupling layer made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from maxentflow.flows.coupling import Coupling, Mask
from maxentflow.flows.layer import broadcast_batch

__all__ = ["SplineCoupling", "rational_quadratic_spline"]

_MIN_BIN = 1e-3  # of the whole interval
_MIN_SLOPE = 1e-3
_SLOPE_OF_ONE = math.log(math.expm1(1 - _MIN_SLOPE))  # softplus of it, plus the least, is 1


def rational_quadratic_spline(
    x: Tensor, parameters: Tensor, bound: float, *, inverse: bool = False
) -> tuple[Tensor, Tensor]:
    r"""Entry by entry, a monotone spline on ``[-bound, bound]`` and the identity outside.

    Between knots it is a quotient of quadratics; value and slope are continuous everywhere, with
    slope 1 at the ends (Durkan et al. 2019, arXiv:1906.04032, eq. 4 to 8). At parameters of zero
    it is the identity.

    Args:
        x: any shape.
        parameters: shape ``(*x.shape, 3 * bins - 1)``: bin widths and heights before a softmax,
            then slopes at the inner knots before a softplus.
        bound: half the interval's length, positive.
        inverse: run the inverse function.

    Returns:
        The images and the logarithms of the slopes, in the shape of ``x``.

    Example:
        >>> x = torch.tensor([-7.0, 0.5, 2.0])
        >>> y, log_slope = rational_quadratic_spline(x, torch.randn(3, 11), bound=3.0)
        >>> again, _ = rational_quadratic_spline(y, torch.zeros(3, 11), bound=3.0)
        >>> torch.allclose(again, y), y[0].item()
        (True, -7.0)
    """
    bins = (parameters.shape[-1] + 1) // 3
    raw_widths, raw_heights, raw_slopes = parameters.split([bins, bins, bins - 1], dim=-1)
    left, width = _knots(raw_widths, bound)
    bottom, height = _knots(raw_heights, bound)
    inner = _MIN_SLOPE + F.softplus(raw_slopes + _SLOPE_OF_ONE)
    slope = F.pad(inner, (1, 1), value=1.0)
    inside = (x >= -bound) & (x <= bound)
    clamped = x.clamp(-bound, bound).unsqueeze(-1)
    start = bottom if inverse else left
    index = (clamped >= start[..., 1:]).sum(-1, keepdim=True)  # of the bin

    def take(values: Tensor) -> Tensor:
        return values.gather(-1, index).squeeze(-1)

    x0, w, y0, h, d0 = map(take, (left, width, bottom, height, slope))
    d1 = slope.gather(-1, index + 1).squeeze(-1)
    s = h / w
    bend = d0 + d1 - 2 * s
    if inverse:
        # The root in [0, 1] of a quadratic, in the form that does not cancel; the two limits are
        # passed by rounding only.
        rise = clamped.squeeze(-1) - y0
        a = h * (s - d0) + rise * bend
        b = h * d0 - rise * bend
        discriminant = (b.square() + 4 * a * s * rise).clamp(min=torch.finfo(x.dtype).tiny)
        t = 2 * s * rise / torch.maximum(b + discriminant.sqrt(), 2 * s * rise)
        image = x0 + t * w
    else:
        t = ((clamped.squeeze(-1) - x0) / w).clamp(0, 1)
        image = y0 + h * (s * t.square() + d0 * t * (1 - t)) / (s + bend * t * (1 - t))
    denominator = s + bend * t * (1 - t)
    numerator = d1 * t.square() + 2 * s * t * (1 - t) + d0 * (1 - t).square()
    log_slope = 2 * s.log() + numerator.log() - 2 * denominator.log()
    if inverse:
        log_slope = -log_slope
    return torch.where(inside, image, x), torch.where(inside, log_slope, 0.0)


def _knots(raw: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """Where each bin begins, and how long it is."""
    bins = raw.shape[-1]
    size = 2 * bound * (_MIN_BIN + (1 - _MIN_BIN * bins) * raw.softmax(-1))
    begin = F.pad(size.cumsum(-1)[..., :-1], (1, 0)) - bound
    # The last bin ends at the bound to the last bit, whatever the sum rounds to.
    return begin, torch.cat([size[..., :-1], bound - begin[..., -1:]], dim=-1)


class SplineCoupling(Coupling):
    r"""Coupling with monotone rational-quadratic splines, neural spline flows
    (Durkan et al. 2019, arXiv:1906.04032, section 3).

    Entries that do not pass through are mapped one by one by
    :func:`~maxentflow.flows.spline.rational_quadratic_spline`, whose knots and slopes the
    conditioner gives. Both directions cost one pass. In one dimension the mask ``"even"`` makes it
    the identity and ``"odd"`` a spline that the context chooses.

    Args:
        dim: size of the variable.
        context_dim: size of the context, or ``None`` for an unconditional layer.
        mask: as in :class:`~maxentflow.flows.AdditiveCoupling`.
        hidden: widths of the conditioner's hidden layers.
        bins: bins of each spline, from 1 to 500.
        bound: splines act on ``[-bound, bound]``; outside they are the identity.
        mlp: further options of :class:`~maxentflow.flows.MLP`, with the defaults of
            :class:`~maxentflow.flows.AdditiveCoupling`.

    Raises:
        ValueError: the mask does not fit ``dim``, ``bins`` or ``bound`` is out of range, or an
            option of the MLP is wrong.

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
        **mlp: Any,
    ) -> None:
        if not 1 <= bins < 0.5 / _MIN_BIN + 1:
            raise ValueError(f"bins must be between 1 and 500, got {bins}.")
        if not 0 < bound < float("inf"):
            raise ValueError(f"bound must be positive and finite, got {bound}.")
        self.outputs_per_entry = 3 * bins - 1
        super().__init__(dim, context_dim, mask=mask, hidden=hidden, **mlp)
        self.bins = bins
        self.bound = float(bound)

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._map(z, context, inverse=False)

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._map(x, context, inverse=True)

    def _map(self, x: Tensor, context: Tensor | None, inverse: bool) -> tuple[Tensor, Tensor]:
        parameters = self._condition(self.mask * x, context)
        x, parameters = broadcast_batch(x, parameters)
        parameters = parameters.unflatten(-1, (self.dim, 3 * self.bins - 1))
        image, log_slope = rational_quadratic_spline(x, parameters, self.bound, inverse=inverse)
        passes = self.mask.bool()
        return torch.where(passes, x, image), torch.where(passes, 0.0, log_slope).sum(-1)
