"""Gaussian mixture: a base with several modes, and with a normaliser that depends on the state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from maxentflow.flows.base import Base
from maxentflow.flows.bounded import bounded, check_bound
from maxentflow.flows.layer import own_context
from maxentflow.flows.mlp import context_network

__all__ = ["GaussianMixture"]

_MODE_ROUNDS = 30


class GaussianMixture(Base):
    r"""A mixture of diagonal Gaussians that depends on the context.

    .. math::
        u(z, s) &= \log \sum_k \exp\Big( \ell_k - \sum_i \big( \log \sigma_{ki}
            + \tfrac12 (z_i - \mu_{ki})^2 / \sigma_{ki}^2 \big) \Big), \qquad
            \log \sigma_{ki} = \frac{f_{ki}}{1 + |f_{ki}| / m} \\
        c(s) &= \log \sum_k \exp \ell_k + \tfrac d2 \log 2\pi

    where the logits :math:`\ell`, the means :math:`\mu` and :math:`f` come from one network of
    the context. The logits are not normalised in u: what is common to them raises Q and V alike,
    as a reward shift does.

    Samples are reparameterised in every parameter, the weights included, by implicit
    differentiation of the conditional distribution functions (Figurnov et al. 2018,
    arXiv:1805.08498). Gradients are unbiased; those of the weights vary much where modes lie far
    apart, since then they are largest between the modes, where few samples fall.

    Args:
        dim: size of the latent, at least 1.
        context_dim: size of the context, or ``None`` for a mixture that does not read one.
        components: how many Gaussians, at least 1.
        hidden: widths of the network's hidden layers.
        max_log_scale: the bound :math:`m` on the log-scales, positive.
        mlp: further options of :class:`~maxentflow.flows.MLP` except dropout. Weights start at
            zero by default, so that the mixture starts the same for every context; its means
            start as draws from the standard normal, since equal components would stay equal.

    Raises:
        ValueError: ``dim`` or ``components`` is below 1, ``max_log_scale`` is not positive and
            finite, an option of the MLP is wrong or asks for dropout, or (in every method) a
            context is missing.

    Example:
        >>> base = GaussianMixture(2, 3, components=4)
        >>> context = torch.randn(5, 3)
        >>> z = base.rsample((7, 5), context)
        >>> z.shape, base.log_prob(z, context).shape, base.mode(context).shape
        (torch.Size([7, 5, 2]), torch.Size([7, 5]), torch.Size([5, 2]))
    """

    def __init__(
        self,
        dim: int,
        context_dim: int | None = None,
        *,
        components: int = 8,
        hidden: Sequence[int] = (64, 64),
        max_log_scale: float = 2.0,
        **mlp: Any,
    ) -> None:
        super().__init__()
        if min(dim, components) < 1:
            raise ValueError(
                "GaussianMixture needs dim >= 1 and components >= 1, got "
                f"dim={dim}, components={components}."
            )
        if mlp.get("dropout"):
            raise ValueError(
                "GaussianMixture takes no dropout: u and c would be those of different masks."
            )
        self.dim = dim
        self.context_dim = context_dim
        self.components = components
        self.max_log_scale = check_bound("max_log_scale", max_log_scale)
        self._sizes = [components, components * dim, components * dim]
        options = {"hidden": hidden, "init": "zero", **mlp}
        self.net = context_network(context_dim, sum(self._sizes), **options)
        *_, offset = self.net.parameters()  # what the network adds last, or the whole constant
        offset.detach().split(self._sizes)[1].normal_()

    def _mixture(self, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Logits ``(*batch, components)``, means and log-scales ``(*batch, components, dim)``."""
        logits, means, raw = self.net(own_context(self, context)).split(self._sizes, dim=-1)
        log_scales = bounded(raw, self.max_log_scale)
        shape = (self.components, self.dim)
        return logits, means.unflatten(-1, shape), log_scales.unflatten(-1, shape)

    def unnormalized_log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return _log_joint(z, *self._mixture(context)).logsumexp(-1)

    def log_normalizer(self, context: Tensor | None = None) -> Tensor:
        logits, _, _ = self._mixture(context)
        return logits.logsumexp(-1) + 0.5 * self.dim * math.log(2 * math.pi)

    def rsample(self, shape: tuple[int, ...], context: Tensor | None = None) -> Tensor:
        parameters = self._mixture(context)
        z = _draw(shape, *parameters)
        uniform, jacobian = _distributional_transform(z, *parameters)
        # Zero, with the gradient that keeps the uniforms where they are as the parameters move.
        residual = (uniform - uniform.detach()).unsqueeze(-1)
        move = torch.linalg.solve_triangular(jacobian.detach(), residual, upper=False)
        return z - move.squeeze(-1)

    @torch.no_grad()
    def mode(self, context: Tensor | None = None) -> Tensor:
        """The highest of the points that a fixed number of mean-shift rounds reach from the means.

        A round is one step of EM for the point's place (Carreira-Perpiñán 2007, "Gaussian
        mean-shift is an EM algorithm", IEEE TPAMI 29(5)): it never lowers the density. No gradient
        flows through it.
        """
        logits, means, log_scales = self._mixture(context)
        points = means
        around_each_point = logits.unsqueeze(-2), means.unsqueeze(-3), log_scales.unsqueeze(-3)
        precisions = (-2 * log_scales).exp()
        for _ in range(_MODE_ROUNDS):
            weights = _log_joint(points, *around_each_point).softmax(-1)
            points = (weights @ (precisions * means)) / (weights @ precisions)
        best = _log_joint(points, *around_each_point).logsumexp(-1).argmax(-1)
        return points.take_along_dim(best[..., None, None], dim=-2).squeeze(-2)


