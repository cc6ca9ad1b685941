"""Lay out an agent's parameters, optimiser states, targets and averages as a few vectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchrl.objectives import SoftUpdate
from torchrl.objectives.utils import TargetNetUpdater

from maxentflow.agents.agent import Agent
from maxentflow.agents.compiled.caches import forget_places
from maxentflow.agents.parts.optimizers import FadingAdamW
from maxentflow.objectives import WeightAverage
from maxentflow.objectives.updaters import target_pairs

__all__ = ["Follower", "Group", "Layout"]

_ALIGNMENT = 16  # entries; 64 bytes in single precision, a cache line
_OPTIONS = "amsgrad", "maximize", "differentiable"
_MOMENTS = "exp_avg", "exp_avg_sq"


@dataclass
class Group:
    """An optimiser's group as vectors.

    Parameters are padded to whole cache lines, with zeros that stay zero.

    Attributes:
        step: whose optimiser's it is, by its place among the agent's steps.
        optimizer: of this step.
        parameters: in the group's order.
        sizes: how many entries of the vector each has, the padding included.
        vector: all parameters.
        exp_avg: Adam's average of their gradients.
        exp_avg_sq: Adam's average of their squared gradients.
        steps: Adam's count of steps, one entry for each parameter.
    """

    step: int
    optimizer: torch.optim.Optimizer
    parameters: list[Tensor]
    sizes: list[int]
    vector: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    steps: Tensor

    def places(self, vector: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Each parameter, with its view of a vector laid out as this group's."""
        parts = vector.split(self.sizes)
        for parameter, part in zip(self.parameters, parts, strict=True):
            yield parameter, part[: parameter.numel()].view(parameter.shape)


class Follower(NamedTuple):
    """Targets or averages of one group's parameters, laid out as these are.

    Attributes:
        updater: by its place among the updaters.
        group: by its place in :attr:`Layout.groups`.
        vector: the targets, and entries without meaning where a parameter has none.
        places: each target with its view of the vector.
    """

    updater: int
    group: int
    vector: Tensor
    places: list[tuple[Tensor, Tensor]]


