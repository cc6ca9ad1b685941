"""TorchRL loss modules for maximum-entropy objectives."""

from maxentflow.objectives.maximum_likelihood import DensityModel, MaximumLikelihoodLoss
from maxentflow.objectives.polyak import PolyakUpdate
from maxentflow.objectives.soft_bellman import SoftBellmanLoss, SoftValueModel

__all__ = [
    "DensityModel",
    "MaximumLikelihoodLoss",
    "PolyakUpdate",
    "SoftBellmanLoss",
    "SoftValueModel",
]