def _log_joint(z: Tensor, logits: Tensor, means: Tensor, log_scales: Tensor) -> Tensor:
    r"""Of ``z`` and each component, up to :math:`\tfrac d2 \log 2\pi` and the logits' sum."""
    x = (z.unsqueeze(-2) - means) * (-log_scales).exp()
    return logits - (0.5 * x.square() + log_scales).sum(-1)


def _draw(shape: tuple[int, ...], logits: Tensor, means: Tensor, log_scales: Tensor) -> Tensor:
    """Latents ``(*shape, dim)`` without a gradient: a component each, then its Gaussian."""
    up_to = logits.softmax(-1).cumsum(-1)[..., :-1]
    uniform = torch.rand((*shape, 1), dtype=logits.dtype, device=logits.device)
    component = (uniform >= up_to).sum(-1)[..., None, None]
    mean, log_scale = (
        parameter.expand(*shape, -1, -1).take_along_dim(component, dim=-2).squeeze(-2)
        for parameter in (means, log_scales)
    )
    return (mean + log_scale.exp() * torch.randn_like(mean)).detach()


def _distributional_transform(
    z: Tensor, logits: Tensor, means: Tensor, log_scales: Tensor
) -> tuple[Tensor, Tensor]:
    r"""Each entry's distribution function given those before it, and the Jacobian in ``z``.

    .. math::
        S_i = \sum_k w_{ki} \Phi(x_{ki}), \qquad
        w_{ki} \propto e^{\ell_k} \prod_{j<i} \mathcal N(z_j; \mu_{kj}, \sigma_{kj}^2), \qquad
        x_{ki} = (z_i - \mu_{ki}) / \sigma_{ki}

    The Jacobian is lower triangular, with the conditional densities on its diagonal.
    """
    inverse_scales = (-log_scales).exp()
    x = (z.unsqueeze(-2) - means) * inverse_scales
    log_densities = -0.5 * x.square() - log_scales - 0.5 * math.log(2 * math.pi)
    log_before = F.pad(log_densities[..., :-1], (1, 0)).cumsum(-1)
    weights = (logits.unsqueeze(-1) + log_before).softmax(-2)
    cdfs = torch.special.ndtr(x)
    uniform = (weights * cdfs).sum(-2)
    scores = -x * inverse_scales  # by which a move of z_j changes the weights after it
    below = (weights * (cdfs - uniform.unsqueeze(-2))).mT @ scores
    diagonal = (weights * log_densities.exp()).sum(-2)
    return uniform, below.tril(-1) + diagonal.diag_embed()
