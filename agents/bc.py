"""Behaviour cloning by the exact likelihood of a flow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import torch
from tensordict import TensorDictBase

from maxentflow import envs, flows
from maxentflow.agents.agent import Agent, Step
from maxentflow.agents.parts.architecture import FlowConfig, actor_flow, check_image
from maxentflow.agents.parts.demonstrations import check_demonstrations, read_demonstrations
from maxentflow.agents.parts.networks import averaged, encoder
from maxentflow.agents.parts.spaces import continuous_sizes
from maxentflow.agents.registry import register
from maxentflow.agents.settings import FractionBelowOne, NotNegativeNumber, Positive, Widths
from maxentflow.objectives import MaximumLikelihoodLoss

__all__ = ["BcConfig", "bc"]


@dataclass
class BcConfig(FlowConfig):
    """Settings of behaviour cloning."""

    training: ClassVar[Mapping[str, Any]] = {"warmup_steps": 0, "total_steps": 20_000}

    dataset: str | None = None
    """Minari data set to clone, by its name, or a .npz file with arrays observation and action."""
    flow: str = "spline"
    """Architecture."""
    noise: NotNegativeNumber = 0.0
    """Standard deviation of noise on the actions that are cloned, in units of an action in
    [-1, 1]; some keeps densities finite where actions repeat."""
    learning_rate: Positive = 1e-3
    """Learning rate of Adam."""
    max_grad_norm: Positive | None = 10.0
    """Clip the gradient's norm; None for no clipping."""
    average_decay: FractionBelowOne = 0.995
    """Decay, for each update, of the average of weights that the policy is evaluated and used
    with; 0 for the newest weights."""
    hidden: Widths = (128, 128)
    """Hidden widths of the policy's mean and scale."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dataset is not None and self.dataset.endswith(".npz"):
            # A run is resumed and evaluated from other folders too.
            self.dataset = str(Path(self.dataset).expanduser().resolve())


@register("bc", BcConfig)
def bc(
    env: gym.vector.VectorEnv,
    config: BcConfig | None = None,
    *,
    demonstrations: TensorDictBase | None = None,
    device: str = "cpu",
    **overrides: Any,
) -> Agent:
    """Behaviour cloning of demonstrations by the exact likelihood of a flow, which may have
    several modes. The environment is there for evaluations; a step of a run is an update.

    Args:
        env: a vector environment with continuous actions.
        config: settings; the usual ones by default.
        demonstrations: transitions, batch size ``(n,)``: ``"observation"``, and ``"action"`` in
            [-1, 1]; in place of ``config.dataset``, which is read when a run begins.
        device: where its networks are.
        overrides: settings to replace.

    Raises:
        ValueError: the action space is not continuous, there are no demonstrations, they cannot
            be read or are of another task, or a setting is out of range.

    Example:
        >>> from maxentflow import envs
        >>> expert = TensorDict(
        ...     observation=torch.randn(512, 3), action=torch.zeros(512, 1), batch_size=[512]
        ... )
        >>> agent = bc(envs.make("Pendulum-v1"), demonstrations=expert)
        >>> len(agent.demonstrations)
        512
    """
    config = replace(config or BcConfig.for_task(envs.task_id(env)), **overrides)
    check_image(config, env, "bc")
    observation, action_dim = continuous_sizes(env, "bc")
    custom = () if demonstrations is None else ("demonstrations",)
    if demonstrations is None and config.dataset is None:
        raise ValueError(
            "bc needs demonstrations: name a Minari data set or a .npz file as dataset, or "
            "give transitions."
        )
    encodes, obs_dim = encoder(observation, device)
    flow = actor_flow(config, action_dim, obs_dim, config.hidden, encodes)
    norm = flows.ObservationNorm(obs_dim) if encodes is None else None

    def read() -> TensorDictBase:
        if demonstrations is None:
            data = read_demonstrations(str(config.dataset), env)
        else:
            data = check_demonstrations(demonstrations, env)
        if norm is not None:
            norm.update(data["observation"])
        return data.to(device)

    model = flows.NormalizedModel(flow, norm).to(device)
    loss = MaximumLikelihoodLoss(model, noise=config.noise)
    newest = flows.FlowPolicy(model)
    policy, average = averaged(newest, config.average_decay)
    optimizer = torch.optim.Adam(loss.parameters(), lr=config.learning_rate, fused=True)
    return Agent(
        name="bc",
        policy=policy,
        behavior=newest,
        loss=loss,
        steps=[Step(("loss",), optimizer, max_grad_norm=config.max_grad_norm)],
        target_updaters=average,
        demonstrations=read if demonstrations is None else read(),
        config=config,
        custom=custom,
    )
