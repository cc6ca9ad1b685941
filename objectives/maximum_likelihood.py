"""Maximum likelihood: density fitting and behaviour cloning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import dispatch
from torch import Tensor, nn
from torchrl.objectives.common import LossModule

from maxentflow.objectives.functional import ModelModule, check_reduction, installed, shared_copy

__all__ = ["DensityModel", "MaximumLikelihoodLoss"]


@runtime_checkable
class DensityModel(Protocol):
    """What :class:`MaximumLikelihoodLoss` asks of a model, an :class:`torch.nn.Module`.

    If it has an attribute ``obs_dim`` that is ``None``, it is called without an observation.
    """

    def log_prob(self, action: Tensor, observation: Tensor) -> Tensor:
        """Log-density of an action, shape ``(*batch,)``."""
        ...


class _LogProb(ModelModule):
    """The log-density of the model."""

    def forward(self, *arguments: Tensor) -> Tensor:
        model: Any = self.model
        return model.log_prob(*arguments)


class MaximumLikelihoodLoss(LossModule):
    r"""Minus the log-likelihood of actions given observations, as a TorchRL loss.

    .. math::
        L = -\operatorname{mean}_{\text{batch}} \log \pi(a + \sigma \epsilon \mid s), \qquad
        \epsilon \sim \mathcal N(0, I)

    For behaviour cloning, and for density fitting with a model that reads no observation. Noise
    with :math:`\sigma > 0`, drawn anew at each call in training mode, keeps a flow from putting
    infinite density on data that lie on a line or repeat (Kim et al. 2020, arXiv:2002.04881).

    The loss works on a view of the model that shares its parameters: ``loss.train()`` and
    ``loss.eval()`` switch dropout and noise, and leave the model you act with as it is.

    Output: ``"loss"``, and detached ``"log_prob"``, its mean over the batch unless
    ``reduction="none"``.

    Args:
        model: a module with ``log_prob``, see :class:`DensityModel`.
        noise: the standard deviation :math:`\sigma` in units of the action, not negative.
        reduction: ``"mean"`` (default), ``"sum"`` or ``"none"``.

    Raises:
        ValueError: the model lacks ``log_prob``, or an option is not one of those above; from
            ``set_keys``, an unknown key.

    Example:
        >>> from maxentflow import flows
        >>> loss = MaximumLikelihoodLoss(flows.build("spline", 2, 3, temperature=1.0, heads=0))
        >>> batch = TensorDict(
        ...     observation=torch.randn(8, 3), action=torch.rand(8, 2) * 2 - 1, batch_size=[8]
        ... )
        >>> out = loss(batch)
        >>> out["loss"].backward()
        >>> bool(out["loss"] == -out["log_prob"])
        True
    """

    @dataclass
    class _AcceptedKeys:
        """Keys that ``set_keys`` accepts, with their defaults.

        Attributes:
            observation: read, if the model reads one. Default ``"observation"``.
            action: read. Default ``"action"``.
        """

        observation: NestedKey = "observation"
        action: NestedKey = "action"

    tensor_keys: _AcceptedKeys
    default_keys = _AcceptedKeys

    network: _LogProb
    network_params: TensorDictParams
    target_network_params: TensorDictParams

    def __init__(
        self, model: nn.Module, *, noise: float = 0.0, reduction: str | None = None
    ) -> None:
        self._in_keys: list[NestedKey] = []
        super().__init__()
        if not isinstance(model, nn.Module) or not hasattr(model, "log_prob"):
            raise ValueError(
                "MaximumLikelihoodLoss needs a torch module with log_prob, "
                f"got {type(model).__name__}."
            )
        if not 0 <= noise < float("inf"):
            raise ValueError(f"noise must not be negative, and be finite, got {noise}.")
        self.noise = float(noise)
        self.reduction = check_reduction(reduction)
        self._reads_observation = getattr(model, "obs_dim", 0) is not None
        self.convert_to_functional(_LogProb(shared_copy(model)), "network")
        self._forward_value_estimator_keys()
        self.train()

    def train(self, mode: bool = True) -> MaximumLikelihoodLoss:
        """Set the mode of the model (dropout on or off) and of the noise."""
        super().train(mode)
        self.network.train(mode)
        return self

    def _forward_value_estimator_keys(self, **kwargs: Any) -> None:
        keys = self.tensor_keys
        self._in_keys = [keys.action, *([keys.observation] if self._reads_observation else [])]

    @property
    def in_keys(self) -> list[NestedKey]:
        return self._in_keys

    @in_keys.setter
    def in_keys(self, keys: list[NestedKey]) -> None:
        self._in_keys = keys

    out_keys: list[NestedKey] = ["loss", "log_prob"]  # noqa: RUF012

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """The loss of a batch of actions ``(*batch, action_dim)``, entries ``in_keys``."""
        action, *observation = (tensordict[key] for key in self.in_keys)
        if self.training and self.noise:
            action = action + self.noise * torch.randn_like(action)
        with installed(self.network_params, self.network):
            log_prob = self.network(action, *observation)
        loss = self._reduce_loss(-log_prob, tensordict=tensordict)
        elementwise = self.reduction == "none"
        report = log_prob.detach()
        out = TensorDict(
            loss=loss,
            log_prob=report if elementwise else report.mean(),
            batch_size=tensordict.batch_size if elementwise else [],
        )
        self._clear_weakrefs(tensordict, out, "network_params")
        return out
