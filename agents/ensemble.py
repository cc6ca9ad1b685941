"""Several agents as one batched program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from tensordict import TensorDictBase
from torch import Tensor

from maxentflow.agents.agent import Agent
from maxentflow.agents.cuda_graph import CudaGraph
from maxentflow.agents.flat_adam import FlatAdam
from maxentflow.agents.learner import (
    Actor,
    Learner,
    constants,
    in_place,
    rules,
    step_sizes,
)
from maxentflow.agents.pure import compiled

__all__ = ["Ensemble"]


class Ensemble:
    """Agents that differ by their random numbers alone, as one function batched over them.

    Parameters, moments, targets and averages are stacked, and the update and the acting of one
    agent, as functions of tensors, are mapped over the stacks by ``torch.func.vmap``. The agents'
    own tensors are as they were until :meth:`write_back`.

    Args:
        agents: of one configuration.
        batch: transitions such as each is going to be updated with.
        observation: observations such as each is going to act on.

    Raises:
        NotImplementedError: an agent cannot be traced, or has settings that differ from another's,
            or buffers, such as permutations drawn at random.

    Example:
        >>> from maxentflow import agents, envs
        >>> env = envs.make("Pendulum-v1")
        >>> pair = [agents.make("meow", env) for _ in range(2)]
        >>> observation = torch.randn(1, 3)
        >>> batch = TensorDict(
        ...     observation=torch.randn(8, 3),
        ...     action=torch.rand(8, 1),
        ...     next=TensorDict(
        ...         observation=torch.randn(8, 3),
        ...         reward=torch.randn(8, 1),
        ...         done=torch.zeros(8, 1, dtype=torch.bool),
        ...         terminated=torch.zeros(8, 1, dtype=torch.bool),
        ...     ),
        ...     batch_size=[8],
        ... )
        >>> ensemble = Ensemble(pair, batch, observation)
        >>> reports = ensemble.update([batch, batch], [ensemble.learner.draw() for _ in pair])
        >>> [report["loss"].shape for report in reports]
        [torch.Size([]), torch.Size([])]
    """

    def __init__(
        self, agents: Sequence[Agent], batch: TensorDictBase, observation: Tensor
    ) -> None:
        self._agents = list(agents)
        if len({_settings(agent) for agent in agents}) > 1:
            raise NotImplementedError("settings of the networks or optimizers differ")
        first, *others = map(constants, agents)
        for name, buffer in first.items():
            if not all(torch.equal(buffer, other[name]) for other in others):
                raise NotImplementedError(f"{name} differs between the agents")
        self.learner = Learner(agents[0], batch.clone())
        self.actor = Actor(agents[0], observation)
        self._stacks = [torch.stack(t) for t in zip(*map(self.learner.state, agents), strict=True)]
        self._update: Callable[..., Sequence[Tensor]] = in_place(self._advance)
        self._act: Callable[..., Sequence[Tensor]] = torch.vmap(self.actor.graph)

    @torch.no_grad()
    def compile(self, batch: TensorDictBase, observation: Tensor) -> None:
        """Compile both functions; nothing else changes but the position of torch's generator.

        Args:
            batch: transitions such as each is going to be updated with.
            observation: observations such as each is going to act on.
        """
        count, rates = len(self._agents), self.learner.rates()
        inputs = _stack([self.learner.inputs(batch)] * count)
        given = [*rates, *inputs, *_stack([self.learner.draw()] * count)]
        seen = [torch.stack([observation] * count), *_stack([self.actor.draw()] * count)]
        state, vectors = self._stacks, self._vectors()
        update = compiled(self._update, [*(stack.clone() for stack in state), *given])
        act = compiled(self._act, [*vectors, *seen])
        if observation.is_cuda:
            recorded_update = CudaGraph(lambda rest: update(*state, *rest), given)
            recorded_act = CudaGraph(lambda rest: act(*vectors, *rest), seen)
            self._update = lambda *arguments: recorded_update(arguments[len(state) :])
            self._act = lambda *arguments: recorded_act(arguments[len(vectors) :])
        else:
            self._update, self._act = update, act

    @torch.no_grad()
    def act(
        self, observations: Sequence[Tensor], draws: Sequence[Sequence[Tensor]]
    ) -> Sequence[Tensor]:
        """Each agent's actions, from random numbers of ``actor.draw`` for each."""
        (actions,) = self._act(*self._vectors(), torch.stack(list(observations)), *_stack(draws))
        return actions.unbind()

    @torch.no_grad()
    def update(
        self, batches: Sequence[TensorDictBase], draws: Sequence[Sequence[Tensor]]
    ) -> list[TensorDictBase]:
        """Update each agent with its batch and random numbers of ``learner.draw``.

        Where an agent's loss is not finite, that agent is not changed.

        Returns:
            What each loss reports.
        """
        inputs = _stack([self.learner.inputs(batch) for batch in batches])
        outputs = self._update(*self._stacks, *self.learner.rates(), *inputs, *_stack(draws))
        return [self.learner.report(each) for each in zip(*outputs, strict=True)]

    @torch.no_grad()
    def write_back(self) -> None:
        """Bring the agents' own tensors up to date.

        Raises:
            RuntimeError: a parameter was moved, cast or frozen.
        """
        for agent in self._agents:
            cast(FlatAdam, agent.optimizer).check()
        for index, agent in enumerate(self._agents):
            for tensor, stack in zip(self.learner.state(agent), self._stacks, strict=True):
                tensor.copy_(stack[index])

    def _advance(self, *arguments: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Like ``learner.advance``, on stacks of all but the step sizes."""
        stacked, shared = len(self._stacks), len(self.learner.rates())
        axes: list[int | None] = [0] * len(arguments)
        axes[stacked : stacked + shared] = [None] * shared
        return torch.vmap(self.learner.advance, in_dims=tuple(axes))(*arguments)

    def _vectors(self) -> list[Tensor]:
        return self._stacks[: len(self.learner.rates())]


def _stack(rows: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    return [torch.stack(column) for column in zip(*rows, strict=True)]


def _settings(agent: Agent) -> tuple[object, ...]:
    """What the first agent's graph has for all, as far as it can be told."""
    return rules(agent), *step_sizes(agent), repr(agent.policy), repr(agent.loss)
