"""MEow's objective: one soft Bellman regression."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import dispatch
from torch import Tensor, nn
from torchrl.objectives.common import LossModule
from torchrl.objectives.utils import ValueEstimators, dispatch_value_estimator, distance_loss
from torchrl.objectives.value import ValueEstimatorBase

from maxentflow.objectives.functional import (
    ModelModule,
    check_reduction,
    install,
    installed,
    shared_copy,
    under_next,
)

__all__ = ["SoftBellmanLoss", "SoftValueModel"]

_DISAGREEMENT = "disagreement"


@runtime_checkable
class SoftValueModel(Protocol):
    """What :class:`SoftBellmanLoss` asks of a model, an :class:`torch.nn.Module`.

    What else is used where it is there:

    ============================== ============================================================
    ``q_and_value``                both in one pass, of an action and an observation
    ``raw_q_and_value``            the same, of an action before the flow's squash
    ``temperature``                for the entropy in the report
    ``temperature_module``         the temperature where it changes, by learning or a schedule
    ``sample``                     for a ``target_entropy``
    ``critic_value`` and           two terms of the value in the target, ``(*batch, 1)`` each, in
    ``disagreement``               place of the minimum over heads, such as a
                                   :class:`~maxentflow.flows.TwinFlow` has them
    ``model``, ``observations``    a :class:`~maxentflow.flows.NormalizedModel`: what is
    and ``returns``                regressed is ``model``, on scaled numbers
    ============================== ============================================================
    """

    def q_value(self, action: Tensor, observation: Tensor) -> Tensor:
        """Soft Q of each head, ``(*batch, heads)``."""
        ...

    def value(self, observation: Tensor) -> Tensor:
        """Soft value of each head, ``(*batch, heads)``."""
        ...


class _QAndValue(ModelModule):
    """Soft Q and soft value of the online model."""

    def forward(
        self, action: Tensor, observation: Tensor, raw: bool = False
    ) -> tuple[Tensor, Tensor]:
        model: Any = self.model
        if raw:
            return model.raw_q_and_value(action, observation)
        if hasattr(model, "q_and_value"):
            return model.q_and_value(action, observation)
        return model.q_value(action, observation), model.value(observation)


class _DualLoss(ModelModule):
    """What the learned temperature descends on, from samples of the online model's policy."""

    def forward(self, observation: Tensor, target_entropy: float) -> tuple[Tensor, Tensor]:
        model: Any = self.model
        with torch.no_grad():
            _, log_prob = model.sample(observation)
        return model.temperature_module.dual_loss(log_prob, target_entropy), log_prob


class _TargetValue(ModelModule):
    """Reads an observation, and perhaps a disagreement; writes one soft value."""

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        model: Any = self.model
        observation = tensordict.get(self.in_keys[0])
        disagreement = tensordict.get(_DISAGREEMENT, None)
        if disagreement is None:
            value = model.value(observation).amin(-1, keepdim=True)
        else:
            value = model.critic_value(observation) + disagreement
        return tensordict.set(self.out_keys[0], value)


