"""See whether agents differ by their weights alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.fx import GraphModule

from maxentflow.agents.compiled.acting import CompiledActing
from maxentflow.agents.compiled.update import CompiledUpdate
from maxentflow.agents.learner import CompilationError

__all__ = ["check_alike"]


def check_alike(updates: Sequence[CompiledUpdate], actings: Sequence[CompiledActing]) -> None:
    """See that the first agent's program is that of all.

    What agents compute is traced with their weights and random numbers as arguments. So they are
    alike if their hyperparameters, the forms of these arguments, the operations of their traces
    and the constants in these are the same.

    Args:
        updates: of each agent, traced.
        actings: of each agent, traced; none where behaviours act as they are.

    Raises:
        CompilationError: two agents differ, in a sentence that says in what.
    """
    for index, other in enumerate(updates[1:], start=1):
        difference = _in_updates(updates[0], other)
        if difference is None and actings:
            difference = _in_traces("behaviour", actings[0], actings[index])
            if _forms(actings[0].buffers) != _forms(actings[index].buffers):
                difference = "forms of the behaviour's buffers"
        if difference is not None:
            raise CompilationError(f"The agents differ in more than their weights: {difference}.")


def _in_updates(first: CompiledUpdate, other: CompiledUpdate) -> str | None:
    """In what two agents' updates differ."""
    pairs = zip(first.watch.hyperparameters, other.watch.hyperparameters, strict=True)
    for name, (mine, its) in zip(first.watch.hyperparameters._fields, pairs, strict=True):
        if mine != its:
            return f"hyperparameters ({name})"
    if first.learning_rates() != other.learning_rates():
        return "learning rates"
    if _forms(first.layout.tensors) != _forms(other.layout.tensors):
        return "shapes of parameters"
    if _arrangement(first) != _arrangement(other):
        return "which step or target updater changes which parameters"
    if first.graphs.keys() != other.graphs.keys():
        return "when steps and target updaters are due"
    for due, graph in first.graphs.items():
        found = _in_traces("loss", graph, other.graphs[due])
        if found is not None:
            return found
    return None


def _arrangement(update: CompiledUpdate) -> tuple[list[Any], list[Any]]:
    groups = [(group.step, group.sizes) for group in update.layout.groups]
    return groups, [(each.updater, each.group) for each in update.layout.followers]


class _Traced(Protocol):
    @property
    def graph(self) -> GraphModule: ...

    def draw(self) -> list[Tensor]: ...


def _in_traces(part: str, first: _Traced, other: _Traced) -> str | None:
    """In what two traces differ: the first operation, a constant, or the random numbers."""
    for line, its in zip(_operations(first.graph), _operations(other.graph), strict=False):
        if line != its:
            return f"the {part} has {line!r} in one, {its!r} in another"
    constants, others = _constants(first.graph), _constants(other.graph)
    for name, value in constants.items():
        if not _same(value, others[name]):
            return f"a constant of the {part}, of shape {tuple(value.shape)}"
    if _forms(first.draw()) != _forms(other.draw()):
        return f"the shapes of the random numbers of the {part}"
    return None


def _operations(graph: GraphModule) -> list[str]:
    """The lines of a trace, without what they free."""
    parts = [each for each in graph.modules() if isinstance(each, GraphModule)]
    lines = [line.partition(";")[0].strip() for part in parts for line in part.code.splitlines()]
    return [line for line in lines if not line.startswith("def ")]


def _constants(graph: GraphModule) -> dict[str, Tensor]:
    """The tensors that a trace and those in it hold."""
    return {
        f"{path}.{node.target}": value
        for path, part in graph.named_modules()
        if isinstance(part, GraphModule)
        for node in part.graph.find_nodes(op="get_attr")
        if isinstance(value := getattr(part, str(node.target)), Tensor)
    }


def _forms(tensors: Iterable[Tensor]) -> list[tuple[object, ...]]:
    return [(tensor.shape, tensor.dtype, tensor.device) for tensor in tensors]


def _same(one: Tensor, other: Tensor) -> bool:
    if _forms([one]) != _forms([other]):
        return False
    return torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
