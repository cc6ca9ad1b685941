"""Student's t: a base with heavy tails."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from maxentflow.flows.base import Base

__all__ = ["StudentT"]

_LARGEST_LOG_EXCESS = 60.0  # the normal distribution, to rounding
_SERIES_FROM = 50.0  # where three terms are exact to rounding in double precision
_FAR = 1e9  # from where log(1 + u**2) is 2 log(u)


class StudentT(Base):
    r"""Independent Student's t entries, with learnable degrees of freedom :math:`\nu_i > 1`.

    .. math::
        u(z) = -\sum_i \tfrac{\nu_i + 1}2 \log\Big(1 + \frac{z_i^2}{\nu_i}\Big), \qquad
        c = \sum_i \log \frac{\sqrt{\pi \nu_i}\, \Gamma(\nu_i / 2)}{\Gamma((\nu_i + 1) / 2)}

    Lipschitz layers cannot make tails heavier than the base's, so that heavy tails have to be
    here (Jaini et al. 2020, arXiv:1907.04481). Above one degree of freedom the mean exists. The
    density stays finite at any latent and any parameter; beyond :math:`e^{60}` degrees of freedom,
    where it is the normal's, the parameter changes nothing.

    Args:
        dim: size of the latent, at least 1.
        df: degrees of freedom at first, above 1.

    Raises:
        ValueError: ``dim`` is below 1, or ``df`` is not above 1 and finite.

    Example:
        >>> base = StudentT(2, df=3.0)
        >>> base.log_prob(torch.tensor([[0.0, 0.0], [50.0, 0.0]]))
        tensor([ -2.0018, -15.4550], grad_fn=<SubBackward0>)
    """

    def __init__(self, dim: int, df: float = 5.0) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"StudentT needs dim >= 1, got {dim}.")
        if not 1 < df < float("inf"):
            raise ValueError(f"df must be above 1 and finite, got {df}.")
        self.dim = dim
        self.log_excess = nn.Parameter(torch.full((dim,), math.log(df - 1)))

    @property
    def df(self) -> Tensor:
        """The degrees of freedom, shape ``(dim,)``."""
        return 1 + self.log_excess.clamp(max=_LARGEST_LOG_EXCESS).exp()

    def unnormalized_log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        df = self.df
        return -(0.5 * (df + 1) * _log1p_square(z / df.sqrt())).sum(-1)

    def log_normalizer(self, context: Tensor | None = None) -> Tensor:
        df = self.df
        return (0.5 * torch.log(math.pi * df) - _log_gamma_step(0.5 * df)).sum()

    def rsample(self, shape: tuple[int, ...], context: Tensor | None = None) -> Tensor:
        r"""Reparameterised latents of shape ``(*shape, dim)``, in the degrees of freedom as well.

        Of two standard normals with radius r, the first is multiplied by
        :math:`\sqrt{\nu (e^{r^2 / \nu} - 1)} / r` (Bailey 1994, "Polar generation of random
        variates with the t-distribution", Mathematics of Computation 62).
        """
        like = self.log_excess
        normals = torch.randn((2, *shape, self.dim), dtype=like.dtype, device=like.device)
        x = normals.square().sum(0) / self.df
        x = x.clamp(min=torch.finfo(x.dtype).tiny)  # where both are zero, not 0/0
        return normals[0] * (torch.expm1(x) / x).sqrt()

    def mode(self, context: Tensor | None = None) -> Tensor:
        return torch.zeros_like(self.log_excess)


def _log1p_square(u: Tensor) -> Tensor:
    """log(1 + u**2), also where the square overflows."""
    near, far = u.clamp(-_FAR, _FAR), u.abs().clamp(min=_FAR)
    return torch.log1p(near.square()) + 2 * (far / _FAR).log()


def _log_gamma_step(x: Tensor) -> Tensor:
    """log Gamma(x + 1/2) - log Gamma(x); by its series where the difference would cancel."""
    square = x.clamp(min=_SERIES_FROM).reciprocal().square()
    series = (1 / 8 - square * (1 / 192 - square / 640)) / x
    difference = torch.lgamma(x + 0.5) - torch.lgamma(x)
    return torch.where(x < _SERIES_FROM, difference, 0.5 * x.log() - series)
