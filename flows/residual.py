"""Residual layers: the identity plus a contraction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from maxentflow.flows.iterative import iterative
from maxentflow.flows.layer import Layer, broadcast_batch, required_context
from maxentflow.flows.mlp import Initialization, Linear, Swish

__all__ = ["ResidualLayer", "spectral_norm_bound"]

_STEEPEST = 1.1  # no slope of x sigma(beta x) is larger, whatever beta
_LOOSENESS = 1.035


def spectral_norm_bound(weight: Tensor) -> Tensor:
    """An upper bound of a matrix's largest singular value: never too low, at most 3.5% too high.

    Gram iteration (Delattre et al. 2023, arXiv:2305.16173): the Gram matrix is squared until the
    Frobenius norm of the power tells the largest eigenvalue from above. Power iteration comes from
    below, and its state would make the layer depend on how often it was called. Differentiable
    once.

    Args:
        weight: shape ``(out, in)``.

    Example:
        >>> weight = torch.randn(64, 64)
        >>> ratio = spectral_norm_bound(weight) / torch.linalg.matrix_norm(weight, 2)
        >>> bool(1 <= ratio <= 1.035)
        True
    """
    return _GramIteration.apply(weight)[0]


class _GramIteration(torch.autograd.Function):
    r"""The bound :math:`b = \operatorname{tr}(G^{2p})^{1 / 4p}` by a Gram matrix G.

    Its gradient is :math:`b\, G^{2p - 1} W / \operatorname{tr}(G^{2p})`. That power is the
    product of those met on the way; a graph of all the squarings would take several times as long.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor) -> tuple[Tensor, Tensor]:
        tiny = torch.finfo(weight.dtype).tiny
        largest = weight.abs().amax().clamp(min=tiny)  # so that no power overflows
        weight = weight / largest
        is_wide = weight.shape[0] <= weight.shape[1]
        gram = weight @ weight.mT if is_wide else weight.mT @ weight
        n = len(gram)
        # p such that n ** (1 / 4p), the most that other eigenvalues can add, is within the limit.
        rounds = math.ceil(math.log2(max(1, math.log(n) / (4 * math.log(_LOOSENESS)))))
        power, product = gram, torch.eye(n, dtype=weight.dtype, device=weight.device)
        # Rounding must not make it too low.
        log_bound = weight.new_full((), 32 * torch.finfo(weight.dtype).eps)
        for k in range(rounds + 1):
            norm = torch.linalg.matrix_norm(power).clamp(min=tiny)
            log_bound = log_bound + norm.log() / 2 ** (k + 1)
            power = power / norm
            product = product @ power
            power = power @ power
        bound = largest * log_bound.exp()
        direction = product @ weight if is_wide else weight @ product
        trace = (product * gram).sum().clamp(min=tiny)
        return bound, bound / largest / trace * direction

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> Tensor:
        (direction,) = ctx.saved_tensors
        return gradient * direction


