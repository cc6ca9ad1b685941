"""The energy-based flow: soft Q, soft value, samples and log-probabilities from one network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from maxentflow.flows.base import Base
from maxentflow.flows.layer import Layer, broadcast_batch
from maxentflow.flows.shift import RewardShift
from maxentflow.flows.temperature import Temperature

__all__ = ["ClosedFormValue", "EnergyBasedFlow", "ShiftValue"]


class ClosedFormValue(nn.Module):
    r"""The soft value of an energy-based flow, with only the parts that the value needs.

    .. math:: V_h(s) = \alpha \Big( c(s) + \sum_{\text{linear}} \log|\det J(s)| + b_h(s) \Big)

    where the determinants are those of the layers' latent-to-action direction
    (Chao et al. 2024, arXiv:2405.13629, eq. 13). Shares its parameters with the flow it came from.
    Made by :meth:`EnergyBasedFlow.value_module`. Of a normalized flow the value is the shift, see
    :class:`ShiftValue`.
    """

    def __init__(
        self,
        base: Base,
        layers: Iterable[Layer],
        temperature: float,
        shift: RewardShift | None,
        obs_dim: int | None,
    ) -> None:
        super().__init__()
        self.base = base
        self.layers = nn.ModuleList(
            layer for layer in layers if layer.is_linear and not layer.is_volume_preserving
        )
        self.temperature = temperature
        self.shift = shift
        self.obs_dim = obs_dim

    def value(self, observation: Tensor) -> Tensor:
        """The soft values, shape ``(*batch, heads)``, of observations ``(*batch, obs_dim)``."""
        _check("observation", observation, self.obs_dim)
        log_partition = observation.new_zeros(observation.shape[:-1])
        log_partition = log_partition + self.base.log_normalizer(observation)
        anything = observation.new_zeros(*observation.shape[:-1], self.base.dim)
        for layer in cast(Iterable[Layer], self.layers):
            # To the latent, as in learning: the direction that layers make the cheaper one.
            log_partition = log_partition - layer.inverse(anything, observation)[1]
        value = log_partition.unsqueeze(-1)
        if self.shift is not None:
            value = value + self.shift(observation)
        return self.temperature * value

    forward = value


class ShiftValue(nn.Module):
    """The soft value of a normalized flow, :math:`V_h(s) = b_h(s)`.

    Shares its parameters with the flow it came from.

    Example:
        >>> ShiftValue(RewardShift(3, heads=2)).value(torch.zeros(5, 3)).shape
        torch.Size([5, 2])
    """

    def __init__(self, shift: RewardShift) -> None:
        super().__init__()
        self.shift = shift

    def value(self, observation: Tensor) -> Tensor:
        """The soft values, shape ``(*batch, heads)``, of observations ``(*batch, obs_dim)``."""
        _check("observation", observation, self.shift.context_dim)
        return self.shift(observation)

    forward = value


class EnergyBasedFlow(nn.Module):
    r"""One flow that is the soft Q, the soft value and the policy of maximum-entropy RL.

    Let :math:`g(\cdot|s)` invert the layers, from action to latent, and let the base's log-density
    be :math:`u(z, s) - c(s)`. With layers split into linear ones, whose determinant is a function
    of the state alone, and the rest,

    .. math::
        Q_h(s, a) &= \alpha \Big( u(g(a|s), s)
            + \sum_{\text{non-linear}} \log|\det J_{g^i}| + b_h(s) \Big) \\
        V_h(s) &= \alpha \Big( c(s)
            - \sum_{\text{linear}} \log|\det J_{g^i}(s)| + b_h(s) \Big) \\
        \pi(a|s) &= \exp\big((Q_h(s, a) - V_h(s)) / \alpha\big)

    and :math:`V_h(s) = \alpha \log \int \exp(Q_h(s, a) / \alpha)\, da` holds exactly, for any
    layers and parameters (Chao et al. 2024, arXiv:2405.13629, eq. 11 to 13).

    Actions have shape ``(*batch, action_dim)`` and observations ``(*batch, obs_dim)``; batch
    dimensions broadcast, and a flow that reads no observation needs none. In training mode, layers
    with dropout give each head of the shift a mask of its own (``dropout_per_head``), so that
    every head's Q is a sample of its own.

    A **normalized** flow counts the base's normaliser and all determinants in Q, and leaves V to
    the shift alone, which is then in units of reward:

    .. math:: Q_h(s, a) = \alpha \log \pi(a|s) + b_h(s), \qquad V_h(s) = b_h(s)

    The two forms are the same functions, learned differently: here V does not move when the
    temperature or a scale does, so that the temperature may be learned.

    Where the last layer is a squash, actions near the ends of their bounds do not tell in single
    precision what they were before it. :meth:`sample_raw` gives both, and
    :meth:`raw_q_and_value` takes the latter, so that Q is exact at every action that the policy
    can take.

    Args:
        base: density of the latents.
        layers: invertible layers, in order from latent to action. A normflows layer is adapted
            with :class:`~maxentflow.flows.NormflowsLayer`.
        temperature: the entropy's weight :math:`\alpha`, positive, in units of reward; or a
            :class:`~maxentflow.flows.Temperature` that changes, for a normalized flow.
        shift: learnable reward shifting, or ``None``.
        dropout_per_head: draw a dropout mask for each head instead of one for all.
        normalized: count everything but the shift in Q.
        encoder: what makes the vectors ``(*batch, obs_dim)`` that the parts read, of observations
            of another form, such as images; ``None`` to take them as they are.

    Raises:
        ValueError: the temperature is not positive and finite, or changes without
            ``normalized``; ``normalized`` without a shift; the parts disagree on a size; or
            (in every method) a tensor's last dimension is not the size expected, its precision is
            below float32, or autocast is on.

    Example:
        >>> flow = EnergyBasedFlow(
        ...     base=StandardNormal(2),
        ...     layers=[
        ...         StateScale(2, 3, bounds=(-5.0, -0.3)),
        ...         AdditiveCoupling(2, 3, mask="even"),
        ...         AdditiveCoupling(2, 3, mask="odd"),
        ...         TanhSquash(2),
        ...     ],
        ...     temperature=0.25,
        ...     shift=RewardShift(3, heads=2),
        ... ).eval()
        >>> observation = torch.randn(5, 3)
        >>> action, log_prob = flow.sample(observation)
        >>> q, v = flow.q_and_value(action, observation)
        >>> q.shape, torch.allclose((q - v)[:, 0] / 0.25, log_prob, atol=1e-4)
        (torch.Size([5, 2]), True)
    """

    base: Base
    shift: RewardShift | None
    temperature_module: Temperature | None
    _nothing: Tensor
    _value: ClosedFormValue | ShiftValue

    def __init__(
        self,
        base: Base,
        layers: Sequence[Layer],
        *,
        temperature: float | Temperature,
        shift: RewardShift | None = None,
        dropout_per_head: bool = True,
        normalized: bool = False,
        encoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        changing = temperature if isinstance(temperature, Temperature) else None
        if changing is None and not 0 < cast(float, temperature) < float("inf"):
            raise ValueError(f"temperature must be positive and finite, got {temperature}.")
        if changing is not None and not normalized:
            raise ValueError("A temperature that changes needs a flow with normalized=True.")
        if normalized and shift is None:
            raise ValueError("A normalized flow needs a shift, which is its value.")
        size = base.dim
        for position, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                raise ValueError(
                    f"layers[{position}] is a {type(layer).__name__}; expected a Layer of "
                    "maxentflow.flows, or a normflows layer in NormflowsLayer."
                )
            if layer.dim not in (None, size):
                before = f"layers[{position - 1}]" if size != base.dim else "the base"
                raise ValueError(
                    f"layers[{position}] ({type(layer).__name__}) has dimension {layer.dim}, "
                    f"{before} {size}."
                )
            size = size if layer.image_dim is None else layer.image_dim
        context_dims = {
            part.context_dim
            for part in (base, shift, *layers)
            if part is not None and part.context_dim is not None
        }
        if len(context_dims) > 1:
            raise ValueError(
                f"The parts of a flow must read one observation size, got {sorted(context_dims)}."
            )
        self.base = base
        self.layers = nn.ModuleList(layers)
        self.shift = shift
        self.temperature_module = changing
        self._temperature = 0.0 if changing is not None else float(cast(float, temperature))
        self.normalized = normalized
        self.encoder = encoder
        self.action_dim = size
        self.obs_dim: int | None = next(iter(context_dims), None)
        self.heads = 1 if shift is None else shift.heads
        self.dropout_per_head = dropout_per_head
        stochastic = [i for i, layer in enumerate(layers) if layer.is_stochastic]
        self._last_stochastic = max(stochastic, default=-1)
        self._masks_differ = dropout_per_head and self.heads > 1 and bool(stochastic)
        # The observation of a flow that reads none.
        self.register_buffer("_nothing", torch.empty(0), persistent=False)
        # Kept out of the registered modules: it is another view of the same parameters.
        if normalized:
            self.__dict__["_value"] = ShiftValue(cast(RewardShift, shift))
        else:
            self.__dict__["_value"] = ClosedFormValue(
                base, layers, self._temperature, shift, self.obs_dim
            )

    @property
    def temperature(self) -> float | Tensor:
        r"""The entropy's weight :math:`\alpha`: a number, or of shape ``()`` where it
        changes."""
        return self._temperature if self.temperature_module is None else self.temperature_module()

    @property
    def squash(self) -> Layer | None:
        """The last layer, if it is a squash."""
        last = cast(Layer, self.layers[-1]) if len(self.layers) else None
        return last if last is not None and last.is_squash else None

    def q_value(self, action: Tensor, observation: Tensor | None = None) -> Tensor:
        """Soft Q of each head, shape ``(*batch, heads)``."""
        return self.q_and_value(action, observation)[0]

    def value(self, observation: Tensor | None = None) -> Tensor:
        """Soft value of each head in closed form, shape ``(*batch, heads)``.

        Runs only the layers whose determinant it counts.
        """
        return self._value.value(self._checked(observation))

    def q_and_value(
        self, action: Tensor, observation: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Soft Q and soft value, ``(*batch, heads)`` each, in one pass through the layers."""
        _check("action", action, self.action_dim)
        return self._q_and_value(action, self._checked(observation), raw=False)

    def raw_q_and_value(
        self, raw_action: Tensor, observation: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Soft Q and soft value of the actions that raw ones become by the squash.

        Args:
            raw_action: actions before the squash, shape ``(*batch, dim)`` with the squash's size.
            observation: shape ``(*batch, obs_dim)``.

        Raises:
            ValueError: the flow has no squash.
        """
        _check("raw_action", raw_action, self._required_squash().dim)
        return self._q_and_value(raw_action, self._checked(observation), raw=True)

    def unsquash(self, action: Tensor) -> Tensor:
        """Actions before the squash; those at the ends of their bounds as its margin puts them.

        Raises:
            ValueError: the flow has no squash.
        """
        _check("action", action, self.action_dim)
        return self._required_squash().inverse(action)[0]

    def _required_squash(self) -> Layer:
        if self.squash is None:
            raise ValueError("This flow has no squash: its actions are the raw ones.")
        return self.squash

    def _q_and_value(
        self, action: Tensor, observation: Tensor, raw: bool
    ) -> tuple[Tensor, Tensor]:
        per_head = self.training and self._masks_differ
        latent, linear, non_linear = self._to_latent(action, observation, per_head, raw)
        energy = self.base.unnormalized_log_prob(latent, observation) + non_linear
        log_partition = self.base.log_normalizer(observation) - linear
        energy = energy.movedim(0, -1) if per_head else energy.unsqueeze(-1)
        log_partition = log_partition.unsqueeze(-1)
        if self.normalized:
            assert self.shift is not None
            value = self.shift(observation)
            return value + self.temperature * (energy - log_partition), value
        if self.shift is not None:
            shift = self.shift(observation)
            energy, log_partition = energy + shift, log_partition + shift
        return self.temperature * energy, self.temperature * log_partition

    def log_prob(self, action: Tensor, observation: Tensor | None = None) -> Tensor:
        r"""Log-density of the policy at ``action``, shape ``(*batch,)``; equals (Q - V) / α."""
        _check("action", action, self.action_dim)
        observation = self._checked(observation)
        latent, linear, non_linear = self._to_latent(action, observation)
        return self.base.log_prob(latent, observation) + linear + non_linear

    def raw_log_prob(self, raw_action: Tensor, observation: Tensor | None = None) -> Tensor:
        """Log-density of the policy at the actions that raw ones become by the squash, shape
        ``(*batch,)``.

        Raises:
            ValueError: the flow has no squash.
        """
        _check("raw_action", raw_action, self._required_squash().dim)
        observation = self._checked(observation)
        latent, linear, non_linear = self._to_latent(raw_action, observation, raw=True)
        return self.base.log_prob(latent, observation) + linear + non_linear

    def sample(
        self, observation: Tensor | None = None, sample_shape: Sequence[int] = ()
    ) -> tuple[Tensor, Tensor]:
        """Actions from the policy with their log-densities, reparameterised.

        Args:
            observation: shape ``(*batch, obs_dim)``.
            sample_shape: how many actions to draw for each observation.

        Returns:
            action ``(*sample_shape, *batch, action_dim)``, log_prob ``(*sample_shape, *batch)``.
        """
        action, log_prob, _ = self._sample(observation, sample_shape)
        return action, log_prob

    def sample_raw(
        self, observation: Tensor | None = None, sample_shape: Sequence[int] = ()
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What :meth:`sample` gives, and the actions before the squash.

        Returns:
            action ``(*sample_shape, *batch, action_dim)``, log_prob ``(*sample_shape, *batch)``,
            raw action ``(*sample_shape, *batch, dim)`` with the squash's size.

        Raises:
            ValueError: the flow has no squash.
        """
        self._required_squash()
        return self._sample(observation, sample_shape)

    def _sample(
        self, observation: Tensor | None, sample_shape: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        observation = self._checked(observation)
        action = self.base.rsample((*sample_shape, *observation.shape[:-1]), observation)
        log_prob = self.base.log_prob(action, observation)
        raw = action
        for layer in self.layers:
            raw = action
            action, log_det = layer(action, observation)
            log_prob = log_prob - log_det
        return action, log_prob, raw

    def mode(self, observation: Tensor | None = None) -> Tensor:
        """The base's mode pushed through the layers, shape ``(*batch, action_dim)``.

        The most likely latent; the most likely action exactly where the non-linear determinants
        are constant (additive coupling, before a squash).
        """
        observation = self._checked(observation)
        action = self.base.mode(observation).expand(*observation.shape[:-1], self.base.dim)
        for layer in self.layers:
            action, _ = layer(action, observation)
        return action

    def value_module(self) -> ClosedFormValue | ShiftValue:
        """A module of the soft value alone, of encoded observations, which shares this flow's
        parameters."""
        return self._value

    @torch.no_grad()
    def initialize(self, action: Tensor, observation: Tensor | None = None) -> None:
        """Data-dependent initialisation, from a first batch, of the layers that have it.

        From action to latent, so that each layer starts from what those before it leave.
        """
        _check("action", action, self.action_dim)
        observation = self._checked(observation)
        for layer in reversed(cast(Sequence[Layer], self.layers)):
            layer.initialize(action)
            action, _ = layer.inverse(action, observation)

    def _checked(self, observation: Tensor | None) -> Tensor:
        if observation is None:
            observation = self._nothing
        if self.encoder is not None:
            observation = self.encoder(observation)
        _check("observation", observation, self.obs_dim)
        return observation

    def _to_latent(
        self, action: Tensor, observation: Tensor, per_head: bool = False, raw: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The latent, and the log-determinants of the linear and of the other layers.

        With ``per_head``, the latent and the last of these have a leading dimension of heads. A
        ``raw`` action is one before the squash.
        """
        latent, _ = broadcast_batch(action, observation)
        batch = latent.shape[:-1]
        linear = non_linear = action.new_zeros(batch)
        for position in range(len(self.layers) - 1, -1, -1):
            if per_head and position == self._last_stochastic:
                latent = latent.expand(self.heads, *latent.shape)
            layer = cast(Layer, self.layers[position])
            if raw and position == len(self.layers) - 1:
                log_det = -layer(latent, observation)[1]
            else:
                latent, log_det = layer.inverse(latent, observation)
            if layer.is_volume_preserving:
                continue
            if layer.is_linear:  # the same for every head, since it does not see the latent
                linear = linear + (log_det[0] if log_det.ndim > len(batch) else log_det)
            else:
                non_linear = non_linear + log_det
        return latent, linear, non_linear

    def extra_repr(self) -> str:
        temperature = "" if self.temperature_module else f"temperature={self.temperature}, "
        normalized = ", normalized=True" if self.normalized else ""
        return f"{temperature}dropout_per_head={self.dropout_per_head}{normalized}"


def _check(name: str, tensor: Tensor, size: int | None) -> None:
    if size is not None and tensor.shape[-1:] != (size,):
        raise ValueError(f"{name} must have shape (*batch, {size}), got {tuple(tensor.shape)}.")
    if tensor.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"{name} must be float32 or float64, whose log-determinants are exact enough, "
            f"got {tensor.dtype}."
        )
    if torch.is_autocast_enabled(tensor.device.type):
        raise ValueError("Turn autocast off around a flow: its log-determinants need float32.")
