"""Distribution functions of logistic mixtures, as monotone functions of one variable."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from maxentflow.flows.bounded import bounded, check_bound
from maxentflow.flows.elementwise import Elementwise, first
from maxentflow.flows.iterative import iterative

__all__ = ["ElementwiseMixtureCDF"]


class ElementwiseMixtureCDF(Elementwise):
    r"""The distribution function of a mixture of logistics, on the scale of its log-odds, Flow++
    (Ho et al. 2019, arXiv:1902.00275, eq. 10 and 11).

    .. math::
        z = e^{\ell} \operatorname{logit} F(x) + t, \qquad
        F(x) = \sum_k w_k\, \sigma\big((x - \mu_k) e^{-s_k}\big)

    with :math:`\ell` and :math:`s_k` bounded. The parameters give each mean :math:`\mu_k` from the
    centre of one of as many equal parts of ``[-spread, spread]``. Variable to latent it is a
    formula. Latent to variable it is found by Newton's method inside a bracket that always holds
    the root, to a few units of rounding; gradients are those of the implicit function.

    Args:
        components: logistics in each mixture, at least 1.
        max_log_scale: the bound on :math:`|\ell|` and :math:`|s_k|`, positive.
        spread: half the width over which means lie where parameters are zero, at least 0. With 0
            the function is the identity there, but components that start equal stay nearly equal
            for long.

    Raises:
        ValueError: ``components`` is below 1, ``max_log_scale`` is not positive and finite, or
            ``spread`` is negative or not finite.

    Example:
        >>> function = ElementwiseMixtureCDF(components=3)
        >>> x, parameters = torch.randn(5).double(), torch.randn(5, 11).double()
        >>> z, _ = function.inverse(x, parameters)
        >>> torch.allclose(function.forward(z, parameters)[0], x, atol=1e-10)
        True
    """

    forward_cost = "iterative"

    def __init__(
        self, components: int = 8, max_log_scale: float = 2.0, spread: float = 2.0
    ) -> None:
        if components < 1:
            raise ValueError(f"components must be at least 1, got {components}.")
        if not 0 <= spread < math.inf:
            raise ValueError(f"spread must be finite and not negative, got {spread}.")
        self.components = components
        self.max_log_scale = check_bound("max_log_scale", max_log_scale)
        self.spread = spread
        self.parameters_per_entry = 3 * components + 2

    def forward(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        *mixture, log_scale, translation = self._split(parameters)
        log_odds = (z - translation) * (-log_scale).exp()
        with torch.no_grad():
            root = mixture_logistic_quantile(log_odds, *mixture)
        # Where it is, with the derivatives of one more Newton step: those of the root.
        reached, log_slope = _mixture_log_odds(root, *mixture)
        step = (log_odds - reached) * _inverse_slope(log_slope.detach())
        x = root + (step - step.detach())
        _, log_slope = _mixture_log_odds(x, *mixture)
        return x, -(log_scale + log_slope)

    def inverse(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        *mixture, log_scale, translation = self._split(parameters)
        log_odds, log_slope = _mixture_log_odds(x, *mixture)
        return log_scale.exp() * log_odds + translation, log_scale + log_slope

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Logits, means and log-scales, components first; log-scale and translation."""
        k = self.components
        logits, offsets, raw_scales, raw = first(parameters).split([k, k, k, 2])
        centres = torch.arange(1 - k, k, 2, dtype=raw.dtype, device=raw.device)
        return (
            logits - logits.detach().amax(0),  # not far from zero, where rounding is small
            offsets + self.spread / k * centres.reshape(-1, *[1] * (offsets.ndim - 1)),
            bounded(raw_scales, self.max_log_scale),
            bounded(raw[0], self.max_log_scale),
            raw[1],
        )


def _mixture_log_odds(
    x: Tensor, logits: Tensor, means: Tensor, log_scales: Tensor
) -> tuple[Tensor, Tensor]:
    """logit F, finite however far out, and the logarithm of its slope; components come first.

    The weights are the softmax of the logits. Their normaliser is F and 1 - F taken together, so
    that one addition for each entry stands for a softmax over its components.
    """
    minus = -log_scales
    t = (x - means) * minus.exp()
    log_below = F.logsigmoid(t)
    below = logits + log_below
    above = below - t
    log_cdf, log_survival = torch.logsumexp(below, 0), torch.logsumexp(above, 0)
    log_density = torch.logsumexp(above + (log_below + minus), 0)
    log_total = torch.logaddexp(log_cdf, log_survival)
    return log_cdf - log_survival, log_density - log_cdf - log_survival + log_total


def _inverse_slope(log_slope: Tensor) -> Tensor:
    """Finite also where the slope underflows, between components that lie far apart."""
    return (-log_slope).clamp(max=0.5 * math.log(torch.finfo(log_slope.dtype).max)).exp()


@iterative
def mixture_logistic_quantile(
    log_odds: Tensor, logits: Tensor, means: Tensor, log_scales: Tensor
) -> Tensor:
    """Where the log-odds of a logistic mixture are ``log_odds``, to a few units of rounding.

    The components' own quantiles bracket the root. Newton's steps that leave the bracket, or do
    not shrink it by half in two rounds, are replaced by bisection.
    """
    eps = torch.finfo(log_odds.dtype).eps
    quantiles = means + log_scales.exp() * log_odds
    low, high = quantiles.amin(0), quantiles.amax(0)
    x = (logits.softmax(0) * quantiles).sum(0).clamp(low, high)
    width = high - low
    for _ in range(_ROUNDS):
        reached, log_slope = _mixture_log_odds(x, logits, means, log_scales)
        too_low = reached < log_odds
        low, high = torch.where(too_low, x, low), torch.where(too_low, high, x)
        newton = x + (log_odds - reached) * _inverse_slope(log_slope)
        step = (newton - x).abs()
        if not (torch.minimum(step, high - low) > 4 * eps * (1 + x.abs())).any():
            return newton.clamp(low, high)
        bisect = (newton < low) | (newton > high) | (step > width / 2)
        width = torch.where(bisect, (high - low) / 2, step)
        x = torch.where(bisect, (low + high) / 2, newton)
    return x


# Bisection alone from the widest bracket of double precision would need about as many.
_ROUNDS = 2 * math.ceil(math.log2(1e6 / torch.finfo(torch.float64).eps))
