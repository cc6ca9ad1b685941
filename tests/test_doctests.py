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


SLOW = {
    "maxentflow.agents.compiled.ensemble",
    "maxentflow.agents.compiled.trace",
    "maxentflow.agents.compiled.update",
    "maxentflow.agents.training.callbacks",
    "maxentflow.agents.training.collection",
    "maxentflow.agents.training.export",
    "maxentflow.agents.training.statistics",
    "maxentflow.agents.training.trainer",
}


@pytest.mark.usefixtures("no_collections")
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in MODULES],
)
def test_examples(name: str) -> None:
    torch.manual_seed(0)
    module = importlib.import_module(name)
    result = doctest.testmod(module, extraglobs={**NAMES, **vars(module)})
    assert result.failed == 0
