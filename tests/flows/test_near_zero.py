"""Networks that start near zero, layer norm of batched networks, and the scale's initial value."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from maxentflow.flows import MLP, RewardShift, StateScale, build, options, registered
from maxentflow.flows.batched_mlp import BatchedLayerNorm, BatchedLinear, BatchedMLP
from maxentflow.flows.masked_mlp import MaskedMLP
from maxentflow.flows.mlp import Linear

from .cases import HIDDEN, largest, perturb, uniform

ORTHOGONAL = 1e-5  # of single precision, in which weights are drawn


def gram(weight: Tensor) -> Tensor:
    """Of the rows or the columns of a matrix, whichever are fewer."""
    weight = weight.detach().double()
    return weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight


def assert_orthogonal(weight: Tensor, size: float) -> None:
    found = gram(weight) / size**2
    assert largest(found - torch.eye(len(found), dtype=torch.float64)) <= ORTHOGONAL


def assert_near_zero(linears: list[nn.Linear]) -> None:
    """Orthogonal matrices and PyTorch's biases; a hundredth and no bias in the last."""
    *hidden, last = linears
    for linear in hidden:
        assert_orthogonal(linear.weight, 1.0)
        assert 0 < largest(linear.bias) <= 1 / math.sqrt(linear.in_features)
    assert_orthogonal(last.weight, 0.01)
    assert not last.bias.any()


def linears_of(module: nn.Module) -> list[nn.Linear]:
    return [part for part in module.modules() if isinstance(part, nn.Linear)]


# Perceptrons


@pytest.mark.parametrize("hidden", [(), (8,), (16, 8), (5, 9, 7)])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_a_perceptron_starts_near_zero(hidden: tuple[int, ...], layer_norm: bool) -> None:
    net = MLP(6, 3, hidden=hidden, init="near_zero", layer_norm=layer_norm)
    assert_near_zero(linears_of(net))
    for part in net.modules():
        if isinstance(part, Linear):
            part.reset_parameters()
    assert_near_zero(linears_of(net))


@pytest.mark.parametrize("init", ["near_zero", "zero", "orthogonal", "default"])
def test_a_masked_perceptron_starts_as_others_do(init: str) -> None:
    net = MaskedMLP([1, 2, 3], 4, 2, hidden=(8, 8), init=init)
    if init == "near_zero":
        assert_near_zero(linears_of(net))
        out = net(uniform(9, 3, bound=2).float(), uniform(9, 4, bound=2).float())
        assert 0 < largest(out) <= 0.1
    if init == "zero":
        assert not any(linear.weight.any() for linear in linears_of(net))
    if init == "orthogonal":
        for linear in linears_of(net):
            assert_orthogonal(linear.weight, 1.0)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_each_head_starts_near_zero_with_weights_of_its_own(layer_norm: bool) -> None:
    net = BatchedMLP(3, 6, 2, hidden=(16, 8), init="near_zero", layer_norm=layer_norm)
    linears = [part for part in net if isinstance(part, BatchedLinear)]
    for _ in range(2):
        for head in range(3):
            for linear in linears[:-1]:
                assert_orthogonal(linear.weight[head], 1.0)
                assert 0 < largest(linear.bias[head]) <= 1 / math.sqrt(linear.weight.shape[1])
            assert_orthogonal(linears[-1].weight[head], 0.01)
        assert not linears[-1].bias.any()
        assert all(largest(each.weight[0] - each.weight[1]) > 1e-3 for each in linears)
        for linear in linears:
            linear.reset_parameters()
    assert 0 < largest(net(uniform(9, 6, bound=2).float())) <= 0.1


def test_the_first_layer_for_fewer_inputs_keeps_its_start() -> None:
    net = MLP(6, 3, hidden=(), init="near_zero", fan_in=2)
    assert_near_zero(linears_of(net))


@pytest.mark.parametrize("make", [MLP, lambda *s, **o: BatchedMLP(2, *s, **o)])
def test_an_unknown_start_is_refused_with_those_known(make: type) -> None:
    with pytest.raises(ValueError, match="'zero', 'orthogonal' or 'near_zero', got 'ones'"):
        make(3, 2, hidden=(8,), init="ones")


# Layer norm


def test_batched_layer_norm_is_torchs_for_each_head() -> None:
    norm = perturb(BatchedLayerNorm(3, 5), 1.0).double()
    x = uniform(3, 7, 5, bound=4)
    for head in range(3):
        single = nn.LayerNorm(5).double()
        single.weight.data, single.bias.data = norm.weight[head, 0].data, norm.bias[head, 0].data
        assert largest(norm(x)[head] - single(x[head])) <= 1e-12
    norm.reset_parameters()
    out = norm(x)
    assert largest(out.mean(-1)) <= 1e-12
    assert largest(out.var(-1, correction=0) - 1) <= 1e-4  # less torch's 1e-5 in the root


