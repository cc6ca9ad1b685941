"""MEow's objective: one soft Bellman regression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import dispatch
from torch import Tensor, nn
from torchrl.objectives.common import LossModule
from torchrl.objectives.utils import ValueEstimators, dispatch_value_estimator, distance_loss
from torchrl.objectives.value import ValueEstimatorBase

from maxentflow.objectives.functional import ModelModule, check_reduction, installed, shared_copy

__all__ = ["SoftBellmanLoss", "SoftValueModel"]


@runtime_checkable
class SoftValueModel(Protocol):
    """What :class:`SoftBellmanLoss` asks of a model, an :class:`torch.nn.Module`.

    A method ``q_and_value(action, observation)``, which gives both in one pass, is used where it
    is there. With an attribute ``temperature`` the loss reports the entropy.
    """

    def q_value(self, action: Tensor, observation: Tensor) -> Tensor:
        """Soft Q of each head, ``(*batch, heads)``."""
        ...

    def value(self, observation: Tensor) -> Tensor:
        """Soft value of each head, ``(*batch, heads)``."""
        ...


class _QAndValue(ModelModule):
    """Soft Q and soft value of the online model."""

    def forward(self, action: Tensor, observation: Tensor) -> tuple[Tensor, Tensor]:
        model: Any = self.model
        if hasattr(model, "q_and_value"):
            return model.q_and_value(action, observation)
        return model.q_value(action, observation), model.value(observation)


class _MinimumValue(ModelModule):
    """Reads an observation, writes the minimum over heads of its soft value."""

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        model: Any = self.model
        value = model.value(tensordict.get(self.in_keys[0]))
        return tensordict.set(self.out_keys[0], value.amin(-1, keepdim=True))


class SoftBellmanLoss(LossModule):
    r"""The soft Bellman regression of MEow, as a TorchRL loss.

    .. math::
        y = r + \gamma (1 - \text{terminated}) \min_h V_h^{\text{target}}(s'), \qquad
        L = \operatorname{mean}_{h, \text{batch}} \ell\big(Q_h(s, a), y\big)

    with :math:`\ell` the squared error (Chao et al. 2024, arXiv:2405.13629, eq. 8 and 17). A
    truncated step bootstraps, a terminated one does not; the target takes no gradient.

    The loss works on a view of the model that shares its parameters: ``loss.train()`` and
    ``loss.eval()`` switch dropout for the regression, and leave the model you act with as it is.
    The target is always in evaluation mode.

    Output, means over batch and heads unless ``reduction="none"``: ``"loss"``, and detached
    ``"q"``, ``"value"``, ``"target"``, ``"td_error"`` (absolute) and ``"entropy"``, the mean of
    :math:`(V - Q) / \alpha = -\log \pi(a|s)` over the batch's own actions: the policy's entropy
    where it took them, a cross-entropy where they are older. ``"entropy"`` is left out if the
    model has no ``temperature``.
    Written to the input: ``"td_error"``, the priority of each sample, the largest absolute error
    over heads.

    Args:
        model: a module with ``q_value`` and ``value``, see :class:`SoftValueModel`.
        loss_function: ``"l2"`` (default), ``"l1"`` or ``"smooth_l1"``.
        reduction: ``"mean"`` (default), ``"sum"`` or ``"none"``.
        use_prioritized_weights: weigh samples by the ``"priority_weight"`` entry; ``"auto"``
            where it is there.

    Raises:
        ValueError: the model lacks ``q_value`` or ``value``, or an option is not one of those
            above; from ``set_keys``, an unknown key.

    Example:
        >>> from maxentflow import flows
        >>> loss = SoftBellmanLoss(flows.build("additive", 2, 3, temperature=0.25))
        >>> updater = SoftUpdate(loss, tau=0.005)
        >>> batch = TensorDict(
        ...     observation=torch.randn(8, 3),
        ...     action=torch.rand(8, 2) * 2 - 1,
        ...     next=TensorDict(
        ...         observation=torch.randn(8, 3),
        ...         reward=torch.randn(8, 1),
        ...         done=torch.zeros(8, 1, dtype=torch.bool),
        ...         terminated=torch.zeros(8, 1, dtype=torch.bool),
        ...     ),
        ...     batch_size=[8],
        ... )
        >>> out = loss(batch)
        >>> out["loss"].backward()
        >>> batch["td_error"].shape
        torch.Size([8])
    """

    @dataclass
    class _AcceptedKeys:
        """Keys that ``set_keys`` accepts, with their defaults.

        Attributes:
            observation: read, also under ``"next"``. Default ``"observation"``.
            action: read. Default ``"action"``.
            reward: read under ``"next"``. Default ``"reward"``.
            done: read under ``"next"``. Default ``"done"``.
            terminated: read under ``"next"``. Default ``"terminated"``.
            value: where the value estimator keeps state values. Default ``"state_value"``.
            priority: written to the input, one for each sample. Default ``"td_error"``.
            priority_weight: read if it is there. Default ``"priority_weight"``.
        """

        observation: NestedKey = "observation"
        action: NestedKey = "action"
        reward: NestedKey = "reward"
        done: NestedKey = "done"
        terminated: NestedKey = "terminated"
        value: NestedKey = "state_value"
        priority: NestedKey = "td_error"
        priority_weight: NestedKey = "priority_weight"

    tensor_keys: _AcceptedKeys
    default_keys = _AcceptedKeys
    default_value_estimator = ValueEstimators.TD0
    supported_value_estimators = (
        ValueEstimators.TD0,
        ValueEstimators.TD1,
        ValueEstimators.TDLambda,
    )

    network: _QAndValue
    network_params: TensorDictParams
    target_network_params: TensorDictParams
    value_network: _MinimumValue

    def __init__(
        self,
        model: nn.Module,
        *,
        loss_function: str = "l2",
        reduction: str | None = None,
        use_prioritized_weights: str | bool = "auto",
    ) -> None:
        self._in_keys: list[NestedKey] = []
        super().__init__()
        missing = [name for name in ("q_value", "value") if not hasattr(model, name)]
        if missing or not isinstance(model, nn.Module):
            raise ValueError(
                "SoftBellmanLoss needs a torch module with q_value and value, "
                f"got {type(model).__name__} without {' and '.join(missing) or 'nn.Module'}."
            )
        if loss_function not in ("l2", "l1", "smooth_l1"):
            raise ValueError(
                f"loss_function must be 'l2', 'l1' or 'smooth_l1', got {loss_function!r}."
            )
        if use_prioritized_weights not in (True, False, "auto"):
            raise ValueError(
                "use_prioritized_weights must be True, False or 'auto', "
                f"got {use_prioritized_weights!r}."
            )
        self.loss_function = loss_function
        self.reduction = check_reduction(reduction)
        self.use_prioritized_weights = use_prioritized_weights
        self.temperature: float | None = getattr(model, "temperature", None)

        self.convert_to_functional(
            _QAndValue(shared_copy(model)), "network", create_target_params=True
        )
        # A module of its own, so that the target's parameters need not be installed each time.
        value_network = _MinimumValue(shared_copy(model)).eval()
        target = dict(self.named_children())["target_network_params"]  # without TorchRL's warning
        cast(TensorDictParams, target).to_module(value_network)
        value_network.requires_grad_(False)  # as the target is
        self.__dict__["value_network"] = value_network
        self._forward_value_estimator_keys()
        self.train()

    def train(self, mode: bool = True) -> SoftBellmanLoss:
        """Set the mode of the regression's Q (dropout on or off); the target stays in eval."""
        super().train(mode)
        self.network.train(mode)
        return self

    def reset_parameters_recursive(self) -> None:
        """Draw new parameters for the model, and copy them to the target."""
        self._reset_module_parameters("network", self.network)
        self.target_network_params.data.update_(self.network_params.data)

    def _forward_value_estimator_keys(self, **kwargs: Any) -> None:
        keys = self.tensor_keys
        self.value_network.in_keys = [keys.observation]
        self.value_network.out_keys = [keys.value]
        self._in_keys = [
            keys.observation,
            keys.action,
            *(
                _under_next(key)
                for key in (keys.observation, keys.reward, keys.done, keys.terminated)
            ),
        ]
        if self._value_estimator is not None:
            self._value_estimator.set_keys(
                value=keys.value,
                reward=keys.reward,
                done=keys.done,
                terminated=keys.terminated,
            )

    @property
    def in_keys(self) -> list[NestedKey]:
        return self._in_keys

    @in_keys.setter
    def in_keys(self, keys: list[NestedKey]) -> None:
        self._in_keys = keys

    @property
    def out_keys(self) -> list[NestedKey]:
        if self._out_keys is None:
            entropy = [] if self.temperature is None else ["entropy"]
            self._out_keys = ["loss", "q", "value", "target", "td_error", *entropy]
        return self._out_keys

    @out_keys.setter
    def out_keys(self, keys: list[NestedKey]) -> None:
        self._out_keys = keys

    _out_keys: list[NestedKey] | None = None

    def make_value_estimator(
        self,
        value_type: ValueEstimators | ValueEstimatorBase | type | None = None,
        **hyperparams: Any,
    ) -> SoftBellmanLoss:
        """Choose how targets are made: TD0 (default), TD1 or TD(lambda), with e.g. ``gamma``."""
        if value_type is None:
            value_type = self.default_value_estimator
        if isinstance(value_type, ValueEstimatorBase) or (
            isinstance(value_type, type) and issubclass(value_type, ValueEstimatorBase)
        ):
            super().make_value_estimator(value_type, **hyperparams)
        else:
            dispatch_value_estimator(
                self, value_type, supported=self.supported_value_estimators, **hyperparams
            )
        self._forward_value_estimator_keys()
        return self

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """The loss of a batch of transitions, with what the class lists beside it.

        Args:
            tensordict: entries ``in_keys``; observations ``(*batch, obs_dim)``, actions
                ``(*batch, action_dim)``, reward and flags ``(*batch, 1)``.
        """
        keys = self.tensor_keys
        action, observation = tensordict[keys.action], tensordict[keys.observation]
        with installed(self.network_params, self.network):
            q, value = self.network(action, observation)
        with torch.no_grad():
            target_params = self.target_network_params
            with installed(target_params, self.value_network):
                following = self.value_network(tensordict["next"].select(keys.observation))
            target = self.value_estimator.value_estimate(
                tensordict.copy(), target_params=target_params, next_value=following[keys.value]
            )
            error = (q - target).abs()
            tensordict.set(keys.priority, error.amax(-1))
        loss = distance_loss(q, target.expand_as(q), self.loss_function).mean(-1)
        weights = tensordict.get(keys.priority_weight) if self.use_prioritized_weights else None
        loss = self._reduce_loss(loss, tensordict=tensordict, weights=weights)
        report = {"q": q, "value": value, "target": target, "td_error": error}
        if self.temperature is not None:
            report["entropy"] = (value - q) / self.temperature
        elementwise = self.reduction == "none"
        out = TensorDict(
            loss=loss,
            **{
                name: entry.detach().mean(-1) if elementwise else entry.detach().mean()
                for name, entry in report.items()
            },
            batch_size=tensordict.batch_size if elementwise else [],
        )
        self._clear_weakrefs(
            tensordict,
            out,
            "network_params",
            "target_network_params",
        )
        return out


def _under_next(key: NestedKey) -> NestedKey:
    return ("next", *key) if isinstance(key, tuple) else ("next", key)
