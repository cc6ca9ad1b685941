"""The state-conditioned scale: its bounds, its start, its formula."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maxentflow.flows import StateScale
from maxentflow.flows.mlp import Linear

from .cases import SEEDS, largest, perturb, quick, uniform


@quick
@given(seed=SEEDS, low=st.floats(-8, 0), width=st.floats(0.1, 8), noise=st.floats(0, 5))
def test_log_sigma_stays_inside_its_bounds(
    seed: int, low: float, width: float, noise: float
) -> None:
    torch.manual_seed(seed)
    layer = perturb(StateScale(2, 3, bounds=(low, low + width)), noise).double()
    log_sigma = layer.log_sigma(uniform(20, 3, bound=10))
    assert (log_sigma >= low - 1e-12).all()
    assert (log_sigma <= low + width + 1e-12).all()


@pytest.mark.parametrize("bounds", [(-5.0, -0.3), (-2.0, 1.0)])
def test_a_saturated_network_reaches_the_bounds(bounds: tuple[float, float]) -> None:
    layer = StateScale(2, 3, bounds=bounds).double()
    last = [module for module in layer.net if isinstance(module, Linear)][-1]
    last.bias.data = torch.tensor([-1000.0, 1000.0], dtype=torch.float64)
    log_sigma = layer.log_sigma(torch.zeros(3, dtype=torch.float64))
    assert largest(log_sigma - torch.tensor(bounds, dtype=torch.float64)) <= 1e-12


def test_it_multiplies_by_sigma() -> None:
    torch.manual_seed(0)
    layer = perturb(StateScale(2, 3)).double()
    z, context = uniform(5, 2, bound=3), uniform(5, 3, bound=3)
    middle, half = -2.65, 2.35
    log_sigma = middle + half * torch.tanh(layer.net(context))
    x, log_det = layer(z, context)
    assert largest(x - z * log_sigma.exp()) <= 1e-12
    assert largest(log_det - log_sigma.sum(-1)) <= 1e-12


def test_every_weight_starts_at_zero_and_the_scale_near_the_middle() -> None:
    torch.manual_seed(0)
    layer = StateScale(4, 3, bounds=(-5.0, -0.3))
    linear = [module for module in layer.net if isinstance(module, Linear)]
    assert [module.out_features for module in linear] == [64, 64, 4]
    assert all(torch.count_nonzero(module.weight) == 0 for module in linear)
    # The last bias is below 1/8, and |tanh| is below its argument.
    assert ((layer.log_sigma(torch.randn(9, 3)) + 2.65).abs() <= 2.35 / 8).all()


@pytest.mark.parametrize(
    "bounds",
    [(0.0, 0.0), (1.0, -1.0), (float("-inf"), 0.0), (0.0, float("inf")), (float("nan"), 0.0)],
)
def test_bounds_that_do_not_increase_are_refused(bounds: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="bounds of log-sigma must be finite and increasing"):
        StateScale(2, 3, bounds=bounds)


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_a_missing_context_is_refused(direction: str) -> None:
    with pytest.raises(ValueError, match="StateScale needs a context, got None"):
        getattr(StateScale(2, 3), direction)(torch.zeros(5, 2))