class Layout:
    """All that an agent's update changes, as vectors that are a loop each.

    The networks of reinforcement learning are small: to go through their tensors one by one takes
    longer than the arithmetic. Each parameter, Adam's state of it, its target and its average
    become views of a vector; values stay as they are, and Adam's state is made where its first
    step would make it. The agent's optimisers, updaters and ``load_state_dict`` serve as before.

    Args:
        agent: whose tensors are laid out.
        updaters: those of the agent's target updaters that are not made of others.

    Attributes:
        groups: the groups of the optimisers, in the order of the agent's steps.
        followers: targets and averages.
        tensors: all vectors, which stay where they are: the parameters of every group, the
            averages of their gradients, those of the squares, the counts of steps, the followers.

    Raises:
        NotImplementedError: an optimiser is not Adam or AdamW or has an option that is not
            supported, parameters of a group differ in dtype or device or are frozen, or an
            updater follows parameters that no step changes.

    Example:
        >>> from maxentflow import flows, objectives
        >>> flow = flows.build("additive", 1, 3, temperature=0.2)
        >>> loss = objectives.SoftBellmanLoss(flow)
        >>> steps = [Step(("loss",), torch.optim.Adam(loss.parameters()))]
        >>> agent = Agent("own", flows.FlowPolicy(flow), loss, steps)
        >>> layout = Layout(agent, [])
        >>> next(flow.parameters()).data_ptr() == layout.groups[0].vector.data_ptr()
        True
    """

    def __init__(self, agent: Agent, updaters: Sequence[TargetNetUpdater]) -> None:
        self._loss = agent.loss
        self._states: list[tuple[torch.optim.Optimizer, Any]] = []
        self.groups = [
            _group(number, step.optimizer, options)
            for number, step in enumerate(agent.steps)
            for options in step.optimizer.param_groups
        ]
        self.followers: list[Follower] = []
        self._lay_out_groups()
        for index, updater in enumerate(updaters):
            self.followers.extend(self._follow(index, updater))
        self._lay_out_followers()
        self.tensors = [
            *(group.vector for group in self.groups),
            *(group.exp_avg for group in self.groups),
            *(group.exp_avg_sq for group in self.groups),
            *(group.steps for group in self.groups),
            *(follower.vector for follower in self.followers),
        ]

    @property
    def weights(self) -> list[Tensor]:
        """The vectors that networks read: parameters, targets and averages."""
        count = len(self.groups)
        return [*self.tensors[:count], *self.tensors[4 * count :]]

    def refresh(self) -> bool:
        """See that all is where it was laid out; take back what was loaded or put elsewhere.

        Returns:
            Whether something was elsewhere.

        Raises:
            RuntimeError: a parameter, a target or an average was moved, cast or frozen.
        """
        if self._is_in_place():
            return False
        self._lay_out_groups()
        self._lay_out_followers()
        return True

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor is a view of one of the vectors."""
        return _storage(tensor) in {_storage(vector) for vector in self.tensors}

    def counts_agree(self, taking_part: Mapping[int, Sequence[bool]]) -> bool:
        """Whether all parameters of a group that learn have taken the same number of steps.

        Args:
            taking_part: for each group, which of its parameters learn; the others have taken none.
        """
        for index, learns in taking_part.items():
            counts = self.groups[index].steps.tolist()
            expected = counts[learns.index(True)]
            if counts != [expected if each else 0.0 for each in learns]:
                return False
        return True

    def _is_in_place(self) -> bool:
        return (
            [tensor.data_ptr() for tensor in self._watched] == self._addresses
            and all(parameter.requires_grad for parameter in self._learned)
            and all(optimizer.state is state for optimizer, state in self._states)
        )

    def _lay_out_groups(self) -> None:
        for group in self.groups:
            state: Any = group.optimizer.state
            for parameter, place in group.places(group.vector):
                if not parameter.requires_grad:
                    raise _misplaced(parameter)
                _move(parameter, place)
            for name in _MOMENTS:
                for parameter, place in group.places(getattr(group, name)):
                    _take(state[parameter], name, place)
            for parameter, place in zip(group.parameters, group.steps, strict=True):
                _take(state[parameter], "step", place)
        optimizers = {id(group.optimizer): group.optimizer for group in self.groups}
        self._states = [(each, each.state) for each in optimizers.values()]
        self._learned = [parameter for group in self.groups for parameter in group.parameters]
        forget_places(self._loss)

    def _lay_out_followers(self) -> None:
        for follower in self.followers:
            for target, place in follower.places:
                _move(target, place)
        first = [follower.places[0][0] for follower in self.followers]
        self._watched = [*self._learned, *first]
        self._addresses = [tensor.data_ptr() for tensor in self._watched]
        forget_places(self._loss)

    def _follow(self, index: int, updater: TargetNetUpdater) -> list[Follower]:
        """The followers of one updater, a vector for each group that it follows."""
        groups = {_storage(group.vector): number for number, group in enumerate(self.groups)}
        followers: dict[int, Follower] = {}
        assert isinstance(updater, SoftUpdate | WeightAverage)
        pairs = updater.pairs() if isinstance(updater, WeightAverage) else target_pairs(updater)
        for source, target in pairs:
            number = groups.get(_storage(source))
            if number is None:
                raise NotImplementedError(
                    f"its {type(updater).__name__} follows parameters that no step changes"
                )
            vector = self.groups[number].vector
            if number not in followers:
                followers[number] = Follower(index, number, vector.clone(), [])
            place = followers[number].vector.as_strided(
                source.shape, source.stride(), source.storage_offset()
            )
            followers[number].places.append((target, place))
        return list(followers.values())


def _group(step: int, optimizer: torch.optim.Optimizer, options: dict[str, Any]) -> Group:
    """Room for a group, with nothing in it yet."""
    parameters = list(options["params"])
    _check(optimizer, options, parameters)
    sizes = [-(-p.numel() // _ALIGNMENT) * _ALIGNMENT for p in parameters]
    vector = parameters[0].detach().new_zeros(sum(sizes))
    # As Adam makes it.
    double = torch.get_default_dtype() == torch.float64 and not options["fused"]
    known: dict[str, Tensor] = optimizer.state.get(parameters[0], {})
    dtype = known["step"].dtype if known else torch.float64 if double else torch.float32
    return Group(
        step=step,
        optimizer=optimizer,
        parameters=parameters,
        sizes=sizes,
        vector=vector,
        exp_avg=torch.zeros_like(vector),
        exp_avg_sq=torch.zeros_like(vector),
        steps=torch.zeros(len(parameters), dtype=dtype, device=vector.device),
    )


def _check(
    optimizer: torch.optim.Optimizer, options: dict[str, Any], parameters: list[Tensor]
) -> None:
    if type(optimizer) not in (torch.optim.Adam, torch.optim.AdamW, FadingAdamW):
        raise NotImplementedError(
            f"its optimizer is {type(optimizer).__name__}, not Adam or AdamW"
        )
    for name in _OPTIONS:
        if options[name]:
            raise NotImplementedError(f"its optimizer has the option {name}")
    if options["weight_decay"] and not options["decoupled_weight_decay"]:
        raise NotImplementedError(
            "its optimizer has the option weight_decay; AdamW's is supported"
        )
    if not parameters:
        raise NotImplementedError("its optimizer has a group without parameters")
    if len({(parameter.dtype, parameter.device) for parameter in parameters}) > 1:
        raise NotImplementedError("parameters of a group differ in dtype or device")
    if not all(parameter.requires_grad for parameter in parameters):
        raise NotImplementedError("its optimizer has parameters that are frozen")
    if parameters[0].is_cuda and not (options["fused"] or options["capturable"]):
        raise NotImplementedError("its optimizer counts on the CPU; make it with fused=True")


def _move(tensor: Tensor, place: Tensor) -> None:
    """Put a tensor's values into a place, and have it there from now on."""
    if tensor.dtype != place.dtype or tensor.device != place.device:
        raise _misplaced(tensor)
    if tensor.data_ptr() != place.data_ptr():
        tensor.data = place.copy_(tensor.detach())


def _take(state: dict[str, Tensor], name: str, place: Tensor) -> None:
    """Put an entry of an optimiser's state into a place, as it was or as it would be made."""
    if name not in state:
        place.zero_()
    elif state[name].data_ptr() != place.data_ptr():
        place.copy_(state[name])
    state[name] = place


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _misplaced(tensor: Tensor) -> RuntimeError:
    return RuntimeError(
        f"A parameter of shape {tuple(tensor.shape)} was moved, cast or frozen after its update "
        "was compiled; compile anew."
    )
