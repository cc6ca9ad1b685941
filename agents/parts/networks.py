"""Networks that several agents share, on TorchRL's modules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar, cast

import torch
from tensordict import TensorDictParams
from tensordict.nn import NormalParamExtractor, TensorDictModule, TensorDictModuleBase
from torch import Tensor, nn
from torch.distributions import Categorical
from torchrl.data import Bounded
from torchrl.modules import (
    MLP,
    AdditiveGaussianModule,
    ProbabilisticActor,
    TanhNormal,
    ValueOperator,
)
from torchrl.objectives.utils import TargetNetUpdater

from maxentflow import flows
from maxentflow.agents.parts.spaces import Shape
from maxentflow.objectives import WeightAverage

__all__ = [
    "ImageEncoder",
    "averaged",
    "categorical_actor",
    "deterministic_actor",
    "encoder",
    "flow_actor",
    "gaussian_actor",
    "gaussian_noise",
    "learned",
    "mlp",
    "q_networks",
]


class ImageEncoder(nn.Module):
    """Features of images, by a small convolutional network.

    Images of 36 pixels and more have the three layers of DQN (Mnih et al. 2015, Nature 518,
    p. 529), smaller ones the single layer of MinAtar's agents (Young and Tian 2019,
    arXiv:1903.03176). Bytes are taken as numbers from 0 to 1.

    Args:
        height: pixels.
        width: pixels.
        channels: of a pixel.
        features: size of the output.

    Example:
        >>> encoder = ImageEncoder(84, 84, 4)
        >>> encoder(torch.zeros(2, 84, 84, 4, dtype=torch.uint8)).shape
        torch.Size([2, 256])
    """

    def __init__(self, height: int, width: int, channels: int, features: int = 256) -> None:
        super().__init__()
        self.shape = height, width, channels
        if min(height, width) >= 36:
            convolutions = [
                nn.Conv2d(channels, 32, 8, stride=4),
                nn.ReLU(),
                nn.Conv2d(32, 64, 4, stride=2),
                nn.ReLU(),
                nn.Conv2d(64, 64, 3),
            ]
        else:
            convolutions = [nn.Conv2d(channels, 16, min(3, height, width))]
        self.convolutions = nn.Sequential(*convolutions, nn.ReLU(), nn.Flatten())
        with torch.no_grad():
            size = self.convolutions(torch.zeros(1, channels, height, width)).shape[-1]
        self.last = nn.Sequential(nn.Linear(size, features), nn.ReLU())

    def forward(self, image: Tensor) -> Tensor:
        """Features ``(*batch, features)`` of images ``(*batch, height, width, channels)``."""
        if image.shape[-3:] != self.shape:
            raise ValueError(
                f"An image must have shape (*batch, {', '.join(map(str, self.shape))}), got "
                f"{tuple(image.shape)}."
            )
        batch = image.shape[:-3]
        pixels = image.reshape(math.prod(batch), *self.shape).movedim(-1, -3)
        scaled = pixels.float() / (255.0 if image.dtype == torch.uint8 else 1.0)
        return self.last(self.convolutions(scaled)).reshape(*batch, -1)


class _EncodedMLP(nn.Module):
    """A multilayer perceptron of an image's features, and of what else there is."""

    def __init__(self, encoder: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.network = network

    def forward(self, image: Tensor, *others: Tensor) -> Tensor:
        return self.network(self.encoder(image), *others)


def encoder(observation: Shape, device: str) -> tuple[ImageEncoder | None, int]:
    """What makes a vector of an observation, ``None`` where it is one, and the vector's size."""
    if len(observation) == 1:
        return None, observation[0]
    features = 256
    height, width, channels = observation
    return ImageEncoder(height, width, channels, features).to(device), features


def learned(params: TensorDictParams) -> list[Tensor]:
    """What an optimiser changes of the parameters that a loss holds: all but buffers."""
    return [entry for entry in params.values(True, True) if entry.requires_grad]


def mlp(
    observation: Shape,
    outputs: int,
    hidden: Sequence[int],
    device: str,
    activation: type[nn.Module] = nn.ReLU,
    *,
    others: int = 0,
) -> nn.Module:
    """A multilayer perceptron of an observation, after an encoder if that is an image.

    Args:
        observation: its shape.
        outputs: size of the output.
        hidden: hidden widths.
        device: where it is.
        activation: between layers.
        others: size of further inputs, such as an action.
    """
    encodes, size = encoder(observation, device)
    network = MLP(
        in_features=size + others,
        out_features=outputs,
        num_cells=list(hidden),
        activation_class=activation,
        device=device,
    )
    return network if encodes is None else _EncodedMLP(encodes, network)


def q_networks(
    observation: Shape, action_dim: int, hidden: Sequence[int], device: str, count: int = 2
) -> list[ValueOperator]:
    """Independent Q networks of an observation and an action."""
    return [
        ValueOperator(
            mlp(observation, 1, hidden, device, others=action_dim),
            in_keys=["observation", "action"],
        )
        for _ in range(count)
    ]


def gaussian_actor(
    observation: Shape,
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
        mlp(observation, 2 * action_dim, hidden, device, activation),
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


def flow_actor(flow: nn.Module) -> ProbabilisticActor:
    """A flow as TorchRL's actor: samples and log-probabilities of
    :class:`~maxentflow.flows.FlowDistribution`."""
    return ProbabilisticActor(
        TensorDictModule(flows.ObservationOf(flow), ["observation"], ["context"]),
        in_keys={"observation": "context"},
        out_keys=["action"],
        distribution_class=flows.FlowDistribution,
        distribution_kwargs={"flow": flow},
        return_log_prob=True,
    )


def deterministic_actor(
    observation: Shape, action_dim: int, hidden: Sequence[int], device: str
) -> TensorDictModule:
    """An action in [-1, 1] that depends on the observation."""
    network = nn.Sequential(mlp(observation, action_dim, hidden, device), nn.Tanh())
    return TensorDictModule(network, in_keys=["observation"], out_keys=["action"])


def gaussian_noise(action_dim: int, sigma: float, device: str) -> AdditiveGaussianModule:
    """Noise on actions in [-1, 1], of a standard deviation that stays; clipped to the bounds."""
    spec = Bounded(-1.0, 1.0, (action_dim,), device=device)
    return AdditiveGaussianModule(spec, sigma_init=sigma, sigma_end=sigma).to(device)


def categorical_actor(
    observation: Shape,
    n_actions: int,
    hidden: Sequence[int],
    device: str,
    activation: type[nn.Module] = nn.ReLU,
) -> ProbabilisticActor:
    """Discrete actions with logits that depend on the observation."""
    network = mlp(observation, n_actions, hidden, device, activation)
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
