"""The network of an autoregressive layer: an MLP whose outputs see only the entries before."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maxentflow.flows.mlp import (
    Activation,
    Dropout,
    Initialization,
    Linear,
    hidden_init,
    make_activation,
)

__all__ = ["MaskedMLP"]


class MaskedLinear(Linear):
    """A linear layer with some of its weights out of use.

    Args:
        mask: 0/1, shape ``(out_features, in_features)``: which weights count.
        init: initialisation of the weights.

    Example:
        >>> layer = MaskedLinear(torch.tensor([[1.0, 0.0]]))
        >>> bool(layer(torch.tensor([0.0, 9.0])) == layer.bias)
        True
    """

    mask: Tensor

    def __init__(self, mask: Tensor, init: Initialization = "default") -> None:
        super().__init__(mask.shape[1], mask.shape[0], init)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.mask * self.weight, self.bias)


class MaskedMLP(nn.Module):
    """A multilayer perceptron with autoregressive outputs, MADE
    (Germain et al. 2015, arXiv:1502.03509).

    The outputs for an entry of rank r depend on the entries of rank below r and on the context.
    Hidden units are shared out evenly among the ranks. There is no layer norm: it would let every
    unit see every entry.

    Args:
        ranks: the rank of each entry, 1 to dim.
        context_dim: size of the context, or ``None``.
        outputs_per_entry: how many outputs each entry gets.
        hidden: widths of the hidden layers, each at least dim.
        activation: as in :class:`~maxentflow.flows.MLP`.
        dropout: probability of dropping a hidden unit, in training mode.
        init: initialisation of every weight matrix.

    Raises:
        ValueError: a hidden layer is narrower than the variable, or the activation or the dropout
            is wrong.

    Example:
        >>> net = MaskedMLP([1, 2], None, 3)
        >>> net(torch.zeros(5, 2), None).shape
        torch.Size([5, 2, 3])
        >>> x = torch.zeros(2)
        >>> torch.equal(net(x, None)[0], net(x + 1, None)[0])  # nothing comes before the first
        True
    """

    def __init__(
        self,
        ranks: Sequence[int],
        context_dim: int | None,
        outputs_per_entry: int,
        *,
        hidden: Sequence[int] = (64, 64),
        activation: Activation = "swish",
        dropout: float = 0.0,
        init: Initialization = "default",
    ) -> None:
        super().__init__()
        dim = len(ranks)
        if min(hidden, default=dim) < dim:
            raise ValueError(
                f"Hidden layers of an autoregressive network of {dim} entries need at least {dim} "
                f"units, got {tuple(hidden)}."
            )
        self.outputs_per_entry = outputs_per_entry
        # A unit of rank r sees the entries up to rank r; of rank 0, the context alone. Without a
        # context such a unit would be a constant.
        lowest = 0 if context_dim is not None or dim == 1 else 1
        modules: list[nn.Module] = []
        inputs = torch.tensor([*ranks, *[0] * (context_dim or 0)])
        for width in hidden:
            units = lowest + torch.arange(width) % (dim - lowest)
            modules.append(MaskedLinear((units[:, None] >= inputs).float(), hidden_init(init)))
            modules.append(make_activation(activation, width))
            if dropout:
                modules.append(Dropout(dropout))
            inputs = units
        outputs = torch.tensor(ranks).repeat_interleave(outputs_per_entry)
        modules.append(MaskedLinear((outputs[:, None] > inputs).float(), init))
        self.net = nn.Sequential(*modules)

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Shape ``(*batch, dim, outputs_per_entry)`` of entries ``(*batch, dim)``."""
        if context is not None:
            x = torch.cat([x, context], dim=-1)
        return self.net(x).unflatten(-1, (-1, self.outputs_per_entry))
