"""What importing the package loads."""

from __future__ import annotations

import subprocess
import sys

import pytest

from maxentflow import flows

# Each takes longer to import than the package, or is no dependency of a density.
ON_DEMAND = ("tensordict", "torchrl", "gymnasium", "mujoco", "matplotlib", "torch._dynamo")


def loaded(code: str) -> set[str]:
    """The modules that code loads beside those of torch and normflows."""
    script = f"import sys, torch, normflows; before = set(sys.modules); {code}"
    script += "; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_package_loads_no_third_party_module_beyond_torch_and_normflows() -> None:
    found = loaded("import maxentflow.flows")
    assert not found.intersection(ON_DEMAND)
    foreign = {name for name in found if name.split(".")[0] in ("torch", "scipy", "numpy")}
    assert not foreign


def test_the_policy_is_loaded_when_it_is_asked_for() -> None:
    assert "tensordict" in loaded("from maxentflow.flows import FlowPolicy")
    assert "maxentflow.flows.policy" in loaded("import maxentflow.flows as f; f.FlowPolicy")


def test_every_public_name_is_there_and_no_other() -> None:
    for name in flows.__all__:
        assert getattr(flows, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'FlowPolice'"):
        _ = flows.FlowPolice
