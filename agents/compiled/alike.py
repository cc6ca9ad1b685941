"""See whether agents differ by their weights alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase, TensorDictParams
from torch import Tensor
from torch.nn import Module

from maxentflow.agents.agent import Agent, sum_of_losses
from maxentflow.agents.compiled.flat import Layout
from maxentflow.agents.compiled.update import CompiledUpdate
from maxentflow.agents.compiled.watch import Watch, constants, learning_rates
from maxentflow.agents.learner import CompilationError

__all__ = ["check_alike"]

_PROBES = (0.1, 1.0), (1.0, 3.0)  # standard deviations of the weights' noise, of the entries
_TOLERANCE = 1e-3

Member = tuple[Agent, Layout, Watch]


def check_alike(
    update: CompiledUpdate,
    members: Sequence[Member],
    batch: TensorDictBase,
    observation: TensorDictBase,
) -> None:
    """See that the first agent's program is that of all.

    Settings, classes, plain attributes and buffers are compared. What these do not show is tried:
    with the same weights, entries and random numbers, all agents must report, learn and act alike,
    and the traced update must report as they do.

    Args:
        update: of the first agent.
        members: the agents, each with its tensors and its settings.
        batch: transitions such as updates are given; only its shapes and integers count.
        observation: such as actions are for.

    Raises:
        CompilationError: they differ, in a sentence that says in what.
    """
    first, *others = members
    for other in others:
        difference = _difference(first, other)
        if difference is not None:
            raise _differ(difference)
    before = [[tensor.clone() for tensor in layout.tensors] for _, layout, _ in members]
    try:
        for index, (noise, size) in enumerate(_PROBES):
            weights = [tensor + noise * torch.randn_like(tensor) for tensor in first[1].weights]
            entries, seen = _random(batch, size), _random(observation, size)
            expected: dict[str, Tensor] | None = None
            for agent, layout, _ in members:
                for tensor, weight in zip(layout.weights, weights, strict=True):
                    tensor.data.copy_(weight)
                found = _computed(agent, layout, entries.clone(), seen.clone())
                expected = expected or found
                for name, value in expected.items():
                    if not _agree(found[name], value):
                        raise _differ(f"{name} with the same weights")
            if index == 0 and expected is not None:
                _check_graph(update, entries, expected)
    finally:
        for (_, layout, _), tensors in zip(members, before, strict=True):
            for tensor, old in zip(layout.tensors, tensors, strict=True):
                tensor.data.copy_(old)


def _difference(first: Member, other: Member) -> str | None:
    """In what settings two agents differ."""
    (one, layout, watch), (two, other_layout, other_watch) = first, other
    for name, mine, its in zip(
        watch.hyperparameters._fields,
        watch.hyperparameters,
        other_watch.hyperparameters,
        strict=True,
    ):
        if mine != its:
            return f"hyperparameters ({name})"
    if learning_rates(one) != learning_rates(two):
        return "learning rates"
    for part in ("loss", "policy", "behavior"):
        module, counterpart = getattr(one, part), getattr(two, part)
        described = dict(_described(module, part)), dict(_described(counterpart, part))
        for name in (*described[0], *described[1]):
            if described[0].get(name) != described[1].get(name):
                return name
        buffers, its_buffers = constants(module, layout), constants(counterpart, other_layout)
        for name in (*buffers, *its_buffers):
            one_buffer, other_buffer = buffers.get(name), its_buffers.get(name)
            if one_buffer is None or other_buffer is None:
                return f"{part}.{name}"
            if not torch.equal(one_buffer, other_buffer):
                return f"{part}.{name}"
    shapes = [[tensor.shape for tensor in each.tensors] for each in (layout, other_layout)]
    return None if shapes[0] == shapes[1] else "shapes of parameters"


def _described(module: Module, name: str) -> Iterator[tuple[str, Any]]:
    """The class and the plain attributes of a module and of those in it, by name."""
    for path, each in module.named_modules(prefix=name):
        yield path, type(each)
        if isinstance(each, TensorDictParams):
            continue  # which holds nothing else but how it is locked
        for attribute, value in vars(each).items():
            if isinstance(value, str | float | int | bool):
                yield f"{path}.{attribute}", value
            elif isinstance(value, tuple | list) and all(
                isinstance(entry, str | float | int | bool) for entry in value
            ):
                yield f"{path}.{attribute}", tuple(value)


def _random(entries: TensorDictBase, size: float) -> TensorDictBase:
    """Like some entries, with random numbers in place of floating-point ones."""
    return entries.apply(
        lambda entry: size * torch.rand_like(entry) if entry.is_floating_point() else entry.clone()
    )


def _computed(
    agent: Agent, layout: Layout, batch: TensorDictBase, observation: TensorDictBase
) -> dict[str, Tensor]:
    """What an agent reports, notes, learns from and does, with one seed."""
    torch.manual_seed(0)
    report = agent.loss(batch)
    parameters = [parameter for group in layout.groups for parameter in group.parameters]
    gradients = torch.autograd.grad(
        sum_of_losses(report, agent.steps), parameters, allow_unused=True
    )
    acted = agent.act(observation)
    computed = {
        "the loss's report": report,
        "what the loss notes": batch,
        "the behaviour": acted,
        "the gradient": TensorDict(
            {str(i): each for i, each in enumerate(gradients) if each is not None}
        ),
    }
    return {
        name: torch.cat([entry.detach().double().reshape(-1) for entry in part.values(True, True)])
        for name, part in computed.items()
    }


def _check_graph(
    update: CompiledUpdate, batch: TensorDictBase, expected: dict[str, Tensor]
) -> None:
    """The traced update of all steps, from the weights at present, reports what the loss does."""
    torch.manual_seed(0)
    graph = next(iter(update.graphs.values()))
    with torch.no_grad():
        outputs, _ = graph.advance(*update.layout.tensors, *update.given(batch), *graph.draw())
    report = graph.report(outputs)
    found = torch.cat([entry.double().reshape(-1) for entry in report.values(True, True)])
    if not _agree(found, expected["the loss's report"]):
        raise CompilationError("The traced update reports something else than the agent's loss.")


def _agree(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape:
        return False
    finite = expected[expected.isfinite()]
    largest = float(finite.abs().max()) if finite.numel() else 0.0
    return torch.allclose(found, expected, rtol=_TOLERANCE, atol=1e-6 * largest, equal_nan=True)


def _differ(what: str) -> CompilationError:
    return CompilationError(f"The agents differ in more than their weights: {what}.")
