"""Invertible layers with exact log-determinants, and the energy-based flow made of them."""

from maxentflow.flows.base import Base, StandardNormal
from maxentflow.flows.coupling import AdditiveCoupling, AffineCoupling
from maxentflow.flows.energy import ClosedFormValue, EnergyBasedFlow
from maxentflow.flows.inverse import Inverse
from maxentflow.flows.layer import Layer
from maxentflow.flows.linear import StateLinear
from maxentflow.flows.mlp import MLP, Dropout, Swish
from maxentflow.flows.normflows_adapter import NormflowsLayer
from maxentflow.flows.permutation import Permutation
from maxentflow.flows.policy import FlowPolicy
from maxentflow.flows.registry import build, options, register, registered
from maxentflow.flows.scale import StateScale
from maxentflow.flows.shift import RewardShift
from maxentflow.flows.spline import SplineCoupling
from maxentflow.flows.squash import TanhSquash

__all__ = [
    "MLP",
    "AdditiveCoupling",
    "AffineCoupling",
    "Base",
    "ClosedFormValue",
    "Dropout",
    "EnergyBasedFlow",
    "FlowPolicy",
    "Inverse",
    "Layer",
    "NormflowsLayer",
    "Permutation",
    "RewardShift",
    "SplineCoupling",
    "StandardNormal",
    "StateLinear",
    "StateScale",
    "Swish",
    "TanhSquash",
    "build",
    "options",
    "register",
    "registered",
]
