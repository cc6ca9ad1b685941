"""The settings of MEow, and the flow that they describe."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from maxentflow import flows
from maxentflow.agents.parts.architecture import FlowConfig, recipe_options
from maxentflow.agents.parts.networks import encoder
from maxentflow.agents.parts.spaces import Shape
from maxentflow.agents.parts.temperature import TemperatureConfig, temperature
from maxentflow.agents.presets import preset
from maxentflow.agents.settings import (
    Count,
    Finite,
    FractionBelowOne,
    NotNegativeNumber,
    Positive,
    PositiveFraction,
    Temperature,
    Widths,
)

__all__ = ["MeowConfig", "build_flow", "normalized", "policy_flow"]


@dataclass
class MeowConfig(TemperatureConfig, FlowConfig):
    """Settings of MEow, the same for every task but for its discount."""

    standardizes = True

    normalize_observations: bool = field(default=True, kw_only=True)
    """Standardise observations by the running mean and variance of what was seen, but for
    images and for a flow that is given."""
    normalize_rewards: bool = True
    """Divide rewards by the running scale of discounted returns."""
    temperature: Temperature = 0.01
    """Entropy weight alpha, in units of (scaled) reward; at first, where it is learned or
    scheduled."""
    target_entropy: Finite | None = -0.25
    """Entropy of each entry of the action, in nats, that the temperature is learned towards; None
    for a temperature that is not learned."""
    normalized: bool = True
    """Learn V as the shift alone; if not, the scale's log-determinant is counted in it."""
    raw_actions: bool = True
    """Keep the action before the squash with each transition, so that Q is exact there too."""
    tau: PositiveFraction = 0.005
    """Fraction by which the target moves in an update."""
    learning_rate: Positive = 1e-3
    """Learning rate of Adam."""
    flow_learning_rate: Positive = 5e-4
    """The same for what acts, all but the shifts: a policy that commits itself slowly."""
    flow_weight_decay: NotNegativeNumber = 0.125
    """Decoupled weight decay (AdamW) of the layers of the flow, for each entry of the action, so
    that the policy does not fit the noise of targets; 0 for none."""
    flow_decay_updates: Count | None = 15_000
    """Updates after which that weight decay falls, as one over the root of their number, since
    more data need less of it; None for one that stays."""
    max_grad_norm: Positive | None = 30.0
    """Clip the gradient's norm; None for no clipping."""
    average_decay: FractionBelowOne = 0.995
    """Decay, for each update, of the average of weights that the policy is evaluated and used
    with; 0, as in the reference, for the newest weights."""
    log_sigma: tuple[float, float] = (-3.0, 1.0)
    """Lowest and highest log-sigma of the state-conditioned scale."""
    initial_log_sigma: float | None = -0.25
    """Log-sigma at first; the middle of its bounds for None."""
    mean_hidden: Widths | None = (128, 128)
    """Hidden widths of a translation before the squash, the policy's mean; None for no such
    layer."""
    scale_hidden: Widths = (128, 128)
    """Hidden widths of the state-conditioned scale."""
    twin: bool = True
    """Learn a second flow, the critic of the first: targets are what the policy is worth to it."""
    heads: int = 1
    """Reward shifts: 0 none, 1 LRS, 2 SCDQ (clipped double Q); 1 for each flow of a twin."""
    shift_hidden: Widths = (256, 256)
    """Hidden widths of the shifts."""
    shift_norm: bool = True
    """Layer norm in the shifts."""
    activation: str = "silu"
    """Activation in all networks."""
    init: Literal["near_zero", "reference"] = "near_zero"
    """Initial weights: networks that start near zero, or the reference's."""
    dropout: FractionBelowOne = 0.0
    """Dropout in the networks of the flow's layers."""
    dropout_per_head: bool = True
    """Draw a dropout mask for each head instead of one for both."""

    def __post_init__(self) -> None:
        super().__post_init__()
        most = math.log(2)
        too_high = self.target_entropy is not None and not self.target_entropy < most
        if too_high and self.squash != "none":
            raise ValueError(
                f"target_entropy must be below {most:.3f} nats, the entropy of a uniform entry in "
                f"[-1, 1], got {self.target_entropy}."
            )
        changes = self.target_entropy is not None or self.final_temperature is not None
        if changes and not self.normalized:
            raise ValueError(
                "A temperature that is learned or scheduled needs normalized=True, so that V does "
                "not move with it."
            )
        if self.twin and not (self.normalized and self.heads == 1):
            raise ValueError(
                "twin needs normalized flows with one head, got "
                f"normalized={self.normalized} and heads={self.heads}."
            )

    @classmethod
    def paper(cls, env_id: str | None) -> MeowConfig:
        """The configuration of Chao et al. 2024, with what it tunes for each of its tasks; the
        policy is an average of weights all the same."""
        task = preset(env_id)
        return cls(
            normalize_observations=task.num_envs > 1,
            normalize_rewards=False,
            temperature=task.temperature,
            target_entropy=None,
            normalized=False,
            raw_actions=False,
            gamma=task.gamma,
            squash=task.squash,
            tau=task.tau,
            log_sigma=task.log_sigma,
            initial_log_sigma=None,
            mean_hidden=None,
            scale_hidden=(64, 64),
            flow_learning_rate=1e-3,
            flow_weight_decay=0.0,
            twin=False,
            heads=2,
            shift_norm=False,
            activation="swish",
            init="reference",
            dropout=0.1,
        )


