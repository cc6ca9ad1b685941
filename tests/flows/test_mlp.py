"""The networks inside layers: initial weights, dropout's statistics, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest
from torch import nn

from maxentflow.flows import MLP, Dropout, Swish
from maxentflow.flows.mlp import Linear

from .cases import SEEDS, largest, perturb, quick, uniform

RATES = (0.01, 0.1, 0.5, 0.9)
UNITS = 400_003  # not a multiple of the four entries in a random word


@pytest.mark.parametrize("p", RATES)
def test_dropout_keeps_rate_and_expectation(p: float) -> None:
    torch.manual_seed(0)
    y = Dropout(p)(torch.ones(UNITS, dtype=torch.float64))
    deviation = math.sqrt(p * (1 - p) / UNITS)
    dropped = (y == 0).double().mean().item()
    # Within five standard deviations and the rounding of p to a multiple of 2**-16.
    assert abs(dropped - p) <= 5 * deviation + 2**-17
    assert abs(y.mean().item() - 1) <= 5 * deviation / (1 - p)
    kept = y[y != 0].unique()
    assert len(kept) == 1
    assert kept.item() == pytest.approx(1 / (1 - p), rel=2**-16 / (1 - p))


@pytest.mark.parametrize("lag", [1, 2, 3, 4])
def test_dropout_drops_neighbours_independently(lag: int) -> None:
    torch.manual_seed(0)
    dropped = (Dropout(0.3)(torch.ones(UNITS)) == 0).double() - 0.3
    correlation = (dropped[lag:] * dropped[:-lag]).mean() / 0.21
    assert abs(correlation) <= 5 / math.sqrt(UNITS)


@quick
@given(p=st.floats(0, 1, exclude_max=True))
def test_dropout_accepts_every_rate_below_one(p: float) -> None:
    torch.manual_seed(0)
    y = Dropout(p)(torch.ones(1001))
    assert y.isfinite().all()
    assert len(y[y != 0].unique()) <= 1


@pytest.mark.parametrize("p", [1e-6, 1e-12])
def test_dropout_of_a_vanishing_rate_is_the_identity(p: float) -> None:
    x = torch.randn(1001)
    assert torch.equal(Dropout(p)(x), x)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 5), (0, 4)])
def test_dropout_of_any_shape(shape: tuple[int, ...]) -> None:
    y = Dropout(0.5)(torch.ones(shape))
    assert y.shape == shape
    assert set(y.flatten().tolist()) <= {0.0, 2.0}


def test_dropout_is_off_in_evaluation_and_at_rate_zero() -> None:
    x = torch.randn(100)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dropout_keeps_its_share_in_every_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    kept = Dropout(0.1)(torch.ones(10_000, dtype=dtype)) != 0
    # Five standard deviations of a binomial share.
    assert abs(kept.double().mean().item() - 0.9) <= 5 * math.sqrt(0.09 / 10_000)


def test_dropout_scales_the_gradient_as_the_value() -> None:
    torch.manual_seed(0)
    x = torch.ones(100, requires_grad=True)
    y = Dropout(0.5)(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient, y.detach())


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5, float("nan")])
def test_dropout_outside_zero_and_one_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got"):
        Dropout(p)


def test_swish_starts_as_silu_and_learns_a_slope_for_each_unit() -> None:
    swish, x = Swish(3).double(), uniform(5, 3, bound=50)
    assert largest(swish(x) - F.silu(x)) <= 1e-12
    swish.beta.data = torch.tensor([0.0, 1.0, -2.0], dtype=torch.float64)
    expected = torch.stack([x[:, 0] / 2, F.silu(x[:, 1]), F.silu(-2 * x[:, 2]) / -2], dim=-1)
    assert largest(swish(x) - expected) <= 1e-12


@quick
@given(seed=SEEDS, layer_norm=st.booleans())
def test_an_mlp_is_its_formula(seed: int, layer_norm: bool) -> None:
    torch.manual_seed(seed)
    net = perturb(MLP(3, 2, hidden=(8,), layer_norm=layer_norm, activation="tanh")).double()
    x = uniform(5, 3, bound=3)
    first, last = [module for module in net if isinstance(module, nn.Linear)]
    hidden = x @ first.weight.T + first.bias
    if layer_norm:
        centred = hidden - hidden.mean(-1, keepdim=True)
        hidden = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        hidden = hidden * net[1].weight + net[1].bias
    assert largest(net(x) - (hidden.tanh() @ last.weight.T + last.bias)) <= 1e-12


@pytest.mark.parametrize("context_dim", [1, 31, 32, 100])
@pytest.mark.parametrize(
    ("batch", "context_batch"), [((5,), (5,)), ((2, 5), (5,)), ((5,), (2, 5)), ((), (3,))]
)
def test_an_mlp_of_entries_beside_a_context(
    context_dim: int, batch: tuple[int, ...], context_batch: tuple[int, ...]
) -> None:
    """A wide context goes another way; outputs and gradients are those of both in one input."""
    net = perturb(MLP(3 + context_dim, 2, hidden=(8,), layer_norm=True)).double()
    x = uniform(*batch, 3, bound=3).requires_grad_()
    context = uniform(*context_batch, context_dim, bound=3).requires_grad_()
    shape = torch.broadcast_shapes(batch, context_batch)
    one = torch.cat([x.expand(*shape, -1), context.expand(*shape, -1)], -1)
    expected, output = net(one), net(x, context)
    wanted = [x, context, *net.parameters()]
    assert largest(output - expected) <= 1e-12
    for ours, theirs in zip(
        torch.autograd.grad(output.square().sum(), wanted),
        torch.autograd.grad(expected.square().sum(), wanted),
        strict=True,
    ):
        assert largest(ours - theirs) <= 1e-11


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("swish", F.silu),
        ("silu", F.silu),
        ("relu", F.relu),
        ("tanh", torch.tanh),
        ("elu", F.elu),
        ("gelu", F.gelu),
    ],
)
def test_activations_by_name(
    activation: str, expected: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    net, x = MLP(4, 1, hidden=(4,), activation=activation).double(), uniform(5, 4, bound=3)
    assert largest(net[1](x) - expected(x)) <= 1e-12


def test_an_activation_of_ones_own() -> None:
    net = MLP(3, 2, hidden=(5, 7), activation=lambda width: nn.PReLU(width))
    assert [m.num_parameters for m in net if isinstance(m, nn.PReLU)] == [5, 7]


def test_biases_start_as_pytorchs() -> None:
    torch.manual_seed(0)
    bias = Linear(25, 5000, "zero").bias
    assert kstest(bias.detach().numpy(), "uniform", args=(-0.2, 0.4)).pvalue > 1e-3


def has_kind(weight: torch.Tensor, init: str) -> bool:
    square = weight @ weight.T
    return {
        "zero": not weight.any(),
        "orthogonal": torch.allclose(square, torch.eye(len(square)), atol=1e-5),
        "default": 0 < largest(weight) <= 1 / math.sqrt(weight.shape[1]),
    }[init]


@pytest.mark.parametrize("init", ["zero", "orthogonal", "default"])
def test_reset_parameters_keeps_the_kind_of_start(init: str) -> None:
    linear = Linear(16, 8, init)
    assert has_kind(linear.weight, init)
    perturb(linear, 100.0)
    assert not has_kind(linear.weight, init)
    linear.reset_parameters()
    assert has_kind(linear.weight, init)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "swosh"}, "Unknown activation 'swosh'; known: swish, relu"),
        (
            {"init": "ones"},
            "init must be 'default', 'zero', 'orthogonal' or 'near_zero', got 'ones'",
        ),
        ({"hidden": (64, 0)}, r"sizes of at least 1, got .*hidden=\(64, 0\)"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"dropout": -0.5}, r"dropout must be in \[0, 1\), got -0.5"),
    ],
)
def test_wrong_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MLP(3, 2, **options)


@pytest.mark.parametrize("sizes", [(0, 2), (3, 0)])
def test_empty_inputs_and_outputs_are_refused(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="An MLP needs sizes of at least 1"):
        MLP(*sizes)


@pytest.mark.parametrize("init", ["default", "orthogonal", "zero"])
def test_a_first_layer_for_few_inputs_is_drawn_as_a_small_layer_is(init):
    """Of five inputs two are used: bounds, or norms of columns, are those of two."""
    wide = MLP(5, 4, hidden=(1000,), init=init, fan_in=2).first
    narrow = MLP(2, 4, hidden=(1000,), init=init).first
    bound = 1 / math.sqrt(2)
    for layer in (wide, narrow):
        assert 0.95 * bound < layer.bias.abs().max() <= bound
    for ours, theirs in zip(wide.weight.T[:2], narrow.weight.T, strict=True):
        assert ours.norm().item() == pytest.approx(theirs.norm().item(), rel=0.05)
