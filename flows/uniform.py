"""The uniform on a box: a base for layers that map the box onto itself."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from maxentflow.flows.base import Base
from maxentflow.flows.bounded import check_bound

__all__ = ["Uniform"]


class Uniform(Base):
    r"""The uniform on :math:`[-b, b]^d`, ends included, with :math:`u = 0` inside, minus infinity
    outside, and :math:`c = d \log 2b`.

    It goes with layers that map the box onto itself: splines of the same bound and permutations,
    with no scale and no squash. Elsewhere the density is zero and Q minus infinity.

    Args:
        dim: size of the latent, at least 1.
        bound: half the length of the box's sides, positive.

    Raises:
        ValueError: ``dim`` is below 1, or ``bound`` is not positive and finite.

    Example:
        >>> Uniform(2, bound=0.5).log_prob(torch.tensor([[0.5, -0.1], [0.6, 0.0]]))
        tensor([0., -inf])
    """

    def __init__(self, dim: int, bound: float = 1.0) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"Uniform needs dim >= 1, got {dim}.")
        self.dim = dim
        self.bound: float = check_bound("bound", bound)
        # Follows the module's dtype and device; not a parameter of the density.
        self.register_buffer("_mode", torch.zeros(dim), persistent=False)

    def unnormalized_log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        inside = (z.abs() <= self.bound).all(-1)
        return torch.where(inside, 0.0, z.new_full((), -float("inf")))

    def log_normalizer(self, context: Tensor | None = None) -> float:
        return self.dim * math.log(2 * self.bound)

    def rsample(self, shape: tuple[int, ...], context: Tensor | None = None) -> Tensor:
        like = self._mode
        unit = torch.rand((*shape, self.dim), dtype=like.dtype, device=like.device)
        return self.bound * (2 * unit - 1)

    def mode(self, context: Tensor | None = None) -> Tensor:
        """The centre: every point of the box is as likely, and the centre stands for them."""
        return self._mode
