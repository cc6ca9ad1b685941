"""Who acts and learns: the interface between a training loop and an agent, compiled or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import torch
from tensordict import TensorDictBase
from torch import Tensor

from maxentflow.agents.agent import Agent

__all__ = [
    "CompilationError",
    "EagerLearner",
    "Learner",
    "RandomState",
    "RandomStreams",
    "random_state",
    "set_random_state",
]

RandomState = tuple[Tensor, list[Tensor]]
"""The states of torch's generators: the CPU's, and each GPU's."""


class CompilationError(RuntimeError):
    """An agent could not be compiled, or several could not be one program."""


class Learner(Protocol):
    """Acts and learns for one run, or for several in step with each other.

    Everything is a sequence with one entry for each run. Random numbers are drawn from the run's
    own generators, within ``streams[index]``.
    """

    def prepare(
        self, batches: Sequence[TensorDictBase], observations: Sequence[TensorDictBase]
    ) -> None:
        """Get ready for batches and observations such as these, before the first update.

        Raises:
            CompilationError: it cannot; nothing has changed then.
        """
        ...

    def act(
        self, observations: Sequence[TensorDictBase], streams: RandomStreams
    ) -> Sequence[TensorDictBase | FloatingPointError]:
        """What :meth:`Agent.act` gives or raises, for each."""
        ...

    def update(
        self, batches: Sequence[TensorDictBase], streams: RandomStreams
    ) -> Sequence[TensorDictBase | FloatingPointError]:
        """What :meth:`Agent.update` gives or raises, for each."""
        ...

    def synchronize(self) -> None:
        """Bring the agents' own tensors up to date; call it before you change an agent."""
        ...


class EagerLearner:
    """Agents as they are, one after the other.

    Args:
        agents: one for each run.
    """

    def __init__(self, agents: Sequence[Agent]) -> None:
        self._agents = agents

    def prepare(
        self, batches: Sequence[TensorDictBase], observations: Sequence[TensorDictBase]
    ) -> None:
        """Nothing to do."""

    def act(
        self, observations: Sequence[TensorDictBase], streams: RandomStreams
    ) -> list[TensorDictBase | FloatingPointError]:
        return _each([agent.act for agent in self._agents], observations, streams)

    def update(
        self, batches: Sequence[TensorDictBase], streams: RandomStreams
    ) -> list[TensorDictBase | FloatingPointError]:
        return _each([agent.update for agent in self._agents], batches, streams)

    def synchronize(self) -> None:
        """Nothing to do."""


def _each(
    uses: Sequence[Callable[[TensorDictBase], TensorDictBase]],
    inputs: Sequence[TensorDictBase],
    streams: RandomStreams,
) -> list[TensorDictBase | FloatingPointError]:
    results: list[TensorDictBase | FloatingPointError] = []
    for index, (use, given) in enumerate(zip(uses, inputs, strict=True)):
        with streams[index]:
            try:
                results.append(use(given))
            except FloatingPointError as error:
                results.append(error)
    return results


class RandomStreams:
    """Torch's generators, as several runs in one process each have them for themselves.

    Args:
        count: how many runs. A single one has torch's generators as they are.

    Example:
        >>> streams = RandomStreams(2)
        >>> for index in range(2):
        ...     with streams[index]:
        ...         _ = torch.manual_seed(index)
        >>> with streams[0]:
        ...     first = torch.rand(1)
        >>> bool(first == torch.rand(1, generator=torch.Generator().manual_seed(0)))
        True
    """

    def __init__(self, count: int) -> None:
        self._states = [random_state() for _ in range(count)]
        self._nothing = nullcontext()

    def __getitem__(self, index: int) -> AbstractContextManager[None]:
        """A context in which torch's generators are those of one run, as they were left there."""
        return self._nothing if len(self._states) == 1 else self._own(index)

    @contextmanager
    def _own(self, index: int) -> Iterator[None]:
        others = random_state()
        set_random_state(self._states[index])
        try:
            yield
        finally:
            self._states[index] = random_state()
            set_random_state(others)


def random_state() -> RandomState:
    """The states of torch's generators."""
    return torch.get_rng_state(), torch.cuda.get_rng_state_all()


def set_random_state(state: RandomState) -> None:
    """Set the states of torch's generators."""
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1][: torch.cuda.device_count()])
