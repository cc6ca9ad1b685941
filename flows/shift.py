"""Learnable reward shifting: a bias of Q and V that leaves the policy as it is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from maxentflow.flows.mlp import Initialization, Swish, initialize_weight

__all__ = ["RewardShift"]


class BatchedLinear(nn.Module):
    """One affine map per head, run as a single batched product on ``(heads, rows, features)``."""

    def __init__(
        self, heads: int, in_features: int, out_features: int, init: Initialization
    ) -> None:
        super().__init__()
        self.init = init
        self.weight = nn.Parameter(torch.empty(heads, in_features, out_features))
        self.bias = nn.Parameter(torch.empty(heads, 1, out_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = 1 / math.sqrt(self.weight.shape[1])
        nn.init.uniform_(self.bias, -bound, bound)
        with torch.no_grad():
            for weight in self.weight:
                initialize_weight(weight.T, self.init)

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.shape[-1] == 1:  # a batched product of vectors is slow in BLAS
            return (x * self.weight.mT).sum(-1, keepdim=True) + self.bias
        return torch.baddbmm(self.bias, x, self.weight)


class RewardShift(nn.Module):
    r"""The shifts :math:`b_h(s)` of learnable reward shifting, all heads as one batched network.

    An energy-based flow adds :math:`\alpha b_h(s)` to both Q and V, which leaves the policy
    :math:`\exp((Q - V) / \alpha)` unchanged. One head is LRS; two are SCDQ, whose target takes the
    minimum (Chao et al. 2024, arXiv:2405.13629, section 3.3).

    Args:
        context_dim: size of the observation, at least 1.
        heads: number of shifts, at least 1.
        hidden: widths of the hidden layers, Swish between them.
        init: initialisation of the weights, zero as in the reference.

    Raises:
        ValueError: a size below 1.

    Example:
        >>> shift = RewardShift(3, heads=2)
        >>> shift(torch.zeros(5, 7, 3)).shape
        torch.Size([5, 7, 2])
    """

    def __init__(
        self,
        context_dim: int,
        heads: int = 2,
        *,
        hidden: Sequence[int] = (256, 256),
        init: Initialization = "zero",
    ) -> None:
        super().__init__()
        if min((context_dim, heads, *hidden)) < 1:
            raise ValueError(
                "RewardShift needs sizes of at least 1, got "
                f"context_dim={context_dim}, heads={heads}, hidden={tuple(hidden)}."
            )
        self.context_dim = context_dim
        self.heads = heads
        modules: list[nn.Module] = []
        width_in = context_dim
        for width in hidden:
            modules.append(BatchedLinear(heads, width_in, width, init))
            modules.append(Swish(heads, 1, width))
            width_in = width
        modules.append(BatchedLinear(heads, width_in, 1, init))
        self.net = nn.Sequential(*modules)

    def forward(self, context: Tensor) -> Tensor:
        """The shifts, shape ``(*batch, heads)``, of a context ``(*batch, context_dim)``."""
        rows = context.reshape(1, -1, self.context_dim).expand(self.heads, -1, -1)
        return self.net(rows).squeeze(-1).T.reshape(*context.shape[:-1], self.heads)