class SoftBellmanLoss(LossModule):
    r"""The soft Bellman regression of MEow, as a TorchRL loss.

    .. math::
        y = r + \gamma (1 - \text{terminated}) \min_h V_h^{\text{target}}(s'), \qquad
        L = \operatorname{mean}_{h, \text{batch}} \ell\big(Q_h(s, a), y\big)

    with :math:`\ell` the squared error (Chao et al. 2024, arXiv:2405.13629, eq. 8 and 17). A
    truncated step bootstraps, a terminated one does not; the target takes no gradient.

    A learned temperature descends on ``"loss_alpha"``, from one sample of the policy for each
    observation of the batch, towards ``target_entropy``: the entropy of the policy itself, exact
    for every flow. The regression leaves it alone. The bonus is then measured from the target,

    .. math:: y = r + \gamma (1 - \text{terminated})
        \big(\min_h V_h^{\text{target}}(s') - \alpha \bar H\big)

    so that a policy at its target has none. Counted from zero it would be
    :math:`\alpha \bar H` in every step, a cost of living where :math:`\bar H` is negative, and
    V would have to follow each move of :math:`\alpha` by :math:`\alpha \bar H / (1 - \gamma)`.

    Of a :class:`~maxentflow.flows.TwinFlow`, the target has what the first flow's policy is worth
    by the second flow, at one of its samples, in place of the minimum over heads: what is chosen
    by the one is evaluated by the other, as in double Q-learning (van Hasselt 2010).

    Of a :class:`~maxentflow.flows.NormalizedModel`, Q and target are regressed in scaled units,
    so that the loss is of the same size on every task; what is reported is in units of reward.

    The loss works on a view of the model that shares its parameters: ``loss.train()`` and
    ``loss.eval()`` switch dropout for the regression, and leave the model you act with as it is.
    The target is always in evaluation mode.

    Output, means over batch and heads unless ``reduction="none"``: ``"loss"``, and detached
    ``"q"``, ``"value"``, ``"target"``, ``"td_error"`` (absolute) and ``"entropy"``, the mean of
    :math:`(V - Q) / \alpha = -\log \pi(a|s)` over the batch's own actions: the policy's entropy
    where it took them, a cross-entropy where they are older. ``"entropy"`` is left out if the
    model has no ``temperature``. Where it changes also ``"alpha"``, in units of reward; with a
    ``target_entropy`` ``"loss_alpha"``, and ``"policy_entropy"``, that of the policy's own
    samples.
    Written to the input: ``"td_error"``, the priority of each sample, the largest absolute error
    over heads.

    Args:
        model: a module with ``q_value`` and ``value``, see :class:`SoftValueModel`.
        loss_function: ``"l2"`` (default), ``"l1"`` or ``"smooth_l1"``.
        reduction: ``"mean"`` (default), ``"sum"`` or ``"none"``.
        use_prioritized_weights: weigh samples by the ``"priority_weight"`` entry; ``"auto"``
            where it is there.
        target_entropy: entropy of the whole action, in nats, that the learned temperature keeps
            the policy at; ``None`` to leave the temperature as it is.

    Raises:
        ValueError: the model lacks ``q_value`` or ``value``, an option is not one of those
            above, or there is a target entropy and no learned temperature; from ``set_keys``, an
            unknown key.

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
            raw_action: the action before the flow's squash, read in its place if it is there.
                Default ``"raw_action"``.
            reward: read under ``"next"``. Default ``"reward"``.
            done: read under ``"next"``. Default ``"done"``.
            terminated: read under ``"next"``. Default ``"terminated"``.
            value: where the value estimator keeps state values. Default ``"state_value"``.
            priority: written to the input, one for each sample. Default ``"td_error"``.
            priority_weight: read if it is there. Default ``"priority_weight"``.
        """

        observation: NestedKey = "observation"
        action: NestedKey = "action"
        raw_action: NestedKey = "raw_action"
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
    value_network: _TargetValue
    _dual_loss: _DualLoss | None
    _twin: ModelModule | None

    def __init__(
        self,
        model: nn.Module,
        *,
        loss_function: str = "l2",
        reduction: str | None = None,
        use_prioritized_weights: str | bool = "auto",
        target_entropy: float | None = None,
    ) -> None:
        self._in_keys: list[NestedKey] = []
        super().__init__()
        self.observations: Any = None
        self.returns: Any = None
        if hasattr(model, "observations") and hasattr(model, "returns"):
            # Outside of what is functional: a target has the same scales.
            self.observations, self.returns = model.observations, model.returns
            model = cast(nn.Module, model.model)
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
        self.target_entropy = target_entropy
        changing: Any = getattr(model, "temperature_module", None)
        learned = hasattr(changing, "dual_loss")
        if target_entropy is not None and not (learned and math.isfinite(target_entropy)):
            raise ValueError(
                "A target entropy is a finite number and needs a model with a learned "
                f"temperature, got {target_entropy}."
            )
        self.temperature: float | None = (
            getattr(model, "temperature", None) if changing is None else None
        )

        self.convert_to_functional(
            _QAndValue(shared_copy(model)), "network", create_target_params=True
        )
        # A module of its own, so that the target's parameters need not be installed each time.
        value_network = _TargetValue(shared_copy(model)).eval()
        # Not by its attribute, for which TorchRL warns.
        target = cast(TensorDictParams, dict(self.named_children())["target_network_params"])
        for key, entry in self.network_params.items(True, True):
            if "temperature_module" in key and not entry.requires_grad:
                target[key] = entry  # a schedule moves it for both
        install(target, value_network)
        self.__dict__["value_network"] = value_network
        # In evaluation mode, as a policy acts.
        self.__dict__["_dual_loss"] = (
            None if changing is None else _DualLoss(shared_copy(model)).eval()
        )
        self.__dict__["_twin"] = (
            ModelModule(shared_copy(model)).eval() if hasattr(model, "disagreement") else None
        )
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
                under_next(key)
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
            changes = self._dual_loss is not None
            entropy = ["entropy"] if changes or self.temperature is not None else []
            self._out_keys = ["loss", "q", "value", "target", "td_error", *entropy]
            self._out_keys += ["alpha"] if changes else []
            dual = ["loss_alpha", "policy_entropy"]
            self._out_keys += [] if self.target_entropy is None else dual
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

    @property
    def _takes_raw_actions(self) -> bool:
        model: Any = self.network.model
        return getattr(model, "squash", None) is not None

    def _seen(self, observation: Tensor) -> Tensor:
        """Observations as the model sees them."""
        return observation if self.observations is None else self.observations(observation)

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """The loss of a batch of transitions, with what the class lists beside it.

        Args:
            tensordict: entries ``in_keys``; observations ``(*batch, obs_dim)``, actions
                ``(*batch, action_dim)``, reward and flags ``(*batch, 1)``.
        """
        keys = self.tensor_keys
        raw = keys.raw_action in tensordict.keys(True) and self._takes_raw_actions
        action = tensordict[keys.raw_action if raw else keys.action]
        observation = self._seen(tensordict[keys.observation])
        scale = None if self.returns is None else self.returns()
        with installed(self.network_params, self.network):
            q, value = self.network(action, observation, raw)
        dual: dict[str, Tensor] = {}
        temperature: Any = self.temperature
        if self._dual_loss is not None:
            with installed(self.network_params, self._dual_loss):
                temperature = self._dual_loss.model.temperature
                dual = {"alpha": _times(temperature, scale)}
                if self.target_entropy is not None:
                    dual["loss_alpha"], log_prob = self._dual_loss(
                        observation, self.target_entropy
                    )
        with torch.no_grad():
            target_params = self.target_network_params
            following = tensordict["next"].select(keys.observation, keys.reward)
            if self.observations is not None:
                following[keys.observation] = self._seen(following[keys.observation])
            if self._twin is not None:
                twin: Any = self._twin.model
                with installed(self.network_params, self._twin):
                    following[_DISAGREEMENT] = twin.disagreement(following[keys.observation])
            with installed(target_params, self.value_network):
                next_value = self.value_network(following)[keys.value]
            if self.target_entropy is not None:
                next_value = next_value - temperature * self.target_entropy
            transitions = tensordict.copy()
            if scale is not None:
                transitions["next", keys.reward] = following[keys.reward] / scale
            target = self.value_estimator.value_estimate(
                transitions, target_params=target_params, next_value=next_value
            )
            error = (q - target).abs()
            tensordict.set(keys.priority, _times(error.amax(-1), scale))
        loss = distance_loss(q, target.expand_as(q), self.loss_function).mean(-1)
        weights = tensordict.get(keys.priority_weight) if self.use_prioritized_weights else None
        loss = self._reduce_loss(loss, tensordict=tensordict, weights=weights)
        values = {"q": q, "value": value, "target": target, "td_error": error}
        report = {name: _times(entry.detach(), scale) for name, entry in values.items()}
        if self.target_entropy is not None:
            report["policy_entropy"] = -log_prob.unsqueeze(-1)
        if temperature is not None:
            report["entropy"] = (value - q).detach() / temperature
        elementwise = self.reduction == "none"
        out = TensorDict(
            loss=loss,
            **{
                name: entry.mean(-1) if elementwise else entry.mean()
                for name, entry in report.items()
            },
            **{
                name: entry.expand(tensordict.batch_size) if elementwise else entry
                for name, entry in dual.items()
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


def _times(x: Tensor, scale: Tensor | None) -> Tensor:
    return x if scale is None else x * scale
