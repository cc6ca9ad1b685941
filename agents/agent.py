"""An agent as data: a policy, a loss, and the steps that descend on it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.objectives import LossModule
from torchrl.objectives.utils import TargetNetUpdater

from maxentflow.objectives import UpdaterChain

__all__ = ["Agent", "HasState", "Rollout", "Step", "act_with", "nan_in"]


class HasState(Protocol):
    """What can be saved: a module, an optimiser, a target updater, a normaliser."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state: Any, /) -> Any: ...


@dataclass
class Step:
    """One descent of an update.

    Attributes:
        losses: names in the loss's output, scalars, whose sum is minimised.
        optimizer: over the parameters that learn from them, which no other step has.
        every: updates from one descent to the next; a delayed actor has 2.
        max_grad_norm: the gradient's norm is clipped to it; ``None`` for no clipping.

    Raises:
        ValueError: there are no losses, or ``every`` or ``max_grad_norm`` is out of range.
    """

    losses: tuple[str, ...]
    optimizer: torch.optim.Optimizer
    every: int = 1
    max_grad_norm: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.losses, str) or not self.losses:
            raise ValueError(f"losses must be a tuple of names, got {self.losses!r}.")
        if self.every < 1:
            raise ValueError(f"every must be at least 1, got {self.every}.")
        if self.max_grad_norm is not None and not 0 < self.max_grad_norm < math.inf:
            raise ValueError(
                f"max_grad_norm must be positive and finite, got {self.max_grad_norm}."
            )

    def is_due(self, update: int) -> bool:
        """Whether it takes part in an update; the first is number 1."""
        return update % self.every == 0

    def parameters(self) -> list[Tensor]:
        """What its optimiser changes, of any shapes."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def zero_grad(self) -> None:
        """Forget the gradient; in half the time of the optimiser's own method."""
        for parameter in self.parameters():
            parameter.grad = None

    def grad_norm(self) -> Tensor:
        """The norm of the gradient, shape ``()``."""
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        if not gradients:
            return torch.zeros(())
        # torch's get_total_norm sorts them by device first, 1% of an update.
        return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))

    def descend(self, norm: Tensor) -> None:
        """Clip the gradient, whose norm is given, shape ``()``, and step the optimiser."""
        if self.max_grad_norm is not None and norm > self.max_grad_norm:
            clip_grads_with_norm_(self.parameters(), self.max_grad_norm, norm)
        self.optimizer.step()


@dataclass
class Rollout:
    """On-policy data: steps that the newest policy took, for a few epochs of minibatches.

    Attributes:
        steps: environment steps to collect before learning from them, of all environments.
        epochs: passes over them.
        minibatch_size: transitions in an update.
        estimator: called once on the whole rollout, ``(num_envs, time)``, to add what the loss
            reads, such as TorchRL's :class:`~torchrl.objectives.value.GAE`.

    Raises:
        ValueError: a size is below 1, or a minibatch larger than the rollout.
    """

    steps: int
    epochs: int
    minibatch_size: int
    estimator: TensorDictModuleBase | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "epochs", "minibatch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.minibatch_size > self.steps:
            raise ValueError(
                f"A minibatch of {self.minibatch_size} transitions needs a rollout of as many "
                f"steps, got {self.steps}."
            )