def build_flow(
    config: MeowConfig, observation: Shape, action_dim: int, device: str
) -> flows.EnergyBasedFlow | flows.TwinFlow:
    """The flow that a configuration describes, or the two."""
    networks: dict[str, Any] = {"activation": config.activation}
    near_zero = config.init == "near_zero"
    if near_zero:
        networks["init"] = "near_zero"
    scale = {
        **networks,
        "hidden": config.scale_hidden,
        "initial": config.initial_log_sigma,
        "layer_norm": near_zero,
    }
    mean = None if config.mean_hidden is None else {**networks, "hidden": config.mean_hidden}
    shift = {**networks, "hidden": config.shift_hidden, "layer_norm": config.shift_norm}
    known = flows.options(config.flow)
    layers = {"dropout": config.dropout, **networks}
    alpha = temperature(config)

    def make() -> flows.EnergyBasedFlow:
        encodes, obs_dim = encoder(observation, device)
        return flows.build(
            config.flow,
            action_dim,
            obs_dim,
            temperature=alpha,
            heads=config.heads,
            normalized=config.normalized,
            log_sigma=config.log_sigma,
            scale=scale,
            translation=mean,
            shift=shift,
            base=config.base,
            squash=config.squash,
            dropout_per_head=config.dropout_per_head,
            encoder=encodes,
            **{
                **{name: value for name, value in layers.items() if name in known},
                **recipe_options(config),
            },
        )

    return flows.TwinFlow(make(), make()) if config.twin else make()


def normalized(
    flow: flows.EnergyBasedFlow | flows.TwinFlow, config: MeowConfig
) -> tuple[nn.Module, nn.Module, dict[str, Any]]:
    """What learns, what acts, and the parts of both that follow the steps of the environments."""
    observations = returns = None
    state: dict[str, Any] = {}
    is_image = policy_flow(flow).encoder is not None
    if config.normalize_observations and flow.obs_dim is not None and not is_image:
        state["observations"] = observations = flows.ObservationNorm(flow.obs_dim)
    if config.normalize_rewards:
        returns = flows.ReturnScale()
        state["returns"] = flows.DiscountedReturns(returns, config.gamma)
    acts = policy_flow(flow)
    if not state:
        return flow, acts, state
    model = flows.NormalizedModel(flow, observations, returns)
    actor = model if acts is flow else flows.NormalizedModel(acts, observations, returns)
    return model, actor, state


def policy_flow(flow: flows.EnergyBasedFlow | flows.TwinFlow) -> flows.EnergyBasedFlow:
    """The flow that is the policy: the first of two."""
    return flow.first if isinstance(flow, flows.TwinFlow) else flow
