"""Several perceptrons of one shape, run as one batched network."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maxentflow.flows.mlp import (
    Activation,
    Initialization,
    hidden_init,
    initialize_weight,
    make_activation,
)

__all__ = ["BatchedLayerNorm", "BatchedLinear", "BatchedMLP"]


class BatchedLinear(nn.Module):
    """One affine map per head, run as a single batched product on ``(heads, rows, features)``.

    Args:
        heads: number of maps.
        in_features: size of the input's last dimension.
        out_features: size of the output's last dimension.
        init: initialisation of the weights; biases start as PyTorch's.

    Example:
        >>> BatchedLinear(2, 3, 4, "default")(torch.zeros(2, 5, 3)).shape
        torch.Size([2, 5, 4])
    """

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
            if self.init == "near_zero":
                self.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.shape[-1] == 1:  # a batched product of vectors is slow in BLAS
            return (x * self.weight.mT).sum(-1, keepdim=True) + self.bias
        return torch.baddbmm(self.bias, x, self.weight)


class BatchedLayerNorm(nn.Module):
    """Layer norm of ``(heads, rows, width)`` with a scale and a translation for each head.

    Example:
        >>> BatchedLayerNorm(2, 4)(torch.randn(2, 5, 4)).mean(-1).abs().max() < 1e-6
        tensor(True)
    """

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(heads, 1, width))
        self.bias = nn.Parameter(torch.empty(heads, 1, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:]) * self.weight + self.bias


class BatchedMLP(nn.Sequential):
    """Independent perceptrons, one per head, of the same input.

    Args:
        heads: number of perceptrons.
        in_features: size of the input's last dimension.
        out_features: size of each perceptron's output.
        hidden: widths of the hidden layers.
        activation: as in :class:`~maxentflow.flows.MLP`; swish has slopes for each head, the
            parameters of a custom module are shared by the heads.
        layer_norm: normalise before each activation.
        init: initialisation of the weights.

    Raises:
        ValueError: an unknown activation or initialisation.

    Example:
        >>> BatchedMLP(2, 3, 4, hidden=(64, 64))(torch.zeros(5, 7, 3)).shape
        torch.Size([5, 7, 4, 2])
    """

    def __init__(
        self,
        heads: int,
        in_features: int,
        out_features: int,
        *,
        hidden: Sequence[int],
        activation: Activation = "swish",
        layer_norm: bool = False,
        init: Initialization = "default",
    ) -> None:
        modules: list[nn.Module] = []
        width_in = in_features
        for width in hidden:
            modules.append(BatchedLinear(heads, width_in, width, hidden_init(init)))
            if layer_norm:
                modules.append(BatchedLayerNorm(heads, width))
            modules.append(make_activation(activation, heads, 1, width))
            width_in = width
        modules.append(BatchedLinear(heads, width_in, out_features, init))
        super().__init__(*modules)
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        """Shape ``(*batch, out_features, heads)`` of inputs ``(*batch, in_features)``."""
        rows = x.reshape(1, -1, x.shape[-1]).expand(self.heads, -1, -1)
        outputs = super().forward(rows).movedim(0, -1)
        return outputs.reshape(*x.shape[:-1], *outputs.shape[1:])