class ResidualLayer(Layer):
    r"""The identity plus a contraction, invertible residual networks
    (Behrmann et al. 2019, arXiv:1811.00995; Chen et al. 2019, arXiv:1906.02735).

    .. math:: z = x + g(x, s), \qquad \|g(x, s) - g(y, s)\| \le \lambda \|x - y\|

    g is a perceptron with the activation :math:`x \sigma(\beta x) / 1.1`, no steeper than 1, and
    weights divided by an upper bound of their norm; only what the context adds before the first
    activation is free. The log-determinant is that of the whole Jacobian, exact; it costs as much
    as ``dim`` further rows of the batch, so the layer is for small action dimensions. The inverse,
    action to latent, takes one pass; the forward repeats :math:`x \leftarrow z - g(x, s)` until
    it moves by rounding only, with the gradients of the implicit function.

    Args:
        dim: size of the variable.
        context_dim: size of the context, or ``None`` for an unconditional layer.
        hidden: widths of the hidden layers, at least one.
        lipschitz: the bound :math:`\lambda` on how far g stretches, below 1.
        init: initialisation of the weights.

    Raises:
        ValueError: ``lipschitz`` is outside (0, 1), or ``hidden`` has no layer or an empty one.

    Example:
        >>> layer = ResidualLayer(2, 3).double()
        >>> x, context = torch.randn(5, 2).double(), torch.randn(5, 3).double()
        >>> z, log_det = layer.inverse(x, context)
        >>> torch.allclose(layer(z, context)[0], x, atol=1e-12)
        True
    """

    forward_cost = "iterative"

    def __init__(
        self,
        dim: int,
        context_dim: int | None = None,
        *,
        hidden: Sequence[int] = (64, 64),
        lipschitz: float = 0.9,
        init: Initialization = "orthogonal",
    ) -> None:
        super().__init__()
        if not 0 < lipschitz < 1:
            raise ValueError(f"lipschitz must be between 0 and 1, got {lipschitz}.")
        if min(hidden, default=0) < 1:
            raise ValueError(
                "A residual layer needs at least one hidden layer, of at least one unit, "
                f"got hidden={tuple(hidden)}."
            )
        self.dim = dim
        self.context_dim = context_dim
        self.lipschitz = lipschitz
        sizes = [dim, *hidden, dim]
        self.linears = nn.ModuleList(Linear(a, b, init) for a, b in pairwise(sizes))
        self.activations = nn.ModuleList(Swish(width) for width in hidden)
        self.context_linear = None if context_dim is None else Linear(context_dim, hidden[0], init)

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, offset = self._offset(z, context)
        parameters = self._contraction()
        with torch.no_grad():
            root = contraction_root(z, offset, *parameters, self.lipschitz)
        # One Newton step, whose derivatives are those of the root.
        g, jacobian = _contraction_and_jacobian(root, offset, *parameters)
        error = (root + g - z).unsqueeze(-1)
        x = root - torch.linalg.solve(_plus_identity(jacobian.detach()), error).squeeze(-1)
        _, jacobian = _contraction_and_jacobian(x, offset, *parameters)
        return x, -_log_det(_plus_identity(jacobian))

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x, offset = self._offset(x, context)
        g, jacobian = _contraction_and_jacobian(x, offset, *self._contraction())
        return x + g, _log_det(_plus_identity(jacobian))

    def _offset(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """The variable, and what bias and context add before the first activation."""
        bias = cast(Linear, self.linears[0]).bias
        if self.context_linear is None:
            return x, bias.expand(*x.shape[:-1], -1)
        return broadcast_batch(x, bias + self.context_linear(required_context(self, context)))

    def _contraction(self) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Weights within their bounds, biases but the first, and slopes of the activations."""
        linears = cast(list[Linear], list(self.linears))
        share = self.lipschitz ** (1 / len(linears))
        weights = [
            linear.weight * (share / spectral_norm_bound(linear.weight).clamp(min=share))
            for linear in linears
        ]
        betas: list[Tensor] = [cast(Swish, activation).beta for activation in self.activations]
        return weights, [linear.bias for linear in linears[1:]], betas


def _activate(h: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """The activation and its slope."""
    gate = torch.sigmoid(beta * h)
    return h * gate / _STEEPEST, gate * (1 + beta * h * (1 - gate)) / _STEEPEST


def _contraction_and_jacobian(
    x: Tensor,
    offset: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    betas: list[Tensor],
) -> tuple[Tensor, Tensor]:
    """g, shape ``(*batch, dim)``, and its Jacobian ``(*batch, dim, dim)``, in one pass.

    Each column of the Jacobian goes through the network as a row beside the variable's.
    """
    first, *rest = weights
    h, tangents = x @ first.mT + offset, first.mT
    for weight, bias, beta in zip(rest, biases, betas, strict=True):
        value, slope = _activate(h, beta)
        tangents = slope.unsqueeze(-2) * tangents
        rows = torch.cat([value.unsqueeze(-2), tangents], dim=-2) @ weight.mT
        h, tangents = rows[..., 0, :] + bias, rows[..., 1:, :]
    return h, tangents.mT


def _log_det(matrix: Tensor) -> Tensor:
    """Of matrices with a positive determinant; without a factorisation where they are small."""
    if matrix.shape[-1] == 1:
        return matrix[..., 0, 0].log()
    if matrix.shape[-1] == 2:
        (a, b), (c, d) = (row.unbind(-1) for row in matrix.unbind(-2))
        return (a * d - b * c).log()
    return torch.linalg.slogdet(matrix).logabsdet


def _plus_identity(matrix: Tensor) -> Tensor:
    return matrix + torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)


@iterative
def contraction_root(
    z: Tensor,
    offset: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    betas: Sequence[Tensor],
    lipschitz: float,
) -> Tensor:
    """The x with x + g(x) = z, by fixed-point iteration.

    Each round shrinks the error by the contraction's factor, so their number is bounded.
    """
    eps = torch.finfo(z.dtype).eps
    first, *rest = weights
    x = z.clone()
    for _ in range(math.ceil(math.log(eps / 8) / math.log(lipschitz))):
        h = x @ first.mT + offset
        for weight, bias, beta in zip(rest, biases, betas, strict=True):
            h = _activate(h, beta)[0] @ weight.mT + bias
        step = z - h - x
        x = x + step
        if not (step.abs() > 4 * eps * (1 + x.abs())).any():
            break
    return x
