"""Rational-quadratic splines against normflows', and their coupling layer."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from normflows.utils.splines import unconstrained_rational_quadratic_spline

from maxentflow.flows import SplineCoupling
from maxentflow.flows.spline import rational_quadratic_spline

from .cases import (
    HIDDEN,
    SEEDS,
    action_grid,
    flow_around,
    largest,
    normalisation_error,
    quick,
    uniform,
)

BINS = st.integers(2, 12)


@quick
@given(seed=SEEDS, bins=BINS, bound=st.floats(0.5, 8), inverse=st.booleans())
def test_it_is_normflows_spline(seed: int, bins: int, bound: float, inverse: bool) -> None:
    torch.manual_seed(seed)
    x, parameters = uniform(200, bound=1.5 * bound), uniform(200, 3 * bins - 1, bound=3)
    ours = rational_quadratic_spline(x, parameters, bound, inverse=inverse, min_bin=1e-3 * bins)
    theirs = unconstrained_rational_quadratic_spline(
        x,
        parameters[:, :bins],
        parameters[:, bins : 2 * bins],
        parameters[:, 2 * bins :] + math.log(math.expm1(1 - 1e-3)),  # where ours has slope 1
        inverse=inverse,
        tails="linear",
        tail_bound=bound,
        min_bin_width=1e-3,
        min_bin_height=1e-3,
        min_derivative=1e-3,
    )
    for our, their in zip(ours, theirs, strict=True):
        assert largest(our - their) <= 1e-9


@pytest.mark.parametrize("bins", [1, 2, 8])
@pytest.mark.parametrize("inverse", [False, True])
def test_parameters_of_zero_give_the_identity(bins: int, inverse: bool) -> None:
    x = uniform(100, bound=4)
    parameters = x.new_zeros(100, 3 * bins - 1)
    y, log_slope = rational_quadratic_spline(x, parameters, 3.0, inverse=inverse)
    assert largest(y - x) <= 1e-12
    assert largest(log_slope) <= 1e-12


@quick
@given(seed=SEEDS, bins=BINS)
def test_value_and_slope_are_continuous_at_the_knots(seed: int, bins: int) -> None:
    torch.manual_seed(seed)
    parameters = uniform(3 * bins - 1, bound=2)
    widths = 1e-3 + (1 - 1e-3 * bins) * parameters[:bins].softmax(0)
    knots = torch.cat([torch.zeros(1).double(), widths.cumsum(0)]) * 6 - 3
    sides = torch.stack([knots - 1e-9, knots + 1e-9])
    y, log_slope = rational_quadratic_spline(sides, parameters.expand(2, bins + 1, -1), 3.0)
    assert largest(y[0] - y[1]) <= 1e-6
    assert largest(log_slope[0] - log_slope[1]) <= 1e-4
    assert (y[:, 1:] > y[:, :-1]).all()


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("bins", [1, 8, 100])
def test_single_precision_at_the_knots_and_the_ends(bins: int, inverse: bool) -> None:
    """Wherever rounding puts the bin's edge, values stay in the interval and slopes positive."""
    torch.manual_seed(0)
    parameters = (5 * torch.randn(50, 1, 3 * bins - 1)).requires_grad_()
    raw = parameters[..., bins : 2 * bins] if inverse else parameters[..., :bins]
    sizes = 1e-3 + (1 - 1e-3 * bins) * raw.detach().softmax(-1)
    knots = (sizes.cumsum(-1) * 6 - 3).squeeze(1).clamp(-3, 3)
    ends = torch.tensor([-3.0, 3.0]).expand(50, 2)
    infinity = torch.tensor(math.inf)
    x = torch.cat([knots, knots.nextafter(infinity), knots.nextafter(-infinity), ends], dim=-1)
    x.requires_grad_()
    y, log_slope = rational_quadratic_spline(
        x, parameters.expand(50, x.shape[1], -1), 3.0, inverse=inverse
    )
    gradients = torch.autograd.grad(y.sum() + log_slope.sum(), [x, parameters])
    assert all(value.isfinite().all() for value in (y, log_slope, *gradients))
    inside = x.abs() <= 3
    assert y[inside].abs().max() <= 3 + 1e-5


@pytest.mark.parametrize("squash", [True, False])
@pytest.mark.quick_for("True")
def test_a_density_of_splines_is_normalised(squash: bool) -> None:
    """Its slope has kinks, so the trapezoid rule needs many points."""
    torch.manual_seed(0)
    flow = flow_around(SplineCoupling(1, 3, mask="odd", hidden=HIDDEN, bound=3.0), squash, 1)
    grid = action_grid(1, squash, points=100_001)
    assert normalisation_error(flow, grid, uniform(3, 3, bound=2)) <= 1e-6


@pytest.mark.parametrize("bins", [0, -1])
def test_bins_out_of_range_are_refused(bins: int) -> None:
    with pytest.raises(ValueError, match=f"bins must be at least 1, got {bins}"):
        SplineCoupling(2, 3, bins=bins)


@pytest.mark.parametrize("option", [{"min_bin": 0.0}, {"min_bin": 1.0}, {"min_slope": -0.1}])
def test_limits_out_of_range_are_refused(option: dict) -> None:
    with pytest.raises(ValueError, match="min_bin and min_slope must be between 0 and 1, got"):
        SplineCoupling(2, 3, **option)


@pytest.mark.parametrize("min_bin", [0.01, 0.5])
@pytest.mark.parametrize("min_slope", [1e-3, 0.3])
def test_the_steepest_bin_and_the_least_slope(min_bin: float, min_slope: float) -> None:
    """The first of four bins as narrow and as high as it can be, with level ends."""
    extreme = torch.tensor([-99.0, 0, 0, 0, 99, 0, 0, 0, -99, -99, -99], dtype=torch.float64)
    narrow, high = min_bin / 4, min_bin / 4 + 1 - min_bin
    knot = torch.tensor(-1 + 2 * narrow, dtype=torch.float64)
    y, log_slope = rational_quadratic_spline(
        knot, extreme, 1.0, min_bin=min_bin, min_slope=min_slope
    )
    assert y.item() == pytest.approx(-1 + 2 * high, abs=1e-12)
    assert log_slope.exp().item() == pytest.approx(min_slope, rel=1e-9)


@pytest.mark.parametrize("bound", [0.0, -1.0, float("inf"), float("nan")])
def test_a_bound_that_is_not_positive_is_refused(bound: float) -> None:
    with pytest.raises(ValueError, match=f"bound must be positive and finite, got {bound}"):
        SplineCoupling(2, 3, bound=bound)
