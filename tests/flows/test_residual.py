"""Residual layers: the contraction's bound, its Jacobian, and the root."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from maxentflow.flows import ResidualLayer
from maxentflow.flows.residual import _activate, _contraction_and_jacobian, spectral_norm_bound

from .cases import HIDDEN, largest, perturb, uniform


def _singular(*values: float) -> Tensor:
    """A square matrix with these singular values."""
    left, right = (
        torch.linalg.qr(torch.randn(len(values), len(values)).double())[0] for _ in "uv"
    )
    return left @ torch.tensor(values).double().diag() @ right


MATRICES = {
    "1x1": lambda: torch.randn(1, 1),
    "64x2": lambda: torch.randn(64, 2),
    "2x64": lambda: torch.randn(2, 64),
    "64x64": lambda: torch.randn(64, 64),
    "128x16": lambda: torch.randn(128, 16),
    "orthogonal": lambda: _singular(*[1.0] * 64),
    "rank 1": lambda: torch.randn(64, 1) @ torch.randn(1, 64),
    "ill-conditioned": lambda: _singular(*(10.0 ** -(i / 4) for i in range(64))),
    "nearly equal": lambda: _singular(*(1 - 1e-3 * i for i in range(64))),
}


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_the_bound_is_never_below_the_norm_and_hardly_above(
    name: str, dtype: torch.dtype, size: float
) -> None:
    torch.manual_seed(0)
    for _ in range(5):
        weight = (size * MATRICES[name]()).to(dtype).requires_grad_()
        bound = spectral_norm_bound(weight)
        norm = torch.linalg.svdvals(weight.detach().double())[0]
        assert norm <= bound.double() <= 1.035 * norm
        (gradient,) = torch.autograd.grad(bound, weight)
        # Of a homogeneous function: the slope along the weight is the value.
        assert (gradient * weight).sum().item() == pytest.approx(bound.item(), rel=1e-4)


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (3, 5), (5, 3), (4, 4)])
def test_the_bounds_gradient_is_its_own(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    weights = torch.randn(3, *shape, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        spectral_norm_bound, weights[0].requires_grad_(), rtol=1e-6, atol=1e-7
    )
    weights = weights.detach()
    gradients = torch.func.vmap(torch.func.grad(spectral_norm_bound))(weights)
    for weight, bound, gradient in zip(
        weights, torch.func.vmap(spectral_norm_bound)(weights), gradients, strict=True
    ):
        weight.requires_grad_()
        expected = spectral_norm_bound(weight)
        assert largest(bound - expected) <= 1e-12
        assert largest(gradient - torch.autograd.grad(expected, weight)[0]) <= 1e-12


def test_a_matrix_of_zeros_has_a_bound_and_a_gradient() -> None:
    weight = torch.zeros(5, 4, requires_grad=True)
    bound = spectral_norm_bound(weight)
    assert 0 <= bound.item() <= 1e-30
    assert torch.autograd.grad(bound, weight)[0].isfinite().all()
    layer = ResidualLayer(2, hidden=(4,), init="zero")
    z = torch.randn(3, 2)
    x, log_det = layer(z)
    assert largest(log_det) == 0
    gradients = torch.autograd.grad(x.sum() + log_det.sum(), list(layer.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("beta", [-2.0, 0.0, 0.3, 1.0, 50.0])
def test_the_activation_is_nowhere_steeper_than_one(beta: float) -> None:
    h = torch.linspace(-40, 40, 100_001, dtype=torch.float64).requires_grad_()
    value, slope = _activate(h, torch.tensor(beta))
    (expected,) = torch.autograd.grad(value.sum(), h)
    assert largest(slope - expected) <= 1e-12
    assert largest(slope) <= 1
    assert largest(slope) >= (0.999 if beta else 0.45)


@pytest.mark.parametrize("lipschitz", [0.5, 0.99])
@pytest.mark.parametrize("noise", [0.0, 1.0, 10.0])
@pytest.mark.parametrize("dim", [1, 3])
def test_g_contracts_whatever_the_weights(lipschitz: float, noise: float, dim: int) -> None:
    torch.manual_seed(0)
    layer = ResidualLayer(dim, 2, hidden=HIDDEN, lipschitz=lipschitz)
    layer = perturb(layer, noise).double()
    context = uniform(2, bound=2)

    def g(x: Tensor) -> Tensor:
        return layer.inverse(x, context)[0] - x

    with torch.no_grad():
        x = uniform(500, dim, bound=5)
        for y in (uniform(500, dim, bound=5), x + 1e-3 * torch.randn_like(x)):
            stretch = (g(x) - g(y)).norm(dim=-1) / (x - y).norm(dim=-1)
            assert stretch.max() <= lipschitz + 1e-9
    norms = [
        torch.linalg.matrix_norm(torch.autograd.functional.jacobian(g, row), 2) for row in x[:20]
    ]
    assert 1e-3 < max(norms) <= lipschitz + 1e-12
    weights = layer._contraction()[0]
    assert math.prod(torch.linalg.svdvals(w)[0].item() for w in weights) <= lipschitz + 1e-12


@pytest.mark.parametrize("dim", [1, 2, 4])
@pytest.mark.parametrize("hidden", [(5,), (6, 7, 5)])
def test_the_jacobian_beside_g_is_autograds(dim: int, hidden: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = perturb(ResidualLayer(dim, 2, hidden=hidden), 1.0).double()
    x, context = uniform(3, dim, bound=3), uniform(3, 2, bound=2)
    x, offset = layer._offset(x, context)
    parameters = layer._contraction()
    g, jacobian = _contraction_and_jacobian(x, offset, *parameters)
    assert largest(layer.inverse(x, context)[0] - (x + g)) <= 1e-12
    for i in range(3):
        expected = torch.autograd.functional.jacobian(
            lambda row: _contraction_and_jacobian(row, offset[i], *parameters)[0],  # noqa: B023
            x[i],
        )
        assert largest(expected) > 0
        assert largest(jacobian[i] - expected) <= 1e-12


@pytest.mark.parametrize("lipschitz", [0.1, 0.9, 0.99])
@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("noise", [0.3, 10.0])
@pytest.mark.quick_for("10.0-1")
def test_the_root_is_exact_where_g_nearly_stretches(
    lipschitz: float, dim: int, noise: float
) -> None:
    torch.manual_seed(0)
    layer = ResidualLayer(dim, 3, hidden=HIDDEN, lipschitz=lipschitz)
    layer = perturb(layer, noise).double()
    x, context = uniform(200, dim, bound=50), uniform(200, 3, bound=2)
    z, log_det = layer.inverse(x, context)
    x_again, log_det_back = layer(z, context)
    assert largest(x_again - x) <= 1e-10
    assert largest(log_det + log_det_back) <= 1e-10


@pytest.mark.parametrize("direction", ["forward", "inverse"])
@pytest.mark.parametrize("noise", [0.0, 2.0])
@pytest.mark.quick_for("2.0-")
def test_gradients_against_finite_differences(direction: str, noise: float) -> None:
    """Of every input and parameter, with weights within their bounds and beyond."""
    torch.manual_seed(0)
    layer = ResidualLayer(2, 1, hidden=(3, 3), init="default")
    layer = perturb(layer, noise).double()
    names, parameters = zip(*layer.named_parameters(), strict=True)
    beyond = [spectral_norm_bound(linear.weight) > 1 for linear in layer.linears]
    assert any(beyond) == (noise > 0)

    def run(z: Tensor, context: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
        state = dict(zip(names, values, strict=True))
        return torch.func.functional_call(_Run(layer, direction), _named(state), (z, context))

    z, context = uniform(3, 2, bound=2).requires_grad_(), uniform(3, 1, bound=2).requires_grad_()
    assert torch.autograd.gradcheck(run, (z, context, *parameters), rtol=1e-5, atol=1e-7)


class _Run(torch.nn.Module):
    """A direction of a layer as a module's forward, which torch.func calls."""

    def __init__(self, layer: ResidualLayer, direction: str) -> None:
        super().__init__()
        self.layer = layer
        self.direction = direction

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        return getattr(self.layer, self.direction)(*inputs)


def _named(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"layer.{name}": value for name, value in state.items()}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_harms_its_own_row_alone(value: float) -> None:
    torch.manual_seed(0)
    layer = perturb(ResidualLayer(2, lipschitz=0.99, hidden=HIDDEN)).double()
    z = torch.tensor([[0.5, 1.0], [value, 0.0], [-2.0, 3.0]], dtype=torch.float64)
    x, log_det = layer(z)
    expected, expected_log_det = layer(z[::2])
    assert not x[1].isfinite().any()
    assert largest(x[::2] - expected) <= 1e-12
    assert largest(log_det[::2] - expected_log_det) <= 1e-12


@pytest.mark.parametrize("lipschitz", [0.0, 1.0, -0.5, 2.0, float("nan")])
def test_a_bound_outside_zero_and_one_is_refused(lipschitz: float) -> None:
    with pytest.raises(ValueError, match=f"lipschitz must be between 0 and 1, got {lipschitz}"):
        ResidualLayer(2, 3, lipschitz=lipschitz)


@pytest.mark.parametrize("hidden", [(), (0,), (8, 0)])
def test_a_layer_without_hidden_units_is_refused(hidden: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"at least one hidden layer, of at least one unit, got"):
        ResidualLayer(2, 3, hidden=hidden)
