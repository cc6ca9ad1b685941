"""The update of one or several agents as one compiled function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor

from maxentflow.agents.flat_adam import FlatAdam
from maxentflow.agents.pure import purify
from maxentflow.objectives import PolyakUpdate

if TYPE_CHECKING:
    from maxentflow.agents.agent import Agent

__all__ = ["Actor", "Learner"]


class _State(NamedTuple):
    """What an update changes: lists of tensors, a vector for each group of the optimiser."""

    vectors: list[Tensor]
    firsts: list[Tensor]
    seconds: list[Tensor]
    counts: list[Tensor]
    targets: list[Tensor]
    averages: list[Tensor]


class _Place(NamedTuple):
    """Where in the optimiser's vectors a tensor is."""

    vector: int
    start: int
    end: int


class Actor:
    """An agent's acting as one compiled graph, with the random numbers of the uncompiled.

    Args:
        agent: which acts; its newest parameters do at every call.
        observation: observations such as it is going to be given.

    Raises:
        NotImplementedError: the behaviour cannot be traced.
    """

    def __init__(self, agent: Agent, observation: Tensor) -> None:
        self._agent = agent
        self._act = purify(lambda entry: (agent.act(entry),), [observation], _vectors(agent))
        self._step = torch.compile(self._act.graph, fullgraph=True, dynamic=False)

    @torch.no_grad()
    def __call__(self, observation: Tensor) -> Tensor:
        """Actions, shape ``(*batch, action_dim)``."""
        (action,) = self._step(*_vectors(self._agent), observation, *self._act.draw())
        return action


