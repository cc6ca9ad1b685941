"""Soft actor-critic with a normalizing flow as its actor."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym

from maxentflow import envs
from maxentflow.agents.agent import Agent
from maxentflow.agents.parts.architecture import FlowConfig, actor_flow, check_image
from maxentflow.agents.parts.networks import encoder, flow_actor
from maxentflow.agents.parts.spaces import continuous_sizes
from maxentflow.agents.registry import register
from maxentflow.agents.sac import SacConfig, soft_actor_critic

__all__ = ["FlowSacConfig", "flow_sac"]


@dataclass
class FlowSacConfig(SacConfig, FlowConfig):
    """Settings of SAC with a flow as its actor."""

    flow: str = "affine"
    """Architecture of the actor."""


@register("flow-sac", FlowSacConfig)
def flow_sac(
    env: gym.vector.VectorEnv,
    config: FlowSacConfig | None = None,
    *,
    device: str = "cpu",
    **overrides: Any,
) -> Agent:
    """Soft actor-critic whose actor is a normalizing flow (Ward et al. 2019, arXiv:1906.02771;
    Mazoure et al. 2019, arXiv:1905.06893).

    Args:
        env: a vector environment with continuous actions.
        config: settings; the usual ones by default.
        device: where its networks are.
        overrides: settings to replace.

    Raises:
        ValueError: the action space is not continuous, the flow's actions are not those of the
            environment, or a setting is out of range.

    Example:
        >>> from maxentflow import envs
        >>> agent = flow_sac(envs.make("Pendulum-v1"), flow="spline", hidden=(64, 64))
        >>> agent.act(TensorDict(observation=torch.zeros(4, 3), batch_size=[4]))["action"].shape
        torch.Size([4, 1])
    """
    config = replace(config or FlowSacConfig.for_task(envs.task_id(env)), **overrides)
    check_image(config, env, "flow-sac")
    observation, action_dim = continuous_sizes(env, "flow-sac", shares=True)
    encodes, obs_dim = encoder(observation, device)
    flow = actor_flow(config, action_dim, obs_dim, config.hidden, encodes).to(device)
    actor = flow_actor(flow)
    return soft_actor_critic("flow-sac", actor, env, config, device)
