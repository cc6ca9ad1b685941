"""Log-scales that cannot leave their bounds."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["bounded", "check_bound"]


def check_bound(name: str, value: float) -> float:
    """The value as a float, if it is positive and finite.

    Raises:
        ValueError: it is not.
    """
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be positive and finite, got {value}.")
    return float(value)


def bounded(raw: Tensor, bound: float) -> Tensor:
    r"""Smoothly into ``(-bound, bound)``: :math:`m \tanh(x / m)`, the identity near zero.

    Example:
        >>> bounded(torch.tensor([0.01, 100.0]), 2.0)
        tensor([0.0100, 2.0000])
    """
    return bound * torch.tanh(raw / bound)