class Learner:
    """Loss, gradient, clipping, Adam, target and average as one graph.

    For one agent it reads and writes the agent's own tensors, so that updates with and without it
    can follow each other. Its random numbers are those that the uncompiled update would draw.

    Args:
        agent: whose update is traced.
        batch: transitions such as updates are going to be given.

    Raises:
        NotImplementedError: a part of the agent cannot be traced; the message says which.
    """

    def __init__(self, agent: Agent, batch: TensorDictBase) -> None:
        if not isinstance(agent.optimizer, FlatAdam):
            raise NotImplementedError("its optimizer is not a FlatAdam")
        if not isinstance(agent.target_updater, PolyakUpdate):
            raise NotImplementedError("its target updater is not a PolyakUpdate")
        for group in agent.optimizer.param_groups:
            if group["weight_decay"] or group["amsgrad"] or group["maximize"]:
                raise NotImplementedError("its optimizer has options beyond step size and moments")
        self._agent = agent
        self._keys: list[NestedKey] = list(batch.keys(True, True))
        self._size = batch.batch_size
        self._report: list[str] = []
        self._noted: list[NestedKey] = []  # what the loss writes into its batch
        state = _state(agent)
        self._lengths = [len(tensors) for tensors in state]
        self._adam = [(*group["betas"], group["eps"]) for group in agent.optimizer.param_groups]
        self._max_norm = agent.config.max_grad_norm
        self._tau = agent.target_updater.tau
        self._sources = [_place(s, state.vectors) for s, _ in agent.target_updater.pairs()]
        self._decay = agent.average_decay
        self._averaged = [_place(learned, state.vectors) for learned, _ in _averages(agent)]
        inputs = [batch[key] for key in self._keys]
        self._loss = purify(self._differentiate, inputs, [*state.vectors, *state.targets])
        # Random numbers are drawn outside; and whatever was compiled before, the code for a shape
        # is the same, to the last bit.
        self._step = torch.compile(self._advance_in_place, fullgraph=True, dynamic=False)

    @torch.no_grad()
    def __call__(self, batch: TensorDictBase) -> TensorDict:
        """Update the agent; give what its loss reports, and note in the batch what it notes.

        Where the loss is not finite, nothing is changed.
        """
        outputs = self._step(*self._arguments(batch))
        split = len(self._report)
        for key, entry in zip(self._noted, outputs[split:], strict=True):
            batch.set(key, entry)
        return TensorDict(dict(zip(self._report, outputs[:split], strict=True)))

    @torch.no_grad()
    def compile(self, batch: TensorDictBase) -> None:
        """Compile, which the first update would do; no state is changed."""
        state, *arguments = self._arguments(batch)
        self._step([tensor.clone() for tensor in state], *arguments)

    def _arguments(self, batch: TensorDictBase) -> tuple[list[Tensor], ...]:
        rates = [torch.tensor(group["lr"]) for group in self._agent.optimizer.param_groups]
        inputs = [batch[key] for key in self._keys]
        tensors = [tensor for entries in _state(self._agent) for tensor in entries]
        return tensors, rates, inputs, self._loss.draw()

    def _differentiate(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The report, what is noted in the batch, and the gradients."""
        batch = TensorDict(dict(zip(self._keys, inputs, strict=True)), self._size)
        report = self._agent.loss(batch)
        self._report = list(map(str, report.keys()))
        known = {_path(key) for key in self._keys}
        self._noted = [key for key in batch.keys(True, True) if _path(key) not in known]
        entries = [*report.values(), *(batch[key] for key in self._noted)]
        optimizer = cast(FlatAdam, self._agent.optimizer)
        gradients = optimizer.gradients(_total(self._report, list(report.values())))
        return *(entry.detach() for entry in entries), *gradients

    def _advance(
        self,
        tensors: Sequence[Tensor],
        rates: Sequence[Tensor],
        inputs: Sequence[Tensor],
        draws: Sequence[Tensor],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Outputs but for the gradients, and the state after the update."""
        rest = iter(tensors)
        old = _State(*([next(rest) for _ in range(length)] for length in self._lengths))
        outputs = list(self._loss.graph(*old.vectors, *old.targets, *inputs, *draws))
        split = len(self._report) + len(self._noted)
        outputs, gradients = outputs[:split], outputs[split:]
        if self._max_norm is not None:
            norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
            scale = (self._max_norm / (norm + 1e-6)).clamp(max=1.0)
            gradients = [gradient * scale for gradient in gradients]
        new = _State([], [], [], [count + 1 for count in old.counts], [], [])
        for index, (beta1, beta2, eps) in enumerate(self._adam):
            count, gradient = new.counts[index], gradients[index]
            first = _lerp(old.firsts[index], gradient, 1 - beta1)
            second = _lerp(old.seconds[index], gradient.square(), 1 - beta2)
            size = rates[index] / (1 - beta1**count)
            spread = second.sqrt() * (1 - beta2**count).rsqrt() + eps
            new.vectors.append(old.vectors[index] - size * first / spread)
            new.firsts.append(first)
            new.seconds.append(second)
        for target, place in zip(old.targets, self._sources, strict=True):
            source = new.vectors[place.vector][place.start : place.end]
            new.targets.append(_lerp(target, source.view(target.shape), self._tau))
        for average, place in zip(old.averages, self._averaged, strict=True):
            source = new.vectors[place.vector][place.start : place.end]
            new.averages.append(_lerp(average, source, 1 - self._decay))
        finite = _total(self._report, outputs).isfinite()
        after = [tensor for entries in new for tensor in entries]
        kept = [torch.where(finite, *pair) for pair in zip(after, tensors, strict=True)]
        return outputs, kept

    def _advance_in_place(
        self, tensors: Sequence[Tensor], *arguments: Sequence[Tensor]
    ) -> list[Tensor]:
        outputs, after = self._advance(tensors, *arguments)
        for tensor, value in zip(tensors, after, strict=True):
            tensor.copy_(value)
        return outputs


def _state(agent: Agent) -> _State:
    optimizer, target_updater = agent.optimizer, agent.target_updater
    assert isinstance(optimizer, FlatAdam)
    assert isinstance(target_updater, PolyakUpdate)
    moments = optimizer.moments()
    return _State(
        vectors=_vectors(agent),
        firsts=[moment["exp_avg"] for moment in moments],
        seconds=[moment["exp_avg_sq"] for moment in moments],
        counts=[moment["step"] for moment in moments],
        targets=[target.detach() for _, target in target_updater.pairs()],
        averages=[average for _, average in _averages(agent)],
    )


def _vectors(agent: Agent) -> list[Tensor]:
    return [group["params"][0].detach() for group in agent.optimizer.param_groups]


def _averages(agent: Agent) -> list[tuple[Tensor, Tensor]]:
    return [] if agent.average is None else agent.average.pairs


def _place(tensor: Tensor, vectors: Sequence[Tensor]) -> _Place:
    storage = tensor.untyped_storage().data_ptr()
    for index, vector in enumerate(vectors):
        if vector.untyped_storage().data_ptr() == storage and tensor.is_contiguous():
            start = int(tensor.storage_offset() - vector.storage_offset())
            return _Place(index, start, start + tensor.numel())
    raise NotImplementedError("its target or average is of parameters that are not learned")


def _lerp(start: Tensor, end: Tensor, weight: float) -> Tensor:
    """``start.lerp(end, weight)``, without its case for weights above a half."""
    return start + weight * (end - start)


def _path(key: NestedKey) -> tuple[str, ...]:
    return key if isinstance(key, tuple) else (key,)


def _total(names: Sequence[str], entries: Sequence[Tensor]) -> Tensor:
    """The sum of what a loss reports under names that begin with ``loss``."""
    losses = [e for name, e in zip(names, entries, strict=False) if name.startswith("loss")]
    return cast(Tensor, sum(losses))
