"""Q of observations and continuous actions, by a network or a flow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
from torch import Tensor, nn
from torchrl.modules import ValueOperator

from maxentflow import envs, flows
from maxentflow.agents.parts.architecture import without_dropout
from maxentflow.agents.parts.networks import encoder, mlp
from maxentflow.agents.parts.spaces import Shape, continuous_sizes

__all__ = ["Critic", "twin_critics"]


class Critic(nn.Module):
    r"""Q of an observation and an action, by a network or an energy-based flow, perhaps with a
    learned reward shift :math:`b(s)` added (Chao et al. 2024, arXiv:2405.13629, section 3.3).

    Args:
        observation: shape of an observation.
        action_dim: size of an action.
        hidden: hidden widths.
        device: where it is.
        flow: architecture of the energy-based flow; ``None`` for a network.
        temperature: of that flow, in units of reward.
        squash: of that flow.
        reward_shift: add the shift.

    Example:
        >>> critic = Critic((3,), 2, (32,), flow="additive", reward_shift=True)
        >>> critic(torch.zeros(5, 3), torch.zeros(5, 2)).shape
        torch.Size([5, 1])
    """

    def __init__(
        self,
        observation: Shape,
        action_dim: int,
        hidden: Sequence[int],
        device: str = "cpu",
        *,
        flow: str | None = None,
        temperature: float = 1.0,
        squash: str = "tanh",
        reward_shift: bool = False,
    ) -> None:
        super().__init__()
        networks = {"hidden": hidden}
        self.network = self.flow = self.shift = None
        if flow is None:
            self.network = mlp(observation, 1, hidden, device, others=action_dim)
            if reward_shift:
                self.shift = mlp(observation, 1, hidden, device)
            return
        encodes, obs_dim = encoder(observation, device)
        self.flow = flows.build(
            flow,
            action_dim,
            obs_dim,
            temperature=temperature,
            heads=int(reward_shift),
            log_sigma=(-5.0, 1.0),
            scale={**networks, "initial": 0.0},
            translation=networks,
            shift=networks,
            encoder=encodes,
            squash=squash,
            **without_dropout(flow),
        ).to(device)

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        """Q, shape ``(*batch, 1)``."""
        if self.flow is not None:
            return self.flow.q_value(action, observation)
        assert self.network is not None
        q = self.network(observation, action)
        return q if self.shift is None else q + self.shift(observation)


def twin_critics(
    env: gym.vector.VectorEnv, agent: str, config: Any, device: str
) -> list[ValueOperator]:
    """Two critics of the form that an agent's settings name.

    Args:
        env: the environment.
        agent: its name, for a refusal.
        config: settings ``hidden``, ``critic_flow``, ``temperature`` and ``reward_shift``.
        device: where they are.
    """
    sizes = continuous_sizes(env, agent, shares=True)
    is_simplex = isinstance(env.single_action_space, envs.Simplex)
    return [
        ValueOperator(
            Critic(
                *sizes,
                config.hidden,
                device,
                flow=config.critic_flow,
                temperature=config.temperature,
                squash="simplex" if is_simplex else "tanh",
                reward_shift=config.reward_shift,
            ),
            in_keys=["observation", "action"],
        )
        for _ in range(2)
    ]
