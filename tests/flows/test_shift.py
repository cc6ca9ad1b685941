"""Learnable reward shifting: one batched network against one network for each head."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest
from torch import Tensor

from maxentflow.flows import RewardShift, Swish
from maxentflow.flows.batched_mlp import BatchedLinear

from .cases import BATCHES, SEEDS, largest, perturb, quick, uniform


def one_head(shift: RewardShift, head: int, context: Tensor) -> Tensor:
    """The head's network written out: affine maps with Swish between them."""
    x = context
    for module in shift.net:
        if isinstance(module, BatchedLinear):
            x = x @ module.weight[head] + module.bias[head, 0]
        else:
            x = x / (1 + torch.exp(-module.beta[head, 0] * x))
    return x.squeeze(-1)


@quick
@given(
    seed=SEEDS,
    context_dim=st.integers(1, 4),
    heads=st.integers(1, 4),
    hidden=st.lists(st.integers(1, 9), max_size=3),
    batch=BATCHES,
)
def test_every_head_is_a_network_of_its_own(
    seed: int, context_dim: int, heads: int, hidden: list[int], batch: tuple[int, ...]
) -> None:
    torch.manual_seed(seed)
    shift = perturb(RewardShift(context_dim, heads, hidden=hidden), 1.0).double()
    context = uniform(*batch, context_dim, bound=3)
    shifts = shift(context)
    assert shifts.shape == (*batch, heads)
    for head in range(heads):
        assert largest(shifts[..., head] - one_head(shift, head, context)) <= 1e-12


def test_it_starts_as_the_reference_has_it() -> None:
    torch.manual_seed(0)
    shift = RewardShift(11, heads=2)
    linear = [module for module in shift.net if isinstance(module, BatchedLinear)]
    swish = [module for module in shift.net if isinstance(module, Swish)]
    assert [tuple(module.weight.shape) for module in linear] == [
        (2, 11, 256),
        (2, 256, 256),
        (2, 256, 1),
    ]
    assert all(torch.count_nonzero(module.weight) == 0 for module in linear)
    assert all(torch.equal(module.beta, torch.ones(2, 1, 256)) for module in swish)
    bound = 1 / math.sqrt(11)
    bias = linear[0].bias.detach().flatten().numpy()
    assert kstest(bias, "uniform", args=(-bound, 2 * bound)).pvalue > 1e-3
    assert shift(torch.zeros(11))[0] != shift(torch.zeros(11))[1]


@pytest.mark.parametrize("init", ["zero", "orthogonal", "default"])
def test_reset_parameters_keeps_the_kind_of_start(init: str) -> None:
    linear = BatchedLinear(3, 16, 8, init)
    perturb(linear, 100.0)
    linear.reset_parameters()
    for weight in linear.weight.detach():
        if init == "zero":
            assert not weight.any()
        if init == "orthogonal":
            # The weights are drawn in single precision.
            assert largest(weight.T @ weight - torch.eye(8)) <= 1e-5
        if init == "default":
            assert 0 < largest(weight) <= 1 / math.sqrt(16)


@pytest.mark.parametrize(
    ("arguments", "hidden"), [((0, 2), (8,)), ((3, 0), (8,)), ((3, 2), (8, 0))]
)
def test_sizes_below_one_are_refused(arguments: tuple[int, int], hidden: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="RewardShift needs sizes of at least 1, got"):
        RewardShift(*arguments, hidden=hidden)


def test_an_unknown_start_is_refused() -> None:
    names = "'default', 'zero', 'orthogonal' or 'near_zero'"
    with pytest.raises(ValueError, match=f"init must be {names}"):
        RewardShift(3, 2, init="ones")
