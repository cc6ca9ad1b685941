"""MEow: maximum-entropy RL with one energy-based normalizing flow."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium as gym
import torch

from maxentflow import envs, flows
from maxentflow.agents.agent import Agent, Step
from maxentflow.agents.meow_config import MeowConfig, build_flow, normalized, policy_flow
from maxentflow.agents.parts.architecture import check_image
from maxentflow.agents.parts.networks import averaged
from maxentflow.agents.parts.optimizers import FadingAdamW
from maxentflow.agents.parts.spaces import continuous_sizes, entropy_of
from maxentflow.agents.parts.temperature import dual_step
from maxentflow.agents.registry import register
from maxentflow.objectives import PolyakUpdate, SoftBellmanLoss

__all__ = ["MeowConfig", "meow"]


@register("meow", MeowConfig)
def meow(
    env: gym.vector.VectorEnv,
    config: MeowConfig | None = None,
    *,
    flow: flows.EnergyBasedFlow | flows.TwinFlow | str | None = None,
    device: str = "cpu",
    **overrides: Any,
) -> Agent:
    """MEow for an environment (Chao et al. 2024, arXiv:2405.13629).

    Args:
        env: a vector environment with continuous actions.
        config: settings; the usual ones by default.
        flow: a flow of one's own, in place of the one that the configuration names. It is what
            learns, on observations and rewards as they are, and its temperature counts; the
            agent's policy holds the average. Or a registered flow's name, as in ``config``.
        device: where its networks are.
        overrides: settings to replace.

    Raises:
        ValueError: the action space is not continuous, a setting is out of range, or the flow is
            for other sizes.

    Example:
        >>> from maxentflow import envs
        >>> env = envs.make("Pendulum-v1")
        >>> own = flows.build("affine", action_dim=1, obs_dim=3, temperature=0.1, blocks=1)
        >>> agent = meow(env, flow=own)
        >>> agent.loss.temperature
        0.1
    """
    if config is None:
        config = MeowConfig.for_task(envs.task_id(env))
    if isinstance(flow, str):
        overrides, flow = {**overrides, "flow": flow}, None
    config = replace(config, **overrides)
    if flow is None:
        check_image(config, env, "meow")
    observation, action_dim = continuous_sizes(env, "meow", shares=True)
    custom = () if flow is None else ("flow",)
    model: Any
    actor: Any
    if flow is None:
        flow = build_flow(config, observation, action_dim, device)
        model, actor, state = normalized(flow, config)
    elif flow.action_dim != action_dim or (
        policy_flow(flow).encoder is None and (flow.obs_dim,) != observation
    ):
        raise ValueError(
            f"The flow has actions of size {flow.action_dim} and observations of size "
            f"{flow.obs_dim}, the environment has {action_dim} and "
            f"{', '.join(map(str, observation))}."
        )
    else:
        model, actor, state = flow, policy_flow(flow), {}
    model.to(device)
    changing = flow.temperature_module
    target_entropy = None
    if isinstance(changing, flows.LearnedTemperature) and config.target_entropy is not None:
        target_entropy = entropy_of(env.single_action_space, config.target_entropy)
    loss = SoftBellmanLoss(model, target_entropy=target_entropy)
    loss.make_value_estimator(gamma=config.gamma, device=torch.device(device))
    adam: Any = torch.optim.Adam
    if config.flow_weight_decay > 0:
        adam = partial(FadingAdamW, fade=config.flow_decay_updates, weight_decay=0.0)
    optimizer = adam(_groups(loss, flow, config), lr=config.learning_rate, fused=True)
    steps = [Step(("loss",), optimizer, max_grad_norm=config.max_grad_norm)]
    if isinstance(changing, flows.ScheduledTemperature):
        state["temperature"] = changing
    elif changing is not None:
        steps += dual_step(changing.log_alpha, config)
    keeps_raw = config.raw_actions and flow.squash is not None
    if keeps_raw:
        state["raw_actions"] = flows.RawActions(policy_flow(flow))
    newest = flows.FlowPolicy(actor, raw_action_key="raw_action" if keeps_raw else None)
    policy, average = averaged(newest, config.average_decay)
    return Agent(
        name="meow",
        policy=policy,
        behavior=newest,
        loss=loss,
        steps=steps,
        target_updaters=[PolyakUpdate(loss, tau=config.tau), *average],
        state=state,
        stored=("raw_action",) if keeps_raw else (),
        critic=policy.flow,
        config=config,
        custom=custom,
    )


def _groups(
    loss: SoftBellmanLoss, flow: flows.EnergyBasedFlow | flows.TwinFlow, config: MeowConfig
) -> list[dict[str, Any]]:
    """What the regression changes, by learning rate and weight decay: all but the temperature."""
    changing = flow.temperature_module
    weights = [p for p in loss.parameters() if changing is None or p is not changing.log_alpha]
    rate = config.flow_learning_rate
    decay = config.flow_weight_decay * flow.action_dim
    if rate == config.learning_rate and not decay:
        return [{"params": weights}]
    each = (flow.first, flow.second) if isinstance(flow, flows.TwinFlow) else (flow,)
    shifts = {id(p) for one in each if one.shift is not None for p in one.shift.parameters()}
    decayed = {id(p) for one in each for p in one.layers.parameters() if decay}
    acting = [p for p in weights if id(p) not in shifts]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in weights if id(p) in shifts]},
        {"params": [p for p in acting if id(p) not in decayed], "lr": rate},
        {"params": [p for p in acting if id(p) in decayed], "lr": rate, "weight_decay": decay},
    ]
    return [group for group in groups if group["params"]]