@pytest.mark.parametrize("init", ["near_zero", "orthogonal"])
@pytest.mark.parametrize("batch", [(), (5,), (2, 3)])
def test_a_shift_with_layer_norm_is_a_network_for_each_head(
    batch: tuple[int, ...], init: str
) -> None:
    shift = RewardShift(4, 2, hidden=(8, 6), activation="silu", layer_norm=True, init=init)
    shift = perturb(shift, 0.5).double()
    context = uniform(*batch, 4, bound=3)
    kinds = [type(part).__name__ for part in shift.net]
    assert kinds == [*["BatchedLinear", "BatchedLayerNorm", "SiLU"] * 2, "BatchedLinear"]
    for head in range(2):
        x = context
        for part in shift.net:
            if isinstance(part, BatchedLinear):
                x = x @ part.weight[head] + part.bias[head, 0]
            elif isinstance(part, BatchedLayerNorm):
                centred = x - x.mean(-1, keepdim=True)
                x = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
                x = x * part.weight[head, 0] + part.bias[head, 0]
            else:
                x = x / (1 + torch.exp(-x))
        assert largest(shift(context)[..., head] - x.squeeze(-1)) <= 1e-12


def test_without_layer_norm_there_is_none() -> None:
    assert not any(isinstance(part, BatchedLayerNorm) for part in RewardShift(4, 2).modules())


# The scale's initial value

STARTS = [((-5.0, 1.0), -0.25), ((-5.0, -0.3), -4.9), ((-2.0, 2.0), 0.0), ((-5.0, 1.0), 0.99)]


@pytest.mark.parametrize(("bounds", "initial"), STARTS)
def test_a_network_of_zero_gives_the_initial_log_sigma(
    bounds: tuple[float, float], initial: float
) -> None:
    layer = StateScale(2, 3, bounds=bounds, initial=initial).double()
    for parameter in layer.parameters():
        parameter.data.zero_()
    assert largest(layer.log_sigma(uniform(5, 3, bound=9)) - initial) <= 1e-12
    without = StateScale(2, bounds=bounds, initial=initial).double()
    assert largest(without.log_sigma() - initial) <= 1e-12


@pytest.mark.parametrize("bounds", [(-5.0, 1.0), (-2.0, 0.0)])
def test_without_one_it_is_the_middle_of_the_bounds(bounds: tuple[float, float]) -> None:
    layer = StateScale(2, bounds=bounds).double()
    assert largest(layer.log_sigma() - sum(bounds) / 2) <= 1e-12


@pytest.mark.parametrize(("bounds", "initial"), STARTS)
def test_wherever_it_starts_it_is_its_formula_and_keeps_its_bounds(
    bounds: tuple[float, float], initial: float
) -> None:
    low, high = bounds
    layer = perturb(StateScale(2, 3, bounds=bounds, initial=initial, hidden=HIDDEN), 1.0).double()
    context, z = uniform(9, 3, bound=5), uniform(9, 2, bound=3)
    # tanh(c) is the place of the initial value between the bounds, from -1 to 1.
    offset = 0.5 * math.log((initial - low) / (high - initial))
    log_sigma = low + (high - low) * torch.sigmoid(2 * (layer.net(context) + offset))
    assert largest(layer.log_sigma(context) - log_sigma) <= 1e-12
    assert (log_sigma >= low - 1e-12).all()
    assert (log_sigma <= high + 1e-12).all()
    x, log_det = layer(z, context)
    assert largest(x - z * log_sigma.exp()) <= 1e-12
    assert largest(log_det - log_sigma.sum(-1)) <= 1e-12
    back, log_det = layer.inverse(x, context)
    assert largest(back - z) <= 1e-9
    assert largest(log_det + log_sigma.sum(-1)) <= 1e-12


@pytest.mark.parametrize("initial", [-5.0, 1.0, -6.0, 2.0, float("nan")])
def test_an_initial_value_at_or_beyond_the_bounds_is_refused(initial: float) -> None:
    with pytest.raises(ValueError, match=r"The initial log-sigma must be between its bounds -5"):
        StateScale(2, 3, bounds=(-5.0, 1.0), initial=initial)


# Whole flows


@pytest.mark.parametrize("name", [n for n in registered() if "init" in options(n)])
def test_a_flow_starts_as_a_gaussian_of_the_initial_scale(name: str) -> None:
    """Layers that start near zero are near the identity, the shift is near zero."""
    torch.manual_seed(0)
    flow = build(
        name,
        3,
        4,
        temperature=0.5,
        normalized=True,
        log_sigma=(-5.0, 1.0),
        scale={"init": "near_zero", "initial": -0.25},
        shift={"init": "near_zero", "layer_norm": True},
        squash="none",
        init="near_zero",
        activation="silu",
    ).eval()
    observation = uniform(64, 4, bound=1).float()
    assert largest(flow.value(observation)) <= 0.1
    networks = [part for part in flow.layers.modules() if isinstance(part, (MLP, MaskedMLP))]
    for network in networks:
        if (
            name != "glow" or linears_of(network)[-1].weight.any()
        ):  # its StateLinear starts at zero
            assert_near_zero(linears_of(network))
    log_sigma = flow.layers[0].log_sigma(observation)
    assert largest(log_sigma + 0.25) <= 0.1
    if name in ("additive", "affine", "maf", "iaf"):  # others are not the identity at zero
        action = uniform(64, 3, bound=1).float()
        sigma = math.exp(-0.25)
        expected = torch.distributions.Normal(0.0, sigma).log_prob(action).sum(-1)
        assert largest(flow.log_prob(action, observation) - expected) <= 0.5
