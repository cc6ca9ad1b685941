"""Several agents as one batched program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from tensordict import TensorDictBase
from torch import Tensor

from maxentflow.agents.agent import Agent, not_finite
from maxentflow.agents.compiled.acting import CompiledActing, own_buffers
from maxentflow.agents.compiled.alike import check_alike
from maxentflow.agents.compiled.cuda_graph import CudaGraph
from maxentflow.agents.compiled.flat import Layout
from maxentflow.agents.compiled.schedule import Due, Schedule
from maxentflow.agents.compiled.trace import compile_function
from maxentflow.agents.compiled.update import (
    CompiledUpdate,
    explained,
    in_place,
)
from maxentflow.agents.compiled.watch import Watch, learning_rates, settle
from maxentflow.agents.learner import EagerLearner, RandomStreams

__all__ = ["Ensemble"]

Function = Callable[..., Sequence[Tensor]]


class _Member(NamedTuple):
    agent: Agent
    schedule: Schedule
    layout: Layout
    watch: Watch


class Ensemble:
    """Agents that differ by their weights and random numbers alone, as one batched program.

    Until it is prepared the agents act and learn one after the other. Then what an update changes
    is stacked, and the first agent's update and acting, as functions of tensors, are mapped over
    the stacks by ``torch.func.vmap``. The agents' own tensors lag behind until
    :meth:`synchronize`; what is loaded into an agent right after it counts. Updates that do not
    fit, see :class:`CompiledUpdate`, and agents whose turns or learning rates differ, go on one
    after the other. An update that is not finite in one agent changes and counts nothing there.

    Args:
        agents: of one configuration.
        compile: whether :meth:`prepare` compiles the program.

    Example:
        >>> from maxentflow import flows, objectives
        >>> def make(seed):
        ...     torch.manual_seed(seed)
        ...     flow = flows.build("additive", 1, 3, temperature=0.2, blocks=1)
        ...     loss = objectives.SoftBellmanLoss(flow)
        ...     steps = [Step(("loss",), torch.optim.Adam(loss.parameters()))]
        ...     updater = objectives.PolyakUpdate(loss, tau=0.005)
        ...     return Agent("own", flows.FlowPolicy(flow), loss, steps, target_updaters=[updater])
        >>> agents = [make(0), make(1)]
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
        >>> observation = TensorDict(observation=torch.zeros(1, 3), batch_size=[1])
        >>> ensemble = Ensemble(agents, compile=False)
        >>> ensemble.prepare([batch, batch], [observation, observation])
        >>> reports = ensemble.update([batch.clone(), batch.clone()], RandomStreams(2))
        >>> ensemble.synchronize()
        [None, None]
        >>> [agent.updates for agent in agents]
        [1, 1]
    """

    def __init__(self, agents: Sequence[Agent], *, compile: bool) -> None:
        self._agents = list(agents)
        self._alone = EagerLearner(self._agents)
        self._compile = compile
        self._update: CompiledUpdate | None = None
        self._acting: CompiledActing | None = None
        self._members: list[_Member] = []
        self._stacks: list[Tensor] = []
        self._functions: dict[Due, Function] = {}
        self._act: Function | None = None
        self._loaded = False  # the stacks hold the agents' tensors, or newer ones
        self._ahead = False  # newer ones
        self._counts_agree = True
        self._failures: Tensor | None = None

    def prepare(
        self, batches: Sequence[TensorDictBase], observations: Sequence[TensorDictBase]
    ) -> None:
        """Stack the agents, and compile their program.

        That the agents are alike is tried with random weights and entries, which are put back.
        Where only the compiler fails, they go on as one program that is not compiled.

        Raises:
            CompilationError: an agent cannot be traced or compiled, or agents differ in more than
                their weights: in settings, classes, buffers, or by what they compute.
        """
        self._write_back()
        batch, observation = batches[0], observations[0]
        devices = range(torch.cuda.device_count())
        with torch.random.fork_rng(devices), explained(self._agents[0].name):
            update = CompiledUpdate(self._agents[0], batch)
            members = [
                _Member(self._agents[0], update.schedule, update.layout, update.watch),
                *(_member(agent, batch) for agent in self._agents[1:]),
            ]
            check_alike(
                update, [(m.agent, m.layout, m.watch) for m in members], batch, observation
            )
            try:
                acting = CompiledActing(self._agents[0], update.layout, observation)
            except (NotImplementedError, RuntimeError):
                acting = None  # a behaviour that looks at values acts as it is
            self._update, self._acting, self._members = update, acting, members
            self._stacks = [torch.stack(t) for t in zip(*self._tensors(), strict=True)]
            self._functions = {due: self._batched(due) for due in update.graphs}
            self._act = None if acting is None else torch.vmap(acting.graph)
            self._try(batch, observation)
        self._loaded = False

    def act(
        self, observations: Sequence[TensorDictBase], streams: RandomStreams
    ) -> Sequence[TensorDictBase]:
        acting, function = self._acting, self._act
        if acting is None or function is None or not all(map(acting.takes, observations)):
            self._write_back()
            return self._alone.act(observations, streams)
        self._load()
        draws = []
        for index in range(len(observations)):
            with streams[index]:
                draws.append(acting.draw())
        inputs = _stack([acting.inputs(observation) for observation in observations])
        with torch.no_grad():
            outputs = function(*self._weights(), *inputs, *_stack(draws))
        return [
            acting.write(observation, each)
            for observation, each in zip(observations, zip(*outputs, strict=True), strict=True)
        ]

    def update(
        self, batches: Sequence[TensorDictBase], streams: RandomStreams
    ) -> Sequence[TensorDictBase | FloatingPointError]:
        due = self._due(batches)
        if due is None:
            self._write_back()
            return self._alone.update(batches, streams)
        update = self._update
        assert update is not None
        graph, draws = update.graphs[due], []
        for index in range(len(batches)):
            with streams[index]:
                draws.append(graph.draw())
        inputs = _stack([update.inputs(batch) for batch in batches])
        with torch.no_grad():
            outputs = self._functions[due](*self._stacks, *update.rates(), *inputs, *_stack(draws))
        self._ahead = True
        errors = self._look_at(outputs[-1])
        reports: list[TensorDictBase | FloatingPointError] = []
        for index, row in enumerate(zip(*outputs, strict=True)):
            graph.note(batches[index], row)
            error = errors[index]
            if error is None:
                self._members[index].schedule.advance()
            reports.append(graph.report(row) if error is None else error)
        return reports

    def synchronize(self) -> list[FloatingPointError | None]:
        """Bring the agents' own tensors up to date; say which had an update that was not finite.

        Raises:
            RuntimeError: a parameter was moved, cast or frozen.
        """
        self._write_back()
        if self._failures is None:
            return [None] * len(self._agents)
        counts, self._failures = self._failures.tolist(), None
        errors: list[FloatingPointError | None] = []
        for count, member in zip(counts, self._members, strict=True):
            member.schedule.advance(-count)
            error = FloatingPointError("loss or gradient is not finite")
            errors.append(error if count else None)
        return errors

    def _due(self, batches: Sequence[TensorDictBase]) -> Due | None:
        """What is due in all agents, if the program takes their next update."""
        update = self._update
        if update is None or not all(map(update.takes, batches)):
            return None
        self._load()
        due, rates = update.schedule.due(), learning_rates(self._agents[0])
        alike = all(
            member.watch.is_current()
            and member.schedule.due() == due
            and learning_rates(member.agent) == rates
            for member in self._members
        )
        return due if alike and self._counts_agree else None

    @torch.no_grad()
    def _load(self) -> None:
        """Stack the agents' tensors."""
        if not self._loaded:
            self._check_places()
            for stack, tensors in zip(
                self._stacks, zip(*self._tensors(), strict=True), strict=True
            ):
                torch.stack(tensors, out=stack)
            assert self._update is not None
            self._counts_agree = all(
                member.layout.counts_agree(self._update.taking_part) for member in self._members
            )
            self._loaded = True

    @torch.no_grad()
    def _write_back(self) -> None:
        """Bring the agents' tensors up to date, and leave them to others."""
        if self._ahead:
            self._check_places()
            for index, tensors in enumerate(self._tensors()):
                for tensor, stack in zip(tensors, self._stacks, strict=True):
                    tensor.copy_(stack[index])
        self._loaded = self._ahead = False

    def _check_places(self) -> None:
        for member in self._members:
            member.layout.refresh()

    def _tensors(self) -> list[list[Tensor]]:
        return [member.layout.tensors for member in self._members]

    def _weights(self) -> list[Tensor]:
        """The stacks that acting reads, and the buffers of its own."""
        count = len(self._members[0].layout.groups)
        buffers = [own_buffers(member.agent, member.layout) for member in self._members]
        return [*self._stacks[:count], *self._stacks[4 * count :], *_stack(buffers)]

    def _batched(self, due: Due) -> Function:
        """One update of all, on stacks of everything but the learning rates."""
        update = self._update
        assert update is not None
        graph, stacked, shared = update.graphs[due], len(self._stacks), len(update.rates())

        def advance(*arguments: Tensor) -> tuple[list[Tensor], list[Tensor]]:
            axes: list[int | None] = [0] * len(arguments)
            axes[stacked : stacked + shared] = [None] * shared
            return torch.vmap(graph.advance, in_dims=tuple(axes))(*arguments)

        return in_place(advance, graph.changed)

    @torch.no_grad()
    def _try(self, batch: TensorDictBase, observation: TensorDictBase) -> None:
        """Run the program once, on copies; compile it if it is to be."""
        update, acting, count = self._update, self._acting, len(self._agents)
        assert update is not None
        stacks, on_gpu = self._stacks, self._stacks[0].is_cuda
        inputs = _stack([update.inputs(batch)] * count)
        for due, graph in update.graphs.items():
            given = [*update.rates(), *inputs, *_stack([graph.draw()] * count)]
            copies = [entry.clone() for entry in (*stacks, *given)]
            if not self._compile:
                self._functions[due](*copies)
                continue
            function = compile_function(self._functions[due], copies)
            self._functions[due] = _recorded(function, stacks, given) if on_gpu else function
        if acting is not None and self._compile:
            assert self._act is not None
            weights = self._weights()
            seen = [
                *_stack([acting.inputs(observation)] * count),
                *_stack([acting.draw()] * count),
            ]
            function = compile_function(self._act, [*weights, *seen])
            self._act = _recorded(function, weights, seen) if on_gpu else function

    def _look_at(self, verdicts: Tensor) -> list[FloatingPointError | None]:
        """What is not finite in each agent; on a GPU, which is not waited for, asked later."""
        if verdicts.is_cuda:
            failed = (~verdicts.isfinite().all(-1)).int()
            self._failures = failed if self._failures is None else self._failures + failed
            return [None] * len(verdicts)
        return list(map(not_finite, verdicts.tolist()))


def _member(agent: Agent, batch: TensorDictBase) -> _Member:
    schedule = Schedule(agent)
    layout = Layout(agent, schedule.updaters)
    settle(agent, layout, batch)
    return _Member(agent, schedule, layout, Watch(agent, schedule.updaters, layout))


def _recorded(function: Function, state: Sequence[Tensor], rest: Sequence[Tensor]) -> Function:
    """A compiled function as a CUDA graph, on a state that stays where it is."""
    graph = CudaGraph(lambda given: function(*state, *given), rest)
    return lambda *arguments: graph(arguments[len(state) :])


def _stack(rows: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    return [torch.stack(column) for column in zip(*rows, strict=True)]
