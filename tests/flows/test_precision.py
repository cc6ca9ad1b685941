"""Gradients against central differences in double precision; half precision is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from maxentflow.flows import EnergyBasedFlow, registered

from .cases import make_flow, perturb, uniform

over_registered = pytest.mark.parametrize("name", registered())
STEP = 1e-5


def make(name: str) -> tuple[EnergyBasedFlow, Tensor, Tensor]:
    """A flow with actions and observations; with weights that a bound acts on."""
    torch.manual_seed(0)
    flow = perturb(make_flow(name, 2, 3, hidden=(8, 8)), 0.3).double().eval()
    return flow, uniform(6, 2, bound=0.9), uniform(6, 3, bound=2)


def weighted(*outputs: Tensor) -> Tensor:
    """A sum in which no two entries count the same."""
    flat = torch.cat([output.flatten() for output in outputs])
    return flat @ torch.linspace(0.5, 1.5, len(flat), dtype=flat.dtype)


def check(leaves: dict[str, Tensor], loss: Callable[[], Tensor]) -> None:
    """Of every leaf, the slope along a random direction."""
    gradients = torch.autograd.grad(
        loss(), list(leaves.values()), allow_unused=True, materialize_grads=True
    )
    for (key, leaf), gradient in zip(leaves.items(), gradients, strict=True):
        direction = torch.randn_like(leaf)
        sides = []
        with torch.no_grad():
            for sign in (1, -1):
                leaf.add_(sign * STEP * direction)
                sides.append(loss())
                leaf.sub_(sign * STEP * direction)
        expected = ((sides[0] - sides[1]) / (2 * STEP)).item()
        slope = (gradient * direction).sum().item()
        assert slope == pytest.approx(expected, rel=1e-5, abs=2e-7), key


@over_registered
def test_gradients_of_log_prob_and_q(name: str) -> None:
    flow, action, observation = make(name)
    leaves = {
        **dict(flow.named_parameters()),
        "action": action.requires_grad_(),
        "observation": observation.requires_grad_(),
    }

    def loss() -> Tensor:
        q, v = flow.q_and_value(action, observation)
        return weighted(flow.log_prob(action, observation), q, 0.3 * v)

    check(leaves, loss)


@over_registered
@pytest.mark.parametrize("output", [0, 1], ids=["action", "log_prob"])
def test_gradients_of_samples(name: str, output: int) -> None:
    flow, _, observation = make(name)
    leaves = {**dict(flow.layers.named_parameters()), "observation": observation.requires_grad_()}

    def loss() -> Tensor:
        torch.manual_seed(1)
        return weighted(flow.sample(observation)[output])

    check(leaves, loss)


@over_registered
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "method", ["q_value", "q_and_value", "log_prob", "value", "mode", "sample", "value_module"]
)
def test_half_precision_is_refused(name: str, dtype: torch.dtype, method: str) -> None:
    flow = make_flow(name, 2, 3).to(dtype)
    observation = torch.zeros(5, 3, dtype=dtype)
    with_action = method in ("q_value", "q_and_value", "log_prob")
    inputs = (torch.zeros(5, 2, dtype=dtype), observation) if with_action else (observation,)
    function = flow.value_module() if method == "value_module" else getattr(flow, method)
    with pytest.raises(ValueError, match=f"must be float32 or float64, .* got {dtype}"):
        function(*inputs)


@over_registered
def test_autocast_is_refused(name: str) -> None:
    flow = make_flow(name, 2, 3)
    inputs = torch.zeros(5, 2), torch.zeros(5, 3)
    message = "Turn autocast off around a flow"
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match=message):
        flow.log_prob(*inputs)
    assert flow.log_prob(*inputs).isfinite().all()
