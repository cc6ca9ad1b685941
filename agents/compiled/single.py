"""One agent whose update and acting are compiled."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import TensorDictBase

from maxentflow.agents.agent import Agent
from maxentflow.agents.compiled.acting import CompiledActing
from maxentflow.agents.compiled.update import CompiledUpdate, explained
from maxentflow.agents.learner import EagerLearner, RandomStreams

__all__ = ["CompiledLearner"]


class CompiledLearner:
    """An agent that acts and learns by compiled code, once it is prepared.

    Batches and observations of other forms, and updates with settings that changed since, see
    :class:`CompiledUpdate`, go to the agent as it is; a behaviour that cannot be traced acts as it
    is. Results agree to rounding. Settings that change are noticed in the first update, and after
    :meth:`synchronize`.

    Args:
        agent: it stays usable on its own.

    Example:
        >>> from maxentflow import flows, objectives
        >>> flow = flows.build("additive", 1, 3, temperature=0.2, blocks=1)
        >>> loss = objectives.SoftBellmanLoss(flow)
        >>> steps = [Step(("loss",), torch.optim.Adam(loss.parameters()))]
        >>> updater = objectives.PolyakUpdate(loss, tau=0.005)
        >>> agent = Agent("own", flows.FlowPolicy(flow), loss, steps, target_updaters=[updater])
        >>> learner = CompiledLearner(agent)
        >>> observation = TensorDict(observation=torch.zeros(1, 3), batch_size=[1])
        >>> acted, = learner.act([observation], RandomStreams(1))
        >>> sorted(acted.keys())
        ['action', 'action_log_prob', 'observation']
    """

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._update: CompiledUpdate | None = None
        self._alone = EagerLearner([agent])
        self._acting: CompiledActing | None = None
        self._current: bool | None = None  # whether it is as it was traced; not known at first

    def prepare(
        self, batches: Sequence[TensorDictBase], observations: Sequence[TensorDictBase]
    ) -> None:
        """Compile for batches and observations such as these, and the loss's present mode.

        Takes about half a minute, seconds where torch has it in its cache. No parameter, random
        number or entry changes.

        Raises:
            CompilationError: there is no C++ compiler, or the update cannot be compiled.
        """
        (batch,), (observation,) = batches, observations
        acting = None
        devices = range(torch.cuda.device_count())
        with torch.random.fork_rng(devices), explained(self._agent.name):
            update = CompiledUpdate(self._agent, batch)
            update.compile(batch)
            try:
                acting = CompiledActing(self._agent, update.layout, observation)
            except (NotImplementedError, RuntimeError):
                pass  # a behaviour that looks at values, as TorchRL's noise does, acts as it is
            else:
                acting.compile(observation)
        self._update, self._acting, self._current = update, acting, None

    def act(
        self, observations: Sequence[TensorDictBase], streams: RandomStreams
    ) -> list[TensorDictBase | FloatingPointError]:
        acting = self._acting
        if acting is None or not acting.takes(observations[0]):
            return self._alone.act(observations, streams)
        with streams[0]:
            return [acting(observations[0])]

    def update(
        self, batches: Sequence[TensorDictBase], streams: RandomStreams
    ) -> list[TensorDictBase | FloatingPointError]:
        update = self._update
        if update is not None:
            if self._current is None:
                self._current = update.is_current()
            if self._current and update.takes(batches[0]):
                with streams[0]:
                    try:
                        return [update(batches[0])]
                    except FloatingPointError as error:
                        return [error]
        self._current = None
        return self._alone.update(batches, streams)

    def synchronize(self) -> None:
        """The agent is always up to date; what is changed from now on is noticed."""
        self._current = None
