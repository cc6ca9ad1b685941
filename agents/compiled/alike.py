"""See whether agents differ by their weights alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.fx import GraphModule

from maxentflow.agents.compiled.acting import CompiledActing
from maxentflow.agents.compiled.update import CompiledUpdate
from maxentflow.agents.learner import CompilationError

__all__ = ["check_alike"]


def check_alike(updates: Sequence[CompiledUpdate], actings: Sequence[CompiledActing]) -> None:
    """See that the first agent's program is that of all.

    What agents compute is traced with their weights and random numbers as arguments. So they are
    alike if their hyperparameters, the operations of their traces and the constants in these are
    the same.

    Args:
        updates: of each agent, traced.
        actings: of each agent, traced; none where behaviours act as they are.

    Raises:
        CompilationError: two agents differ, in a sentence that says in what.
    """
    first = updates[0]
    for index, other in enumerate(updates[1:], start=1):
        difference = _difference(first, other)
        if difference is None and actings:
            difference = _in_graphs("behaviour", actings[0].graph, actings[index].graph)
        if difference is not None:
            raise CompilationError(f"The agents differ in more than their weights: {difference}.")


def _difference(first: CompiledUpdate, other: CompiledUpdate) -> str | None:
    """In what two agents' updates differ."""
    pairs = zip(first.watch.hyperparameters, other.watch.hyperparameters, strict=True)
    for name, (mine, its) in zip(first.watch.hyperparameters._fields, pairs, strict=True):
        if mine != its:
            return f"hyperparameters ({name})"
    if first.learning_rates() != other.learning_rates():
        return "learning rates"
    shapes = [[tensor.shape for tensor in each.layout.tensors] for each in (first, other)]
    if shapes[0] != shapes[1]:
        return "shapes of parameters"
    if first.graphs.keys() != other.graphs.keys():
        return "when steps and target updaters are due"
    for due, graph in first.graphs.items():
        found = _in_graphs("loss", graph.differentiated, other.graphs[due].differentiated)
        if found is not None:
            return found
    return None


def _in_graphs(part: str, first: GraphModule, other: GraphModule) -> str | None:
    """In what two traces differ: the first operation, or a constant."""
    lines, its_lines = first.code.splitlines(), other.code.splitlines()
    for line, its in zip(lines, its_lines, strict=False):
        if line != its:
            one, two = (each.partition(";")[0].strip() for each in (line, its))
            return f"the {part} has {one!r} in one, {two!r} in another"
    constants, its_constants = dict(_constants(first)), dict(_constants(other))
    for name, value in constants.items():
        if not torch.equal(value, its_constants[name]):
            return f"a constant of the {part}, of shape {tuple(value.shape)}"
    return None


def _constants(graph: GraphModule) -> list[tuple[str, torch.Tensor]]:
    """The tensors that a trace holds."""
    names = [str(node.target) for node in graph.graph.nodes if node.op == "get_attr"]
    return [(name, getattr(graph, name)) for name in names]
