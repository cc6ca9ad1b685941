"""The update of one or several agents as one compiled function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor

from maxentflow.agents.cuda_graph import CudaGraph
from maxentflow.agents.flat_adam import FlatAdam
from maxentflow.agents.pure import compiled, purify, stored
from maxentflow.objectives import PolyakUpdate

if TYPE_CHECKING:
    from maxentflow.agents.agent import Agent

__all__ = ["Actor", "Learner", "constants", "in_place", "rules", "step_sizes", "total_loss"]


class _State(NamedTuple):
    """What an update changes: lists of tensors, a vector for each group of the optimiser."""

    vectors: list[Tensor]
    firsts: list[Tensor]
    seconds: list[Tensor]
    counts: list[Tensor]
    targets: list[Tensor]
    averages: list[Tensor]


class _Rules(NamedTuple):
    """What an update reads of an agent's settings, and has for good once it is traced."""

    adam: tuple[tuple[float, float, float], ...]  # of each group: the decays, and epsilon
    max_norm: float | None
    tau: float
    decay: float


class Actor:
    """An agent's acting as one graph, with the random numbers of the uncompiled.

    Args:
        agent: which acts; its newest parameters do at every call.
        observation: observations such as it is going to be given.

    Attributes:
        graph: takes the optimiser's vectors, the observation and the random numbers; gives a
            tuple of the actions.
        draw: draws these random numbers.

    Raises:
        NotImplementedError: the behaviour cannot be traced.
    """

    def __init__(self, agent: Agent, observation: Tensor) -> None:
        self._agent = agent
        self._form = _form(observation)
        act = purify(lambda entry: (agent.explore(entry),), [observation], _vectors(agent))
        self.graph, self.draw = act.graph, act.draw
        self._step: Callable[..., Sequence[Tensor]] = act.graph
        self._graph: CudaGraph | None = None
        self._places: list[Tensor] = []

    @torch.no_grad()
    def compile(self, observation: Tensor) -> None:
        """Compile for observations such as this one."""
        self._step = compiled(self.graph, [*_vectors(self._agent), observation, *self.draw()])
        if observation.is_cuda:
            self._record(observation)

    def takes(self, observation: Tensor) -> bool:
        """Whether observations are of the form that was traced."""
        return _form(observation) == self._form

    @torch.no_grad()
    def __call__(self, observation: Tensor) -> Tensor:
        """Actions, shape ``(*batch, action_dim)``."""
        if observation.is_cuda:
            return self._launch(observation)
        (action,) = self._step(*_vectors(self._agent), observation, *self.draw())
        return action

    def _launch(self, observation: Tensor) -> Tensor:
        if self._graph is None or not _same_places(_vectors(self._agent), self._places):
            self._record(observation)
        assert self._graph is not None
        (action,) = self._graph([observation])
        return action

    def _record(self, observation: Tensor) -> None:
        vectors = self._places = _vectors(self._agent)
        self._graph = CudaGraph(
            lambda inputs: self._step(*vectors, *inputs, *self.draw()), [observation]
        )


