"""The state-conditioned linear map against torch's own linear algebra."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maxentflow.flows import StateLinear

from .cases import (
    HIDDEN,
    SEEDS,
    action_grid,
    flow_around,
    largest,
    normalisation_error,
    perturb,
    quick,
    uniform,
)


@quick
@given(seed=SEEDS, dim=st.integers(1, 5))
def test_it_is_a_matrix_with_that_determinant(seed: int, dim: int) -> None:
    torch.manual_seed(seed)
    layer = perturb(StateLinear(dim, 2, hidden=HIDDEN)).double()
    context = uniform(3, 2, bound=2)
    # Row i of the batch holds the images of the unit vectors: the matrix, transposed.
    images, log_det = layer(torch.eye(dim).double(), context.unsqueeze(1))
    matrix = images.mT
    expected = torch.linalg.slogdet(matrix)
    assert (expected.sign == 1).all()
    assert largest(log_det - expected.logabsdet.unsqueeze(-1)) <= 1e-9
    z = uniform(3, dim, bound=3)
    x, _ = layer(z, context)
    assert largest(x - torch.einsum("bij,bj->bi", matrix, z)) <= 1e-12
    assert largest(layer.inverse(x, context)[0] - torch.linalg.solve(matrix, x)) <= 1e-9


def test_entries_depend_on_each_other_and_on_the_context() -> None:
    torch.manual_seed(0)
    layer = perturb(StateLinear(3, 2)).double()
    z, context = uniform(3, bound=1), uniform(2, bound=1)
    by_z, by_context = torch.autograd.functional.jacobian(
        lambda z, c: layer(z, c)[0], (z, context)
    )
    assert (by_z != 0).all()
    assert (by_context != 0).all()


@quick
@given(seed=SEEDS, bound=st.floats(0.1, 4), noise=st.floats(0, 50))
def test_the_log_diagonal_keeps_its_bound(seed: int, bound: float, noise: float) -> None:
    torch.manual_seed(seed)
    layer = perturb(StateLinear(1, 3, hidden=HIDDEN, max_log_scale=bound), noise).double()
    assert largest(layer(uniform(20, 1, bound=1), uniform(20, 3, bound=50))[1]) <= bound + 1e-12


@pytest.mark.parametrize("squash", [True, False])
@pytest.mark.parametrize("dim", [1, 2])
def test_its_determinant_is_counted_in_v(dim: int, squash: bool) -> None:
    torch.manual_seed(0)
    layer = StateLinear(dim, 3, hidden=HIDDEN, max_log_scale=0.5)
    flow = flow_around(layer, squash, dim)
    assert normalisation_error(flow, action_grid(dim, squash), uniform(3, 3, bound=2)) <= 1e-6
    determinants = layer(torch.zeros(3, dim).double(), uniform(3, 3, bound=2))[1]
    assert largest(determinants - determinants[0]) > 1e-3


def test_it_starts_the_same_for_every_context() -> None:
    layer = StateLinear(2, 3)
    z = torch.randn(1, 2).expand(5, 2)
    x, _ = layer(z, torch.randn(5, 3))
    assert torch.equal(x, x[:1].expand(5, 2))
    assert (x - z).abs().max() < 0.5 * z.abs().max()


@pytest.mark.parametrize("bound", [0.0, -1.0, float("inf"), float("nan")])
def test_a_bound_that_is_not_positive_is_refused(bound: float) -> None:
    with pytest.raises(ValueError, match="max_log_scale must be positive and finite, got"):
        StateLinear(2, 3, max_log_scale=bound)


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_a_missing_context_is_refused(direction: str) -> None:
    with pytest.raises(ValueError, match="StateLinear needs a context, got None"):
        getattr(StateLinear(2, 3), direction)(torch.zeros(5, 2))
