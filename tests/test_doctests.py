"""The examples in docstrings run and print what they say."""

import doctest
import importlib
import pkgutil
from dataclasses import dataclass

import gymnasium
import normflows
import numpy
import pytest
import torch
from tensordict import TensorDict
from torchrl.objectives import SoftUpdate

from maxentflow import agents, envs, flows, objectives

PACKAGES = (flows, objectives, envs, agents)
ALL = (*PACKAGES, agents.compiled, agents.training)
MODULES = [
    module.name
    for package in PACKAGES
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not module.name.endswith("__main__")
]
NAMES = {
    "gym": gymnasium,
    "normflows": normflows,
    "np": numpy,
    "torch": torch,
    "SoftUpdate": SoftUpdate,
    "TensorDict": TensorDict,
    "dataclass": dataclass,
    "nn": torch.nn,
    **{name: getattr(package, name) for package in ALL for name in package.__all__},
}


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    torch.manual_seed(0)
    module = importlib.import_module(name)
    result = doctest.testmod(module, extraglobs={**NAMES, **vars(module)})
    assert result.failed == 0


@pytest.mark.parametrize("package", ALL, ids=lambda package: package.__name__)
def test_public_classes_and_functions_have_examples(package: object) -> None:
    without = [
        name
        for name in package.__all__
        if callable(entry := getattr(package, name)) and ">>>" not in (entry.__doc__ or "")
    ]
    assert sorted(without) == sorted(EXAMPLE_NOT_NEEDED & set(package.__all__))


EXAMPLE_NOT_NEEDED = {
    # Contracts and plain records, whose use is in the example of what takes them.
    "Base",
    "ClosedFormValue",
    "CompilationError",
    "DensityModel",
    "Elementwise",
    "Evaluation",
    "Experience",
    "Layer",
    "MeowConfig",
    "NonFiniteError",
    "PpoConfig",
    "Rollout",
    "RunFolder",
    "SacConfig",
    "SoftQConfig",
    "SoftValueModel",
    "Step",
    "Td3Config",
    "TrainerConfig",
    "record_video",
}
