"""Several agents as one batched program."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import TensorDictBase
from torch import Tensor

from maxentflow.agents.agent import Agent, not_finite
from maxentflow.agents.compiled.acting import CompiledActing
from maxentflow.agents.compiled.alike import check_alike
from maxentflow.agents.compiled.schedule import Due
from maxentflow.agents.compiled.trace import compile_function
from maxentflow.agents.compiled.update import (
    CompiledUpdate,
    Function,
    explained,
    in_place,
    recorded,
)
from maxentflow.agents.learner import EagerLearner, RandomStreams

__all__ = ["Ensemble"]


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
        >>> [agent.updates for agent in agents]
        [1, 1]
    """

    def __init__(self, agents: Sequence[Agent], *, compile: bool) -> None:
        self._agents = list(agents)
        self._alone = EagerLearner(self._agents)
        self._compile = compile
        self._updates: list[CompiledUpdate] = []
        self._actings: list[CompiledActing] = []
        self._stacks: list[Tensor] = []
        self._functions: dict[Due, Function] = {}
        self._act: Function | None = None
        self._loaded = False  # the stacks hold the agents' tensors, or newer ones
        self._ahead = False  # newer ones
        self._counts_agree = True

    def prepare(
        self, batches: Sequence[TensorDictBase], observations: Sequence[TensorDictBase]
    ) -> None:
        """Stack the agents, and compile their program.

        Raises:
            CompilationError: an agent cannot be traced or compiled, or agents differ in more than
                their weights: in hyperparameters, or in what they compute.
        """
        self._write_back()
        self._updates, self._act = [], None
        batch, observation = batches[0], observations[0]
        devices = range(torch.cuda.device_count())
        with torch.random.fork_rng(devices), explained(self._agents[0].name):
            updates = [CompiledUpdate(agent, batch) for agent in self._agents]
            try:
                actings = [
                    CompiledActing(agent, update.layout, observation)
                    for agent, update in zip(self._agents, updates, strict=True)
                ]
            except (NotImplementedError, RuntimeError):
                actings = []  # behaviours that look at values act as they are
            check_alike(updates, actings)
            tensors = [update.layout.tensors for update in updates]
            stacks = [torch.stack(column) for column in zip(*tensors, strict=True)]
            first, count = updates[0], len(updates[0].layout.groups)
            functions = {due: self._program(first, stacks, due, batch) for due in first.graphs}
            weights = [*stacks[:count], *stacks[4 * count :]]
            act = self._acting_program(actings, weights, observation) if actings else None
        self._updates, self._actings, self._stacks = updates, actings, stacks
        self._functions, self._act = functions, act
        self._loaded = False

    def act(
        self, observations: Sequence[TensorDictBase], streams: RandomStreams
    ) -> Sequence[TensorDictBase | FloatingPointError]:
        if self._act is None or not all(map(self._actings[0].takes, observations)):
            self._write_back()
            return self._alone.act(observations, streams)
        self._load()
        draws = []
        for index, acting in enumerate(self._actings):
            with streams[index]:
                draws.append(acting.draw())
        inputs = [
            each.inputs(seen) for each, seen in zip(self._actings, observations, strict=True)
        ]
        with torch.no_grad():
            buffers = _stack([acting.buffers for acting in self._actings])
            outputs = self._act(*buffers, *_stack(inputs), *_stack(draws))
        acted = zip(self._actings, observations, zip(*outputs, strict=True), strict=True)
        return [acting.write(observation, each) for acting, observation, each in acted]

    def update(
        self, batches: Sequence[TensorDictBase], streams: RandomStreams
    ) -> Sequence[TensorDictBase | FloatingPointError]:
        due = self._due(batches)
        if due is None:
            self._write_back()
            return self._alone.update(batches, streams)
        draws = []
        for index, update in enumerate(self._updates):
            with streams[index]:
                draws.append(update.graphs[due].draw())
        inputs = _stack([u.inputs(batch) for u, batch in zip(self._updates, batches, strict=True)])
        with torch.no_grad():
            outputs = self._functions[due](*self._updates[0].rates(), *inputs, *_stack(draws))
        self._ahead = True
        errors = map(not_finite, outputs[-1].tolist())
        reports: list[TensorDictBase | FloatingPointError] = []
        rows = zip(self._updates, batches, errors, zip(*outputs, strict=True), strict=True)
        for update, batch, error, row in rows:
            update.graphs[due].note(batch, row)
            if error is None:
                update.schedule.advance()
            reports.append(update.graphs[due].report(row) if error is None else error)
        return reports

    def synchronize(self) -> None:
        """Bring the agents' own tensors up to date.

        Raises:
            RuntimeError: a parameter was moved, cast or frozen.
        """
        self._write_back()

    def _due(self, batches: Sequence[TensorDictBase]) -> Due | None:
        """What is due in all agents, if the program takes their next update."""
        if not self._updates or not all(map(self._updates[0].takes, batches)):
            return None
        self._load()
        due, rates = self._updates[0].schedule.due(), self._updates[0].learning_rates()
        alike = all(
            update.watch.is_current()
            and update.schedule.due() == due
            and update.learning_rates() == rates
            for update in self._updates
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
            self._counts_agree = all(
                update.layout.counts_agree(update.taking_part) for update in self._updates
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
        for update in self._updates:
            update.layout.refresh()

    def _tensors(self) -> list[list[Tensor]]:
        return [update.layout.tensors for update in self._updates]

    def _program(
        self, update: CompiledUpdate, stacks: list[Tensor], due: Due, batch: TensorDictBase
    ) -> Function:
        """One update of all, from learning rates and stacks of inputs and random numbers."""
        graph, rates = update.graphs[due], update.rates()

        def advance(*arguments: Tensor) -> tuple[list[Tensor], list[Tensor]]:
            axes: list[int | None] = [0] * len(arguments)
            axes[len(stacks) : len(stacks) + len(rates)] = [None] * len(rates)
            return torch.vmap(graph.advance, in_dims=tuple(axes))(*arguments)

        row = [*update.inputs(batch), *graph.draw()]
        given = [*rates, *_stack([row] * len(self._agents))]
        return self._tried(in_place(advance, graph.changed), stacks, given)

    def _acting_program(
        self, actings: list[CompiledActing], weights: list[Tensor], observation: TensorDictBase
    ) -> Function:
        """The actions of all, from stacks of buffers, inputs and random numbers."""
        row = [*actings[0].inputs(observation), *actings[0].draw()]
        given = [*_stack([acting.buffers for acting in actings]), *_stack([row] * len(actings))]
        return self._tried(torch.vmap(actings[0].graph), weights, given)

    @torch.no_grad()
    def _tried(self, function: Function, state: list[Tensor], given: list[Tensor]) -> Function:
        """A function on a state that stays where it is, compiled, or run once on copies."""
        copies = [entry.clone() for entry in (*state, *given)]
        if not self._compile:
            function(*copies)
            return lambda *arguments: function(*state, *arguments)
        compiled = compile_function(function, copies)
        return recorded(lambda *arguments: compiled(*state, *arguments), state, given)


def _stack(rows: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    return [torch.stack(column) for column in zip(*rows, strict=True)]
