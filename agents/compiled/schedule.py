"""Which steps and target updaters are due in an agent's next update."""

from __future__ import annotations

import math
from typing import NamedTuple

from torchrl.objectives import SoftUpdate

from maxentflow.agents.agent import Agent
from maxentflow.objectives import DelayedUpdate, PolyakUpdate, WeightAverage

__all__ = ["Due", "Schedule"]


class Due(NamedTuple):
    """What takes part in an update.

    Attributes:
        steps: of the agent, which.
        updaters: of :attr:`Schedule.updaters`, which.
    """

    steps: tuple[bool, ...]
    updaters: tuple[bool, ...]


class Schedule:
    """The counts by which an agent's steps and updaters take turns.

    Args:
        agent: whose counts are read, and advanced by :meth:`advance`.

    Attributes:
        updaters: the agent's target updaters, without the delays around them.

    Raises:
        NotImplementedError: a target updater is of a kind that is not supported.

    Example:
        >>> from maxentflow import flows, objectives
        >>> flow = flows.build("additive", 1, 3, temperature=0.2)
        >>> loss = objectives.SoftBellmanLoss(flow)
        >>> steps = [Step(("loss",), torch.optim.Adam(loss.parameters()))]
        >>> updater = DelayedUpdate(PolyakUpdate(loss, tau=0.01), every=2)
        >>> agent = Agent("own", flows.FlowPolicy(flow), loss, steps, target_updaters=[updater])
        >>> schedule = Schedule(agent)
        >>> schedule.due()
        Due(steps=(True,), updaters=(False,))
        >>> schedule.advance()
        >>> schedule.due()
        Due(steps=(True,), updaters=(True,))
    """

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._delays = [u if type(u) is DelayedUpdate else None for u in agent.target_updaters]
        self.updaters = [
            updater if delay is None else delay.updater
            for updater, delay in zip(agent.target_updaters, self._delays, strict=True)
        ]
        for updater in self.updaters:
            if type(updater) not in (SoftUpdate, PolyakUpdate, WeightAverage):
                raise NotImplementedError(
                    f"its target updater {type(updater).__name__} is not supported"
                )
        periods = [step.every for step in agent.steps]
        self._period = math.lcm(*periods, *(delay.every for delay in self._delays if delay))

    def due(self, ahead: int = 0) -> Due:
        """What takes part in the next update, or in one that lies so many ahead of it."""
        return Due(
            tuple(step.is_due(self._agent.updates + ahead + 1) for step in self._agent.steps),
            tuple(
                delay is None or (delay.calls + ahead + 1) % delay.every == 0
                for delay in self._delays
            ),
        )

    def cycle(self) -> list[Due]:
        """Everything that is ever due from now on, in the order of its first turn."""
        return list(dict.fromkeys(map(self.due, range(self._period))))

    def advance(self, updates: int = 1) -> None:
        """Count updates; a negative number takes as many back."""
        self._agent.updates += updates
        for delay in self._delays:
            if delay is not None:
                delay.calls += updates
