"""Standardised observations for any agent: a front before its policy, its loss and its critic."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import nn
from torchrl.objectives import LossModule

from maxentflow import flows
from maxentflow.agents.agent import Agent

__all__ = ["StandardizedLoss", "StandardizedPolicy", "standardized"]


class StandardizedPolicy(TensorDictModuleBase):
    """A policy that sees standardised observations; the entries it is given stay as they are.

    Args:
        policy: reads ``"observation"``.
        observations: how they are standardised.

    Example:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from tensordict.nn import TensorDictModule
        >>> norm = flows.ObservationNorm(1)
        >>> norm.update(torch.tensor([[10.0], [30.0]]))
        >>> inner = TensorDictModule(nn.Identity(), ["observation"], ["action"])
        >>> seen = TensorDict(observation=torch.tensor([[30.0]]), batch_size=[1])
        >>> StandardizedPolicy(inner, norm)(seen)["action"], seen["observation"]
        (tensor([[1.0000]]), tensor([[30.]]))
    """

    def __init__(self, policy: TensorDictModuleBase, observations: flows.ObservationNorm) -> None:
        super().__init__()
        self.policy = policy
        self.observations = observations
        self.in_keys = list(policy.in_keys)
        self.out_keys = list(policy.out_keys)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """What the policy writes, added to ``tensordict``."""
        seen = tensordict.copy()
        seen["observation"] = self.observations(tensordict["observation"])
        return tensordict.update(self.policy(seen).exclude("observation"))


class StandardizedLoss(LossModule):
    """A loss that sees standardised observations; a batch that it is given keeps its own.

    Its keys and its value estimator are those of the loss, and other attributes of the loss can be
    read here; change them, and follow its targets, in :attr:`loss`.

    Args:
        loss: reads ``"observation"`` and ``("next", "observation")``.
        observations: how they are standardised.

    Example:
        >>> from maxentflow.objectives import SoftBellmanLoss
        >>> inner = SoftBellmanLoss(flows.build("additive", 1, 3, temperature=0.2))
        >>> StandardizedLoss(inner, flows.ObservationNorm(3)).temperature
        0.2
    """

    def __init__(self, loss: LossModule, observations: flows.ObservationNorm) -> None:
        super().__init__()
        self.loss = loss
        self.observations = observations
        self.in_keys = list(loss.in_keys)
        self.out_keys = list(loss.out_keys)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("loss"), name)

    @property
    def tensor_keys(self) -> Any:
        """Those of the loss."""
        return self.loss.tensor_keys

    def set_keys(self, **keys: Any) -> None:
        """Set those of the loss."""
        self.loss.set_keys(**keys)

    def make_value_estimator(self, *arguments: Any, **options: Any) -> Any:
        """Make that of the loss."""
        return self.loss.make_value_estimator(*arguments, **options)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """What the loss reports; what it notes in its batch, such as errors, is in this one."""
        seen, following = tensordict.copy(), tensordict["next"].copy()
        for part in (seen, following):
            part["observation"] = self.observations(part["observation"])
        report = self.loss(seen.set("next", following))
        tensordict.update(seen.exclude("observation", "next"))
        return report


def standardized(agent: Agent, space: gym.Space[Any]) -> Agent:
    """An agent whose networks see observations standardised by their running mean and variance.

    Args:
        agent: with running statistics of observations it stays as it is.
        space: of its observations.

    Raises:
        ValueError: observations are no vectors, the agent learns from rollouts or from
            demonstrations, or another part of its state has the name ``"observations"``.
    """
    own = agent.state.get("observations")
    if isinstance(own, flows.ObservationNorm):
        return agent
    if own is not None:
        raise ValueError(
            f"normalize_observations needs the name 'observations' in the state of {agent.name!r},"
            f" which is {type(own).__name__}."
        )
    if space.shape is None or len(space.shape) != 1:
        raise ValueError(f"normalize_observations needs vectors, the environment has {space}.")
    if agent.rollout is not None or agent.demonstrations is not None:
        source = "demonstrations" if agent.rollout is None else "what its own policy just saw"
        raise ValueError(
            f"normalize_observations needs an agent that learns from a replay; {agent.name!r} "
            f"learns from {source}."
        )
    device = next(agent.loss.parameters()).device
    observations = flows.ObservationNorm(space.shape[0]).to(device)
    assert agent.behavior is not None
    policy = StandardizedPolicy(agent.policy, observations)
    same = agent.behavior is agent.policy
    critic: nn.Module | None = agent.critic
    return replace(
        agent,
        policy=policy,
        behavior=policy if same else StandardizedPolicy(agent.behavior, observations),
        loss=StandardizedLoss(agent.loss, observations),
        state={**agent.state, "observations": observations},
        critic=None if critic is None else flows.NormalizedModel(critic, observations),
    )
