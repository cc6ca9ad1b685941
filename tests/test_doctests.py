"""The examples in docstrings run and print what they say."""

import doctest
import importlib
import pkgutil

import gymnasium
import normflows
import numpy
import pytest
import torch
from tensordict import TensorDict
from torchrl.objectives import SoftUpdate

from maxentflow import agents, envs, flows, objectives

PACKAGES = (flows, objectives, envs, agents)
MODULES = [
    f"{package.__name__}.{module.name}"
    for package in PACKAGES
    for module in pkgutil.iter_modules(package.__path__)
    if module.name != "__main__"
]
NAMES = {
    "gym": gymnasium,
    "normflows": normflows,
    "np": numpy,
    "torch": torch,
    "SoftUpdate": SoftUpdate,
    "TensorDict": TensorDict,
    **{name: getattr(package, name) for package in PACKAGES for name in package.__all__},
}


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    torch.manual_seed(0)
    module = importlib.import_module(name)
    result = doctest.testmod(module, extraglobs={**NAMES, **vars(module)})
    assert result.failed == 0


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_public_classes_and_functions_have_examples(package: object) -> None:
    without = [
        name
        for name in package.__all__
        if callable(entry := getattr(package, name)) and ">>>" not in (entry.__doc__ or "")
    ]
    assert sorted(without) == sorted(EXAMPLE_NOT_NEEDED & set(package.__all__))


EXAMPLE_NOT_NEEDED = {
    # Contracts and plain records, whose use is in the example of what takes them.
    "Agent",
    "Base",
    "BatchingError",
    "ClosedFormValue",
    "CompilationError",
    "DensityModel",
    "Elementwise",
    "Evaluation",
    "Layer",
    "MeowConfig",
    "NonFiniteError",
    "RunFolder",
    "SacConfig",
    "SoftValueModel",
    "TrainerConfig",
}
