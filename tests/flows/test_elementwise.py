"""Monotone functions entry by entry, and the couplings that apply them."""

from __future__ import annotations

import math

import pytest
import torch

from maxentflow.flows import (
    Elementwise,
    ElementwiseAffine,
    ElementwiseCoupling,
    ElementwiseMixtureCDF,
    ElementwiseSpline,
)

from .cases import HIDDEN, largest, perturb, uniform

FUNCTIONS = (ElementwiseAffine(), ElementwiseSpline(5, 3.0), ElementwiseMixtureCDF(3))
over_functions = pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: type(f).__name__)
over_directions = pytest.mark.parametrize("direction", ["forward", "inverse"])


@pytest.mark.parametrize("bound", [0.5, 2.0])
@pytest.mark.parametrize(("translation", "raw"), [(0.0, 0.0), (-3.0, 0.4), (2.0, 90.0)])
def test_the_affine_function_is_its_formula(bound: float, translation: float, raw: float) -> None:
    function, z = ElementwiseAffine(bound), uniform(7, bound=9)
    parameters = torch.tensor([translation, raw], dtype=torch.float64).expand(7, 2)
    log_scale = raw / (1 + abs(raw) / bound)
    x, log_slope = function.forward(z, parameters)
    assert largest(x - (z - translation) * math.exp(log_scale)) <= 1e-12
    assert largest(log_slope - log_scale) <= 1e-12
    z_again, log_slope = function.inverse(x, parameters)
    assert largest(z_again - z) <= 1e-12
    assert largest(log_slope + log_scale) <= 1e-12


@over_functions
@over_directions
def test_functions_rise_with_the_slope_that_autograd_gives(
    function: Elementwise, direction: str
) -> None:
    torch.manual_seed(0)
    z = uniform(200, bound=6).requires_grad_()
    parameters = uniform(200, function.parameters_per_entry, bound=2)
    x, log_slope = getattr(function, direction)(z, parameters)
    (slope,) = torch.autograd.grad(x.sum(), z)
    assert (slope > 0).all()
    assert largest(slope.log() - log_slope) <= 1e-9


@pytest.mark.parametrize("bound", [0.5, 2.0])
def test_an_affine_coupling_of_its_parts_is_the_formula(bound: float) -> None:
    """The network goes from what passes and the context to a pair for each entry that changes."""
    torch.manual_seed(0)
    function = ElementwiseAffine(bound)
    layer = ElementwiseCoupling(3, 2, function=function, mask=[0, 1, 0], hidden=HIDDEN)
    layer = perturb(layer).double().eval()
    z, context = uniform(5, 3, bound=3), uniform(5, 2, bound=3)
    output = layer.net(torch.cat([z[:, 1:2], context], dim=-1))
    assert output.shape == (5, 4)
    raw = output[:, 1::2]
    log_scale = raw / (1 + raw.abs() / bound)
    x, log_det = layer(z, context)
    assert largest(x[:, ::2] - (z[:, ::2] - output[:, ::2]) * log_scale.exp()) <= 1e-12
    assert largest(log_det - log_scale.sum(-1)) <= 1e-12


@over_functions
@over_directions
@pytest.mark.parametrize("mask", [[1, 0], [0, 1, 0], [1, 0, 1, 0]])
def test_passed_entries_are_untouched_and_the_rest_depend_on_them(
    function: Elementwise, direction: str, mask: list[int]
) -> None:
    torch.manual_seed(0)
    passes = torch.tensor(mask).bool()
    layer = ElementwiseCoupling(len(mask), 2, function=function, mask=mask, hidden=HIDDEN)
    run = getattr(perturb(layer).double().eval(), direction)
    z, context = uniform(len(mask), bound=2), uniform(2, bound=3)
    jacobian = torch.autograd.functional.jacobian(lambda z: run(z, context)[0], z)
    assert torch.equal(run(z, context)[0][passes], z[passes])
    assert torch.equal(jacobian[passes], torch.eye(len(mask)).double()[passes])
    assert (jacobian[~passes][:, passes] != 0).all()
    among_changed = jacobian[~passes][:, ~passes]
    assert torch.equal(among_changed, among_changed.diag().diag())


@over_functions
def test_in_one_dimension_even_is_the_identity_without_a_network(function: Elementwise) -> None:
    z, context = torch.randn(5, 1), torch.randn(5, 3)
    even = ElementwiseCoupling(1, 3, function=function, mask="even")
    assert not list(even.parameters())
    for x, log_det in (even(z, context), even.inverse(z, context)):
        assert torch.equal(x, z)
        assert torch.equal(log_det, torch.zeros(5))
    odd = perturb(ElementwiseCoupling(1, 3, function=function, mask="odd")).eval()
    assert (odd(z, context)[0] - odd(z, context + 1)[0]).abs().min() > 0


@pytest.mark.parametrize("bound", [0.0, -1.0, float("inf"), float("nan")])
@pytest.mark.parametrize(
    "make", [ElementwiseAffine, lambda bound: ElementwiseMixtureCDF(3, max_log_scale=bound)]
)
def test_a_log_scale_bound_that_is_not_positive_is_refused(make, bound: float) -> None:
    with pytest.raises(
        ValueError, match=f"max_log_scale must be positive and finite, got {bound}"
    ):
        make(bound)


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_a_missing_context_is_refused(direction: str) -> None:
    layer = ElementwiseCoupling(2, 3, function=ElementwiseAffine())
    with pytest.raises(ValueError, match="ElementwiseCoupling needs a context, got None"):
        getattr(layer, direction)(torch.zeros(5, 2))
