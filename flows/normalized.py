"""Running scales of observations and rewards, for models that learn on any task."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from maxentflow.flows.energy import EnergyBasedFlow

__all__ = ["DiscountedReturns", "NormalizedModel", "ObservationNorm", "RawActions", "ReturnScale"]

_EPS = 1e-8
_FIRST = 1e-4  # the weight of what is assumed before the first number


class ObservationNorm(nn.Module):
    r"""Standardise observations by the mean and the variance of all that were seen.

    .. math:: \mathrm{clip}\big((s - \mu) / \sqrt{v + 10^{-8}}, -c, c\big)

    The identity, but for the clipping, before the first observation. An entry that never changes
    becomes zero.

    Args:
        obs_dim: size of an observation.
        clip: largest magnitude of what is given to the networks.

    Raises:
        ValueError: ``obs_dim`` is below 1 or ``clip`` not positive.

    Example:
        >>> norm = ObservationNorm(2)
        >>> norm.update(torch.tensor([[0.0, 5.0], [2.0, 5.0]]))
        >>> norm(torch.tensor([2.0, 5.0]))
        tensor([1.0000, 0.0069])
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, obs_dim: int, *, clip: float = 10.0) -> None:
        super().__init__()
        if obs_dim < 1 or not clip > 0:
            raise ValueError(
                f"ObservationNorm needs obs_dim >= 1 and clip > 0, got {obs_dim} and {clip}."
            )
        self.obs_dim = obs_dim
        self.clip = float(clip)
        self.register_buffer("mean", torch.zeros(obs_dim))
        self.register_buffer("variance", torch.ones(obs_dim))
        self.register_buffer("count", torch.tensor(_FIRST))

    def forward(self, observation: Tensor) -> Tensor:
        """Standardised observations, shape ``(*batch, obs_dim)``."""
        scaled = (observation - self.mean) * (self.variance + _EPS).rsqrt()
        return scaled.clamp(-self.clip, self.clip)

    @torch.no_grad()
    def update(self, observation: Tensor) -> None:
        """Take observations in, shape ``(n, obs_dim)``."""
        _merge(self.mean, self.variance, self.count, observation)

    def observe(self, transitions: MutableMapping[Any, Any]) -> None:
        """Take in the observations of a step of the environments."""
        self.update(transitions["observation"])

    def extra_repr(self) -> str:
        return f"{self.obs_dim}, clip={self.clip}"


