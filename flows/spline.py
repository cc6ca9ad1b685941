"""Monotone rational-quadratic splines."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from maxentflow.flows.bounded import check_bound
from maxentflow.flows.elementwise import Elementwise, first

__all__ = ["ElementwiseSpline", "rational_quadratic_spline"]


def rational_quadratic_spline(
    x: Tensor,
    parameters: Tensor,
    bound: float,
    *,
    inverse: bool = False,
    min_bin: float = 0.01,
    min_slope: float = 1e-3,
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
        min_bin: least width and height of a bin, of those that equal bins would have.
        min_slope: least slope at a knot.

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
    raw_sizes, raw_slopes = first(parameters).split([2 * bins, bins - 1])
    # In units of the interval: widths and heights together, from 0 to 1.
    sizes = min_bin / bins + (1 - min_bin) * raw_sizes.unflatten(0, (2, bins)).softmax(1)
    knots = torch.cat([torch.zeros_like(sizes[:, :1]), sizes.cumsum(1)], dim=1)
    position = ((x + bound) / (2 * bound)).clamp(0, 1)
    index = (position >= knots[1 if inverse else 0, 1:-1]).sum(0)  # of the bin
    ends = torch.stack([index, index + 1])
    (x0, x1), (y0, y1) = knots.gather(1, ends.expand(2, *ends.shape))
    # The interval's ends have slope 1.
    at_ends = torch.zeros_like(knots[0, :1])
    slopes = torch.cat([at_ends, raw_slopes, at_ends]).gather(0, ends)
    raw_of_one = math.log(math.expm1(1 - min_slope))
    d0, d1 = min_slope + F.softplus(slopes + raw_of_one)
    w, h = x1 - x0, y1 - y0
    s = h / w
    bend = d0 + d1 - 2 * s
    if inverse:
        # The root in [0, 1] of a quadratic, in the form that does not cancel; the two limits are
        # passed by rounding only.
        rise = position - y0
        a = h * (s - d0) + rise * bend
        b = h * d0 - rise * bend
        discriminant = (b.square() + 4 * a * s * rise).clamp(min=torch.finfo(x.dtype).tiny)
        t = 2 * s * rise / torch.maximum(b + discriminant.sqrt(), 2 * s * rise)
    else:
        t = ((position - x0) / w).clamp(0, 1)
    between = t * (1 - t)
    denominator = s + bend * between
    image = x0 + t * w if inverse else y0 + h * (s * t.square() + d0 * between) / denominator
    numerator = d1 * t.square() + 2 * s * between + d0 * (1 - t).square()
    log_slope = (s.square() * numerator / denominator.square()).log()
    inside = (x >= -bound) & (x <= bound)
    image = torch.where(inside, 2 * bound * image.clamp(0, 1) - bound, x)
    return image, torch.where(inside, -log_slope if inverse else log_slope, 0.0)


class ElementwiseSpline(Elementwise):
    """Monotone rational-quadratic splines, see :func:`rational_quadratic_spline`.

    The spline maps the variable to the latent, so that learning from given actions takes the
    direction that needs no root. Slopes at the knots have no upper bound. Where they are large,
    both directions stay finite, but a round trip loses digits: slopes of 1,000 leave about one
    digit of single precision.

    Args:
        bins: bins of each spline, at least 1.
        bound: splines act on ``[-bound, bound]``; outside they are the identity.
        min_bin: least width and height of a bin, of those that equal bins would have, in (0, 1).
            With ``min_slope`` it limits how steep and how level a spline can be.
        min_slope: least slope at a knot, in (0, 1).

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> function = ElementwiseSpline(bins=4, bound=1.0)
        >>> z = torch.tensor([0.5, 3.0])
        >>> x, _ = function.forward(z, torch.randn(2, function.parameters_per_entry))
        >>> bool(0 < x[0] + 1 < 2), x[1].item()
        (True, 3.0)
    """

    def __init__(
        self,
        bins: int = 8,
        bound: float = 5.0,
        *,
        min_bin: float = 0.01,
        min_slope: float = 1e-3,
    ) -> None:
        if bins < 1:
            raise ValueError(f"bins must be at least 1, got {bins}.")
        if not (0 < min_bin < 1 and 0 < min_slope < 1):
            raise ValueError(
                "min_bin and min_slope must be between 0 and 1, got "
                f"min_bin={min_bin}, min_slope={min_slope}."
            )
        self.bins = bins
        self.limits: dict[str, Any] = {"min_bin": min_bin, "min_slope": min_slope}
        self.bound = check_bound("bound", bound)
        self.parameters_per_entry = 3 * bins - 1

    def keeps_box(self, bound: float) -> bool:
        return self.bound <= bound

    def forward(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return rational_quadratic_spline(z, parameters, self.bound, inverse=True, **self.limits)

    def inverse(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return rational_quadratic_spline(x, parameters, self.bound, **self.limits)
