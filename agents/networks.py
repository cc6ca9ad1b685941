"""Networks that several agents share, on TorchRL's modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar, cast

from tensordict.nn import NormalParamExtractor, TensorDictModule, TensorDictModuleBase
from torch import nn
from torch.distributions import Categorical
from torchrl.modules import MLP, ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives.utils import TargetNetUpdater

from maxentflow.objectives import WeightAverage

__all__ = ["averaged", "categorical_actor", "gaussian_actor", "mlp", "q_networks"]


def mlp(
    inputs: int,
    outputs: int,
    hidden: Sequence[int],
    device: str,
    activation: type[nn.Module] = nn.ReLU,
) -> nn.Module:
    """A multilayer perceptron."""
    return MLP(
        in_features=inputs,
        out_features=outputs,
        num_cells=list(hidden),
        activation_class=activation,
        device=device,
    )


def q_networks(
    obs_dim: int, action_dim: int, hidden: Sequence[int], device: str
) -> list[ValueOperator]:
    """Two independent Q networks of an observation and an action."""
    return [
        ValueOperator(
            mlp(obs_dim + action_dim, 1, hidden, device), in_keys=["observation", "action"]
        )
        for _ in range(2)
    ]


def gaussian_actor(
    obs_dim: int,
    action_dim: int,
    hidden: Sequence[int],
    device: str,
    *,
    least_scale: float,
    activation: type[nn.Module] = nn.ReLU,
) -> ProbabilisticActor:
    """A Gaussian squashed to [-1, 1] by tanh, with a mean and a scale of each entry that depend on
    the observation."""
    network = nn.Sequential(
        mlp(obs_dim, 2 * action_dim, hidden, device, activation),
        NormalParamExtractor(scale_mapping="biased_softplus_1.0", scale_lb=least_scale),
    )
    return ProbabilisticActor(
        TensorDictModule(network, in_keys=["observation"], out_keys=["loc", "scale"]),
        in_keys=["loc", "scale"],
        out_keys=["action"],
        distribution_class=TanhNormal,
        distribution_kwargs={"low": -1.0, "high": 1.0, "tanh_loc": False},
        return_log_prob=True,
    )


def categorical_actor(
    obs_dim: int,
    n_actions: int,
    hidden: Sequence[int],
    device: str,
    activation: type[nn.Module] = nn.ReLU,
) -> ProbabilisticActor:
    """Discrete actions with logits that depend on the observation."""
    network = mlp(obs_dim, n_actions, hidden, device, activation)
    return ProbabilisticActor(
        TensorDictModule(network, in_keys=["observation"], out_keys=["logits"]),
        in_keys=["logits"],
        out_keys=["action"],
        distribution_class=Categorical,
        return_log_prob=True,
    )


Policy = TypeVar("Policy", bound=TensorDictModuleBase)


def averaged(newest: Policy, decay: float) -> tuple[Policy, list[TargetNetUpdater]]:
    """The policy to evaluate and use, and what keeps it up to date.

    Args:
        newest: the policy that learns.
        decay: of the running average of its weights; 0 to use the newest weights.
    """
    if decay == 0:
        return newest, []
    average = WeightAverage(newest, decay)
    return cast(Policy, average.module), [average]