class ReturnScale(nn.Module):
    r"""The scale of rewards, by the discounted returns that were seen.

    .. math:: c = \max\big(\operatorname{sd}(G), \max|G| / G_{\max}\big)

    so that values of rewards :math:`r / c` stay within about :math:`\pm G_{\max}`, whatever the
    units of the reward are (Lee et al. 2025, arXiv:2502.15280, section 4.3). 1 before the first
    return, and as long as all are zero. :class:`DiscountedReturns` feeds it.

    Args:
        g_max: magnitude that scaled returns are to stay within.

    Raises:
        ValueError: ``g_max`` is not positive.

    Example:
        >>> scale = ReturnScale()
        >>> scale.update(torch.tensor([8.0, 10.0]))
        >>> scale()
        tensor(2.)
    """

    mean: Tensor
    variance: Tensor
    count: Tensor
    largest: Tensor
    scale: Tensor

    def __init__(self, *, g_max: float = 5.0) -> None:
        super().__init__()
        if not g_max > 0:
            raise ValueError(f"g_max must be positive, got {g_max}.")
        self.g_max = float(g_max)
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("variance", torch.zeros(1))
        self.register_buffer("count", torch.tensor(_FIRST))
        self.register_buffer("largest", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def forward(self) -> Tensor:
        """The scale :math:`c`, in units of reward, shape ``()``."""
        return self.scale

    @torch.no_grad()
    def update(self, returns: Tensor) -> None:
        """Take discounted returns in, shape ``(n,)``."""
        _merge(self.mean, self.variance, self.count, returns.unsqueeze(-1))
        torch.maximum(self.largest, returns.abs().max(), out=self.largest)
        least = self.largest / self.g_max
        scale = torch.maximum(self.variance[0].sqrt(), least)
        scale = torch.where(scale.isfinite(), scale, least)  # beyond 1e19 squares overflow
        self.scale.copy_(torch.where(scale > 0, scale, 1.0))

    def extra_repr(self) -> str:
        return f"g_max={self.g_max}"


class DiscountedReturns(nn.Module):
    r"""Follows the rewards of environments, to feed a :class:`ReturnScale`.

    .. math:: G_t = r_t + \gamma G_{t-1}

    beginning anew with each episode.

    Args:
        scale: what takes the returns in.
        gamma: discount.

    Raises:
        ValueError: ``gamma`` is outside [0, 1].

    Example:
        >>> returns = DiscountedReturns(ReturnScale(), gamma=0.5)
        >>> for reward in (8.0, 6.0):
        ...     returns.update(torch.tensor([[reward]]), torch.tensor([[False]]))
        >>> returns.scale()  # they were 8 and 10
        tensor(2.)
    """

    def __init__(self, scale: ReturnScale, gamma: float) -> None:
        super().__init__()
        if not 0 <= gamma <= 1:
            raise ValueError(f"gamma must be in [0, 1], got {gamma}.")
        self.scale = scale
        self.gamma = gamma
        self._running: Tensor | None = None

    @torch.no_grad()
    def update(self, reward: Tensor, done: Tensor) -> None:
        """Take in one step: rewards and which episodes ended, shape ``(num_envs, 1)``."""
        running = torch.zeros_like(reward) if self._running is None else self._running
        returns = reward + self.gamma * running
        self.scale.update(returns.flatten())
        self._running = returns.masked_fill(done, 0.0)

    def observe(self, transitions: MutableMapping[Any, Any]) -> None:
        """Take in the rewards of a step of the environments."""
        following = transitions["next"]
        self.update(following["reward"], following["done"])

    def get_extra_state(self) -> Tensor | None:
        """The returns of the episodes in progress, shape ``(num_envs, 1)``, for ``state_dict``."""
        return None if self._running is None else self._running.clone()

    def set_extra_state(self, state: Any) -> None:
        """Take back what :meth:`get_extra_state` gave."""
        place = self.scale.mean.device  # a checkpoint is read on the CPU
        self._running = None if state is None else state.to(place, copy=True)

    def extra_repr(self) -> str:
        return f"gamma={self.gamma}"


def _merge(mean: Tensor, variance: Tensor, count: Tensor, x: Tensor) -> None:
    """Merge rows into a running mean and variance (Chan et al. 1979)."""
    size = len(x)
    share = size / (count + size)
    delta = x.mean(0) - mean
    within = x.var(0, correction=0) if size > 1 else torch.zeros_like(mean)
    mean.add_(delta * share)
    variance.add_((within + delta.square() * (1 - share) - variance) * share)
    count.add_(size)


class NormalizedModel(nn.Module):
    r"""A model of soft values that sees standardised observations and thinks in scaled rewards.

    Whatever goes in and comes out is in the task's own units:

    .. math:: Q(s, a) = c\, Q_{\text{model}}(\bar s, a), \qquad V(s) = c\, V_{\text{model}}(\bar s)

    and the temperature is :math:`c\, \alpha_{\text{model}}`, so that
    :math:`\pi = \exp((Q - V) / \alpha)` is the model's own policy.
    :class:`~maxentflow.objectives.SoftBellmanLoss` regresses :math:`Q / c`.

    Args:
        model: an :class:`~maxentflow.flows.EnergyBasedFlow` or a
            :class:`~maxentflow.flows.CategoricalEnergy`.
        observations: how observations are standardised; ``None`` to take them as they are.
        returns: the scale of rewards; ``None`` for 1.

    Example:
        >>> flow = build("additive", 1, 3, temperature=0.2)
        >>> model = NormalizedModel(flow, ObservationNorm(3), ReturnScale())
        >>> model.returns.update(torch.tensor([0.0, 100.0]))
        >>> model.temperature  # the scale is about 50
        tensor(10.0000)
    """

    def __init__(
        self,
        model: nn.Module,
        observations: ObservationNorm | None = None,
        returns: ReturnScale | None = None,
    ) -> None:
        super().__init__()
        self.model: Any = model
        self.observations = observations
        self.returns = returns

    @property
    def scale(self) -> Tensor | float:
        """The reward's scale, shape ``()``."""
        return 1.0 if self.returns is None else self.returns()

    @property
    def temperature(self) -> Tensor | float:
        r""":math:`\alpha`, in units of reward."""
        return self.scale * self.model.temperature

    def q_value(self, action: Tensor, observation: Tensor) -> Tensor:
        """Soft Q of each head, shape ``(*batch, heads)``."""
        return self.scale * self.model.q_value(action, self.normalized(observation))

    def value(self, observation: Tensor) -> Tensor:
        """Soft value of each head, shape ``(*batch, heads)``."""
        return self.scale * self.model.value(self.normalized(observation))

    def q_and_value(self, action: Tensor, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Soft Q and soft value, ``(*batch, heads)`` each."""
        q, value = self.model.q_and_value(action, self.normalized(observation))
        return self.scale * q, self.scale * value

    def raw_q_and_value(self, raw_action: Tensor, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Soft Q and soft value of actions before the squash, ``(*batch, heads)`` each."""
        q, value = self.model.raw_q_and_value(raw_action, self.normalized(observation))
        return self.scale * q, self.scale * value

    def log_prob(self, action: Tensor, observation: Tensor) -> Tensor:
        """Log-density of the policy, shape ``(*batch,)``."""
        return self.model.log_prob(action, self.normalized(observation))

    def sample(
        self, observation: Tensor, sample_shape: Sequence[int] = ()
    ) -> tuple[Tensor, Tensor]:
        """Actions ``(*sample_shape, *batch, action_dim)`` from the policy, and their log-densities
        ``(*sample_shape, *batch)``."""
        return self.model.sample(self.normalized(observation), sample_shape)

    def sample_raw(
        self, observation: Tensor, sample_shape: Sequence[int] = ()
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What :meth:`sample` gives, and the actions before the squash, of shape
        ``(*sample_shape, *batch, dim)``."""
        return self.model.sample_raw(self.normalized(observation), sample_shape)

    def mode(self, observation: Tensor) -> Tensor:
        """The model's deterministic action, shape ``(*batch, action_dim)``."""
        return self.model.mode(self.normalized(observation))

    def normalized(self, observation: Tensor) -> Tensor:
        """What the model sees of observations ``(*batch, obs_dim)``."""
        return observation if self.observations is None else self.observations(observation)


class RawActions:
    """Adds the action before the squash to steps that lack it, such as a warm-up's random ones.

    Args:
        flow: whose squash it is.

    Raises:
        ValueError: the flow has no squash.

    Example:
        >>> raw = RawActions(build("additive", 1, 3, temperature=0.2))
        >>> step = TensorDict(action=torch.zeros(1, 1), batch_size=[1])
        >>> raw.observe(step)
        >>> step["raw_action"]
        tensor([[0.]])
    """

    def __init__(self, flow: EnergyBasedFlow) -> None:
        if flow.squash is None:
            raise ValueError("A flow without a squash has no raw actions.")
        self._flow = flow

    @torch.no_grad()
    def observe(self, transitions: MutableMapping[Any, Any]) -> None:
        """Add ``"raw_action"`` where it is missing."""
        if transitions.get("raw_action") is None:
            transitions["raw_action"] = self._flow.unsquash(transitions["action"])

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: Any) -> None:
        """Nothing."""
