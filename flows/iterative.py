"""Operators that repeat until a tolerance is met: opaque to the compiler, mapped by vmap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["iterative"]


def iterative(solve: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Decorator: a solution, in the shape of the first argument, as one operator of PyTorch.

    Its loop may look at values, which neither a compiled graph nor a vmapped one may. The operator
    has no gradient: the caller adds one step of its own that carries it.
    """
    operator = torch.library.custom_op(f"maxentflow::{solve.__name__}", solve, mutates_args=())
    operator.register_fake(lambda first, *others: torch.empty_like(first))
    operator.register_vmap(_one_by_one(operator))
    return operator


def _one_by_one(operator: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, int]]:
    def rule(info: Any, in_dims: Sequence[Any], *arguments: Any) -> tuple[Tensor, int]:
        rows = (
            operator(*(_row(a, dim, i) for a, dim in zip(arguments, in_dims, strict=True)))
            for i in range(info.batch_size)
        )
        return torch.stack(list(rows)), 0

    return rule


def _row(argument: Any, dim: Any, index: int) -> Any:
    if isinstance(argument, (list, tuple)):
        return [_row(a, d, index) for a, d in zip(argument, dim, strict=True)]
    return argument if dim is None else argument.select(dim, index)
