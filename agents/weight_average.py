"""A running average of weights."""

from __future__ import annotations

import copy

import torch
from torch import nn

from maxentflow.objectives.polyak import mirrored

__all__ = ["WeightAverage"]


class WeightAverage:
    """A copy of a module whose weights are the exponential moving average of the module's.

    The newest weights of a network that learns at a constant rate jitter about good ones; their
    average does not (Polyak and Juditsky 1992). The copy's buffers are the module's own. Make it
    after the module's optimiser, and do not move either of them.

    Args:
        source: the module that learns.
        decay: fraction of the average that stays in a step, in [0, 1).

    Raises:
        ValueError: ``decay`` is out of range.

    Example:
        >>> net = nn.Linear(1, 1, bias=False)
        >>> average = WeightAverage(net, decay=0.75)
        >>> nn.init.constant_(average.module.weight, 0.0)
        Parameter containing:
        tensor([[0.]])
        >>> _ = nn.init.constant_(net.weight, 1.0)
        >>> average.step()
        >>> average.module.weight.item()
        0.25
    """

    def __init__(self, source: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}.")
        shared = {id(buffer): buffer for buffer in source.buffers()}
        self.module = copy.deepcopy(source, shared).requires_grad_(False)
        self.decay = decay
        # Every vector of the source with its average.
        self.pairs = mirrored(zip(source.parameters(), self.module.parameters(), strict=True))

    @torch.no_grad()
    def step(self) -> None:
        """Take the source's present weights into the average."""
        for learned, average in self.pairs:
            average.lerp_(learned, 1 - self.decay)
