"""Several agents as one batched program."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from tensordict import TensorDictBase
from torch import Tensor

from maxentflow.agents.agent import Agent
from maxentflow.agents.cuda_graph import CudaGraph
from maxentflow.agents.learner import Actor, Learner, compiled

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
        NotImplementedError: an agent cannot be traced, or has buffers that differ from another's,
            such as permutations drawn at random.

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
        buffers = [dict(agent.loss.named_buffers()) for agent in agents]
        for name, buffer in buffers[0].items():
            learned = name.startswith("target_")
            if not learned and not all(torch.equal(buffer, other[name]) for other in buffers):
                raise NotImplementedError(f"{name} differs between the agents")
        self.learner = Learner(agents[0], batch.clone())
        self.actor = Actor(agents[0], observation)
        self._stacks = [torch.stack(t) for t in zip(*map(self.learner.state, agents), strict=True)]
        self._update: Callable[..., Sequence[Tensor]] = self._update_in_place
        self._act: Callable[..., Sequence[Tensor]] = self._act_batched

    @torch.no_grad()
    def compile(self, batch: TensorDictBase, observation: Tensor) -> None:
        """Compile both functions; nothing else changes but the position of torch's generator.

        Args:
            batch: transitions such as each is going to be updated with.
            observation: observations such as each is going to act on.
        """
        count = len(self._agents)
        update, act = compiled(self._update_in_place), compiled(self._act_batched)
        rates, inputs = self.learner.rates(), _stack([self.learner.inputs(batch)] * count)
        draws = _stack([self.learner.draw()] * count)
        update([stack.clone() for stack in self._stacks], rates, inputs, draws)
        seen = [torch.stack([observation] * count), *_stack([self.actor.draw()] * count)]
        vectors = self._stacks[: len(rates)]
        act(*vectors, *seen)
        self._update, self._act = update, act
        if observation.is_cuda:
            ends = len(rates), len(rates) + len(inputs)
            recorded_update = CudaGraph(
                lambda given: update(
                    self._stacks, given[: ends[0]], given[ends[0] : ends[1]], given[ends[1] :]
                ),
                [*rates, *inputs, *draws],
            )
            recorded_act = CudaGraph(lambda given: act(*vectors, *given), seen)
            self._update = lambda _, *parts: recorded_update([t for part in parts for t in part])
            self._act = lambda *parts: recorded_act(parts[len(rates) :])

    @torch.no_grad()
    def act(
        self, observations: Sequence[Tensor], draws: Sequence[Sequence[Tensor]]
    ) -> Sequence[Tensor]:
        """Each agent's actions, from random numbers of ``actor.draw`` for each."""
        vectors = self._stacks[: len(self.learner.rates())]
        (actions,) = self._act(*vectors, torch.stack(list(observations)), *_stack(draws))
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
        outputs = self._update(self._stacks, self.learner.rates(), inputs, _stack(draws))
        return [self.learner.report(each) for each in zip(*outputs, strict=True)]

    @torch.no_grad()
    def write_back(self) -> None:
        """Bring the agents' own tensors up to date."""
        for index, agent in enumerate(self._agents):
            for tensor, stack in zip(self.learner.state(agent), self._stacks, strict=True):
                tensor.copy_(stack[index])
            if agent.average is not None:
                agent.average.copy_buffers()

    def _act_batched(self, *arguments: Tensor) -> tuple[Tensor]:
        return torch.vmap(self.actor.graph)(*arguments)

    def _update_in_place(
        self,
        stacks: Sequence[Tensor],
        rates: Sequence[Tensor],
        inputs: Sequence[Tensor],
        draws: Sequence[Tensor],
    ) -> list[Tensor]:
        advance = torch.vmap(self.learner.advance, in_dims=(0, None, 0, 0))
        outputs, after = advance(list(stacks), list(rates), list(inputs), list(draws))
        for stack, value in zip(stacks, after, strict=True):
            stack.copy_(value)
        return outputs


def _stack(rows: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    return [torch.stack(column) for column in zip(*rows, strict=True)]
