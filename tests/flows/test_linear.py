"""The state-conditioned linear map against torch's own linear algebra."""

from __future__ import annotations

import math

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


def test_it_is_its_formula() -> None:
    torch.manual_seed(0)
    layer = perturb(StateLinear(3, 2, hidden=HIDDEN, max_log_scale=0.7), 1.0).double()
    x, context = uniform(5, 3, bound=3), uniform(5, 2, bound=2)
    for row, c, z in zip(x, context, layer.inverse(x, context)[0], strict=True):
        raw = layer.net(c).reshape(3, 3)
        below, above, on = raw.tril(-1), raw.triu(1), raw.diagonal()
        lower = torch.eye(3).double() + below / (1 + below.square().sum()).sqrt()
        upper = torch.eye(3).double() + above / (1 + above.square().sum()).sqrt()
        diagonal = torch.diag((on / (1 + on.abs() / 0.7)).exp())
        assert largest(z - lower @ diagonal @ upper @ row) <= 1e-12


def worst(layer: StateLinear, raw: torch.Tensor) -> StateLinear:
    """The layer with a matrix of the network's that is given."""
    layer.net.value.data = raw.flatten().to(layer.net.value)
    return layer


def shears(dim: int, size: float) -> dict[str, torch.Tensor]:
    """Matrices that make triangles with large entries as ill-conditioned as they can be."""
    ones, signs = torch.ones(dim, dim), (-1.0) ** torch.arange(dim)
    diagonal = signs.diag()
    raw = {
        "neighbours": ones.triu(-1).tril(1) - torch.eye(dim),
        "same signs": -ones,
        "signs in turn": signs.outer(signs),
        "random": torch.randn(dim, dim),
    }
    return {key: size * (value.tril(-1) + value.triu(1) + diagonal) for key, value in raw.items()}


@pytest.mark.parametrize("dim", [1, 2, 3, 6, 17])
@pytest.mark.parametrize("size", [0.3, 3.0, 1e4, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_condition_number_keeps_its_bound_and_round_trips_their_digits(
    dim: int, size: float, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    bound = 0.5
    most = 50 * math.exp(2 * bound)
    for raw in shears(dim, size).values():
        layer = worst(StateLinear(dim, max_log_scale=bound), raw).to(dtype)
        matrix = layer(torch.eye(dim, dtype=dtype))[0].mT
        assert torch.linalg.cond(matrix.double()) <= most
        z = torch.randn(100, dim, dtype=dtype)
        for there, back in ((layer, layer.inverse), (layer.inverse, layer)):
            x, log_det = there(z)
            again, log_det_back = back(x)
            assert largest(again - z) <= most * torch.finfo(dtype).eps * largest(z)
            assert largest(log_det + log_det_back) <= 1e-6
        expected = torch.linalg.slogdet(matrix.double())
        assert expected.sign == 1
        assert largest(expected.logabsdet - layer(z)[1]) <= 50 * dim * torch.finfo(dtype).eps


@pytest.mark.parametrize("size", [0.0, 1.0, 1e4, 1e30])
def test_gradients_are_finite_at_any_size(size: float) -> None:
    layer = worst(StateLinear(3), shears(3, size)["same signs"])
    z = torch.randn(4, 3)
    for direction in (layer, layer.inverse):
        x, log_det = direction(z)
        (gradient,) = torch.autograd.grad(x.sum() + log_det.sum(), layer.net.value)
        assert gradient.isfinite().all()
        assert gradient.any() or size > 1e4


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
