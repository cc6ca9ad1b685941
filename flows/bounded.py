"""Bounded log-scales and matrices."""

from __future__ import annotations

from torch import Tensor

__all__ = ["bounded", "check_bound", "within_unit_ball"]


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


def within_unit_ball(matrix: Tensor) -> Tensor:
    r"""Matrices ``(*batch, n, n)`` smoothly into the unit ball of the Frobenius norm,
    :math:`A / \sqrt{1 + \|A\|^2}`: the identity near zero.

    If A is strictly triangular, the condition number of :math:`I + A` is then below 7 in any
    dimension, since :math:`\|A^k\| \le 1 / \sqrt{k!}` in the series of the inverse.

    Example:
        >>> within_unit_ball(torch.tensor([[0.0, 0.0], [0.75, 0.0]]))
        tensor([[0.0000, 0.0000],
                [0.6000, 0.0000]])
    """
    # The largest entry cancels. It keeps the squares from overflowing.
    largest = matrix.detach().abs().amax((-2, -1), keepdim=True).clamp(min=1)
    matrix = matrix / largest
    return matrix / (matrix.square().sum((-2, -1), keepdim=True) + largest**-2).sqrt()
