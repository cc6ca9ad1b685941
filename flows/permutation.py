"""Fixed permutation of the variable's entries."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from maxentflow.flows.layer import Layer

__all__ = ["Permutation"]


class Permutation(Layer):
    """Reorders the entries: ``x[..., i] = z[..., order[i]]``. Linear and volume preserving.

    Args:
        dim: size of the variable.
        order: a permutation of ``0 .. dim - 1``; reversed order by default.

    Raises:
        ValueError: ``order`` is not a permutation of ``0 .. dim - 1``.

    Example:
        >>> x, log_det = Permutation(3, order=[2, 0, 1])(torch.tensor([10.0, 20.0, 30.0]))
        >>> x
        tensor([30., 10., 20.])
    """

    is_linear = True
    is_volume_preserving = True
    order: Tensor
    inverse_order: Tensor

    def __init__(self, dim: int, order: Sequence[int] | None = None) -> None:
        super().__init__()
        entries = list(range(dim - 1, -1, -1)) if order is None else [int(i) for i in order]
        if sorted(entries) != list(range(dim)):
            raise ValueError(f"order must be a permutation of 0 .. {dim - 1}, got {entries}.")
        self.dim = dim
        self.register_buffer("order", torch.tensor(entries))
        self.register_buffer("inverse_order", torch.argsort(self.order))

    def keeps_box(self, bound: float) -> bool:
        return True

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return z.index_select(-1, self.order), z.new_zeros(z.shape[:-1])

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x.index_select(-1, self.inverse_order), x.new_zeros(x.shape[:-1])
