"""Modules that compute with the parameters that a loss holds."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

from tensordict import NestedKey, TensorDictBase, TensorDictParams
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn
from torch.compiler import is_compiling

__all__ = [
    "ModelModule",
    "check_reduction",
    "copy_but_for",
    "install",
    "installed",
    "shared_copy",
    "under_next",
]


class ModelModule(TensorDictModuleBase):
    """A model, as TorchRL's functional machinery wants it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.in_keys: list[NestedKey] = []
        self.out_keys: list[NestedKey] = []


def check_reduction(reduction: str | None) -> str:
    """The reduction, ``"mean"`` if none was chosen.

    Raises:
        ValueError: not one of TorchRL's.
    """
    if reduction not in (None, "mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}.")
    return "mean" if reduction is None else reduction


def installed(params: TensorDictParams, module: nn.Module) -> AbstractContextManager[Any]:
    """A context in which the module computes with these parameters.

    Installing them takes a tenth of an update; where the module has them already, as it does from
    the start, that is spared.
    """
    if not is_compiling() and _holds(module, params):
        return nullcontext()
    return params.to_module(module, preserve_module_state=False)


def install(params: TensorDictBase, module: nn.Module) -> None:
    """Have a module compute with tensors that are no parameters, for good."""
    for name, entry in params.items():
        if not isinstance(entry, Tensor):
            install(entry, cast(nn.Module, module._modules[name]))
            continue
        module._parameters.pop(name, None)
        module._buffers[name] = entry


def _holds(module: nn.Module, params: TensorDictBase) -> bool:
    parameters, buffers, children = module._parameters, module._buffers, module._modules
    for name, entry in params.items():
        if parameters.get(name) is entry or buffers.get(name) is entry:
            continue
        if not isinstance(entry, Tensor):
            if not _holds(cast(nn.Module, children[name]), entry):
                return False
            continue
        held = cast(Tensor, parameters.get(name, buffers.get(name)))
        if entry.requires_grad != held.requires_grad or not _share_memory(entry, held):
            return False
    return True


def _share_memory(one: Tensor, other: Tensor) -> bool:
    try:
        return one.data_ptr() == other.data_ptr()
    except RuntimeError:  # under vmap tensors have no address
        return False


def shared_copy(module: nn.Module) -> nn.Module:
    """A module with a train/eval mode of its own on the same parameters and buffers."""
    return copy_but_for(module, (*module.parameters(), *module.buffers()))


def copy_but_for(module: nn.Module, shared: Iterable[Tensor]) -> nn.Module:
    """A deep copy that holds the tensors in ``shared`` themselves."""
    memo: dict[int, Any] = {id(tensor): tensor for tensor in shared}
    for each in module.modules():  # ten empty tables of hooks each, half of the time of a copy
        for table in vars(each).values():
            if type(table) in (dict, OrderedDict) and not table:
                memo[id(table)] = type(table)()
    return copy.deepcopy(module, memo)


def under_next(key: NestedKey) -> NestedKey:
    """The key of the same entry of the following step."""
    return ("next", *key) if isinstance(key, tuple) else ("next", key)
