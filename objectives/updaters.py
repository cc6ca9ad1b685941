"""What follows an optimiser step: target networks and averages of weights, as TorchRL updaters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchrl.objectives import SoftUpdate
from torchrl.objectives.utils import TargetNetUpdater

from maxentflow.objectives.functional import copy_but_for

__all__ = ["DelayedUpdate", "PolyakUpdate", "UpdaterChain", "WeightAverage", "target_pairs"]

Pairs = list[tuple[Tensor, Tensor]]


def target_pairs(updater: SoftUpdate) -> Pairs:
    """Every parameter that the updater follows, with its target.

    Example:
        >>> from maxentflow import flows
        >>> loss = SoftBellmanLoss(flows.build("additive", 2, 3, temperature=0.25))
        >>> source, target = target_pairs(SoftUpdate(loss, tau=0.005))[0]
        >>> torch.equal(source, target)
        True
    """
    return [
        (source, updater._targets.get((f"target_{key[0]}", *key[1:])))
        for key, source in updater._sources.items(True, True)
    ]


class PolyakUpdate(SoftUpdate):
    """:class:`torchrl.objectives.SoftUpdate`, all parameters in one call.

    TorchRL's own goes through the parameters one by one and takes ten times as long for networks
    of this size, 0.4 ms of an update of MEow. Values are the same.

    Example:
        >>> from maxentflow import flows
        >>> loss = SoftBellmanLoss(flows.build("additive", 2, 3, temperature=0.25))
        >>> PolyakUpdate(loss, tau=0.005).step()
    """

    _pairs: Pairs | None = None

    @torch.no_grad()
    def step(self) -> None:
        """Move every target a fraction tau towards its source."""
        if self._pairs is None:
            self._pairs = target_pairs(self)
        # .data at each step: a cast or a move replaces it behind the parameter.
        sources = [source.data for source, _ in self._pairs]
        targets = [target.data for _, target in self._pairs]
        torch._foreach_lerp_(targets, sources, 1 - self.eps)


class WeightAverage(TargetNetUpdater):
    """A copy of a module whose weights are the exponential moving average of the module's.

    The newest weights of a network that learns at a constant rate jitter about good ones; their
    average does not (Polyak and Juditsky 1992). The copy's buffers are the module's own.

    Args:
        source: the module that learns.
        decay: fraction of the average that stays in a step, in [0, 1).

    Attributes:
        module: the copy.
        decay: may be changed at any time.

    Raises:
        ValueError: ``decay`` is out of range.

    Example:
        >>> net = nn.Linear(1, 1, bias=False)
        >>> average = WeightAverage(net, decay=0.75)
        >>> _ = nn.init.constant_(average.module.weight, 0.0)
        >>> _ = nn.init.constant_(net.weight, 1.0)
        >>> average.step()
        >>> average.module.weight.item()
        0.25
    """

    def __init__(self, source: nn.Module, decay: float) -> None:
        # Not TorchRL's own constructor, which looks for the targets of a loss.
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}.")
        self.module = copy_but_for(source, source.buffers()).requires_grad_(False)
        self.decay = decay
        self._sources: list[Tensor] = list(source.parameters())
        self._averages: list[Tensor] = list(self.module.parameters())

    def pairs(self) -> Pairs:
        """Every parameter of the module, with its average."""
        return list(zip(self._sources, self._averages, strict=True))

    @torch.no_grad()
    def step(self) -> None:
        """Take the module's present weights into the average."""
        torch._foreach_lerp_(self._averages, self._sources, 1 - self.decay)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the averages are parameters of :attr:`module`."""
        return {}

    def load_state_dict(self, state_dict: Any) -> None:
        """Nothing, see :meth:`state_dict`."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(decay={self.decay})"


class DelayedUpdate(TargetNetUpdater):
    """An updater that steps at every n-th call only, as the targets of TD3 do
    (Fujimoto et al. 2018, arXiv:1802.09477, algorithm 1).

    Args:
        updater: what steps.
        every: calls from one step to the next, at least 1.

    Raises:
        ValueError: ``every`` is below 1.

    Example:
        >>> net = nn.Linear(1, 1, bias=False)
        >>> average = WeightAverage(net, decay=0.0)
        >>> delayed = DelayedUpdate(average, every=2)
        >>> _ = nn.init.constant_(net.weight, 3.0)
        >>> delayed.step()
        >>> average.module.weight.item() == 3.0
        False
        >>> delayed.step()
        >>> average.module.weight.item()
        3.0
    """

    def __init__(self, updater: TargetNetUpdater, every: int) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}.")
        self.updater = updater
        self.every = every
        self.calls = 0

    def step(self) -> None:
        """Step if it is the turn."""
        self.calls += 1
        if self.calls % self.every == 0:
            self.updater.step()

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls, "updater": self.updater.state_dict()}

    def load_state_dict(self, state_dict: Any) -> None:
        self.calls = state_dict["calls"]
        self.updater.load_state_dict(state_dict["updater"])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.updater!r}, every={self.every})"


class UpdaterChain(TargetNetUpdater):
    """Several updaters as one, for :class:`torchrl.trainers.TargetNetUpdaterHook`.

    Args:
        updaters: in the order of their steps.

    Example:
        >>> net = nn.Linear(1, 1, bias=False)
        >>> slow, fast = WeightAverage(net, decay=0.99), WeightAverage(net, decay=0.0)
        >>> _ = nn.init.constant_(net.weight, 3.0)
        >>> UpdaterChain([slow, fast]).step()
        >>> fast.module.weight.item()
        3.0
    """

    def __init__(self, updaters: Iterable[TargetNetUpdater]) -> None:
        self.updaters: Sequence[TargetNetUpdater] = list(updaters)

    def step(self) -> None:
        """One step of each."""
        for updater in self.updaters:
            updater.step()

    def state_dict(self) -> dict[str, Any]:
        return {"updaters": [updater.state_dict() for updater in self.updaters]}

    def load_state_dict(self, state_dict: Any) -> None:
        for updater, state in zip(self.updaters, state_dict["updaters"], strict=True):
            updater.load_state_dict(state)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.updaters!r})"
