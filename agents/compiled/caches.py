"""Forget what TorchRL and tensordict keep of where parameters were.

Every private name of these two that this package uses stands here.
"""

from __future__ import annotations

from tensordict import TensorDictBase, TensorDictParams
from torch.nn import Module
from torchrl.objectives import LossModule

__all__ = ["forget_places"]


def forget_places(module: Module) -> None:
    """Drop detached copies of parameters, which would stay in the parameters' old places.

    TorchRL's losses keep some, and so does a locked tensordict whose ``detach`` was called.

    Args:
        module: a loss, or what contains some.

    Example:
        >>> params = TensorDictParams(TensorDict(weight=torch.zeros(2))).lock_()
        >>> before = params.detach()["weight"]
        >>> params["weight"].data = torch.ones(2)
        >>> params.detach()["weight"].tolist()
        [0.0, 0.0]
        >>> forget_places(params)
        >>> params.detach()["weight"].tolist()
        [1.0, 1.0]
    """
    for each in module.modules():
        if isinstance(each, LossModule):
            each._erase_cache()
        if isinstance(each, TensorDictParams):
            vars(each)["_cache"] = None
            _forget(each._param_td)


def _forget(entries: TensorDictBase) -> None:
    entries._erase_cache()
    for entry in entries.values():
        if isinstance(entry, TensorDictBase):
            _forget(entry)