@dataclass(repr=False)
class Agent:
    """The parts of a learning agent; our trainer or TorchRL's can drive them.

    Attributes:
        name: the algorithm's name.
        policy: what is evaluated and used; reads ``"observation"``, writes ``"action"``.
        loss: a TorchRL loss.
        steps: the descents of an update.
        behavior: what explores; the policy by default.
        target_updaters: what follows every update, in this order.
        rollout: how much on-policy data an update takes; ``None`` to learn from a replay buffer.
        demonstrations: transitions to learn from in place of those of an environment, batch size
            ``(n,)``, or a function that reads them when a run begins; a step of a run is then an
            update.
        state: whatever else has state, by name; it is saved with the rest. A part with a method
            ``observe(transitions)`` is called with every step before it is stored, see
            :meth:`observe`; buffers of modules here may change from one update to the next.
        stored: entries of the steps to keep beside those that every agent learns from.
        config: the dataclass that the agent was made from.
        custom: names of parts given by the caller, which ``config`` alone does not rebuild.
        critic: the policy's soft value, which evaluations and :func:`diagnose` compare with
            returns: a model in evaluation mode with ``value(observation)``, shape
            ``(*batch, heads)``, in units of reward; ``None`` for an agent without one.
        updates: how many there have been.

    Raises:
        ValueError: no step is due in every update, or two steps share a parameter.

    Example:
        >>> from maxentflow import flows, objectives
        >>> flow = flows.build("additive", 1, 3, temperature=0.2)
        >>> loss = objectives.SoftBellmanLoss(flow)
        >>> agent = Agent(
        ...     name="own",
        ...     policy=flows.FlowPolicy(flow),
        ...     loss=loss,
        ...     steps=[Step(("loss",), torch.optim.Adam(loss.parameters(), lr=1e-3))],
        ...     target_updaters=[SoftUpdate(loss, tau=0.005)],
        ... )
        >>> agent.act(TensorDict(observation=torch.zeros(4, 3), batch_size=[4]))["action"].shape
        torch.Size([4, 1])
    """

    name: str
    policy: TensorDictModuleBase
    loss: LossModule
    steps: list[Step]
    behavior: TensorDictModuleBase | None = None
    target_updaters: Sequence[TargetNetUpdater] = ()
    rollout: Rollout | None = None
    demonstrations: TensorDictBase | Callable[[], TensorDictBase] | None = None
    state: Mapping[str, HasState] = field(default_factory=dict)
    stored: tuple[str, ...] = ()
    config: Any = None
    custom: tuple[str, ...] = ()
    critic: Any = None
    updates: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.behavior is None:
            self.behavior = self.policy
        if all(step.every > 1 for step in self.steps):
            raise ValueError(f"Agent {self.name!r} needs a step that is due in every update.")
        parameters = [id(p) for step in self.steps for p in step.parameters()]
        if len(set(parameters)) < len(parameters):
            raise ValueError(f"Two steps of agent {self.name!r} share a parameter.")
        self.target_updater = UpdaterChain(self.target_updaters)
        """All target updaters as one, for TorchRL's trainer."""

    def __repr__(self) -> str:
        return f"Agent({self.name!r}, updates={self.updates})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Agent:
        """Refused: a loss of TorchRL does not keep to the copies of its parameters, so that the
        optimisers of a copy would train nothing."""
        raise TypeError("An agent cannot be copied: build another, and give it load_state_dict.")

    @torch.no_grad()
    def act(self, observation: TensorDictBase) -> TensorDictBase:
        """The behaviour's actions, with all else that it writes, such as log-probabilities.

        Args:
            observation: entries that the behaviour reads, shapes ``(num_envs, ·)``; is written to.

        Raises:
            FloatingPointError: a probability of an action is not finite.
        """
        assert self.behavior is not None
        with set_exploration_type(ExplorationType.RANDOM), _sampling():
            return self.behavior(observation)

    @torch.no_grad()
    def predict(self, observation: Any, *, deterministic: bool = True) -> NDArray[Any]:
        """The policy's actions for NumPy arrays, in the units of :func:`maxentflow.envs.make`: in
        [-1, 1], for which :class:`gymnasium.wrappers.RescaleAction` prepares any other task.

        Args:
            observation: a vector ``(obs_dim,)``, an image ``(height, width, channels)``, or a
                batch of either along the first axis. Whole numbers are bytes in an image.
            deterministic: the mode of the policy; if not, a sample, of torch's generator.

        Returns:
            Actions ``(action_dim,)`` or ``(batch, action_dim)``; of discrete actions, indices.

        Raises:
            ValueError: observations have another number of dimensions, or another size than the
                policy takes, or are not finite.
            FloatingPointError: the policy's actions are not finite.
        """
        array = np.asarray(observation)
        if array.ndim not in (1, 2, 3, 4) or array.dtype.kind not in "biuf":
            raise ValueError(
                "An observation is a vector or an image of numbers, or a batch of them; got shape "
                f"{array.shape} of {array.dtype}."
            )
        if not np.isfinite(array).all():
            raise ValueError("An observation is made of finite numbers, got nan or inf.")
        is_one, is_image = array.ndim in (1, 3), array.ndim > 2
        is_bytes = is_image and array.dtype.kind in "iu"
        array = np.ascontiguousarray(array, np.uint8 if is_bytes else np.float32)
        device = next((p.device for p in self.policy.parameters()), None)
        batch = torch.as_tensor(array[None] if is_one else array, device=device)
        kind = ExplorationType.DETERMINISTIC if deterministic else ExplorationType.RANDOM
        with set_exploration_type(kind):
            acted = act_with(self.policy, batch, f"The policy of {self.name!r}")
        action = acted["action"].numpy(force=True)
        # The largest of values that are NaN is an action like any other.
        if not np.isfinite(action).all() or any(nan_in(acted, "")):
            raise FloatingPointError(f"The policy of {self.name!r} acts with nan or inf.")
        return action[0] if is_one else action

    def observe(self, transitions: TensorDictBase) -> None:
        """Take in one step of every environment, before it is stored.

        Running scales follow it, and entries that random actions of a warm-up lack are added.

        Args:
            transitions: batch size ``(num_envs,)``, as an experience takes them.
        """
        for part in self.state.values():
            observe = getattr(part, "observe", None)
            if observe is not None:
                observe(transitions)

    def update(self, batch: TensorDictBase) -> TensorDictBase:
        """Take the steps that are due from a batch of transitions, then update the targets.

        Returns:
            What the loss reports, detached.

        Raises:
            FloatingPointError: the loss, its gradient or a probability is not finite; parameters,
                optimisers and targets are then as they were.
        """
        due = [step for step in self.steps if step.is_due(self.updates + 1)]
        with _sampling():
            report = self.loss(batch)
        total = sum_of_losses(report, due)
        for step in due:
            step.zero_grad()
        total.backward()
        norms = [step.grad_norm() for step in due]
        error = not_finite([total.item(), *(norm.item() for norm in norms)])
        if error is not None:
            raise error
        for step, norm in zip(due, norms, strict=True):
            step.descend(norm)
        self.target_updater.step()
        self.updates += 1
        return detached(report)

    def state_dict(self) -> dict[str, Any]:
        """All that later updates and actions depend on; it shares its tensors with the agent."""
        assert self.behavior is not None
        return {
            "agent": self.name,
            "updates": self.updates,
            "policy": self.policy.state_dict(),
            "behavior": self.behavior.state_dict(),
            "loss": self.loss.state_dict(),
            "optimizers": [step.optimizer.state_dict() for step in self.steps],
            "target_updater": self.target_updater.state_dict(),
            "state": {name: part.state_dict() for name, part in self.state.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave.

        Raises:
            ValueError: it is the state of another agent, or a number of it is NaN; nothing has
                changed then.
        """
        if state.get("agent") != self.name:
            raise ValueError(
                f"The checkpoint is of agent {state.get('agent')!r}, this is {self.name!r}."
            )
        own = self.state_dict()
        updates = state.get("updates")
        if not isinstance(updates, int) or updates < 0:
            raise ValueError(f"The checkpoint's number of updates is {updates!r}.")
        if _structure(state) != _structure(own):
            raise ValueError("The checkpoint's networks are not those of this run.")
        for name in own:
            if (place := next(nan_in(state[name], name), None)) is not None:
                raise ValueError(f"The checkpoint's {place} has numbers that are not finite.")
        assert self.behavior is not None
        self.policy.load_state_dict(state["policy"])
        self.behavior.load_state_dict(state["behavior"])
        self.loss.load_state_dict(state["loss"])
        for step, optimizer in zip(self.steps, state["optimizers"], strict=True):
            step.optimizer.load_state_dict(copy.deepcopy(optimizer))  # torch would share it
        self.target_updater.load_state_dict(state["target_updater"])
        for name, part in self.state.items():
            part.load_state_dict(state["state"][name])
        self.updates = state["updates"]


@contextmanager
def _sampling() -> Iterator[None]:
    """Turn torch's exception for probabilities that are not finite into FloatingPointError."""
    try:
        yield
    except RuntimeError as error:
        if "probability tensor contains" not in str(error):
            raise
        raise FloatingPointError("a probability of an action is not finite") from error


def sum_of_losses(report: TensorDictBase, steps: Sequence[Step]) -> Tensor:
    """The sum of what some steps minimise.

    Raises:
        ValueError: the loss does not report one of them, or not as a scalar.
    """
    losses = []
    for name in (name for step in steps for name in step.losses):
        loss = report.get(name)
        if loss is None:
            raise ValueError(
                f"The loss reports {', '.join(map(str, report.keys()))}, no {name!r}."
            )
        if loss.ndim:
            raise ValueError(
                f"{name!r} must be a scalar, got shape {tuple(loss.shape)}; make the loss with "
                "reduction='mean'."
            )
        losses.append(loss)
    return reduce(torch.add, losses)


def detached(report: TensorDictBase) -> TensorDictBase:
    """A report without its graph; in place, since as a rule the loss alone has one."""
    for name, entry in report.items(True, True):
        if entry.requires_grad:
            report.set(name, entry.detach())
    return report


def not_finite(verdict: Sequence[float]) -> FloatingPointError | None:
    """What to raise for the sum of losses and the norms of gradients, if one is not finite."""
    for name, value in zip(("loss", *["gradient"] * len(verdict)), verdict, strict=False):
        if not math.isfinite(value):
            return FloatingPointError(f"{name} is {value}")
    return None


def act_with(
    policy: TensorDictModuleBase, observation: Tensor, who: str = "The policy"
) -> TensorDictBase:
    """What a policy reads and writes for a batch of observations ``(batch, *)``.

    Args:
        policy: reads ``"observation"``.
        observation: a tensor on its device.
        who: the subject of a refusal.

    Raises:
        ValueError: it takes none of this shape.
        FloatingPointError: a probability of an action is not finite.
    """
    try:
        with _sampling():
            return policy(TensorDict({"observation": observation}, [len(observation)]))
    except RuntimeError as error:
        reason = str(error).partition("\n")[0].removesuffix(".")
        shape = tuple(observation.shape[1:])
        raise ValueError(f"{who} takes no observations of shape {shape}: {reason}.") from error


def nan_in(state: Any, name: str) -> Iterator[str]:
    """The names of tensors in a nested state that have a NaN."""
    if isinstance(state, Tensor):
        if state.is_floating_point() and state.isnan().any():
            yield name
    elif isinstance(state, Mapping):
        for key, entry in state.items():
            yield from nan_in(entry, f"{name}.{key}")
    elif isinstance(state, list | tuple):
        for index, entry in enumerate(state):
            yield from nan_in(entry, f"{name}.{index}")


def _structure(state: Mapping[str, Any]) -> dict[str, Any]:
    """Names and shapes of the networks in a state, and how many parts it has."""
    try:
        networks = {
            part: {
                name: entry.shape for name, entry in state[part].items() if hasattr(entry, "shape")
            }
            for part in ("policy", "behavior", "loss")
        }
        groups = [
            [len(group["params"]) for group in optimizer["param_groups"]]
            for optimizer in state["optimizers"]
        ]
        parts = {
            name: sorted(part) if isinstance(part, Mapping) else None
            for name, part in sorted(state["state"].items())
        }
        counted = isinstance(state["updates"], int) and "target_updater" in state
        return {**networks, "groups": groups, "parts": parts, "counted": counted}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("The checkpoint's networks are not those of this run.") from error