class Learner:
    """Loss, gradient, clipping, Adam, target and average as one graph.

    For one agent it reads and writes the agent's own tensors, so that updates with and without it
    can follow each other. Its random numbers are those that the uncompiled update would draw.

    Decays, epsilon, clipping, tau and the average's decay are those of the moment it is made.

    Args:
        agent: whose update is traced.
        batch: transitions such as updates are going to be given.

    Attributes:
        draw: draws the random numbers of an update.

    Raises:
        NotImplementedError: a part of the agent cannot be traced; the message says which.
    """

    def __init__(self, agent: Agent, batch: TensorDictBase) -> None:
        self._rules = rules(agent)
        self._agent = agent
        self._buffers = [(buffer, buffer.clone()) for buffer in constants(agent).values()]
        self._versions = [buffer._version for buffer, _ in self._buffers]
        self._form = _forms(batch)
        self._keys = list(self._form)
        self._size = batch.batch_size
        self._sizes: list[float] = []
        self._rates: list[Tensor] = []
        self._report: list[str] = []
        self._noted: list[NestedKey] = []  # what the loss writes into its batch
        state = _state(agent)
        self._lengths = [len(tensors) for tensors in state]
        self._sources = [_index(source, state.vectors) for source, _ in _targets(agent)]
        self._averaged = [_index(learned, state.vectors) for learned, _ in _averages(agent)]
        loss = purify(self._differentiate, self.inputs(batch), [*state.vectors, *state.targets])
        self._loss, self.draw = loss.graph, loss.draw
        self._step: Callable[..., Sequence[Tensor]] = in_place(self.advance)
        self._graph: CudaGraph | None = None
        self._places: list[Tensor] = []

    def is_current(self) -> bool:
        """Whether settings and buffers are those that were traced; step sizes may change."""
        versions = [buffer._version for buffer, _ in self._buffers]
        if versions != self._versions:  # they were written into, perhaps with what they were
            if not all(torch.equal(buffer, traced) for buffer, traced in self._buffers):
                return False
            self._versions = versions
        try:
            return rules(self._agent) == self._rules
        except NotImplementedError:
            return False

    def takes(self, batch: TensorDictBase) -> bool:
        """Whether a batch is of the form that was traced; compiled code does not look."""
        forms = _forms(batch)
        for key in self._noted:
            forms.pop(key, None)
        return forms == self._form

    @torch.no_grad()
    def __call__(self, batch: TensorDictBase) -> TensorDict:
        """Update the agent; give what its loss reports, and note in the batch what it notes.

        Where the loss is not finite, nothing is changed.

        Raises:
            RuntimeError: a parameter was moved, cast or frozen.
        """
        cast(FlatAdam, self._agent.optimizer).check()
        on_gpu = batch[self._keys[0]].is_cuda
        outputs = self._launch(batch) if on_gpu else self._step(*self.arguments(batch))
        for key, entry in zip(self._noted, outputs[len(self._report) :], strict=True):
            batch.set(key, entry)
        return self.report(outputs)

    @torch.no_grad()
    def compile(self, batch: TensorDictBase) -> None:
        """Compile for batches such as this one; no state is changed."""
        self._step = compiled(
            in_place(self.advance), [tensor.clone() for tensor in self.arguments(batch)]
        )
        if batch[self._keys[0]].is_cuda:
            self._record(self._given(batch))

    def state(self, agent: Agent) -> list[Tensor]:
        """The tensors of an agent that its update reads and writes; vectors come first."""
        return [tensor for entries in _state(agent) for tensor in entries]

    def inputs(self, batch: TensorDictBase) -> list[Tensor]:
        """The entries of a batch, as the update takes them."""
        return [batch[key] for key in self._keys]

    def rates(self) -> list[Tensor]:
        """The step sizes at present."""
        groups = self._agent.optimizer.param_groups
        sizes = step_sizes(self._agent)
        if sizes != self._sizes:  # to bring them to a GPU would wait for it
            self._sizes = sizes
            self._rates = [
                torch.tensor(size, dtype=torch.float64).to(group["params"][0])
                for size, group in zip(sizes, groups, strict=True)
            ]
        return self._rates

    def report(self, outputs: Sequence[Tensor]) -> TensorDict:
        """What the loss reports, from what the update gives."""
        return TensorDict(dict(zip(self._report, outputs, strict=False)))

    def _launch(self, batch: TensorDictBase) -> Sequence[Tensor]:
        given = self._given(batch)
        if self._graph is None or not _same_places(self.state(self._agent), self._places):
            self._record(given)
        assert self._graph is not None
        return self._graph(given)

    def _record(self, given: Sequence[Tensor]) -> None:
        state = self._places = self.state(self._agent)
        self._graph = CudaGraph(lambda given: self._step(*state, *given, *self.draw()), given)

    def _given(self, batch: TensorDictBase) -> list[Tensor]:
        """What differs from update to update, beside the random numbers."""
        return [*self.rates(), *self.inputs(batch)]

    def arguments(self, batch: TensorDictBase) -> list[Tensor]:
        """Those of :meth:`advance`, for an update of the agent from this batch."""
        return [*self.state(self._agent), *self._given(batch), *self.draw()]

    def _differentiate(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The report, what is noted in the batch, and the gradients."""
        batch = TensorDict(dict(zip(self._keys, inputs, strict=True)), self._size)
        report = self._agent.loss(batch)
        self._report = list(map(str, report.keys()))
        known = {_path(key) for key in self._keys}
        self._noted = [key for key in batch.keys(True, True) if _path(key) not in known]
        entries = [*report.values(), *(batch[key] for key in self._noted)]
        optimizer = cast(FlatAdam, self._agent.optimizer)
        gradients = optimizer.gradients(total_loss(report.items()))
        return *(entry.detach() for entry in entries), *gradients

    def advance(self, *arguments: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The update as a function: outputs, and the state after it.

        Args:
            arguments: the state, as :meth:`state` lists it, step sizes of :meth:`rates`, entries
                of :meth:`inputs` and random numbers of :attr:`draw`.
        """
        rest = iter(arguments)
        old = _State(*([next(rest) for _ in range(length)] for length in self._lengths))
        rates = [next(rest) for _ in self._rules.adam]
        outputs = list(self._loss(*old.vectors, *old.targets, *rest))
        split = len(self._report) + len(self._noted)
        outputs, gradients = outputs[:split], outputs[split:]
        rules = self._rules
        finite = total_loss(zip(self._report, outputs, strict=False)).isfinite()
        clip = torch.ones_like(rates[0])
        if rules.max_norm is not None:
            norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
            clip = (rules.max_norm / (norm + 1e-6)).clamp(max=1.0)
        new = _State([], [], [], [count + 1 for count in old.counts], [], [])
        for index, (beta1, beta2, eps) in enumerate(rules.adam):
            # In double precision: of a thousandth, single has four digits left.
            steps = new.counts[index].double()
            size = rates[index] / (1 - beta1**steps).to(rates[index])
            spread = (1 - beta2**steps).to(rates[index]).rsqrt()
            size, spread, scale = stored(torch.stack([size, spread, clip])).unbind()
            gradient = gradients[index] * scale
            first = _lerp(old.firsts[index], gradient, 1 - beta1)
            second = _lerp(old.seconds[index], gradient.square(), 1 - beta2)
            step = size * first / (second.sqrt() * spread + eps)
            new.vectors.append(old.vectors[index] - step)
            new.firsts.append(first)
            new.seconds.append(second)
        for target, index in zip(old.targets, self._sources, strict=True):
            new.targets.append(_lerp(target, new.vectors[index], rules.tau))
        for average, index in zip(old.averages, self._averaged, strict=True):
            new.averages.append(_lerp(average, new.vectors[index], 1 - rules.decay))
        after = [tensor for entries in new for tensor in entries]
        kept = [torch.where(finite, *pair) for pair in zip(after, arguments, strict=False)]
        return outputs, kept


def in_place(
    function: Callable[..., tuple[list[Tensor], list[Tensor]]],
) -> Callable[..., list[Tensor]]:
    """A function that gives outputs and what its first arguments become, as one that sets them."""

    def wrapped(*arguments: Tensor) -> list[Tensor]:
        outputs, after = function(*arguments)
        for argument, value in zip(arguments, after, strict=False):
            argument.copy_(value)
        return outputs

    return wrapped


def constants(agent: Agent) -> dict[str, Tensor]:
    """The loss's buffers, which are constants of a traced update; a target's are its state."""
    buffers = agent.loss.named_buffers()
    return {name: buffer for name, buffer in buffers if not name.startswith("target_")}


def step_sizes(agent: Agent) -> list[float]:
    """Those of each group of the optimiser."""
    return [float(group["lr"]) for group in agent.optimizer.param_groups]


def rules(agent: Agent) -> _Rules:
    """What an update of the agent reads of its settings.

    Raises:
        NotImplementedError: they are of a kind that is not traced.
    """
    optimizer, target_updater = agent.optimizer, agent.target_updater
    if not isinstance(optimizer, FlatAdam):
        raise NotImplementedError("its optimizer is not a FlatAdam")
    if not isinstance(target_updater, PolyakUpdate):
        raise NotImplementedError("its target updater is not a PolyakUpdate")
    for group in optimizer.param_groups:
        if group["weight_decay"] or group["amsgrad"] or group["maximize"]:
            raise NotImplementedError("its optimizer has options beyond step size and moments")
    return _Rules(
        adam=tuple((*group["betas"], group["eps"]) for group in optimizer.param_groups),
        max_norm=agent.config.max_grad_norm,
        tau=target_updater.tau,
        decay=agent.average_decay,
    )


def _state(agent: Agent) -> _State:
    moments = cast(FlatAdam, agent.optimizer).moments()
    return _State(
        vectors=_vectors(agent),
        firsts=[moment["exp_avg"] for moment in moments],
        seconds=[moment["exp_avg_sq"] for moment in moments],
        counts=[moment["step"] for moment in moments],
        targets=[target for _, target in _targets(agent)],
        averages=[average for _, average in _averages(agent)],
    )


def _vectors(agent: Agent) -> list[Tensor]:
    return [group["params"][0].detach() for group in agent.optimizer.param_groups]


def _form(tensor: Tensor) -> tuple[object, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _forms(batch: TensorDictBase) -> dict[NestedKey, tuple[object, ...]]:
    return {key: _form(entry) for key, entry in batch.items(True, True)}


def _same_places(ones: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return [one.data_ptr() for one in ones] == [other.data_ptr() for other in others]


def _targets(agent: Agent) -> list[tuple[Tensor, Tensor]]:
    return cast(PolyakUpdate, agent.target_updater).vectors()


def _averages(agent: Agent) -> list[tuple[Tensor, Tensor]]:
    return [] if agent.average is None else agent.average.pairs


def _index(source: Tensor, vectors: Sequence[Tensor]) -> int:
    """Which of the optimiser's vectors it is."""
    for index, vector in enumerate(vectors):
        if vector.data_ptr() == source.data_ptr() and vector.shape == source.shape:
            return index
    raise NotImplementedError("its target or average is of parameters that are not learned")


def _lerp(start: Tensor, end: Tensor, weight: float) -> Tensor:
    """``start.lerp(end, weight)``, without its case for weights above a half."""
    return start + weight * (end - start)


def _path(key: NestedKey) -> tuple[str, ...]:
    return key if isinstance(key, tuple) else (key,)


def total_loss(entries: Iterable[tuple[NestedKey, Tensor]]) -> Tensor:
    """The sum of what a loss reports under names that begin with ``loss``."""
    return reduce(torch.add, (entry for name, entry in entries if str(name).startswith("loss")))
