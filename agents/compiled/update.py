"""An agent's update as functions of tensors: loss, gradient, clipping, Adam, targets, averages."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import CudaGraphModule
from torch import Tensor

from maxentflow.agents.agent import Agent, not_finite, sum_of_losses
from maxentflow.agents.compiled.flat import Layout
from maxentflow.agents.compiled.schedule import Due, Schedule
from maxentflow.agents.compiled.trace import compile_function, stored, trace
from maxentflow.agents.compiled.watch import Hyperparameters, Watch, settle, varying
from maxentflow.agents.learner import CompilationError

__all__ = [
    "CompiledUpdate",
    "UpdateGraph",
    "explained",
    "form_of",
    "in_place",
    "record",
    "recorded",
]

Function = Callable[..., Sequence[Tensor]]


class UpdateGraph:
    """One update of an agent, with one set of what is due, as a function of tensors.

    Args:
        agent: whose update is traced.
        layout: its tensors as vectors.
        hyperparameters: its settings.
        due: what takes part.
        batch: transitions such as updates are going to be given.

    Attributes:
        graph: the trace: what the loss reports and notes, and the gradients.
        draw: draws the random numbers of an update, from torch's generator.
        noted: the entries that the loss writes into its batch.
        changed: which of the layout's tensors an update changes.
        taking_part: for each group that is due, which of its parameters learn.

    Raises:
        NotImplementedError: the loss cannot be traced, or no step is due.
    """

    def __init__(
        self,
        agent: Agent,
        layout: Layout,
        hyperparameters: Hyperparameters,
        due: Due,
        batch: TensorDictBase,
    ) -> None:
        self._agent = agent
        self._layout = layout
        self._hyperparameters = hyperparameters
        self._due = due
        self._keys = list(batch.keys(True, True))
        self._size = batch.batch_size
        self._report_keys: list[NestedKey] = []
        self._report_size = torch.Size()
        self.noted: list[NestedKey] = []
        self._steps = [step for step, takes in zip(agent.steps, due.steps, strict=True) if takes]
        self._groups = [i for i, group in enumerate(layout.groups) if due.steps[group.step]]
        self._followers = [i for i, f in enumerate(layout.followers) if due.updaters[f.updater]]
        self.taking_part: dict[int, list[bool]] = {}
        inputs = [batch[key] for key in self._keys]
        loss = trace(self._differentiate, inputs, [*layout.weights, *varying(agent)])
        self.graph, self.draw = loss.graph, loss.draw
        count = len(layout.groups)
        self.changed = [
            *(part * count + index for part in range(4) for index in self._groups),
            *(4 * count + index for index in self._followers),
        ]

    def advance(self, *arguments: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The update as a function: outputs, and the tensors of :attr:`changed` after it.

        Where the loss or a gradient is not finite, these are as they were.

        Args:
            arguments: the layout's tensors, a learning rate for each group, the agent's buffers
                that vary, the batch's entries, and random numbers of :attr:`draw`.
        """
        hyperparameters, count = self._hyperparameters, len(self._layout.groups)
        total = len(self._layout.tensors)
        vectors, exp_avgs, exp_avg_sqs, steps = (
            arguments[part * count : (part + 1) * count] for part in range(4)
        )
        followers = arguments[4 * count : total]
        rates, inputs = arguments[total : total + count], arguments[total + count :]
        results = list(self.graph(*vectors, *followers, *inputs))
        split = len(self._report_keys) + len(self.noted)
        outputs, gradients = results[:split], dict(zip(self._groups, results[split:], strict=True))
        summed = sum_of_losses(self.report(outputs), self._steps)
        norms = self._norms(gradients)
        verdict = torch.stack([summed.detach(), *(norm.to(summed) for norm in norms.values())])
        finite = verdict.isfinite().all()
        new_vectors: dict[int, Tensor] = {}
        new_exp_avgs, new_exp_avg_sqs, new_steps = [], [], []
        for index, gradient in gradients.items():
            beta1, beta2, eps, weight_decay, fade = hyperparameters.adam[index]
            step = self._layout.groups[index].step
            _, max_norm = hyperparameters.steps[step]
            rate, learns = rates[index], self.taking_part[index]
            counts = steps[index] + (1 if all(learns) else torch.tensor(learns).to(steps[index]))
            # In double precision: of a thousandth, single has four digits left.
            taken = counts[learns.index(True)].double()
            size = rate / (1 - beta1**taken).to(rate)
            spread = (1 - beta2**taken).to(rate).rsqrt()
            clip = torch.ones_like(rate)
            if max_norm is not None:
                norm = norms[step]
                clip = torch.where(norm > max_norm, max_norm / (norm + 1e-6), 1.0)
            decay = rate * weight_decay
            if fade is not None:  # as FadingAdamW does
                decay = decay * (fade / taken).clamp(max=1).sqrt().to(rate)
            shrink = 1 - decay
            size, spread, clip, shrink = stored(torch.stack([size, spread, clip, shrink])).unbind()
            gradient = gradient * clip
            exp_avg = _lerp(exp_avgs[index], gradient, 1 - beta1)
            exp_avg_sq = _lerp(exp_avg_sqs[index], gradient.square(), 1 - beta2)
            vector = vectors[index] if weight_decay == 0 else vectors[index] * shrink
            new_vectors[index] = vector - size * exp_avg / (exp_avg_sq.sqrt() * spread + eps)
            new_exp_avgs.append(exp_avg)
            new_exp_avg_sqs.append(exp_avg_sq)
            new_steps.append(counts)
        after = [*new_vectors.values(), *new_exp_avgs, *new_exp_avg_sqs, *new_steps]
        for index in self._followers:
            updater, group, *_ = self._layout.followers[index]
            source = new_vectors.get(group, vectors[group])
            after.append(_lerp(followers[index], source, hyperparameters.fractions[updater]))
        kept = [
            torch.where(finite, new, arguments[index])
            for index, new in zip(self.changed, after, strict=True)
        ]
        return [*outputs, verdict], kept

    def report(self, outputs: Sequence[Tensor]) -> TensorDict:
        """What the loss reports, from the outputs of an update."""
        return TensorDict(dict(zip(self._report_keys, outputs, strict=False)), self._report_size)

    def note(self, batch: TensorDictBase, outputs: Sequence[Tensor]) -> None:
        """Write into a batch what the loss notes there, such as priorities."""
        for key, entry in zip(self.noted, outputs[len(self._report_keys) :], strict=False):
            batch.set(key, entry)

    def _norms(self, gradients: dict[int, Tensor]) -> dict[int, Tensor]:
        """The gradient's norm of each step, from those of its groups."""
        squares: dict[int, list[Tensor]] = {}
        for index, gradient in gradients.items():
            step = self._layout.groups[index].step
            squares.setdefault(step, []).append(gradient.square().sum())
        return {step: torch.stack(parts).sum().sqrt() for step, parts in squares.items()}

    def _differentiate(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The report, what is noted in the batch, and the gradients of the groups that are due."""
        batch = TensorDict(dict(zip(self._keys, inputs, strict=True)), self._size)
        report = self._agent.loss(batch)
        self._report_keys = list(report.keys(True, True))
        self._report_size = report.batch_size
        known = {_path(key) for key in self._keys}
        self.noted = [key for key in batch.keys(True, True) if _path(key) not in known]
        entries = [report[key] for key in self._report_keys]
        entries += [batch[key] for key in self.noted]
        groups = [self._layout.groups[index] for index in self._groups]
        gradients = iter(
            torch.autograd.grad(
                sum_of_losses(report, self._steps),
                [parameter for group in groups for parameter in group.parameters],
                allow_unused=True,
            )
        )
        vectors = []
        for index, group in zip(self._groups, groups, strict=True):
            parts = []
            learns = self.taking_part[index] = []
            for parameter, size in zip(group.parameters, group.sizes, strict=True):
                gradient = next(gradients)
                learns.append(gradient is not None)
                gradient = torch.zeros_like(parameter) if gradient is None else gradient
                parts.append(gradient.reshape(-1))
                if size > parameter.numel():
                    parts.append(gradient.new_zeros(size - parameter.numel()))
            if not any(learns):
                raise NotImplementedError("a group of its optimizer takes no part in the loss")
            vectors.append(torch.cat(parts))
        return *(entry.detach() for entry in entries), *vectors


class CompiledUpdate:
    """The update of an agent as compiled code.

    It reads and writes the agent's own tensors, so that updates with and without it can follow
    each other. Its random numbers are those that the uncompiled update would draw. What may change
    afterwards:

    ====================================================== ========================================
    what changes                                           updates
    ====================================================== ========================================
    learning rates                                         follow
    whatever is loaded by ``load_state_dict``              follow
    other options of an optimiser, its parameter groups    go on uncompiled
    a step's ``losses``, ``max_grad_norm`` or optimiser    go on uncompiled
    ``eps`` of ``SoftUpdate``, ``decay`` of an average     go on uncompiled
    buffers and frozen parameters of the loss              go on uncompiled
    plain attributes and children of the loss itself       go on uncompiled
    shapes, dtypes, layout or entries of a batch           go on uncompiled
    turns of steps and updaters that were not foreseen     go on uncompiled
    parameters that are cast, frozen or on another device  raise ``RuntimeError``
    anything deeper, such as attributes within networks    are wrong: compile anew
    ====================================================== ========================================

    Args:
        agent: whose update is traced, once for each set of steps and updaters that is ever due.
        batch: transitions such as updates are going to be given.

    Attributes:
        layout: the agent's tensors as vectors.
        schedule: what is due in the agent's next update.
        watch: whether its settings are those that were traced.
        graphs: the traced updates.
        taking_part: for each group, which of its parameters learn.

    Raises:
        NotImplementedError: a part of the agent cannot be traced; the message says which.

    Example:
        >>> from maxentflow import flows, objectives
        >>> flow = flows.build("additive", 1, 3, temperature=0.2, blocks=1)
        >>> loss = objectives.SoftBellmanLoss(flow)
        >>> steps = [Step(("loss",), torch.optim.Adam(loss.parameters()))]
        >>> agent = Agent("own", flows.FlowPolicy(flow), loss, steps)
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
        >>> update = CompiledUpdate(agent, batch)  # traced; update.compile(batch) compiles
        >>> update.accepts(batch), update.accepts(batch[:4])
        (True, False)
        >>> update(batch)["loss"].shape
        torch.Size([])
        >>> agent.updates
        1
    """

    def __init__(self, agent: Agent, batch: TensorDictBase) -> None:
        self._agent = agent
        self.schedule = Schedule(agent)
        self.layout = Layout(agent, self.schedule.updaters)
        settle(agent, self.layout, batch)
        self.watch = Watch(agent, self.schedule.updaters, self.layout)
        self._form = form_of(batch)
        self._varying = varying(agent)
        self._rates: list[Tensor] = []
        self._sizes: list[float] = []
        self.graphs: dict[Due, UpdateGraph] = {}
        for due in self.schedule.cycle():
            self.graphs[due] = UpdateGraph(
                agent, self.layout, self.watch.hyperparameters, due, batch.clone()
            )
        self.taking_part = self._check_traces()
        self._counts_agree = self.layout.counts_agree(self.taking_part)
        self._noted = next(iter(self.graphs.values())).noted
        self._functions = {
            due: self._launching(graph, in_place(graph.advance, graph.changed))
            for due, graph in self.graphs.items()
        }

    @torch.no_grad()
    def compile(self, batch: TensorDictBase) -> None:
        """Compile for batches such as this one; no state is changed."""
        for due, graph in self.graphs.items():
            arguments = [*self.layout.tensors, *self.given(batch), *graph.draw()]
            compiled = compile_function(
                in_place(graph.advance, graph.changed), [entry.clone() for entry in arguments]
            )
            self._functions[due] = recorded(
                self._launching(graph, compiled), self.layout.tensors, self.given(batch)
            )

    def _launching(self, graph: UpdateGraph, function: Function) -> Function:
        tensors, draw = self.layout.tensors, graph.draw
        return lambda *given: function(*tensors, *given, *draw())

    def accepts(self, batch: TensorDictBase) -> bool:
        """Whether the agent's next update, from this batch, is one that was traced.

        Raises:
            RuntimeError: a parameter was moved, cast or frozen.
        """
        return self.is_current() and self.takes(batch)

    def is_current(self) -> bool:
        """Whether the agent is as it was traced but for what may change, see the table.

        It looks at every tensor of the agent, which after an update are in no cache: 2% of it.

        Raises:
            RuntimeError: a parameter was moved, cast or frozen.
        """
        if self.layout.refresh():
            self._counts_agree = self.layout.counts_agree(self.taking_part)
        return self._counts_agree and self.watch.is_current()

    def takes(self, batch: TensorDictBase) -> bool:
        """Whether a batch is of the form that was traced; compiled code does not look."""
        form = form_of(batch)
        for key in self._noted:
            form.pop(key, None)
        return form == self._form and self.schedule.due() in self.graphs

    @torch.no_grad()
    def __call__(self, batch: TensorDictBase) -> TensorDict:
        """Update the agent; give what its loss reports, and note in the batch what it notes.

        Args:
            batch: one that it :meth:`accepts`.

        Raises:
            FloatingPointError: the loss or a gradient is not finite; nothing has changed then.
        """
        due = self.schedule.due()
        graph = self.graphs[due]
        outputs = self._functions[due](*self.given(batch))
        graph.note(batch, outputs)
        if (error := not_finite(outputs[-1].tolist())) is not None:
            raise error
        self.schedule.advance()
        return graph.report(outputs)

    def given(self, batch: TensorDictBase) -> list[Tensor]:
        """Arguments of an update beside the layout's tensors and the random numbers."""
        return [*self.rates(), *self.inputs(batch)]

    def inputs(self, batch: TensorDictBase) -> list[Tensor]:
        """The agent's buffers that vary and the entries of a batch, as the update takes them."""
        return [*self._varying, *(batch[key] for key in self._form)]

    def learning_rates(self) -> list[float]:
        """Those of each group of the optimisers."""
        steps = self._agent.steps
        return [float(group["lr"]) for step in steps for group in step.optimizer.param_groups]

    def rates(self) -> list[Tensor]:
        """The learning rate of each group at present."""
        sizes = self.learning_rates()
        if sizes != self._sizes:  # to bring them to a GPU would wait for it
            self._sizes = sizes
            self._rates = [
                torch.tensor(size, dtype=torch.float64).to(group.vector)
                for size, group in zip(sizes, self.layout.groups, strict=True)
            ]
        return self._rates

    def _check_traces(self) -> dict[int, list[bool]]:
        """See that the traces can follow each other; give which parameters of each group learn."""
        taking_part: dict[int, list[bool]] = {}
        for graph in self.graphs.values():
            for index, learns in graph.taking_part.items():
                if taking_part.setdefault(index, learns) != learns:
                    raise NotImplementedError("a parameter learns in some of its updates only")
        return taking_part


def in_place(
    function: Callable[..., tuple[list[Tensor], list[Tensor]]], changed: Sequence[int]
) -> Callable[..., list[Tensor]]:
    """A function that gives outputs and what some arguments become, as one that sets them."""

    def wrapped(*arguments: Tensor) -> list[Tensor]:
        outputs, after = function(*arguments)
        for index, value in zip(changed, after, strict=True):
            arguments[index].copy_(value)
        return outputs

    return wrapped


def recorded(function: Function, state: Sequence[Tensor], given: Sequence[Tensor]) -> Function:
    """A compiled function as a CUDA graph, if what it closes over is on a GPU."""
    return record(function, state, given) if state[0].is_cuda else function


def record(function: Function, state: Sequence[Tensor], given: Sequence[Tensor]) -> Function:
    """A function as a CUDA graph, recorded for arguments such as these; its state is put back.

    TensorDict's module runs what it is given in its first two calls, and records the second.
    """
    logger = logging.getLogger("tensordict")
    level, before = logger.level, [tensor.clone() for tensor in state]
    logger.setLevel(logging.WARNING)  # it tells of each recording
    try:
        graph = CudaGraphModule(function, device=state[0].device)
        for _ in range(2):
            graph(*given)
    finally:
        logger.setLevel(level)
        for tensor, old in zip(state, before, strict=True):
            tensor.copy_(old)
    return graph


@contextmanager
def explained(name: str) -> Iterator[None]:
    """A context that turns what tracing and compiling complain of into one sentence.

    Raises:
        CompilationError: what is done in it failed.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"tensordict|torch")
            yield
    except CompilationError:
        raise
    except Exception as error:  # a mistake of the loss itself shows again where it is not compiled
        cause = getattr(error, "inner_exception", error)
        lines = str(cause).strip().splitlines() or [type(cause).__name__]
        said = next((line for line in lines[1:] if "error: " in line), None)  # by the compiler
        reason = lines[0] if said is None else f"{lines[0]}: {said}"
        raise CompilationError(f"The update of {name} was not compiled: {reason}.") from error


def form_of(batch: TensorDictBase) -> dict[NestedKey, tuple[object, ...]]:
    """Shape, strides, dtype and device of every entry."""
    form: dict[NestedKey, tuple[object, ...]] = {}
    for key, entry in batch.items():  # a recursion, in half the time of items(True, True)
        if isinstance(entry, TensorDictBase):
            form |= {(key, *_path(inner)): of for inner, of in form_of(entry).items()}
        else:
            form[key] = (entry.shape, entry.stride(), entry.dtype, entry.device)
    return form


def _lerp(start: Tensor, end: Tensor, weight: float) -> Tensor:
    """``start.lerp(end, weight)``, without its case for weights above a half."""
    return start + weight * (end - start)


def _path(key: NestedKey) -> tuple[str, ...]:
    return key if isinstance(key, tuple) else (key,)
