"""Coupling layers: masks, formulas, initial weights."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from maxentflow.flows import AdditiveCoupling, AffineCoupling, Dropout, Swish
from maxentflow.flows.coupling import alternating_mask

from .cases import HIDDEN, SEEDS, largest, perturb, quick, uniform

COUPLINGS = (AdditiveCoupling, AffineCoupling)
MASKS = (
    st.lists(st.integers(0, 1), min_size=1, max_size=4)
    .filter(lambda mask: len(mask) == 1 or not all(mask))
    .flatmap(lambda mask: st.sampled_from([mask, [bool(m) for m in mask], torch.tensor(mask)]))
)


@pytest.mark.parametrize("coupling", COUPLINGS)
@quick
@given(mask=MASKS, seed=SEEDS)
def test_masked_entries_pass_and_the_rest_depend_on_them(
    coupling: type, mask: list[int] | Tensor, seed: int
) -> None:
    torch.manual_seed(seed)
    passes = torch.as_tensor(mask).bool()
    layer = perturb(coupling(len(mask), 2, mask=mask, hidden=HIDDEN)).double().eval()
    z, context = uniform(len(mask), bound=3), uniform(2, bound=3)
    jacobian = torch.autograd.functional.jacobian(lambda z: layer(z, context)[0], z)
    assert torch.equal(layer(z, context)[0][passes], z[passes])
    assert torch.equal(jacobian[passes][:, passes], torch.eye(int(passes.sum())).double())
    assert (jacobian[~passes][:, passes] != 0).all()
    among_changed = jacobian[~passes][:, ~passes]
    assert torch.equal(among_changed, among_changed.diag().diag())


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize(("mask", "changes"), [("even", [1]), ("odd", [0])])
def test_alternating_masks(coupling: type, mask: str, changes: list[int]) -> None:
    torch.manual_seed(0)
    layer = coupling(2, 3, mask=mask).eval()
    z = torch.randn(2)
    moved = (layer(z, torch.randn(3))[0] != z).nonzero().flatten()
    assert moved.tolist() == changes


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_in_one_dimension_even_is_the_identity_and_odd_moves_by_the_context(
    coupling: type,
) -> None:
    torch.manual_seed(0)
    z, context = torch.randn(5, 1), torch.randn(5, 3)
    assert torch.equal(coupling(1, 3, mask="even").eval()(z, context)[0], z)
    odd = coupling(1, 3, mask="odd").eval()
    assert (odd(z, context)[0] - odd(z, context + 1)[0]).abs().min() > 0


def test_additive_coupling_adds_the_conditioners_output() -> None:
    torch.manual_seed(0)
    layer = perturb(AdditiveCoupling(3, 2, mask=[1, 0, 0])).double().eval()
    z, context = uniform(5, 3, bound=3), uniform(5, 2, bound=3)
    zeros = torch.zeros(5, 2, dtype=torch.float64)
    shift = layer.net(torch.cat([z[:, :1], zeros, context], dim=-1))
    assert largest(layer(z, context)[0][:, 1:] - (z + shift)[:, 1:]) <= 1e-12


def test_additive_coupling_without_a_context_is_the_same_formula() -> None:
    torch.manual_seed(0)
    layer = perturb(AdditiveCoupling(3, mask=[0, 1, 0])).double().eval()
    z, mask = uniform(5, 4, 3, bound=3), torch.tensor([0.0, 1.0, 0.0]).double()
    assert largest(layer(z)[0] - (z + (1 - mask) * layer.net(mask * z))) <= 1e-12
    z = uniform(5, 4, 1, bound=3)
    assert torch.equal(AdditiveCoupling(1, mask="even").eval()(z.float())[0], z.float())
    odd = perturb(AdditiveCoupling(1, mask="odd")).double().eval()
    (shift,) = (odd(z)[0] - z).unique().round(decimals=12).unique()
    assert shift != 0


@pytest.mark.parametrize("bound", [0.5, 2.0])
def test_affine_coupling_scales_by_the_bounded_output(bound: float) -> None:
    torch.manual_seed(0)
    layer = AffineCoupling(3, 2, mask=[1, 0, 0], max_log_scale=bound)
    layer = perturb(layer).double().eval()
    z, context = uniform(5, 3, bound=3), uniform(5, 2, bound=3)
    output = layer.net(torch.cat([z[:, :1], context], dim=-1)).unflatten(-1, (2, 2))
    translation, raw = output.unbind(-1)
    log_scale = raw / (1 + raw.abs() / bound)
    x, log_det = layer(z, context)
    assert largest(x[:, 1:] - (z[:, 1:] - translation) * log_scale.exp()) <= 1e-12
    assert largest(log_det - log_scale.sum(-1)) <= 1e-12


@quick
@given(seed=SEEDS, bound=st.floats(0.1, 4), noise=st.floats(0, 50))
def test_the_log_scale_keeps_its_bound(seed: int, bound: float, noise: float) -> None:
    torch.manual_seed(seed)
    layer = AffineCoupling(2, 3, hidden=HIDDEN, max_log_scale=bound)
    layer = perturb(layer, noise).double().eval()
    _, log_det = layer(uniform(20, 2, bound=50), uniform(20, 3, bound=50))
    assert largest(log_det) <= bound + 1e-12


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_the_conditioner_starts_as_the_reference_has_it(coupling: type) -> None:
    torch.manual_seed(0)
    net = coupling(3, 11).net
    kinds = [nn.Linear, nn.LayerNorm, Swish, Dropout] * 2 + [nn.Linear]
    assert all(isinstance(module, kind) for module, kind in zip(net, kinds, strict=True))
    assert [module.out_features for module in net if isinstance(module, nn.Linear)][:2] == [64, 64]
    assert [module.p for module in net if isinstance(module, Dropout)] == [0.1, 0.1]
    for module in net:
        if isinstance(module, nn.Linear):
            weight = module.weight.double()
            short = weight @ weight.T if weight.shape[0] < weight.shape[1] else weight.T @ weight
            # The weights are drawn in single precision.
            assert largest(short - torch.eye(len(short))) <= 1e-5
        if isinstance(module, Swish):
            assert torch.equal(module.beta, torch.ones(64))


@pytest.mark.parametrize("mask", ["both", "", [1], [1, 0, 1], [0.5, 0], [2, 0], [[1, 0]]])
@pytest.mark.parametrize("coupling", COUPLINGS)
def test_a_mask_that_does_not_fit_is_refused(coupling: type, mask: object) -> None:
    with pytest.raises(ValueError, match="mask must be 'even', 'odd' or 2 zeros and ones, got"):
        coupling(2, 3, mask=mask)


def test_a_mask_that_leaves_nothing_to_change_is_refused() -> None:
    with pytest.raises(ValueError, match="mask passes every entry through"):
        alternating_mask(2, [1, 1])


@pytest.mark.parametrize("bound", [0.0, -1.0, float("inf"), float("nan")])
def test_a_log_scale_bound_that_is_not_positive_is_refused(bound: float) -> None:
    with pytest.raises(ValueError, match="max_log_scale must be positive and finite, got"):
        AffineCoupling(2, 3, max_log_scale=bound)


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_a_missing_context_is_refused(coupling: type, direction: str) -> None:
    with pytest.raises(ValueError, match=f"{coupling.__name__} needs a context, got None"):
        getattr(coupling(2, 3), direction)(torch.zeros(5, 2))
