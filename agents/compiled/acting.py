"""An agent's acting as compiled code."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor

from maxentflow.agents.agent import Agent
from maxentflow.agents.compiled.flat import Layout
from maxentflow.agents.compiled.trace import compile_function, trace
from maxentflow.agents.compiled.update import Function, form_of, recorded
from maxentflow.agents.compiled.watch import constants, watched

__all__ = ["CompiledActing"]


class CompiledActing:
    """What :meth:`Agent.act` does, with the random numbers that it would draw.

    Whatever is written into the behaviour's parameters and buffers counts at every call. Buffers
    that are replaced, and plain attributes of its modules, their modes among them, are those of
    the moment it is made.

    Args:
        agent: which acts.
        layout: its tensors as vectors.
        observation: entries such as it is going to be given.

    Attributes:
        buffers: those of the behaviour, such as a noise's scale, that are not the loss's.
        graph: takes the layout's weights, these buffers, the observation's entries and the random
            numbers; gives a tuple of the entries that are written.
        draw: draws these random numbers.

    Raises:
        NotImplementedError: the behaviour cannot be traced.
    """

    def __init__(self, agent: Agent, layout: Layout, observation: TensorDictBase) -> None:
        assert agent.behavior is not None
        self._agent = agent
        self._form = form_of(observation)
        self._size = observation.batch_size
        self._written: list[NestedKey] = []
        self.buffers = _own_buffers(agent, layout)
        state = [*layout.weights, *self.buffers]
        traced = trace(self._act, self.inputs(observation), state)
        self.graph, self.draw, self._state = traced.graph, traced.draw, state
        self._function = self._launching(traced.graph)

    @torch.no_grad()
    def compile(self, observation: TensorDictBase) -> None:
        """Compile for observations such as this one."""
        arguments = [*self._state, *self.inputs(observation), *self.draw()]
        compiled = compile_function(self.graph, arguments)
        self._function = recorded(self._launching(compiled), self._state, self.inputs(observation))

    def _launching(self, function: Function) -> Function:
        state, draw = self._state, self.draw
        return lambda *given: function(*state, *given, *draw())

    def takes(self, observation: TensorDictBase) -> bool:
        """Whether an observation is of the form that was traced."""
        return form_of(observation) == self._form

    def inputs(self, observation: TensorDictBase) -> list[Tensor]:
        """The entries of an observation, as the graph takes them."""
        return [observation[key] for key in self._form]

    @torch.no_grad()
    def __call__(self, observation: TensorDictBase) -> TensorDictBase:
        """Write into an observation what the behaviour writes, and give it back."""
        return self.write(observation, self._function(*self.inputs(observation)))

    def write(self, observation: TensorDictBase, outputs: Sequence[Tensor]) -> TensorDictBase:
        """Write the outputs of the graph into an observation."""
        for key, entry in zip(self._written, outputs, strict=True):
            observation.set(key, entry)
        return observation

    def _act(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(self._form, inputs, strict=True))
        acted = self._agent.act(TensorDict(given, self._size))
        entries = {
            key: entry for key, entry in acted.items(True, True) if entry is not given.get(key)
        }
        self._written = list(entries)
        return tuple(entries.values())


def _own_buffers(agent: Agent, layout: Layout) -> list[Tensor]:
    assert agent.behavior is not None
    of_the_loss = {entry.data_ptr() for entry in watched(agent, layout)}
    buffers = constants(agent.behavior, layout).values()
    return [entry for entry in buffers if entry.data_ptr() not in of_the_loss]
