"""Bounded log-scales."""

from __future__ import annotations

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
    r"""Smoothly into ``(-bound, bound)``: :math:`x / (1 + |x| / m)`, the identity near zero.

    It nears its bound slowly. A hyperbolic tangent leaves large values as they are until it
    stops them with hardly any gradient back.

    Example:
        >>> bounded(torch.tensor([0.01, 2.0, 100.0]), 2.0)
        tensor([0.0100, 1.0000, 1.9608])
    """
    return raw / (1 + raw.abs() / bound)
