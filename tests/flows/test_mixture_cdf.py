"""Distribution functions of logistic mixtures against scipy, and their roots."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import logistic
from torch import Tensor

from maxentflow.flows import ElementwiseMixtureCDF, MixtureCDFCoupling
from maxentflow.flows.mixture_cdf import _mixture_log_odds

from .cases import HIDDEN, largest, perturb, uniform


def random_mixtures(
    count: int, components: int, *, spread: float, bound: float
) -> tuple[ElementwiseMixtureCDF, Tensor]:
    """A function with parameters ``(count, 3 * components + 2)`` of size ``spread``."""
    function = ElementwiseMixtureCDF(components, bound)
    return function, spread * torch.randn(count, function.parameters_per_entry).double()


@pytest.mark.parametrize("components", [1, 2, 7])
@pytest.mark.parametrize("size", [3.0, 30.0])
def test_log_odds_and_slope_are_those_of_scipys_mixture(components: int, size: float) -> None:
    torch.manual_seed(0)
    x, means = uniform(300, bound=size), uniform(300, components, bound=3)
    logits = uniform(300, components, bound=2)
    log_scales = uniform(300, components, bound=1)
    parts = logistic(means.numpy(), log_scales.exp().numpy())
    points, weights = x.unsqueeze(-1).numpy(), softmax(logits.numpy(), -1)
    below = (weights * parts.cdf(points)).sum(-1)
    above = (weights * parts.sf(points)).sum(-1)
    density = (weights * parts.pdf(points)).sum(-1)
    log_odds, log_slope = _mixture_log_odds(x, logits.T, means.T, log_scales.T)
    np.testing.assert_allclose(log_odds, np.log(below / above), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(log_slope, np.log(density / below / above), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("components", [1, 6])
@pytest.mark.parametrize("bound", [2.0, 5.0])
@pytest.mark.parametrize("spread", [1.0, 5.0, 1000.0])
def test_the_root_is_exact_to_rounding(components: int, bound: float, spread: float) -> None:
    """Far and narrow components too: what is left is rounding of x times the slope there."""
    torch.manual_seed(0)
    function, parameters = random_mixtures(500, components, spread=spread, bound=bound)
    z = uniform(500, bound=50)
    x, log_slope = function.forward(z, parameters)
    z_again, log_slope_back = function.inverse(x, parameters)
    assert torch.equal(log_slope_back, -log_slope)
    assert largest((z_again - z) * log_slope.exp() / (1 + x.abs())) <= 1e-13
    if spread <= 1:
        assert largest(z_again - z) <= 1e-12


@pytest.mark.parametrize(("dtype", "distance"), [(torch.float32, 15.0), (torch.float64, 110.0)])
def test_where_the_slope_underflows_the_root_is_finite(
    dtype: torch.dtype, distance: float
) -> None:
    """Between two narrow components the function is level, and the root anywhere in between."""
    function = ElementwiseMixtureCDF(2)
    parameters = [0, 0, -distance, distance, -50, -50, 0, 0]
    x, log_slope = function.forward(
        torch.zeros(1, dtype=dtype), torch.tensor([parameters]).to(dtype)
    )
    assert -distance < x.item() < distance
    expected = function.inverse(x, torch.tensor([parameters]).to(dtype))[1]
    assert log_slope.item() == -expected.item()
    assert log_slope.isfinite().all()


def test_components_start_apart() -> None:
    function, x = ElementwiseMixtureCDF(4), uniform(100, bound=50)
    z, log_slope = function.inverse(x, torch.zeros(100, 14).double())
    parts = logistic([-1.5, -0.5, 0.5, 1.5])
    below, above = (run(x.numpy()[:, None]).mean(-1) for run in (parts.cdf, parts.sf))
    assert largest(z - torch.from_numpy(np.log(below / above))) <= 1e-12
    slope = parts.pdf(x.numpy()[:, None]).mean(-1) / below / above
    assert largest(log_slope - torch.from_numpy(np.log(slope))) <= 1e-12


@pytest.mark.parametrize(
    "function", [ElementwiseMixtureCDF(1), ElementwiseMixtureCDF(4, spread=0)]
)
def test_without_a_spread_it_starts_as_the_identity(function: ElementwiseMixtureCDF) -> None:
    x = uniform(100, bound=50)
    for run in (function.forward, function.inverse):
        y, log_slope = run(x, torch.zeros(100, function.parameters_per_entry).double())
        assert largest(y - x) <= 1e-12
        assert largest(log_slope) <= 1e-12


@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize("spread", [0.5, 3.0])
def test_gradients_of_the_root_and_its_slope(components: int, spread: float) -> None:
    """Against finite differences, and against the implicit function of the other direction."""
    torch.manual_seed(0)
    function, parameters = random_mixtures(4, components, spread=spread, bound=1.0)
    z, parameters = uniform(4, bound=5).requires_grad_(), parameters.requires_grad_()
    assert torch.autograd.gradcheck(function.forward, (z, parameters), rtol=1e-5, atol=1e-6)
    x, _ = function.forward(z, parameters)
    by_z, by_parameters = torch.autograd.grad(x.sum(), (z, parameters))
    x = x.detach().requires_grad_()
    back_by_x, back_by_parameters = torch.autograd.grad(
        function.inverse(x, parameters)[0].sum(), (x, parameters)
    )
    assert largest(by_z - 1 / back_by_x) <= 1e-9 * (1 + largest(by_z))
    expected = -back_by_parameters / back_by_x.unsqueeze(-1)
    assert largest(by_parameters - expected) <= 1e-9 * (1 + largest(expected))


@pytest.mark.parametrize("direction", ["forward", "inverse"])
@pytest.mark.parametrize("bound", [2.0, 5.0])
def test_single_precision_stays_finite_far_out(direction: str, bound: float) -> None:
    torch.manual_seed(0)
    function, parameters = random_mixtures(300, 5, spread=50.0, bound=bound)
    parameters = parameters.float().requires_grad_()
    z = torch.tensor([-50.0, 0.1, 50.0]).repeat(100).requires_grad_()
    x, log_slope = getattr(function, direction)(z, parameters)
    gradients = torch.autograd.grad(x.sum() + log_slope.sum(), [z, parameters])
    assert all(value.isfinite().all() for value in (x, log_slope, *gradients))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_harms_its_own_row_alone(value: float) -> None:
    torch.manual_seed(0)
    function, parameters = random_mixtures(3, 3, spread=1.0, bound=2.0)
    z = torch.tensor([0.5, value, -2.0], dtype=torch.float64)
    x, log_slope = function.forward(z, parameters)
    expected, expected_log_slope = function.forward(z[::2], parameters[::2])
    assert not x[1].isfinite()
    assert largest(x[::2] - expected) <= 1e-12
    assert largest(log_slope[::2] - expected_log_slope) <= 1e-12


@pytest.mark.slow
def test_acting_compiles_whole_with_its_gradients() -> None:
    torch.manual_seed(0)
    torch.compiler.reset()
    layer = perturb(MixtureCDFCoupling(2, 3, mask="odd", hidden=HIDDEN)).double().eval()
    z, context = uniform(5, 2, bound=3).requires_grad_(), uniform(5, 3, bound=2)
    leaves = [z, *layer.parameters()]
    results = []
    for run in (layer, torch.compile(layer, backend="aot_eager", fullgraph=True)):
        x, log_det = run(z, context)
        results.append([x, log_det, *torch.autograd.grad(x.sum() + log_det.sum(), leaves)])
    for eager, compiled in zip(*results, strict=True):
        assert largest(eager - compiled) <= 1e-10 * (1 + largest(eager))


@pytest.mark.parametrize("mapped", [(True, True), (False, True), (True, False)])
def test_vmap_gives_what_a_loop_gives(mapped: tuple[bool, bool]) -> None:
    torch.manual_seed(0)
    function, parameters = random_mixtures(12, 3, spread=1.0, bound=2.0)
    both = (uniform(3, 4, bound=5), parameters.unflatten(0, (3, 4)))
    given = [stack if m else stack[0] for stack, m in zip(both, mapped, strict=True)]
    in_dims = tuple(0 if m else None for m in mapped)
    x, log_slope = torch.func.vmap(function.forward, in_dims)(*given)
    for i in range(3):
        row = [stack[i if m else 0] for stack, m in zip(both, mapped, strict=True)]
        expected, expected_log_slope = function.forward(*row)
        assert largest(x[i] - expected) <= 1e-12
        assert largest(log_slope[i] - expected_log_slope) <= 1e-12


@pytest.mark.parametrize("spread", [-1.0, math.inf, math.nan])
def test_spreads_out_of_range_are_refused(spread: float) -> None:
    with pytest.raises(ValueError, match=f"spread must be finite and not negative, got {spread}"):
        ElementwiseMixtureCDF(spread=spread)


@pytest.mark.parametrize("components", [0, -1])
def test_components_below_one_are_refused(components: int) -> None:
    with pytest.raises(ValueError, match=f"components must be at least 1, got {components}"):
        ElementwiseMixtureCDF(components)
