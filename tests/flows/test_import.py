"""What importing the package loads."""

from __future__ import annotations

import subprocess
import sys

import pytest

from maxentflow import flows

# Each takes longer to import than the package, or is no dependency of a density.
ON_DEMAND = ("tensordict", "torchrl", "gymnasium", "mujoco", "matplotlib", "torch._dynamo")


SCRIPT = """
import sys, torch, normflows
before = set(sys.modules)
import maxentflow.flows
print(*sorted(set(sys.modules) - before))
from maxentflow.flows import FlowPolicy
assert maxentflow.flows.FlowPolicy is FlowPolicy
print(*sorted(set(sys.modules) - before))
"""


def test_the_package_loads_no_more_than_torch_and_normflows_and_the_policy_on_demand() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found, with_policy = (set(line.split()) for line in done.stdout.splitlines())
    assert "maxentflow.flows.energy" in found
    assert not found.intersection(ON_DEMAND)
    foreign = {name for name in found if name.split(".")[0] in ("torch", "scipy", "numpy")}
    assert not foreign
    assert with_policy >= {"maxentflow.flows.policy", "tensordict"}


def test_every_public_name_is_there_and_no_other() -> None:
    for name in flows.__all__:
        assert getattr(flows, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'FlowPolice'"):
        _ = flows.FlowPolice
