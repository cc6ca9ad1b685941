"""Soft actor-critic on TorchRL's loss."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import torch
from tensordict.nn import NormalParamExtractor, TensorDictModule
from torch import nn
from torchrl.data import Bounded
from torchrl.modules import MLP, ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import SACLoss

from maxentflow.agents.agent import (
    Agent,
    check_common,
    check_positive,
    register,
    space_sizes,
)
from maxentflow.agents.flat_adam import FlatAdam
from maxentflow.agents.presets import preset
from maxentflow.objectives import PolyakUpdate

__all__ = ["SacConfig", "sac"]


@dataclass
class SacConfig:
    """Settings of SAC with a learned temperature."""

    gamma: float = 0.99
    """Discount factor."""
    tau: float = 0.005
    """Fraction by which the targets move in an update."""
    actor_learning_rate: float = 3e-4
    """Adam's step size for the actor and the temperature."""
    critic_learning_rate: float = 1e-3
    """Adam's step size for the critics."""
    max_grad_norm: float | None = None
    """Clip the gradient's norm; None for no clipping."""
    average_decay: float = 0.0
    """Decay, for each update, of the average of weights that the policy is evaluated and used
    with; 0 for the newest weights."""
    hidden: tuple[int, ...] = (256, 256)
    """Hidden widths of actor and critics."""
    alpha_init: float = 1.0
    """Temperature at the start."""

    def __post_init__(self) -> None:
        check_common(self)
        check_positive(
            actor_learning_rate=self.actor_learning_rate,
            critic_learning_rate=self.critic_learning_rate,
            alpha_init=self.alpha_init,
        )
        if min(self.hidden, default=1) < 1:
            raise ValueError(f"hidden must be widths of at least 1, got {self.hidden}.")

    @classmethod
    def for_task(cls, env_id: str | None) -> SacConfig:
        """The usual settings, with the task's discount."""
        return cls(gamma=preset(env_id).gamma)


@register("sac", SacConfig)
def sac(
    env: gym.vector.VectorEnv,
    config: SacConfig | None = None,
    *,
    device: str = "cpu",
    **overrides: Any,
) -> Agent:
    """Soft actor-critic (Haarnoja et al. 2018, arXiv:1812.05905): two critics, a tanh-Gaussian
    actor, a temperature learned towards an entropy of minus the action's size.

    Args:
        env: a vector environment with continuous actions.
        config: settings; the usual ones by default.
        device: where its networks are.
        overrides: settings to replace.

    Raises:
        ValueError: the action space is not continuous, or a setting is out of range.

    Example:
        >>> from maxentflow import envs
        >>> sac(envs.make("Pendulum-v1"), hidden=(64, 64)).config.hidden
        (64, 64)
    """
    obs_dim, action_dim = space_sizes(env, "sac")
    if config is None:
        config = SacConfig.for_task(None if env.spec is None else env.spec.id)
    config = replace(config, **overrides)

    def network(inputs: int, outputs: int) -> nn.Module:
        return MLP(
            in_features=inputs,
            out_features=outputs,
            num_cells=list(config.hidden),
            activation_class=nn.ReLU,
            device=device,
        )

    parameters = nn.Sequential(
        network(obs_dim, 2 * action_dim),
        NormalParamExtractor(scale_mapping="biased_softplus_1.0", scale_lb=1e-4),
    )
    policy = ProbabilisticActor(
        TensorDictModule(parameters, in_keys=["observation"], out_keys=["loc", "scale"]),
        in_keys=["loc", "scale"],
        out_keys=["action"],
        distribution_class=TanhNormal,
        distribution_kwargs={"low": -1.0, "high": 1.0, "tanh_loc": False},
        return_log_prob=True,
    )
    critics = [
        ValueOperator(network(obs_dim + action_dim, 1), in_keys=["observation", "action"])
        for _ in range(2)
    ]
    loss = SACLoss(
        policy,
        critics,
        num_qvalue_nets=2,
        loss_function="l2",
        alpha_init=config.alpha_init,
        target_entropy=-float(action_dim),
        action_spec=Bounded(-1.0, 1.0, (action_dim,)),
    )
    loss.make_value_estimator(gamma=config.gamma, device=torch.device(device))
    critic_parameters = list(loss.qvalue_network_params.values(True, True))
    chosen = {id(parameter) for parameter in critic_parameters}
    rest = [parameter for parameter in loss.parameters() if id(parameter) not in chosen]
    optimizer = FlatAdam(
        [
            {"params": critic_parameters, "lr": config.critic_learning_rate},
            {"params": rest, "lr": config.actor_learning_rate},
        ]
    )
    return Agent(
        name="sac",
        policy=policy,
        loss=loss,
        optimizer=optimizer,
        target_updater=PolyakUpdate(loss, tau=config.tau),
        config=config,
        average_decay=config.average_decay,
    )
