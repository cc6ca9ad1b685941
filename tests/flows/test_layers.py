"""What every layer promises, ours and those of normflows, against autograd."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from .cases import (
    LAYERS,
    few,
    fitting_dim,
    largest,
    layer_cases,
    perturb,
    quick,
    tolerance,
    uniform,
)

VARIANT = re.compile(r"normflows-(\w+-|Circular)")
pytestmark = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * bool(VARIANT.match(name))) for name in LAYERS],
)

OVER_LAYERS = given(data=st.data())


def jacobian_log_det(direction, x: Tensor, context: Tensor) -> Tensor:
    """log|det| by autograd; that rows do not see each other is a test of its own."""
    x = x.detach().requires_grad_()
    y, _ = direction(x, context)
    options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
    rows = [torch.autograd.grad(y[..., i].sum(), x, **options)[0] for i in range(x.shape[-1])]
    return torch.linalg.slogdet(torch.stack(rows, dim=-2)).logabsdet


@quick
@OVER_LAYERS
def test_forward_and_inverse_undo_each_other(name: str, data: st.DataObject) -> None:
    layer, z, x, context = data.draw(layer_cases(name))
    for direction, back, at in ((layer.forward, layer.inverse, z), (layer.inverse, layer, x)):
        y, log_det = direction(at, context)
        again, log_det_back = back(y, context)
        assert largest(again - at) <= tolerance(name)
        assert largest(log_det + log_det_back) <= tolerance(name)


@quick
@OVER_LAYERS
def test_log_det_is_the_jacobians(name: str, data: st.DataObject) -> None:
    layer, z, x, context = data.draw(layer_cases(name))
    for direction, at in ((layer.forward, z), (layer.inverse, x)):
        y, log_det = direction(at, context)
        assert y.shape == at.shape
        assert log_det.shape == at.shape[:-1]
        expected = jacobian_log_det(direction, at, context)
        assert largest(log_det - expected) <= tolerance(name)


@quick
@OVER_LAYERS
def test_batch_dimensions_broadcast(name: str, data: st.DataObject) -> None:
    layer, z, x, context = data.draw(layer_cases(name))
    for direction, at in ((layer.forward, z), (layer.inverse, x)):
        many, contexts = at.expand(4, *at.shape), context.expand(4, *context.shape)
        expected_y, expected_log_det = direction(many, contexts)
        for arguments in ((many, context), (at, contexts)):
            y, log_det = direction(*arguments)
            assert largest(y - expected_y) <= 1e-12
            assert largest(log_det - expected_log_det) <= 1e-12


@quick
@OVER_LAYERS
@pytest.mark.quick_for("Scale", "Linear", "Lu", "Coupling")
def test_linear_layers_have_a_log_det_of_the_context_alone(name: str, data: st.DataObject) -> None:
    layer, z, x, context = data.draw(layer_cases(name))
    change = largest(layer.inverse(x, context)[1] - layer.inverse(0.3 * x + 0.1, context)[1])
    if layer.is_linear:
        assert change <= 1e-12
    if layer.is_volume_preserving:
        assert layer.is_linear
        assert largest(layer(z, context)[1]) == 0
        assert largest(layer.inverse(x, context)[1]) == 0


@few
@OVER_LAYERS
def test_state_dict_restores_the_layer(name: str, data: st.DataObject) -> None:
    layer, z, _, context = data.draw(layer_cases(name))
    saved = {key: value.clone() for key, value in layer.state_dict().items()}
    x, log_det = layer(z, context)
    perturb(layer)
    layer.load_state_dict(saved)
    x_again, log_det_again = layer(z, context)
    assert torch.equal(x_again, x)
    assert torch.equal(log_det_again, log_det)


@pytest.mark.parametrize("direction", ["forward", "inverse"])
@pytest.mark.quick_for("forward")
def test_single_precision_stays_finite_far_out(name: str, direction: str) -> None:
    for dim in sorted({fitting_dim(name, dim) for dim in (1, 2, 3, 4)}):
        torch.manual_seed(dim)
        layer = perturb(LAYERS[name](dim, 3))
        size = 1.0 if name == "TanhSquash" and direction == "inverse" else 50.0
        corners = torch.cartesian_prod(*[torch.tensor([-size, 0.0, size])] * dim).reshape(-1, dim)
        corners.requires_grad_()
        y, log_det = getattr(layer, direction)(corners, torch.randn(len(corners), 3))
        leaves = [corners, *layer.parameters()]
        gradients = torch.autograd.grad(y.sum() + log_det.sum(), leaves, allow_unused=True)
        for value in (y, log_det, *(g for g in gradients if g is not None)):
            assert value.isfinite().all()


def test_a_batch_gives_what_its_rows_give(name: str) -> None:
    torch.manual_seed(0)
    layer = perturb(LAYERS[name](2, 3)).double().eval()
    z, context = uniform(4, 3, 2, bound=3), uniform(4, 3, 3, bound=3)
    x, log_det = layer(z, context)
    for i in range(4):
        for j in range(3):
            row, row_log_det = layer(z[i, j], context[i, j])
            assert largest(x[i, j] - row) <= 1e-12
            assert largest(log_det[i, j] - row_log_det) <= 1e-12


def test_a_layer_that_keeps_a_box_maps_it_onto_itself(name: str) -> None:
    torch.manual_seed(0)
    dim = fitting_dim(name, 3)
    layer = perturb(LAYERS[name](dim, 3)).double().eval()
    splines, permutes = "Spline" in name, name.startswith("Permutation")
    ours = not name.startswith("normflows-")
    assert layer.keeps_box(3.0) == (ours and (splines or permutes))
    assert layer.keeps_box(2.9) == permutes
    if layer.keeps_box(3.0):
        corners = torch.cartesian_prod(*[torch.tensor([-3.0, 0.5, 3.0]).double()] * dim)
        for direction in (layer.forward, layer.inverse):
            y, _ = direction(corners, torch.randn(len(corners), 3).double())
            assert y.abs().max() <= 3 + 1e-12
            on_a_side = ((y.abs() - 3).abs() <= 1e-9).sum()
            assert on_a_side == (corners.abs() == 3).sum()
