"""The entropy's weight as something that changes: by learning, or by a schedule."""

from __future__ import annotations

import math
from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["LearnedTemperature", "ScheduledTemperature", "Temperature"]


class Temperature(nn.Module):
    r"""Abstract base of temperatures :math:`\alpha > 0` that change, kept as their logarithm."""

    log_alpha: Tensor

    def forward(self) -> Tensor:
        r""":math:`\alpha`, shape ``()``, without a gradient."""
        return self.log_alpha.detach().exp()


class LearnedTemperature(Temperature):
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
        return super().forward().clamp(*self.bounds)

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


class ScheduledTemperature(Temperature):
    r"""A temperature that goes from one value to another in equal ratios, and stays there.

    .. math:: \alpha_t = \alpha_0^{1 - p}\, \alpha_1^{p}, \qquad p = \min(t / T, 1)

    Args:
        initial: :math:`\alpha_0`.
        final: :math:`\alpha_1`.
        steps: :math:`T`, environment steps from one to the other.

    Raises:
        ValueError: a temperature is not positive and finite, or ``steps`` is below 1.

    Example:
        >>> temperature = ScheduledTemperature(1.0, 0.01, steps=100)
        >>> temperature.advance(50)
        >>> temperature()
        tensor(0.1000)
    """

    def __init__(self, initial: float, final: float, *, steps: int) -> None:
        super().__init__()
        if not (0 < initial < math.inf and 0 < final < math.inf):
            raise ValueError(
                f"Temperatures must be positive and finite, got {initial} and {final}."
            )
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}.")
        self.initial, self.final, self.steps = float(initial), float(final), steps
        self.register_buffer("log_alpha", torch.tensor(math.log(initial)))
        self.taken = 0

    @torch.no_grad()
    def advance(self, steps: int) -> None:
        """Count so many more environment steps."""
        self.taken += steps
        first, last = math.log(self.initial), math.log(self.final)
        self.log_alpha.fill_(first + (last - first) * min(self.taken / self.steps, 1.0))

    def observe(self, transitions: MutableMapping[Any, Any]) -> None:
        """Count the transitions of a step of the environments."""
        self.advance(len(transitions))

    def get_extra_state(self) -> int:
        """The steps taken, for ``state_dict``."""
        return self.taken

    def set_extra_state(self, state: Any) -> None:
        """Take back what :meth:`get_extra_state` gave."""
        self.taken = state

    def extra_repr(self) -> str:
        return f"initial={self.initial}, final={self.final}, steps={self.steps}"
