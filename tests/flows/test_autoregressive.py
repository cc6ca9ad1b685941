"""Autoregressive layers: who depends on whom, at what cost."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import jacobian

from maxentflow.flows import (
    Autoregressive,
    AutoregressiveAffine,
    AutoregressiveSpline,
    Elementwise,
    ElementwiseAffine,
    ElementwiseMixtureCDF,
    ElementwiseSpline,
    Inverse,
)
from maxentflow.flows.masked_mlp import MaskedMLP

from .cases import HIDDEN, largest, perturb, uniform

ORDERS = [
    (1, "ascending", [0]),
    (2, "descending", [1, 0]),
    (3, (1, 2, 0), [1, 2, 0]),
    (4, "ascending", [0, 1, 2, 3]),
    (4, [2, 0, 3, 1], [2, 0, 3, 1]),
]
over_orders = pytest.mark.parametrize(("dim", "order", "entries"), ORDERS)
over_contexts = pytest.mark.parametrize("context_dim", [None, 2])


def context_of(size: int | None) -> Tensor | None:
    return None if size is None else uniform(size, bound=2)


@over_orders
@over_contexts
@pytest.mark.parametrize("hidden", [(), (4,), (16, 16), (5, 4, 7)])
def test_the_network_sees_every_entry_before_and_no_other(
    dim: int, order: object, entries: list[int], context_dim: int | None, hidden: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    layer = AutoregressiveAffine(dim, context_dim, order=order, hidden=hidden)
    net = perturb(layer).double().eval().net
    x, context = uniform(dim, bound=2), context_of(context_dim)
    by_x = jacobian(lambda x: net(x, context), x)  # (entry, output, input)
    for place, entry in enumerate(entries):
        sees = (by_x[entry] != 0).nonzero()[:, 1].bincount(minlength=dim)
        assert sees.tolist() == [2 if i in entries[:place] else 0 for i in range(dim)]
    if context is not None:
        assert (jacobian(lambda c: net(x, c), context) != 0).all()


@over_orders
@over_contexts
@pytest.mark.parametrize("direction", ["forward", "inverse"])
@pytest.mark.parametrize(
    "function",
    [ElementwiseAffine(), ElementwiseSpline(4, 3.0), ElementwiseMixtureCDF(2)],
    ids=lambda f: type(f).__name__,
)
def test_the_jacobian_is_triangular_in_the_order(
    dim: int,
    order: object,
    entries: list[int],
    context_dim: int | None,
    direction: str,
    function: Elementwise,
) -> None:
    torch.manual_seed(0)
    layer = Autoregressive(dim, context_dim, function=function, order=order, hidden=HIDDEN)
    run = getattr(perturb(layer).double().eval(), direction)
    z, context = uniform(dim, bound=2), context_of(context_dim)
    ordered = jacobian(lambda z: run(z, context)[0], z)[entries][:, entries]
    assert torch.equal(ordered, ordered.tril())
    assert (ordered.diagonal() > 0).all()
    assert (ordered.tril(-1) != 0).sum() == dim * (dim - 1) // 2
    assert largest(ordered.diagonal().log().sum() - run(z, context)[1]) <= 1e-9


@over_contexts
def test_an_affine_layer_is_its_formula(context_dim: int | None) -> None:
    torch.manual_seed(0)
    layer = AutoregressiveAffine(3, context_dim, hidden=HIDDEN, max_log_scale=0.5)
    layer = perturb(layer).double().eval()
    x, context = uniform(3, bound=3), context_of(context_dim)
    z, log_det = layer.inverse(x, context)
    translation, raw = layer.net(x, context).unbind(-1)
    log_scale = raw / (1 + raw.abs() / 0.5)
    assert largest(z - (x * (-log_scale).exp() + translation)) <= 1e-12
    assert largest(log_det + log_scale.sum()) <= 1e-12


@pytest.mark.parametrize("layer_type", [AutoregressiveAffine, AutoregressiveSpline])
@pytest.mark.parametrize(("dim", "cost"), [(1, "1 pass"), (2, "2 passes"), (4, "4 passes")])
def test_costs_are_the_passes_of_the_network(layer_type: type, dim: int, cost: str) -> None:
    layer = layer_type(dim, 3).eval()
    passes = []
    layer.net.register_forward_hook(lambda *_: passes.append(1))
    turned = Inverse(layer)
    for run, expected, said in (
        (layer, dim, layer.forward_cost),
        (layer.inverse, 1, layer.inverse_cost),
        (turned, 1, turned.forward_cost),
        (turned.inverse, dim, turned.inverse_cost),
    ):
        passes.clear()
        run(torch.zeros(5, dim), torch.zeros(5, 3))
        assert len(passes) == expected
        assert said == ("1 pass" if expected == 1 else cost)
    mixture = Autoregressive(dim, 3, function=ElementwiseMixtureCDF())
    assert (mixture.forward_cost, mixture.inverse_cost) == ("iterative", "1 pass")


def test_turned_round_acting_is_one_pass_of_the_same_numbers() -> None:
    torch.manual_seed(0)
    layer = perturb(AutoregressiveSpline(3, 2, hidden=HIDDEN)).double().eval()
    z, context = uniform(5, 3, bound=3), uniform(5, 2, bound=2)
    for ours, theirs in zip(Inverse(layer)(z, context), layer.inverse(z, context), strict=True):
        assert torch.equal(ours, theirs)


def test_dropout_is_off_in_evaluation_and_keeps_the_order_in_training() -> None:
    torch.manual_seed(0)
    net = perturb(MaskedMLP([1, 2, 3], 2, 2, hidden=(32, 32), dropout=0.5))
    x, context = torch.randn(3), torch.randn(2)
    assert not torch.equal(net(x, context), net(x, context))
    torch.manual_seed(1)
    once = net(x, context)
    torch.manual_seed(1)
    again = net(x + torch.tensor([0.0, 1.0, 0.0]), context)
    assert torch.equal(once[:2], again[:2])
    assert not torch.equal(once[2], again[2])
    net.eval()
    assert torch.equal(net(x, context), net(x, context))


class TestRefusals:
    @pytest.mark.parametrize("order", ["up", [0], [0, 0], [1, 2], (0, 1, 2)])
    def test_an_order_that_is_no_permutation(self, order: object) -> None:
        message = "order must be 'ascending', 'descending' or a permutation of 0 to 1, got"
        with pytest.raises(ValueError, match=message):
            AutoregressiveAffine(2, 3, order=order)

    @pytest.mark.parametrize("hidden", [(3,), (64, 3)])
    def test_a_hidden_layer_narrower_than_the_variable(self, hidden: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"4 entries need at least 4 units, got \(.*3"):
            AutoregressiveSpline(4, 3, hidden=hidden)

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
            ({"activation": "swosh"}, "Unknown activation 'swosh'"),
            (
                {"init": "ones"},
                "init must be 'default', 'zero', 'orthogonal' or 'near_zero', got 'ones'",
            ),
        ],
    )
    def test_options_of_the_network(self, option: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            AutoregressiveAffine(2, 3, **option)

    @pytest.mark.parametrize("direction", ["forward", "inverse"])
    @pytest.mark.parametrize("layer_type", [AutoregressiveAffine, AutoregressiveSpline])
    def test_a_missing_context(self, layer_type: type, direction: str) -> None:
        with pytest.raises(ValueError, match=f"{layer_type.__name__} needs a context, got None"):
            getattr(layer_type(2, 3), direction)(torch.zeros(5, 2))
