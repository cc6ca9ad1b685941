"""Squashes: last layers that map the real line into the bounds of the actions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from maxentflow.flows.layer import Layer

__all__ = ["SimplexSquash", "TanhSquash"]

# Single precision resolves 1 - |x| down to 6e-8; at the reference's 1e-5 its error is 0.6%.
_MARGIN = {torch.float32: 1e-5, torch.float64: 1e-12}


def _check_margin(margin: float) -> float:
    if not 0 < margin < 1:
        raise ValueError(f"margin must be between 0 and 1, got {margin}.")
    return margin


class TanhSquash(Layer):
    r"""Elementwise :math:`x = \tanh z`, into (-1, 1), or into given bounds.

    .. math::
        x_i = \tfrac{h_i + l_i}{2} + \tfrac{h_i - l_i}{2} \tanh z_i, \qquad
        \log|\det J| = \sum_i 2 (\log 2 - z_i - \mathrm{softplus}(-2 z_i))
            + \log \tfrac{h_i - l_i}{2}

    which is exact for latents of any size. The inverse is safe at the ends: it clamps
    :math:`\tanh z` to :math:`\pm(1 - \text{margin})`, as the reference does with 1e-5 before its
    atanh. Beyond that the density is that of the clamped action, and the action's gradient is
    zero.

    Args:
        dim: size of the variable.
        low: lower bounds, one for all or one for each entry.
        high: upper bounds.
        margin: how close to the ends the inverse goes, of half the interval; by default 1e-5 in
            single precision and 1e-12 in double.

    Raises:
        ValueError: ``margin`` is outside (0, 1), or the bounds are not finite, not increasing, or
            not one or ``dim`` of them.

    Example:
        >>> squash = TanhSquash(1)
        >>> x, log_det = squash(torch.tensor([[0.5], [50.0]]))
        >>> log_det
        tensor([ -0.2402, -98.6137])
        >>> squash.inverse(torch.tensor([1.0]))[0]
        tensor([6.1024])
        >>> TanhSquash(2, low=[0, -1], high=[10, 1])(torch.zeros(2))[0]
        tensor([5., 0.])
    """

    is_squash = True
    low: Tensor
    high: Tensor
    middle: Tensor
    half_width: Tensor

    def __init__(
        self,
        dim: int,
        low: float | Sequence[float] = -1.0,
        high: float | Sequence[float] = 1.0,
        *,
        margin: float | None = None,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.margin = None if margin is None else _check_margin(margin)
        lows, highs = (torch.as_tensor(b, dtype=torch.get_default_dtype()) for b in (low, high))
        fits = all(bounds.shape in ((), (dim,)) for bounds in (lows, highs))
        if not fits or not bool((lows < highs).all() and (highs - lows).isfinite().all()):
            raise ValueError(
                f"Bounds must be finite and increasing, one for all or {dim}, got {low} "
                f"and {high}."
            )
        middle, half_width = (highs + lows) / 2, (highs - lows) / 2
        for name, bounds in (
            ("low", lows),
            ("high", highs),
            ("middle", middle),
            ("half_width", half_width),
        ):
            self.register_buffer(name, bounds.expand(dim).clone(), persistent=False)
        self._is_standard = bool((lows == -1).all() and (highs == 1).all())

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x, log_slope = torch.tanh(z), 2 * (math.log(2) - z + F.logsigmoid(2 * z))
        if not self._is_standard:
            # Rounding must not take an action out of its bounds.
            x = torch.clamp(self.middle + self.half_width * x, self.low, self.high)
            log_slope = log_slope + self.half_width.log()
        return x, log_slope.sum(-1)

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if not self._is_standard:
            x = (x - self.middle) / self.half_width
        margin = _MARGIN.get(x.dtype, 1e-5) if self.margin is None else self.margin
        x = x.clamp(margin - 1, 1 - margin)
        # (1 - x)(1 + x) keeps the digits that 1 - x**2 rounds away near the ends.
        log_slope = torch.log((1 - x) * (1 + x))
        if not self._is_standard:
            log_slope = log_slope + self.half_width.log()
        return torch.atanh(x), -log_slope.sum(-1)

    def extra_repr(self) -> str:
        return "" if self._is_standard else f"{self.low.tolist()}, {self.high.tolist()}"


class SimplexSquash(Layer):
    r"""Stick-breaking onto the probability simplex: ``dim + 1`` shares that add up to 1.

    .. math::
        x_i = \sigma(z_i - \log(d + 1 - i))\, r_i, \qquad r_i = 1 - \sum_{j < i} x_j, \qquad
        x_{d+1} = r_{d+1}

    for i from 1 to d, so that a latent of zeros gives equal shares. Densities are with respect to
    the first ``dim`` shares; the last one follows from them. The inverse reads shares below the
    margin as the margin, so that it is safe at the simplex's faces; small shares keep their
    digits, so it can be far below the precision of a share near 1.

    Args:
        dim: size of the latent; the variable has one entry more.
        margin: the smallest share that the inverse tells from zero.

    Raises:
        ValueError: ``dim`` is below 1, or ``margin`` is outside (0, 1).

    Example:
        >>> shares, _ = SimplexSquash(3)(torch.zeros(3))
        >>> shares
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """

    is_squash = True
    offset: Tensor

    def __init__(self, dim: int, *, margin: float = 1e-12) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(
                f"A simplex needs at least 2 shares, a latent of size 1; got dim={dim}."
            )
        self.dim = dim
        self.image_dim = dim + 1
        self.margin = _check_margin(margin)
        self.register_buffer("offset", torch.arange(dim, 0, -1).log(), persistent=False)

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_odds = z - self.offset
        log_rest = F.pad(F.logsigmoid(-log_odds).cumsum(-1), (1, 0))
        log_share = F.logsigmoid(log_odds)
        x = torch.cat([log_share + log_rest[..., :-1], log_rest[..., -1:]], dim=-1).exp()
        return x, (log_share + log_rest[..., 1:]).sum(-1)

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = x.clamp(min=self.margin)
        # What remains is added up from the last share, which keeps the digits of small ones.
        rest = x.flip(-1).cumsum(-1).flip(-1)
        log_odds = x[..., :-1].log() - rest[..., 1:].log()
        log_det = x[..., :-1].log() - rest[..., :-1].log() + rest[..., 1:].log()
        return log_odds + self.offset, -log_det.sum(-1)
