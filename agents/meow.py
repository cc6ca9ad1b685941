"""MEow: maximum-entropy RL with one energy-based normalizing flow."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import gymnasium as gym
import torch
import tyro

from maxentflow import envs, flows
from maxentflow.agents.agent import Agent, Step
from maxentflow.agents.networks import averaged
from maxentflow.agents.presets import preset
from maxentflow.agents.registry import register
from maxentflow.agents.settings import AgentConfig, FractionBelowOne, Positive, PositiveFraction
from maxentflow.agents.spaces import continuous_sizes
from maxentflow.objectives import PolyakUpdate, SoftBellmanLoss

__all__ = ["MeowConfig", "meow"]


def _one_of(names: Callable[[], Iterable[str]]) -> Any:
    """Lists the names in the help of the command line, those registered up to then."""
    return tyro.conf.arg(
        help_behavior_hint=lambda default: f"({', '.join(names())}) (default: {default})"
    )


def _bases() -> Iterable[str]:
    return flows.registry.BASES


def _squashes() -> Iterable[str]:
    return flows.registry.SQUASHES


@dataclass
class MeowConfig(AgentConfig):
    """Settings of MEow; defaults are the reference's but for average_decay, with the task's own
    where it tunes."""

    flow: Annotated[str, _one_of(flows.registered)] = "additive"
    """Architecture."""
    flow_options: dict[str, bool | int | float | str] = field(default_factory=dict)
    """Options of the architecture by name and value, such as blocks 3 or hidden 128,128; see
    flows.options()."""
    base: Annotated[str, _one_of(_bases)] = "normal"
    """Base distribution."""
    squash: Annotated[str, _one_of(_squashes)] = "tanh"
    """Last layer; the actions of a task lie in [-1, 1]."""
    temperature: Positive = 0.2
    """Entropy weight alpha, in units of reward."""
    tau: PositiveFraction = 0.005
    """Fraction by which the target moves in an update."""
    learning_rate: Positive = 1e-3
    """Learning rate of Adam."""
    max_grad_norm: Positive | None = 30.0
    """Clip the gradient's norm; None for no clipping."""
    average_decay: FractionBelowOne = 0.995
    """Decay, for each update, of the average of weights that the policy is evaluated and used
    with; 0, as in the reference, for the newest weights."""
    log_sigma: tuple[float, float] = (-5.0, -0.3)
    """Lowest and highest log-sigma of the state-conditioned scale."""
    heads: int = 2
    """Reward shifts: 0 none, 1 LRS, 2 SCDQ (clipped double Q)."""
    dropout_per_head: bool = True
    """Draw a dropout mask for each head instead of one for both."""

    @classmethod
    def for_task(cls, env_id: str | None) -> MeowConfig:
        """The paper's settings for a gymnasium id, general ones for a task it does not have."""
        task = preset(env_id)
        return cls(
            temperature=task.temperature, gamma=task.gamma, tau=task.tau, log_sigma=task.log_sigma
        )


@register("meow", MeowConfig)
def meow(
    env: gym.vector.VectorEnv,
    config: MeowConfig | None = None,
    *,
    flow: flows.EnergyBasedFlow | None = None,
    device: str = "cpu",
    **overrides: Any,
) -> Agent:
    """MEow for an environment (Chao et al. 2024, arXiv:2405.13629).

    Args:
        env: a vector environment with continuous actions.
        config: settings; the task's own by default.
        flow: a flow of one's own, in place of the one that the configuration names; its
            temperature counts. It is what learns; the agent's policy holds the average.
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
    obs_dim, action_dim = continuous_sizes(env, "meow")
    if config is None:
        config = MeowConfig.for_task(envs.task_id(env))
    config = replace(config, **overrides)
    custom = () if flow is None else ("flow",)
    if flow is None:
        flow = flows.build(
            config.flow,
            action_dim,
            obs_dim,
            temperature=config.temperature,
            heads=config.heads,
            log_sigma=config.log_sigma,
            base=config.base,
            squash=config.squash,
            dropout_per_head=config.dropout_per_head,
            **_flow_options(config),
        )
    elif (flow.action_dim, flow.obs_dim) != (action_dim, obs_dim):
        raise ValueError(
            f"The flow has actions of size {flow.action_dim} and observations of size "
            f"{flow.obs_dim}, the environment has {action_dim} and {obs_dim}."
        )
    flow.to(device)
    loss = SoftBellmanLoss(flow)
    loss.make_value_estimator(gamma=config.gamma, device=torch.device(device))
    optimizer = torch.optim.Adam(loss.parameters(), lr=config.learning_rate, fused=True)
    newest = flows.FlowPolicy(flow)
    policy, average = averaged(newest, config.average_decay)
    return Agent(
        name="meow",
        policy=policy,
        behavior=newest,
        loss=loss,
        steps=[Step(("loss",), optimizer, max_grad_norm=config.max_grad_norm)],
        target_updaters=[PolyakUpdate(loss, tau=config.tau), *average],
        config=config,
        custom=custom,
    )


def _flow_options(config: MeowConfig) -> dict[str, Any]:
    """Options of the recipe and nothing else, with sizes such as "128,128" as tuples."""
    known = flows.options(config.flow)
    options = {
        name: _sizes(value) if isinstance(known.get(name), tuple) else value
        for name, value in config.flow_options.items()
    }
    flows.registry.check_options(config.flow, options)
    return options


def _sizes(value: object) -> object:
    try:
        return tuple(int(part) for part in str(value).split(","))
    except ValueError:
        return value  # not as a command line writes them
