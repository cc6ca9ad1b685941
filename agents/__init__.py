"""Agents assembled from flows, objectives and environments, and what trains them.

Everything is imported when it is first asked for.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maxentflow.agents import cluster, compiled, training
    from maxentflow.agents.agent import Agent, Rollout, Step
    from maxentflow.agents.bc import BcConfig, bc
    from maxentflow.agents.ddpg import DdpgConfig, ddpg
    from maxentflow.agents.discrete_sac import DiscreteSacConfig, discrete_sac
    from maxentflow.agents.dqn import DqnConfig, dqn
    from maxentflow.agents.flow_sac import FlowSacConfig, flow_sac
    from maxentflow.agents.learner import CompilationError
    from maxentflow.agents.meow import MeowConfig, meow
    from maxentflow.agents.ppo import PpoConfig, ppo
    from maxentflow.agents.registry import config, make, register, registered, summaries
    from maxentflow.agents.sac import SacConfig, sac
    from maxentflow.agents.settings import AgentConfig
    from maxentflow.agents.soft_q import SoftQConfig, soft_q
    from maxentflow.agents.sql import SqlConfig, sql
    from maxentflow.agents.td3 import Td3Config, td3
    from maxentflow.agents.training import (
        Diagnosis,
        Evaluation,
        NonFiniteError,
        Robustness,
        RunFolder,
        Trainer,
        TrainerConfig,
        diagnose,
        evaluate,
        load,
        robustness,
        save,
        train,
    )

__all__ = [
    "Agent",
    "AgentConfig",
    "BcConfig",
    "CompilationError",
    "DdpgConfig",
    "Diagnosis",
    "DiscreteSacConfig",
    "DqnConfig",
    "Evaluation",
    "FlowSacConfig",
    "MeowConfig",
    "NonFiniteError",
    "PpoConfig",
    "Robustness",
    "Rollout",
    "RunFolder",
    "SacConfig",
    "SoftQConfig",
    "SqlConfig",
    "Step",
    "Td3Config",
    "Trainer",
    "TrainerConfig",
    "bc",
    "cluster",
    "compiled",
    "config",
    "ddpg",
    "diagnose",
    "discrete_sac",
    "dqn",
    "evaluate",
    "flow_sac",
    "load",
    "make",
    "meow",
    "ppo",
    "register",
    "registered",
    "robustness",
    "sac",
    "save",
    "soft_q",
    "sql",
    "summaries",
    "td3",
    "train",
    "training",
]

_MODULES = {
    "agent": ("Agent", "Rollout", "Step"),
    "bc": ("BcConfig", "bc"),
    "ddpg": ("DdpgConfig", "ddpg"),
    "discrete_sac": ("DiscreteSacConfig", "discrete_sac"),
    "dqn": ("DqnConfig", "dqn"),
    "flow_sac": ("FlowSacConfig", "flow_sac"),
    "sql": ("SqlConfig", "sql"),
    "learner": ("CompilationError",),
    "meow": ("MeowConfig", "meow"),
    "ppo": ("PpoConfig", "ppo"),
    "registry": ("config", "make", "register", "registered", "summaries"),
    "sac": ("SacConfig", "sac"),
    "settings": ("AgentConfig",),
    "soft_q": ("SoftQConfig", "soft_q"),
    "td3": ("Td3Config", "td3"),
    "training": (
        "Diagnosis",
        "Evaluation",
        "NonFiniteError",
        "Robustness",
        "RunFolder",
        "Trainer",
        "TrainerConfig",
        "diagnose",
        "evaluate",
        "load",
        "robustness",
        "save",
        "train",
    ),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in ("cluster", "compiled", "training"):
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


class _Package(ModuleType):
    """Python sets ``agents.sac`` to the module when the file sac.py is imported; here it is the
    function of that name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and name in _HOME:
            value = getattr(value, name)
        super().__setattr__(name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        """As other modules are pickled by cloudpickle: by name."""
        return importlib.import_module, (self.__name__,)


sys.modules[__name__].__class__ = _Package
