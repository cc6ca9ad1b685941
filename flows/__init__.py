"""Invertible layers with exact log-determinants, and energy-based models."""

from typing import TYPE_CHECKING, Any

from maxentflow.flows import recipes as _recipes  # noqa: F401  registers the architectures
from maxentflow.flows.act_norm import ActNorm
from maxentflow.flows.autoregressive import (
    Autoregressive,
    AutoregressiveAffine,
    AutoregressiveSpline,
)
from maxentflow.flows.base import Base, StandardNormal
from maxentflow.flows.categorical import CategoricalEnergy
from maxentflow.flows.coupling import (
    AdditiveCoupling,
    AffineCoupling,
    ElementwiseCoupling,
    MixtureCDFCoupling,
    SplineCoupling,
)
from maxentflow.flows.describe import describe
from maxentflow.flows.distribution import FlowDistribution, ObservationOf
from maxentflow.flows.elementwise import Elementwise, ElementwiseAffine
from maxentflow.flows.energy import ClosedFormValue, EnergyBasedFlow, ShiftValue
from maxentflow.flows.gaussian_mixture import GaussianMixture
from maxentflow.flows.inverse import Inverse
from maxentflow.flows.layer import Layer
from maxentflow.flows.linear import StateLinear
from maxentflow.flows.mixture_cdf import ElementwiseMixtureCDF
from maxentflow.flows.mlp import MLP, Dropout, Swish
from maxentflow.flows.normalized import (
    DiscountedReturns,
    NormalizedModel,
    ObservationNorm,
    RawActions,
    ReturnScale,
)
from maxentflow.flows.normflows_adapter import NormflowsLayer
from maxentflow.flows.permutation import Permutation
from maxentflow.flows.registry import build, options, register, registered
from maxentflow.flows.residual import ResidualLayer
from maxentflow.flows.scale import StateScale
from maxentflow.flows.shift import RewardShift
from maxentflow.flows.spline import ElementwiseSpline
from maxentflow.flows.squash import SimplexSquash, TanhSquash
from maxentflow.flows.student_t import StudentT
from maxentflow.flows.temperature import LearnedTemperature, ScheduledTemperature, Temperature
from maxentflow.flows.translation import StateTranslation
from maxentflow.flows.twin import TwinFlow
from maxentflow.flows.uniform import Uniform

if TYPE_CHECKING:
    from maxentflow.flows.policy import FlowPolicy

__all__ = [
    "MLP",
    "ActNorm",
    "AdditiveCoupling",
    "AffineCoupling",
    "Autoregressive",
    "AutoregressiveAffine",
    "AutoregressiveSpline",
    "Base",
    "CategoricalEnergy",
    "ClosedFormValue",
    "DiscountedReturns",
    "Dropout",
    "Elementwise",
    "ElementwiseAffine",
    "ElementwiseCoupling",
    "ElementwiseMixtureCDF",
    "ElementwiseSpline",
    "EnergyBasedFlow",
    "FlowDistribution",
    "FlowPolicy",
    "GaussianMixture",
    "Inverse",
    "Layer",
    "LearnedTemperature",
    "MixtureCDFCoupling",
    "NormalizedModel",
    "NormflowsLayer",
    "ObservationNorm",
    "ObservationOf",
    "Permutation",
    "RawActions",
    "ResidualLayer",
    "ReturnScale",
    "RewardShift",
    "ScheduledTemperature",
    "ShiftValue",
    "SimplexSquash",
    "SplineCoupling",
    "StandardNormal",
    "StateLinear",
    "StateScale",
    "StateTranslation",
    "StudentT",
    "Swish",
    "TanhSquash",
    "Temperature",
    "TwinFlow",
    "Uniform",
    "build",
    "describe",
    "options",
    "register",
    "registered",
]


def __getattr__(name: str) -> Any:
    """Import the policy when it is asked for: tensordict takes longer to import than the rest."""
    if name == "FlowPolicy":
        from maxentflow.flows.policy import FlowPolicy

        return FlowPolicy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
