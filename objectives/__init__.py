"""TorchRL loss modules for maximum-entropy objectives."""

from maxentflow.objectives.maximum_likelihood import DensityModel, MaximumLikelihoodLoss
from maxentflow.objectives.soft_bellman import SoftBellmanLoss, SoftValueModel
from maxentflow.objectives.stein import SteinSoftQLoss, stein_direction
from maxentflow.objectives.updaters import (
    DelayedUpdate,
    PolyakUpdate,
    UpdaterChain,
    WeightAverage,
)

__all__ = [
    "DelayedUpdate",
    "DensityModel",
    "MaximumLikelihoodLoss",
    "PolyakUpdate",
    "SoftBellmanLoss",
    "SoftValueModel",
    "SteinSoftQLoss",
    "UpdaterChain",
    "WeightAverage",
    "stein_direction",
]
