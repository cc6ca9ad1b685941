"""TorchRL loss modules for maximum-entropy objectives."""

from maxentflow.objectives.polyak import PolyakUpdate
from maxentflow.objectives.soft_bellman import SoftBellmanLoss, SoftValueModel

__all__ = ["PolyakUpdate", "SoftBellmanLoss", "SoftValueModel"]
