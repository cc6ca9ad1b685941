"""Adam on one contiguous buffer."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

__all__ = ["FlatAdam"]

_ALIGNMENT = 16  # entries; 64 bytes in single precision, a cache line


class FlatAdam(torch.optim.Adam):
    """:class:`torch.optim.Adam` that keeps the parameters of a group in one buffer.

    The networks of reinforcement learning are small, and an optimiser that goes through their
    tensors one by one spends more time on the way than on the arithmetic. Here each parameter, and
    its gradient, becomes a view of one long vector, and zeroing, clipping and stepping are single
    operations. The steps are those of Adam on the parameters themselves.

    ``param_groups`` and the state hold the vectors, padded with zeros that stay zero, so that
    schedulers, ``clip_grad_norm_`` over ``param_groups`` and ``state_dict`` work as usual.
    :meth:`backward` writes the gradients there in one go and can be compiled; ``zero_grad`` and
    ``loss.backward()`` serve as well. A parameter without a gradient counts as one whose gradient
    is zero. Move or cast the model before making its optimiser.

    Args:
        params: parameters, or groups of them with options of their own.
        lr: step size.
        options: further options of :class:`torch.optim.Adam`; fused by default.

    Raises:
        ValueError: parameters of a group differ in dtype or device, do not require gradients, or
            are there twice.
        RuntimeError: from :meth:`step`, a parameter was moved, cast or frozen since.

    Example:
        >>> net = torch.nn.Linear(3, 2)
        >>> optimizer = FlatAdam(net.parameters(), lr=0.1)
        >>> optimizer.backward(net(torch.ones(3)).sum())
        >>> optimizer.step()
        >>> [tuple(vector.shape) for vector in optimizer.param_groups[0]["params"]]
        [(32,)]
    """

    def __init__(self, params: ParamsT, lr: float = 1e-3, **options: Any) -> None:
        self._slots: list[list[_Slot]] = []  # of each group
        super().__init__(params, lr=lr, **{"fused": True, **options})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, with options of their own, as one more vector."""
        params = param_group["params"]
        members = [params] if isinstance(params, nn.Parameter) else list(params)
        vector, slots = self._flatten(members)
        super().add_param_group({**param_group, "params": [vector]})
        self._slots.append(slots)
        # As Adam's first step would, so that the state is always there.
        self.state[vector] = {
            "step": torch.zeros((), dtype=torch.float32, device=vector.device),
            "exp_avg": torch.zeros_like(vector),
            "exp_avg_sq": torch.zeros_like(vector),
        }
        if self.param_groups[-1]["amsgrad"]:
            self.state[vector]["max_exp_avg_sq"] = torch.zeros_like(vector)

    def parameters(self) -> list[nn.Parameter]:
        """The parameters that it was given, in the order of their groups."""
        return [slot.parameter for slot in chain.from_iterable(self._slots)]

    def moments(self) -> list[dict[str, Tensor]]:
        """The state of each group's vector: ``"step"``, ``"exp_avg"`` and ``"exp_avg_sq"``."""
        return [self.state[group["params"][0]] for group in self.param_groups]

    def gradients(self, loss: Tensor) -> list[Tensor]:
        """The gradients of a loss, one vector for each group."""
        gradients = iter(
            torch.autograd.grad(loss, self.parameters(), allow_unused=True, materialize_grads=True)
        )
        vectors = []
        for slots in self._slots:
            parts = []
            for slot, gradient in zip(slots, gradients, strict=False):  # the next len(slots)
                parts.append(gradient.reshape(-1))
                if slot.padding:
                    parts.append(gradient.new_zeros(slot.padding))
            vectors.append(torch.cat(parts))
        return vectors

    def backward(self, loss: Tensor) -> None:
        """Set the gradients to those of a loss, in place of what they were."""
        for group, gradient in zip(self.param_groups, self.gradients(loss), strict=True):
            group["params"][0].grad.copy_(gradient)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Zero the gradients; they stay where they are, whatever ``set_to_none`` says."""
        for group in self.param_groups:
            group["params"][0].grad.zero_()
        for slot in chain.from_iterable(self._slots):
            slot.parameter.grad = slot.gradient

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of Adam."""
        self.check()
        for slot in chain.from_iterable(self._slots):
            if slot.parameter.grad is not slot.gradient:
                _take_back(slot)
        return super().step(closure)

    def check(self) -> None:
        """See that the parameters are still the views of the vectors that they were made.

        Raises:
            RuntimeError: one was moved, cast or frozen.
        """
        for slot in chain.from_iterable(self._slots):
            parameter = slot.parameter
            if parameter.data_ptr() != slot.address or not parameter.requires_grad:
                raise RuntimeError(
                    f"A parameter of shape {tuple(parameter.shape)} was moved, cast or frozen "
                    "after its optimizer was made; make the optimizer last."
                )

    def _flatten(self, parameters: list[nn.Parameter]) -> tuple[nn.Parameter, list[_Slot]]:
        if not parameters:
            raise ValueError("FlatAdam needs at least one parameter in each group.")
        if len({(parameter.dtype, parameter.device) for parameter in parameters}) > 1:
            raise ValueError("Parameters of a FlatAdam group must share one dtype and device.")
        if not all(parameter.requires_grad for parameter in parameters):
            raise ValueError("FlatAdam takes parameters that require gradients only.")
        known = set(map(id, self.parameters()))
        if len(known | {id(parameter) for parameter in parameters}) < len(known) + len(parameters):
            raise ValueError("FlatAdam was given a parameter twice.")
        sizes = [-(-p.numel() // _ALIGNMENT) * _ALIGNMENT for p in parameters]
        vector = nn.Parameter(parameters[0].new_zeros(sum(sizes)))
        vector.grad = torch.zeros_like(vector)
        slots = []
        for parameter, data, gradient in zip(
            parameters, vector.detach().split(sizes), vector.grad.split(sizes), strict=True
        ):
            count = parameter.numel()
            data = data[:count].view_as(parameter)
            padding = len(gradient) - count
            gradient = gradient[:count].view_as(parameter)
            data.copy_(parameter.detach())
            parameter.data = data
            if parameter.grad is not None:
                gradient.copy_(parameter.grad)
            parameter.grad = gradient
            slots.append(_Slot(parameter, gradient, padding, parameter.data_ptr()))
        return vector, slots


class _Slot(NamedTuple):
    """A parameter's place in a vector."""

    parameter: nn.Parameter
    gradient: Tensor
    padding: int
    address: int


def _take_back(slot: _Slot) -> None:
    """Bring a gradient that was put elsewhere into the vector."""
    if slot.parameter.grad is None:
        slot.gradient.zero_()
    else:
        slot.gradient.copy_(slot.parameter.grad)
    slot.parameter.grad = slot.gradient
