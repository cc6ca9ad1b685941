"""The categorical energy model: soft Q, soft value and policy over discrete actions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from maxentflow.flows.batched_mlp import BatchedMLP
from maxentflow.flows.mlp import Activation, Initialization
from maxentflow.flows.shift import RewardShift
from maxentflow.flows.temperature import Temperature

__all__ = ["CategoricalEnergy"]


class CategoricalEnergy(nn.Module):
    r"""Soft Q networks over discrete actions, with their soft value and policy in closed form.

    .. math::
        V_h(s) = \alpha \log \sum_a \exp(Q_h(s, a) / \alpha), \qquad
        \pi(a|s) \propto \exp\Big(\tfrac 1H \sum_h Q_h(s, a) / \alpha\Big)

    the energy-based policy of soft Q-learning (Haarnoja et al. 2017, arXiv:1702.08165, eq. 3 to 5)
    with the integral over actions a sum. The heads are independent networks of one shape, run as
    one batched network.

    The policy is that of the heads' mean, so that errors of single heads average out (as in
    Chen et al. 2021, arXiv:2101.05982); a target takes the least of the heads' values, as
    :class:`~maxentflow.objectives.SoftBellmanLoss` does. :math:`\exp((Q_h - V_h) / \alpha)` sums
    to 1 over actions for each head; with one head it is the policy.

    With a **shift**, one network gives energies :math:`E`, and the heads are those of the shift,
    as an :class:`~maxentflow.flows.EnergyBasedFlow` has them (Chao et al. 2024, arXiv:2405.13629,
    section 3.3):

    .. math::
        Q_h(s, a) = \alpha E(s, a) + b_h(s), \qquad
        V_h(s) = \alpha \log \sum_a e^{E(s, a)} + b_h(s), \qquad \pi(a|s) \propto e^{E(s, a)}

    with :math:`b_h` in units of reward. **Normalized**, the energies are log-probabilities:
    :math:`Q_h = \alpha \log \pi + b_h` and :math:`V_h = b_h`, which does not move when the
    temperature does.

    Actions are int64 tensors of shape ``(*batch,)`` from 0 to ``n_actions - 1``, observations have
    shape ``(*batch, obs_dim)``; batch dimensions broadcast. Q and V are in units of reward.

    Args:
        n_actions: number of actions, at least 1.
        obs_dim: size of the observation, at least 1.
        temperature: the entropy's weight :math:`\alpha`, positive, in units of reward; or a
            :class:`~maxentflow.flows.Temperature` that changes.
        heads: number of Q networks, at least 1; left out with a shift.
        shift: learnable reward shifting: one head is LRS, two are SCDQ. ``None`` for independent
            Q networks.
        normalized: count everything but the shift in Q, which then is V.
        encoder: what makes vectors ``(*batch, obs_dim)`` of observations of another form, such as
            images; ``None`` to take them as they are.
        hidden: widths of the hidden layers.
        activation: a name or a function from a width to a module, as in
            :class:`~maxentflow.flows.MLP`.
        init: initialisation of the weights.

    Raises:
        ValueError: a size below 1, a temperature that is not positive and finite, ``normalized``
            without a shift, a shift of another size of observations, an unknown activation or
            initialisation, or (in every method) an
            observation of another size or an action that is not int64.
        RuntimeError: an action is out of range (torch's own refusal, on a CPU).

    Example:
        >>> model = CategoricalEnergy(4, 3, temperature=0.5)
        >>> observation = torch.randn(5, 3)
        >>> action, log_prob = model.sample(observation)
        >>> action.shape, model.q_value(action, observation).shape
        (torch.Size([5]), torch.Size([5, 2]))
        >>> q, v = model.q_and_value(torch.arange(4).unsqueeze(-1), observation)
        >>> total = ((q - v) / 0.5).exp().sum(0)
        >>> torch.allclose(total, torch.ones(5, 2))
        True
    """

    temperature_module: Temperature | None

    def __init__(
        self,
        n_actions: int,
        obs_dim: int,
        *,
        temperature: float | Temperature,
        heads: int = 2,
        shift: RewardShift | None = None,
        normalized: bool = False,
        encoder: nn.Module | None = None,
        hidden: Sequence[int] = (256, 256),
        activation: Activation = "relu",
        init: Initialization = "default",
    ) -> None:
        super().__init__()
        if min((n_actions, obs_dim, heads, *hidden)) < 1:
            raise ValueError(
                "CategoricalEnergy needs sizes of at least 1, got "
                f"n_actions={n_actions}, obs_dim={obs_dim}, heads={heads}, hidden={tuple(hidden)}."
            )
        changing = temperature if isinstance(temperature, Temperature) else None
        if changing is None and not 0 < cast(float, temperature) < float("inf"):
            raise ValueError(f"temperature must be positive and finite, got {temperature}.")
        if normalized and shift is None:
            raise ValueError("A normalized model needs a shift, which is its value.")
        if shift is not None and shift.context_dim != obs_dim:
            raise ValueError(
                f"The shift takes observations of {shift.context_dim}, the model of {obs_dim}."
            )
        self.n_actions = n_actions
        self.obs_dim = obs_dim
        self.temperature_module = changing
        self._temperature = 0.0 if changing is not None else float(cast(float, temperature))
        self.shift = shift
        self.heads = heads if shift is None else shift.heads
        self.normalized = normalized
        self.encoder = encoder
        networks = heads if shift is None else 1
        self.net = BatchedMLP(
            networks, obs_dim, n_actions, hidden=hidden, activation=activation, init=init
        )

    @property
    def temperature(self) -> float | Tensor:
        r"""The entropy's weight :math:`\alpha`: a number, or of shape ``()`` where it changes."""
        changing = self.temperature_module
        return self._temperature if changing is None else changing()

    def q_values(self, observation: Tensor) -> Tensor:
        """Soft Q of every action, shape ``(*batch, n_actions, heads)``."""
        observation = self._encoded(observation)
        outputs = self.net(observation)
        if self.shift is None:
            return outputs
        energies = outputs.log_softmax(-2) if self.normalized else outputs
        return self.temperature * energies + self.shift(observation).unsqueeze(-2)

    def q_value(self, action: Tensor, observation: Tensor) -> Tensor:
        """Soft Q of each head, shape ``(*batch, heads)``."""
        return self._of_action(self.q_values(observation), action)

    def value(self, observation: Tensor) -> Tensor:
        """Soft value of each head, shape ``(*batch, heads)``."""
        if self.normalized:
            assert self.shift is not None
            return self.shift(self._encoded(observation))
        return self._soft_maximum(self.q_values(observation))

    def q_and_value(self, action: Tensor, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Soft Q and soft value, ``(*batch, heads)`` each, in one pass through the networks."""
        q_values = self.q_values(observation)
        return self._of_action(q_values, action), self._soft_maximum(q_values)

    def log_prob(self, action: Tensor, observation: Tensor) -> Tensor:
        """Log-probability of ``action`` under the policy, shape ``(*batch,)``."""
        log_probs = self.log_probs(observation).unsqueeze(-1)
        return self._of_action(log_probs, action).squeeze(-1)

    def log_probs(self, observation: Tensor) -> Tensor:
        """Log-probabilities of all actions under the policy, shape ``(*batch, n_actions)``."""
        logits = self.net(self._encoded(observation)).mean(-1)
        return (logits if self.shift is not None else logits / self.temperature).log_softmax(-1)

    def sample(
        self, observation: Tensor, sample_shape: Sequence[int] = ()
    ) -> tuple[Tensor, Tensor]:
        """Actions from the policy with their log-probabilities, by the Gumbel-max trick
        (Maddison et al. 2014, arXiv:1411.0030).

        Args:
            observation: shape ``(*batch, obs_dim)``.
            sample_shape: how many actions to draw for each observation.

        Returns:
            action and log_prob, each ``(*sample_shape, *batch)``. Gradients flow through the
            log-probability, not through the action.
        """
        log_probs = self.log_probs(observation)
        shape = (*sample_shape, *log_probs.shape)
        # The distribution of these does not depend on data, so that a traced graph takes them as
        # an argument.
        uniform = torch.rand(shape, dtype=log_probs.dtype, device=log_probs.device)
        gumbel = -(-uniform.log()).log()
        action = (log_probs + gumbel).argmax(-1)
        return action, self._of_action(log_probs.unsqueeze(-1), action).squeeze(-1)

    def mode(self, observation: Tensor) -> Tensor:
        """The most likely action, int64 of shape ``(*batch,)``."""
        return self.log_probs(observation).argmax(-1)

    def _encoded(self, observation: Tensor) -> Tensor:
        """The vectors that the networks read."""
        if self.encoder is not None:
            observation = self.encoder(observation)
        if observation.shape[-1:] != (self.obs_dim,):
            raise ValueError(
                f"observation must have shape (*batch, {self.obs_dim}), "
                f"got {tuple(observation.shape)}."
            )
        return observation

    def _of_action(self, table: Tensor, action: Tensor) -> Tensor:
        """The entries ``(*batch, columns)`` of a table ``(*batch, n_actions, columns)``."""
        if action.dtype != torch.int64:
            raise ValueError(
                "action must be an int64 tensor of shape (*batch,), "
                f"got {action.dtype} of shape {tuple(action.shape)}."
            )
        batch = torch.broadcast_shapes(action.shape, table.shape[:-2])
        index = action[..., None, None].expand(*batch, 1, table.shape[-1])
        return table.expand(*batch, -1, -1).gather(-2, index).squeeze(-2)

    def _soft_maximum(self, q_values: Tensor) -> Tensor:
        return self.temperature * (q_values / self.temperature).logsumexp(-2)

    def extra_repr(self) -> str:
        temperature = "" if self.temperature_module else f"temperature={self.temperature}, "
        return f"{temperature}normalized={self.normalized}"
