"""Soft Q-learning with a sampler that learns by Stein variational gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import dispatch
from torch import Tensor, nn
from torchrl.objectives.common import LossModule
from torchrl.objectives.utils import ValueEstimators, dispatch_value_estimator

from maxentflow.objectives.functional import ModelModule, installed, under_next

__all__ = ["SteinSoftQLoss", "stein_direction"]


class _Critic(ModelModule):
    """Q of each head, and the soft value by importance sampling."""

    def forward(self, action: Tensor, observation: Tensor) -> Tensor:
        model: Any = self.model
        return model(observation.expand(*action.shape[:-1], -1), action)


class _Sampler(ModelModule):
    """Actions before the tanh."""

    def forward(self, observation: Tensor, noise: Tensor) -> Tensor:
        model: Any = self.model
        return model.raw_action(observation.expand(*noise.shape[:-1], -1), noise)


def stein_direction(fixed: Tensor, score: Tensor, moving: Tensor) -> Tensor:
    r"""Where Stein's variational gradient moves particles (Liu and Wang 2016, arXiv:1608.04471,
    eq. 8), with the kernel :math:`k(x, y) = e^{-|x - y|^2 / h}` of the median's bandwidth.

    .. math:: \phi(y_j) = \frac 1n \sum_i k(x_i, y_j) \nabla \log p(x_i) + \nabla_{x_i} k(x_i, y_j)

    Args:
        fixed: particles :math:`x_i`, shape ``(n, *batch, dim)``.
        score: :math:`\nabla \log p(x_i)`, of the same shape.
        moving: particles :math:`y_j`, shape ``(m, *batch, dim)``.

    Returns:
        The directions, shape ``(m, *batch, dim)``.

    Example:
        >>> x = torch.tensor([[0.0]])
        >>> stein_direction(x, torch.tensor([[2.0]]), x)  # one particle climbs the density
        tensor([[2.]])
    """
    difference = fixed.unsqueeze(1) - moving.unsqueeze(0)  # (n, m, *batch, dim)
    squares = difference.square().sum(-1)
    median = squares.flatten(0, 1).median(0).values
    bandwidth = (median / math.log(len(fixed) + 1)).clamp_min(1e-8)
    kernel = (-squares / bandwidth).exp().unsqueeze(-1)
    repulsion = -2 * difference / bandwidth.unsqueeze(-1) * kernel
    return (kernel * score.unsqueeze(1) + repulsion).mean(0)


class SteinSoftQLoss(LossModule):
    r"""Soft Q-learning with an amortised sampler (Haarnoja et al. 2017, arXiv:1702.08165).

    The soft value is an importance sample over uniform actions (eq. 10), too low for few of them,

    .. math::
        V(s) = \alpha \log \frac 1M \sum_{m=1}^M e^{\min_h Q_h(s, a_m) / \alpha} + d \alpha \log 2,
        \qquad y = r + \gamma (1 - \text{terminated}) V^{\text{target}}(s')

    and the sampler's actions move by Stein's gradient of :math:`e^{Q / \alpha}` (eq. 13 and 14),
    here before the tanh, where the density has no edges.

    Output: ``"loss_qvalue"`` and ``"loss_actor"``, scalars; detached ``"q"``, ``"value"`` and
    ``"td_error"`` (absolute), means over the batch; and ``"alpha"``.

    Args:
        sampler: a module with ``raw_action(observation, noise)``, actions before the tanh, and
            ``action_dim``.
        critic: a module of observation and action, that gives Q of each head, ``(*batch, heads)``.
        temperature: the entropy's weight :math:`\alpha`, in units of reward.
        value_samples: :math:`M`, uniform actions for each value.
        particles: actions of the sampler for each observation; half of them move.

    Raises:
        ValueError: a number is out of range.

    Example:
        >>> class Network(nn.Module):
        ...     action_dim = 2
        ...     def __init__(self, outputs):
        ...         super().__init__()
        ...         self.last = nn.Linear(5, outputs)
        ...     def forward(self, observation, other):
        ...         return self.last(torch.cat([observation, other], -1))
        ...     raw_action = forward
        >>> loss = SteinSoftQLoss(Network(2), Network(1), temperature=0.5)
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
        >>> sorted(loss(batch).keys())
        ['alpha', 'loss_actor', 'loss_qvalue', 'q', 'td_error', 'value']
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
        """

        observation: NestedKey = "observation"
        action: NestedKey = "action"
        reward: NestedKey = "reward"
        done: NestedKey = "done"
        terminated: NestedKey = "terminated"

    tensor_keys: _AcceptedKeys
    default_keys = _AcceptedKeys
    default_value_estimator = ValueEstimators.TD0
    value_network = None  # the soft value is computed here
    actor_network: _Sampler
    actor_network_params: TensorDictParams
    target_actor_network_params: TensorDictParams
    qvalue_network: _Critic
    qvalue_network_params: TensorDictParams
    target_qvalue_network_params: TensorDictParams

    def __init__(
        self,
        sampler: nn.Module,
        critic: nn.Module,
        *,
        temperature: float,
        value_samples: int = 32,
        particles: int = 32,
    ) -> None:
        self._in_keys: list[NestedKey] = []
        super().__init__()
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be positive and finite, got {temperature}.")
        if value_samples < 1 or particles < 2:
            raise ValueError(
                "value_samples must be at least 1 and particles at least 2, got "
                f"{value_samples} and {particles}."
            )
        self.register_buffer("log_alpha", torch.tensor(math.log(temperature)))
        self.value_samples = value_samples
        self.particles = particles
        self.action_dim = cast(int, sampler.action_dim)
        self.convert_to_functional(_Sampler(sampler), "actor_network")
        self.convert_to_functional(_Critic(critic), "qvalue_network", create_target_params=True)
        self._forward_value_estimator_keys()

    def _forward_value_estimator_keys(self, **kwargs: Any) -> None:
        keys = self.tensor_keys
        following = (keys.observation, keys.reward, keys.done, keys.terminated)
        self._in_keys = [
            keys.observation,
            keys.action,
            *map(under_next, following),
        ]
        if self._value_estimator is not None:
            self._value_estimator.set_keys(
                reward=keys.reward, done=keys.done, terminated=keys.terminated
            )

    def make_value_estimator(
        self, value_type: ValueEstimators | None = None, **hyperparams: Any
    ) -> SteinSoftQLoss:
        """Give the target its discount, ``gamma``; TD0 is the only estimator."""
        dispatch_value_estimator(
            self,
            value_type or self.default_value_estimator,
            supported=(ValueEstimators.TD0,),
            **hyperparams,
        )
        self._forward_value_estimator_keys()
        return self

    @property
    def in_keys(self) -> list[NestedKey]:
        return self._in_keys

    @in_keys.setter
    def in_keys(self, keys: list[NestedKey]) -> None:
        self._in_keys = keys

    out_keys: list[NestedKey] = ["loss_qvalue", "loss_actor", "q", "value", "td_error", "alpha"]  # noqa: RUF012

    @property
    def alpha(self) -> Tensor:
        r""":math:`\alpha`, shape ``()``."""
        return self.log_alpha.detach().exp()

    def value(self, observation: Tensor) -> Tensor:
        """The target's soft value by importance sampling, shape ``(*batch, 1)``."""
        shape = (self.value_samples, *observation.shape[:-1], self.action_dim)
        action = 2 * torch.rand(shape, dtype=observation.dtype, device=observation.device) - 1
        with installed(self.target_qvalue_network_params, self.qvalue_network):
            q = self.qvalue_network(action, observation).amin(-1, keepdim=True)
        alpha = self.alpha
        volume = self.action_dim * math.log(2.0) - math.log(self.value_samples)
        return alpha * ((q / alpha).logsumexp(0) + volume)

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """The losses of a batch of transitions.

        Args:
            tensordict: entries ``in_keys``; observations ``(*batch, obs_dim)``, actions
                ``(*batch, action_dim)``, reward and flags ``(*batch, 1)``.
        """
        keys = self.tensor_keys
        observation, following = tensordict[keys.observation], tensordict["next"]
        with installed(self.qvalue_network_params, self.qvalue_network):
            q = self.qvalue_network(tensordict[keys.action], observation)
        with torch.no_grad():
            value = self.value(following[keys.observation])
            target = self.value_estimator.value_estimate(tensordict.copy(), next_value=value)
        error = q - target
        out = TensorDict(
            loss_qvalue=error.square().mean(),
            loss_actor=self._actor_loss(observation),
            q=q.detach().mean(),
            value=value.mean(),
            td_error=error.detach().abs().mean(),
            alpha=self.alpha,
            batch_size=[],
        )
        self._clear_weakrefs(
            tensordict,
            out,
            "actor_network_params",
            "qvalue_network_params",
            "target_qvalue_network_params",
        )
        return out

    def _actor_loss(self, observation: Tensor) -> Tensor:
        """A scalar whose gradient moves half of the particles as Stein's direction says."""
        shape = (self.particles, *observation.shape[:-1], self.action_dim)
        noise = torch.randn(shape, dtype=observation.dtype, device=observation.device)
        with installed(self.actor_network_params, self.actor_network):
            raw = self.actor_network(observation, noise)
        half = self.particles // 2
        fixed, moving = raw[:half].detach().requires_grad_(True), raw[half:]
        with installed(self.qvalue_network_params, self.qvalue_network):
            q = self.qvalue_network(fixed.tanh(), observation).amin(-1)
        # log(1 - tanh(u)^2), without its cancellation
        squash = 2 * (math.log(2.0) - fixed - nn.functional.softplus(-2 * fixed))
        log_density = q / self.alpha + squash.sum(-1)
        (score,) = torch.autograd.grad(log_density.sum(), fixed)
        with torch.no_grad():
            direction = stein_direction(fixed, score, moving)
        return -(moving * direction).sum(-1).mean()
