"""Activation normalisation: a scale and a shift that start from the data."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from maxentflow.flows.layer import Layer

__all__ = ["ActNorm", "mean_and_deviation"]

_LARGEST_LOG_SCALE = 20.0


def mean_and_deviation(x: Tensor) -> tuple[Tensor, Tensor]:
    """Of each entry in a batch ``(*batch, dim)``.

    Raises:
        ValueError: an entry is the same in the whole batch, or not finite.
    """
    rows = x.reshape(-1, x.shape[-1])
    mean, deviation = rows.mean(0), rows.std(0)
    if not bool(((deviation > 0) & deviation.isfinite()).all()):
        raise ValueError(
            "ActNorm starts from a batch whose entries are finite and vary, got standard "
            f"deviations {deviation.tolist()}."
        )
    return mean, deviation


class ActNorm(Layer):
    r"""A learnable scale and shift for each entry, the same for every context
    (Kingma and Dhariwal 2018, arXiv:1807.03039, section 3.1).

    .. math:: x = z \odot e^{\ell} + b

    Linear: its log-determinant :math:`\sum_i \ell_i` is counted in V. It starts as the identity;
    :meth:`initialize`, which :meth:`EnergyBasedFlow.initialize` calls, sets it so that the latents
    of a batch have mean 0 and standard deviation 1. It never does so by itself at the first call:
    a target network, a compiled graph or the soft value may make that call.

    Log-scales count as at most 20 in magnitude, so that no scale overflows; beyond, the parameter
    has no gradient. A round trip is exact to the rounding of the shift: entries that are much
    smaller than theirs lose digits.

    Args:
        dim: size of the variable.

    Example:
        >>> layer, x = ActNorm(2), 3 * torch.randn(100, 2) + 1
        >>> layer.initialize(x)
        >>> z, _ = layer.inverse(x)
        >>> bool(z.mean(0).abs().max() < 1e-5), bool((z.std(0) - 1).abs().max() < 1e-5)
        (True, True)
    """

    is_linear = True

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.log_scale = nn.Parameter(torch.empty(dim))
        self.shift = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.log_scale)
        nn.init.zeros_(self.shift)

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Give the latents of a batch ``(*batch, dim)`` mean 0 and standard deviation 1.

        Raises:
            ValueError: an entry is the same in the whole batch, not finite, or of a standard
                deviation below exp(-20) or above exp(20).
        """
        mean, deviation = mean_and_deviation(x)
        if bool((deviation.log().abs() > _LARGEST_LOG_SCALE).any()):
            raise ValueError(
                f"ActNorm takes standard deviations from {math.exp(-_LARGEST_LOG_SCALE):.1e} to "
                f"{math.exp(_LARGEST_LOG_SCALE):.1e}, got {deviation.tolist()}: scale the data."
            )
        self.log_scale.copy_(deviation.log())
        self.shift.copy_(mean)

    def _bounded_log_scale(self) -> Tensor:
        return self.log_scale.clamp(-_LARGEST_LOG_SCALE, _LARGEST_LOG_SCALE)

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_scale = self._bounded_log_scale()
        x = z * log_scale.exp() + self.shift
        return x, log_scale.sum().expand(x.shape[:-1])

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_slope = -self._bounded_log_scale()
        z = (x - self.shift) * log_slope.exp()
        return z, log_slope.sum().expand(z.shape[:-1])
