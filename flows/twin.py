"""Two energy-based flows, of which the second checks what the first is worth."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from maxentflow.flows.energy import EnergyBasedFlow
from maxentflow.flows.layer import Layer
from maxentflow.flows.temperature import Temperature

__all__ = ["TwinFlow"]


class TwinFlow(nn.Module):
    r"""Two normalized flows of one soft Q: the first is the policy, the second a critic of it.

    One flow is both actor and critic: where it is too sharp, or too high at actions that nobody
    tried, its own :math:`V_1` believes it. A second flow, learned from the same targets, does not.
    To it the first one's policy is worth

    .. math::
        \mathbb E_{a \sim \pi_1}\big[Q_2(s, a) - \alpha \log \pi_1(a|s)\big]
            = V_2(s) - \alpha\, \mathrm{KL}(\pi_1 \| \pi_2)

    which :class:`~maxentflow.objectives.SoftBellmanLoss` takes for the target: the first flow
    chooses, the second evaluates, as in double Q-learning (van Hasselt 2010). :math:`V_2` is
    :meth:`critic_value`, :meth:`disagreement` is :math:`\alpha (\log \pi_2 - \log \pi_1)` at a
    sample of :math:`\pi_1`.

    ``q_value`` and ``value`` have a head for each flow; samples, mode and log-probabilities are
    those of the first. It can be used alone afterwards: it is an ordinary flow.

    Args:
        first: the policy, normalized, with one head.
        second: another such flow of the same sizes and temperature, with the same kind of squash.
        clip: the largest disagreement about one entry of an action, in nats. A sample that the
            second flow takes for impossible would else move a target without bound.

    Raises:
        ValueError: a flow is not normalized or has several heads, the two differ in their sizes
            or their temperature, or ``clip`` is not positive.

    Example:
        >>> from maxentflow.flows import LearnedTemperature, build
        >>> alpha = LearnedTemperature(0.1)
        >>> make = lambda: build("additive", 2, 3, temperature=alpha, heads=1, normalized=True)
        >>> twin = TwinFlow(make(), make())
        >>> observation = torch.zeros(5, 3)
        >>> action, log_prob = twin.sample(observation)
        >>> twin.q_value(action, observation).shape, twin.disagreement(observation).shape
        (torch.Size([5, 2]), torch.Size([5, 1]))
    """

    def __init__(
        self, first: EnergyBasedFlow, second: EnergyBasedFlow, *, clip: float = 5.0
    ) -> None:
        super().__init__()
        if not clip > 0:
            raise ValueError(f"clip must be positive, got {clip}.")
        for flow in (first, second):
            if not flow.normalized or flow.heads != 1:
                raise ValueError("The flows of a TwinFlow are normalized and have one head.")
        sizes = [(flow.action_dim, flow.obs_dim) for flow in (first, second)]
        if sizes[0] != sizes[1] or _squash(first) != _squash(second):
            raise ValueError(
                "The flows of a TwinFlow have the same sizes and squash, got actions and "
                f"observations of {sizes[0]} and {sizes[1]}, {_squash(first)} and "
                f"{_squash(second)}."
            )
        if first.temperature_module is not second.temperature_module or (
            first.temperature_module is None and first.temperature != second.temperature
        ):
            raise ValueError("The flows of a TwinFlow share their temperature.")
        self.first = first
        self.second = second
        self.clip = float(clip)
        self.action_dim = first.action_dim
        self.obs_dim = first.obs_dim
        self.heads = 2
        self.normalized = True

    @property
    def temperature(self) -> float | Tensor:
        r"""The entropy's weight :math:`\alpha` of both."""
        return self.first.temperature

    @property
    def temperature_module(self) -> Temperature | None:
        """The temperature of both, where it changes."""
        return self.first.temperature_module

    @property
    def squash(self) -> Layer | None:
        """The last layer of the first flow, if it is a squash."""
        return self.first.squash

    def q_value(self, action: Tensor, observation: Tensor | None = None) -> Tensor:
        """Soft Q by each flow, shape ``(*batch, 2)``."""
        return self.q_and_value(action, observation)[0]

    def value(self, observation: Tensor | None = None) -> Tensor:
        """Soft value of each flow's own policy in closed form, shape ``(*batch, 2)``."""
        return torch.cat([flow.value(observation) for flow in (self.first, self.second)], -1)

    def critic_value(self, observation: Tensor | None = None) -> Tensor:
        """Soft value of the second flow's own policy in closed form, shape ``(*batch, 1)``."""
        return self.second.value(observation)

    def q_and_value(
        self, action: Tensor, observation: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Soft Q and soft value, ``(*batch, 2)`` each."""
        return _beside(
            self.first.q_and_value(action, observation),
            self.second.q_and_value(action, observation),
        )

    def raw_q_and_value(
        self, raw_action: Tensor, observation: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The same of actions before the squash, ``(*batch, dim)`` with the squash's size.

        Raises:
            ValueError: the flows have no squash.
        """
        return _beside(
            self.first.raw_q_and_value(raw_action, observation),
            self.second.raw_q_and_value(raw_action, observation),
        )

    def disagreement(self, observation: Tensor | None = None) -> Tensor:
        r"""What to add to :meth:`critic_value`, shape ``(*batch, 1)``, for what the first flow's
        policy is worth: :math:`\alpha (\log \pi_2(a|s) - \log \pi_1(a|s))` at one sample
        :math:`a \sim \pi_1` for each observation ``(*batch, obs_dim)``.

        Its mean is :math:`-\alpha\, \mathrm{KL}(\pi_1 \| \pi_2)`, never positive, but for what
        ``clip`` cuts.
        """
        if self.squash is None:
            action, log_prob = self.first.sample(observation)
            other = self.second.log_prob(action, observation)
        else:
            _, log_prob, raw = self.first.sample_raw(observation)
            other = self.second.raw_log_prob(raw, observation)
        gap = (other - log_prob).clamp(min=-self.clip * self.action_dim)
        return (self.temperature * gap).unsqueeze(-1)

    def log_prob(self, action: Tensor, observation: Tensor | None = None) -> Tensor:
        """Log-density of the first flow's policy, shape ``(*batch,)``."""
        return self.first.log_prob(action, observation)

    def sample(
        self, observation: Tensor | None = None, sample_shape: tuple[int, ...] = ()
    ) -> tuple[Tensor, Tensor]:
        """Actions ``(*sample_shape, *batch, action_dim)`` from the first flow's policy, and their
        log-densities ``(*sample_shape, *batch)``."""
        return self.first.sample(observation, sample_shape)

    def sample_raw(
        self, observation: Tensor | None = None, sample_shape: tuple[int, ...] = ()
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What :meth:`sample` gives, and the actions before the squash, of shape
        ``(*sample_shape, *batch, dim)``.

        Raises:
            ValueError: the flows have no squash.
        """
        return self.first.sample_raw(observation, sample_shape)

    def mode(self, observation: Tensor | None = None) -> Tensor:
        """The deterministic action of the first flow, shape ``(*batch, action_dim)``."""
        return self.first.mode(observation)

    def extra_repr(self) -> str:
        return f"clip={self.clip}"


def _beside(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    q, value = (torch.cat(pair, -1) for pair in zip(one, other, strict=True))
    return q, value


def _squash(flow: EnergyBasedFlow) -> str:
    return "no squash" if flow.squash is None else repr(flow.squash)
