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


def check(leaves: dict[str, Tensor], losses: Callable[[], list[Tensor]]) -> None:
    """Of every leaf, the slope of each loss along a random direction."""
    gradients = [
        torch.autograd.grad(
            loss,
            list(leaves.values()),
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        for loss in losses()
    ]
    for (key, leaf), *slopes in zip(leaves.items(), *gradients, strict=True):
        direction = torch.randn_like(leaf)
        sides = []
        with torch.no_grad():
            for sign in (1, -1):
                leaf.add_(sign * STEP * direction)
                sides.append(losses())
                leaf.sub_(sign * STEP * direction)
        for gradient, after, before in zip(slopes, *sides, strict=True):
            expected = ((after - before) / (2 * STEP)).item()
            slope = (gradient * direction).sum().item()
            assert slope == pytest.approx(expected, rel=1e-5, abs=2e-7), key


@over_registered
@pytest.mark.quick_for("additive", "maf")
def test_gradients_of_log_prob_and_q(name: str) -> None:
    flow, action, observation = make(name)
    leaves = {
        **dict(flow.named_parameters()),
        "action": action.requires_grad_(),
        "observation": observation.requires_grad_(),
    }

    def losses() -> list[Tensor]:
        q, v = flow.q_and_value(action, observation)
        return [weighted(flow.log_prob(action, observation), q, 0.3 * v)]

    check(leaves, losses)


@over_registered
@pytest.mark.quick_for("additive", "maf")
def test_gradients_of_samples(name: str) -> None:
    flow, _, observation = make(name)
    leaves = {**dict(flow.layers.named_parameters()), "observation": observation.requires_grad_()}

    def losses() -> list[Tensor]:
        torch.manual_seed(1)
        return [weighted(output) for output in flow.sample(observation)]

    check(leaves, losses)


@over_registered
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused(name: str, dtype: torch.dtype) -> None:
    flow = make_flow(name, 2, 3).to(dtype)
    action, observation = torch.zeros(5, 2, dtype=dtype), torch.zeros(5, 3, dtype=dtype)
    for function in (flow.q_value, flow.q_and_value, flow.log_prob):
        with pytest.raises(ValueError, match=f"must be float32 or float64, .* got {dtype}"):
            function(action, observation)
    for function in (flow.value, flow.mode, flow.sample, flow.value_module()):
        with pytest.raises(ValueError, match=f"must be float32 or float64, .* got {dtype}"):
            function(observation)


@over_registered
def test_autocast_is_refused(name: str) -> None:
    flow = make_flow(name, 2, 3)
    inputs = torch.zeros(5, 2), torch.zeros(5, 3)
    message = "Turn autocast off around a flow"
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match=message):
        flow.log_prob(*inputs)
    assert flow.log_prob(*inputs).isfinite().all()
