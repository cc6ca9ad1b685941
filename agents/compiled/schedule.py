"""Which steps and target updaters are due in an agent's next update."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torchrl.objectives import SoftUpdate
from torchrl.objectives.utils import TargetNetUpdater

from maxentflow.agents.agent import Agent
from maxentflow.objectives import DelayedUpdate, PolyakUpdate, UpdaterChain, WeightAverage

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
        updaters: the target updaters that are not made of others, in the order of their steps.

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
        leaves = list(_leaves(agent.target_updater))
        self.updaters = [updater for updater, _ in leaves]
        self._waits = [waits for _, waits in leaves]
        """The delayed updaters around each, the outermost first."""
        self._delayed: dict[int, tuple[DelayedUpdate, list[DelayedUpdate]]] = {
            id(delayed): (delayed, waits[:index])
            for waits in self._waits
            for index, delayed in enumerate(waits)
        }
        self._turns = any(self._waits) or any(step.every > 1 for step in agent.steps)
        self._always = Due((True,) * len(agent.steps), (True,) * len(leaves))

    def due(self) -> Due:
        """What takes part in the next update."""
        if not self._turns:
            return self._always
        return self._due(self._agent.updates, self._calls())

    def advance(self, updates: int = 1) -> None:
        """Count updates; a negative number takes as many back."""
        self._agent.updates += updates
        if self._delayed:
            calls = self._calls()
            for _ in range(abs(updates)):
                calls = self._after(calls, 1 if updates > 0 else -1)
            for delayed, _ in self._delayed.values():
                delayed.calls = calls[id(delayed)]

    def cycle(self) -> list[Due]:
        """Everything that is ever due from now on, in the order of its first turn."""
        updates, calls = self._agent.updates, self._calls()
        seen, found = set(), dict[Due, None]()
        while (position := self._position(updates, calls)) not in seen:
            seen.add(position)
            found[self._due(updates, calls)] = None
            updates, calls = updates + 1, self._after(calls, 1)
        return list(found)

    def _due(self, updates: int, calls: dict[int, int]) -> Due:
        return Due(
            tuple(step.is_due(updates + 1) for step in self._agent.steps),
            tuple(_is_turn(waits, calls, 1) for waits in self._waits),
        )

    def _calls(self) -> dict[int, int]:
        return {key: delayed.calls for key, (delayed, _) in self._delayed.items()}

    def _after(self, calls: dict[int, int], by: int) -> dict[int, int]:
        """The counts after the next update, ``by`` 1, or before the last, -1."""
        return {
            key: calls[key] + by * _is_turn(around, calls, max(by, 0))
            for key, (_, around) in self._delayed.items()
        }

    def _position(self, updates: int, calls: dict[int, int]) -> tuple[int, ...]:
        return (
            *(updates % step.every for step in self._agent.steps),
            *(calls[key] % delayed.every for key, (delayed, _) in self._delayed.items()),
        )


def _is_turn(waits: Sequence[DelayedUpdate], calls: dict[int, int], ahead: int) -> bool:
    """Whether all of these step, so many calls ahead of their counts."""
    return all((calls[id(delayed)] + ahead) % delayed.every == 0 for delayed in waits)


def _leaves(
    updater: TargetNetUpdater, waits: Sequence[DelayedUpdate] = ()
) -> Iterator[tuple[TargetNetUpdater, list[DelayedUpdate]]]:
    """Updaters that are not made of others, each with the delayed ones around it."""
    if type(updater) is UpdaterChain:
        for each in updater.updaters:
            yield from _leaves(each, waits)
    elif type(updater) is DelayedUpdate:
        yield from _leaves(updater.updater, [*waits, updater])
    elif type(updater) in (SoftUpdate, PolyakUpdate, WeightAverage):
        yield updater, list(waits)
    else:
        raise NotImplementedError(f"its target updater {type(updater).__name__} is not supported")
