"""The reference configuration against the paper's formulas, written out in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from maxentflow.flows import (
    AdditiveCoupling,
    Dropout,
    EnergyBasedFlow,
    Swish,
    TanhSquash,
    build,
)

from .cases import SEEDS, few, largest, perturb, uniform

LOW, HIGH, ALPHA = -5.0, -0.3, 0.25


def array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().numpy()


def network(net: nn.Module, x: np.ndarray) -> np.ndarray:
    """Linear, LayerNorm and Swish; dropout is off."""
    for module in net:
        if isinstance(module, nn.Linear):
            x = x @ array(module.weight).T + array(module.bias)
        elif isinstance(module, nn.LayerNorm):
            x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
            x = x * array(module.weight) + array(module.bias)
        elif isinstance(module, Swish):
            x = x / (1 + np.exp(-array(module.beta) * x))
        else:
            assert isinstance(module, Dropout)
    return x


def shifts(flow: EnergyBasedFlow, s: np.ndarray) -> np.ndarray:
    """The two reward shifts, each a network of its own."""
    heads = []
    for head in range(2):
        x = s
        for module in flow.shift.net:
            if isinstance(module, Swish):
                x = x / (1 + np.exp(-array(module.beta)[head] * x))
            else:
                x = x @ array(module.weight)[head] + array(module.bias)[head]
        heads.append(x)
    return np.concatenate(heads, axis=-1)


def paper_q_and_v(flow: EnergyBasedFlow, a: np.ndarray, s: np.ndarray) -> tuple:
    """Section 2's configuration in section 1's formulas; also the log-density of the policy."""
    prior, *couplings, _ = flow.layers
    dim = a.shape[-1]
    z, log_det_tanh = np.arctanh(a), -np.log(1 - a**2).sum(-1)
    masks = [np.arange(dim) % 2 == 0, np.arange(dim) % 2 == 1] * 2
    for coupling, mask in reversed(list(zip(couplings, masks, strict=True))):
        z = z - ~mask * network(coupling.net, np.concatenate([mask * z, s], axis=-1))
    log_sigma = LOW + (HIGH - LOW) / 2 * (np.tanh(network(prior.net, s)) + 1)
    log_normal = torch.distributions.Normal(0.0, torch.tensor(np.exp(log_sigma)))
    log_pi = log_normal.log_prob(torch.tensor(z)).sum(-1).numpy() + log_det_tanh
    energy = -0.5 * (z**2 / np.exp(2 * log_sigma)).sum(-1) + log_det_tanh
    log_partition = log_sigma.sum(-1) + 0.5 * dim * math.log(2 * math.pi)
    b = shifts(flow, s)
    return ALPHA * (energy[:, None] + b), ALPHA * (log_partition[:, None] + b), log_pi


@few
@given(seed=SEEDS, action_dim=st.integers(1, 4), obs_dim=st.integers(1, 4))
def test_q_v_and_policy_are_the_papers(seed: int, action_dim: int, obs_dim: int) -> None:
    torch.manual_seed(seed)
    flow = build("additive", action_dim, obs_dim, temperature=ALPHA)
    flow = perturb(flow, 0.2).double().eval()
    observation = uniform(6, obs_dim, bound=2)
    action = torch.cat([flow.sample(observation[:3])[0], uniform(3, action_dim, bound=0.9)])
    expected_q, expected_v, expected_log_pi = paper_q_and_v(
        flow, array(action), array(observation)
    )
    q, v = flow.q_and_value(action, observation)
    # Q is minus half a square of up to 1e4 standard deviations; the error is relative there.
    np.testing.assert_allclose(array(q), expected_q, rtol=1e-11, atol=1e-9)
    np.testing.assert_allclose(array(v), expected_v, rtol=0, atol=1e-9)
    log_pi = array(flow.log_prob(action, observation))
    np.testing.assert_allclose(log_pi, expected_log_pi, rtol=1e-11, atol=1e-9)


def test_the_defaults_are_the_references() -> None:
    flow = build("additive", 3, 11, temperature=ALPHA)
    prior, *couplings, squash = flow.layers
    assert prior.bounds == (LOW, HIGH)
    assert [tuple(w.shape) for w in prior.net.parameters() if w.ndim == 2] == [
        (64, 11),
        (64, 64),
        (3, 64),
    ]
    assert len(couplings) == 4
    assert all(isinstance(coupling, AdditiveCoupling) for coupling in couplings)
    masks = [coupling.mask.tolist() for coupling in couplings]
    assert masks == [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]] * 2
    assert isinstance(squash, TanhSquash)
    assert flow.shift.heads == flow.heads == 2
    dropout = [module.p for module in flow.modules() if isinstance(module, Dropout)]
    assert dropout == [0.1] * 8


def test_initial_weights_are_the_references() -> None:
    """Zero in base and shift, orthogonal in conditioners, slopes of one."""
    torch.manual_seed(0)
    flow = build("additive", 3, 11, temperature=ALPHA)
    prior, *couplings, _ = flow.layers
    weights = [module.weight for module in prior.net if isinstance(module, nn.Linear)]
    weights += [module.weight for module in flow.shift.net if hasattr(module, "weight")]
    assert len(weights) == 6
    assert not any(weight.any() for weight in weights)
    for coupling in couplings:
        for module in coupling.net:
            if isinstance(module, nn.Linear):
                out, features = module.weight.shape
                square = module.weight @ module.weight.T if out < features else None
                square = module.weight.T @ module.weight if square is None else square
                # The weights are drawn in single precision.
                assert largest(square - torch.eye(min(out, features))) <= 1e-5
    betas = [module.beta for module in flow.modules() if isinstance(module, Swish)]
    assert len(betas) == 12
    assert all((beta == 1).all() for beta in betas)


@pytest.mark.parametrize("heads", [1, 2])
def test_the_shift_is_the_largest_q_of_an_additive_flow_without_squash(heads: int) -> None:
    torch.manual_seed(0)
    flow = build("additive", 1, 3, temperature=ALPHA, heads=heads, squash="none")
    flow = perturb(flow).double().eval()
    observation = uniform(4, 3, bound=2)
    sigma = flow.layers[0].log_sigma(observation).exp()
    steps = torch.linspace(-4, 4, 2001, dtype=torch.float64).reshape(-1, 1, 1)
    q = flow.q_value(flow.mode(observation) + sigma * steps, observation)
    largest_q, where = q.max(dim=0)
    assert (where == 1000).all()
    assert largest(largest_q - ALPHA * flow.shift(observation)) <= 1e-12
