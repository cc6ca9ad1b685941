"""Training compiled by Inductor, the compiler that users get by default, against eager."""

from __future__ import annotations

import subprocess
import sys

import pytest

COMPARE = """
import sys
import torch
from maxentflow import flows

torch.set_num_threads(1)
for case in sys.argv[1:]:
    print(case, file=sys.stderr, flush=True)
    torch.manual_seed(0)
    module, method, inputs = eval(case)
    eager = getattr(module.train(), method)
    # Eager random numbers: the same masks.
    compiled = torch.compile(eager, options={"fallback_random": True})
    results = []
    for run in (eager, compiled):
        module.zero_grad()
        torch.manual_seed(1)
        output = run(*inputs)
        output.square().sum().backward()
        results.append([output, *(p.grad for p in module.parameters())])
    for expected, found in zip(*results, strict=True):
        error = (found - expected).abs().max() / (1 + expected.abs().max())
        assert error <= 1e-5, error
    assert not torch.equal(output, eager(*inputs)), "no unit was dropped"
"""

_NETWORK = "dropout=0.1, layer_norm=True"
CASES = [
    f"flows.MLP(3, 2, {_NETWORK}), '__call__', [torch.randn(256, 3)]",
    f"flows.MLP(3, 2, hidden=(37, 5), {_NETWORK}), '__call__', [torch.randn(33, 3)]",
    "flows.build('additive', 2, 3, temperature=0.25, blocks=1), 'q_value', "
    "[torch.rand(64, 2) - 0.5, torch.randn(64, 3)]",
]


@pytest.mark.slow
@pytest.mark.xdist_group("compile")
def test_dropout_and_layer_norm_forward_and_backward() -> None:
    """In a process of its own, so that a crash of the compiled code is a failed test."""
    done = subprocess.run([sys.executable, "-c", COMPARE, *CASES], capture_output=True, text=True)
    assert done.returncode == 0, f"exit status {done.returncode}: {done.stderr[-2000:]}"
