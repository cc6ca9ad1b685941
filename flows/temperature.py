"""The entropy's weight as something that is learned."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["LearnedTemperature"]


class LearnedTemperature(nn.Module):
    r"""A temperature :math:`\alpha > 0` that dual descent moves, kept as its logarithm.

    It is a constant of Q, V and the policy: a regression of Q does not change it. A loss changes
    it through :meth:`dual_loss`, towards a policy of a given entropy
    (Haarnoja et al. 2018, arXiv:1812.05905, section 5).

    Args:
        initial: :math:`\alpha` at first.
        bounds: lowest and highest :math:`\alpha`.

    Raises:
        ValueError: ``initial`` is not between the bounds, or these are not positive and finite.

    Example:
        >>> temperature = LearnedTemperature(0.5)
        >>> temperature()
        tensor(0.5000)
        >>> loss = temperature.dual_loss(torch.tensor([1.0, 3.0]), target_entropy=-1.0)
        >>> loss.backward()  # the entropy is -2, below its target: descent raises the temperature
        >>> temperature.log_alpha.grad
        tensor(-1.)
    """

    def __init__(self, initial: float, *, bounds: tuple[float, float] = (1e-8, 1e8)) -> None:
        super().__init__()
        low, high = bounds
        if not 0 < low <= initial <= high < math.inf:
            raise ValueError(
                "A learned temperature begins between its bounds, which are positive and finite; "
                f"got {initial} and {bounds}."
            )
        self.initial = float(initial)
        self.bounds = (float(low), float(high))
        self.log_alpha = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.log_alpha, math.log(self.initial))

    def forward(self) -> Tensor:
        r""":math:`\alpha`, shape ``()``, without a gradient."""
        return self.log_alpha.detach().exp().clamp(*self.bounds)

    def dual_loss(self, log_prob: Tensor, target_entropy: float) -> Tensor:
        r""":math:`-\log\alpha \cdot \operatorname{mean}(\log \pi(a|s) + \bar H)`, shape ``()``.

        Args:
            log_prob: log-densities of the policy's own actions, any shape; a constant.
            target_entropy: :math:`\bar H`, of the whole action.
        """
        low, high = (math.log(bound) for bound in self.bounds)
        upwards = log_prob.detach().mean() + target_entropy
        # Beyond a bound, descent leads back to it only.
        log_alpha = self.log_alpha.detach()
        upwards = torch.where(log_alpha > high, upwards.clamp(max=0.0), upwards)
        upwards = torch.where(log_alpha < low, upwards.clamp(min=0.0), upwards)
        return -self.log_alpha * upwards

    def extra_repr(self) -> str:
        return f"initial={self.initial}"
