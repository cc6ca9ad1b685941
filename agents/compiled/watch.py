"""Notice what an agent's traced update holds as constants, and what of it has changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torch.nn import Module
from torchrl.objectives import LossModule, SoftUpdate
from torchrl.objectives.utils import TargetNetUpdater

from maxentflow.agents.agent import Agent
from maxentflow.agents.compiled.flat import Layout
from maxentflow.agents.compiled.trace import versions

__all__ = ["Hyperparameters", "Watch", "constants", "settle", "varying", "watched"]

_PLAIN = str, float, int, bool, tuple, type(None)


class Hyperparameters(NamedTuple):
    """What a traced update holds as constants, of an agent's settings.

    Attributes:
        adam: of each group of the optimisers, both betas, epsilon, the decoupled weight decay
            and the updates after which it fades.
        options: of each group, what is refused unless it is off.
        steps: of each step, its losses and its largest gradient norm.
        fractions: by which each target updater moves.
    """

    adam: tuple[tuple[float, float, float, float, int | None], ...]
    options: tuple[object, ...]
    steps: tuple[tuple[tuple[str, ...], float | None], ...]
    fractions: tuple[float, ...]

    @classmethod
    def of(cls, agent: Agent, updaters: Sequence[TargetNetUpdater]) -> Hyperparameters:
        """Those of an agent, with its target updaters that are not made of others."""
        groups = [group for step in agent.steps for group in step.optimizer.param_groups]
        return cls(
            tuple([(*g["betas"], g["eps"], g["weight_decay"], g.get("fade")) for g in groups]),
            tuple([(g["amsgrad"], g["maximize"], g["decoupled_weight_decay"]) for g in groups]),
            tuple([(step.losses, step.max_grad_norm) for step in agent.steps]),
            tuple([1 - (u.eps if isinstance(u, SoftUpdate) else u.decay) for u in updaters]),
        )


class Watch:
    """An agent's hyperparameters and the constants of its loss, as they were.

    Args:
        agent: which is watched; its loss has been called, see :func:`settle`.
        updaters: those of its target updaters that are not made of others.
        layout: its tensors, which may change.

    Attributes:
        hyperparameters: as they were.
    """

    def __init__(self, agent: Agent, updaters: Sequence[TargetNetUpdater], layout: Layout) -> None:
        self._agent = agent
        self._updaters = updaters
        self._chain = agent.target_updater
        self._optimizers = [step.optimizer for step in agent.steps]
        self.hyperparameters = Hyperparameters.of(agent, updaters)
        self._buffers = watched(agent, layout)
        self._values = [buffer.clone() for buffer in self._buffers]
        self._versions = versions(self._buffers)
        self._losses = [  # one may be inside another
            (loss, _plain_attributes(loss), list(loss.children()))
            for loss in agent.loss.modules()
            if isinstance(loss, LossModule)
        ]

    def is_current(self) -> bool:
        """Whether all is as it was; learning rates may differ."""
        agent = self._agent
        now = versions(self._buffers)
        if now != self._versions:  # they were written into, perhaps with what they were
            if not all(map(torch.equal, self._buffers, self._values)):
                return False
            self._versions = now
        return (
            agent.target_updater is self._chain
            and [step.optimizer for step in agent.steps] == self._optimizers
            and all(
                all(_same(vars(loss).get(name), value) for name, value in attributes)
                and list(map(id, loss.children())) == list(map(id, children))
                for loss, attributes, children in self._losses
            )
            and Hyperparameters.of(agent, self._updaters) == self.hyperparameters
        )


def settle(agent: Agent, layout: Layout, batch: TensorDictBase) -> None:
    """Call a loss, which may make its value estimator when it is called first.

    Raises:
        NotImplementedError: the loss has written into its buffers; they are put back.
    """
    buffers = [*watched(agent, layout), *varying(agent)]
    values, before = [buffer.clone() for buffer in buffers], versions(buffers)
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        agent.loss(batch.clone())
    if versions(buffers) != before:
        for buffer, value in zip(buffers, values, strict=True):
            buffer.data.copy_(value)
        raise NotImplementedError("its loss writes into its buffers")


def varying(agent: Agent) -> list[Tensor]:
    """Buffers that may change from one update to the next: those of modules in its state."""
    modules = [part for part in agent.state.values() if isinstance(part, Module)]
    buffers = {id(buffer): buffer for module in modules for buffer in module.buffers()}
    return list(buffers.values())


def watched(agent: Agent, layout: Layout) -> list[Tensor]:
    """What an update holds as constants of the agent's loss."""
    moving = {buffer.data_ptr() for buffer in varying(agent)}
    entries = constants(agent.loss, layout).values()
    return [entry for entry in entries if entry.data_ptr() not in moving]


def constants(module: Module, layout: Layout) -> dict[str, Tensor]:
    """Buffers and parameters of a module that an update does not change."""
    entries = {**module.state_dict(), **dict(module.named_buffers())}
    return {
        name: entry
        for name, entry in entries.items()
        if isinstance(entry, Tensor) and not layout.holds(entry)
    }


def _plain_attributes(module: Module) -> list[tuple[str, Any]]:
    """Public attributes of a module that are numbers, strings, ``None`` or tuples."""
    return [
        (name, value)
        for name, value in vars(module).items()
        if isinstance(value, _PLAIN) and not name.startswith("_")
    ]


def _same(value: Any, traced: Any) -> bool:
    return value is traced or (type(value) is type(traced) and value == traced)
