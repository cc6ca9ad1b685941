"""The normalized flow: V is the shift alone, and the policy is that of the usual form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from maxentflow.flows import (
    AdditiveCoupling,
    EnergyBasedFlow,
    LearnedTemperature,
    RewardShift,
    ShiftValue,
    StandardNormal,
    StateScale,
    build,
    options,
    registered,
)

from .cases import (
    FLOWS,
    SMOOTH,
    action_grid,
    largest,
    latent_grid,
    make_flow,
    perturb,
    uniform,
)

over_flows = pytest.mark.parametrize("name", FLOWS)
over_temperatures = pytest.mark.parametrize("kind", ["fixed", "learned"])
ALPHA = 0.4


def normalized(name: str, dim: int = 2, *, kind: str = "learned", **further: object):
    """A random flow in double precision; the temperature is ALPHA, fixed or learned."""
    learned = kind == "learned"
    torch.manual_seed(dim)
    flow = make_flow(
        name,
        dim,
        3,
        temperature=LearnedTemperature(ALPHA) if learned else ALPHA,
        log_sigma=(-1.0, -0.3),
        normalized=True,
        **further,
    )
    flow = perturb(flow, 0.1).double().eval()
    if learned:
        flow.temperature_module.log_alpha.data.fill_(math.log(ALPHA))
    return flow


@pytest.mark.parametrize(("dim", "kind"), [(1, "fixed"), (1, "learned"), (2, "learned")])
@over_flows
def test_the_advantage_over_the_temperature_is_a_normalised_log_density(
    name: str, dim: int, kind: str
) -> None:
    flow, observation = normalized(name, dim, kind=kind), uniform(3, bound=2)
    smooth = name in SMOOTH
    grid = action_grid(dim, squash=True) if smooth else latent_grid(flow, observation)
    with torch.no_grad():
        q, v = flow.q_and_value(grid.action, observation)
        integral = grid.log_integral((q - v) / ALPHA).exp()
        soft_maximum = ALPHA * grid.log_integral(q / ALPHA)
    tolerance = 1e-6 if smooth else 1e-9
    assert integral.shape == (2,)
    assert largest(integral - 1) <= tolerance
    assert largest(flow.value(observation) - soft_maximum) <= tolerance


@over_temperatures
@over_flows
def test_all_methods_agree(name: str, kind: str) -> None:
    flow = normalized(name, kind=kind)
    action, observation = uniform(4, 5, 2, bound=0.9), uniform(5, 3, bound=2)
    q, v = flow.q_and_value(action, observation)
    assert q.shape == v.expand_as(q).shape == (4, 5, 2)
    assert torch.equal(flow.q_value(action, observation), q)
    assert torch.equal(flow.value(observation).expand_as(q), v.expand_as(q))
    assert torch.equal(flow.shift(observation), flow.value(observation))
    log_prob = flow.log_prob(action, observation)
    assert largest((q - v) / ALPHA - log_prob.unsqueeze(-1)) <= 1e-12
    drawn, of_sample = flow.sample(observation)
    q, v = flow.q_and_value(drawn, observation)
    # tanh rounds by 1e-16, which atanh magnifies near the ends.
    assert largest((q - v) / ALPHA - of_sample.unsqueeze(-1)) <= 1e-7


@over_flows
def test_the_value_does_not_see_the_action(name: str) -> None:
    flow, observation = normalized(name), uniform(5, 3, bound=2)
    values = [flow.q_and_value(uniform(5, 2, bound=0.9), observation)[1] for _ in range(3)]
    assert all(torch.equal(value, flow.value(observation)) for value in values)


@over_flows
def test_the_policy_is_that_of_the_usual_form(name: str) -> None:
    """The same parameters give the same policy; Q and V differ by one function of the state."""
    flow = normalized(name, kind="fixed")
    usual = make_flow(name, 2, 3, temperature=ALPHA, log_sigma=(-1.0, -0.3)).double().eval()
    usual.load_state_dict(flow.state_dict())
    action, observation = uniform(4, 5, 2, bound=0.9), uniform(5, 3, bound=2)
    assert torch.equal(flow.log_prob(action, observation), usual.log_prob(action, observation))
    torch.manual_seed(0)
    drawn = flow.sample(observation)
    torch.manual_seed(0)
    for one, other in zip(drawn, usual.sample(observation), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(flow.mode(observation), usual.mode(observation))
    (q, v), (usual_q, usual_v) = (each.q_and_value(action, observation) for each in (flow, usual))
    assert largest((q - v) - (usual_q - usual_v)) <= 1e-12
    assert largest(usual_v.expand_as(q) - v - (usual_v - v)[0]) <= 1e-12


@over_flows
def test_the_value_module_has_the_shift_alone(name: str) -> None:
    flow, observation = normalized(name), uniform(5, 3, bound=2)
    module = flow.value_module()
    assert isinstance(module, ShiftValue)
    assert torch.equal(module(observation), flow.value(observation))
    own = {id(p) for p in flow.shift.parameters()}
    assert {id(p) for p in module.parameters()} == own
    value = flow.value(observation).sum()
    parameters = list(flow.parameters())
    gradients = torch.autograd.grad(value, parameters, allow_unused=True)
    learns = {id(p) for p, g in zip(parameters, gradients, strict=True) if g is not None}
    assert learns == own


@pytest.mark.parametrize("name", [n for n in registered() if "dropout" in options(n)])
def test_each_head_has_a_dropout_mask_of_its_own(name: str) -> None:
    """As long as no unit is dropped alike for both, the heads' log-densities differ."""
    action, observation = uniform(8, 2, bound=0.9), uniform(8, 3, bound=2)

    def log_probs(**changes: object) -> Tensor:
        flow = normalized(name, dropout=0.5, **changes).train()
        q, v = flow.q_and_value(action, observation)
        return (q - v) / ALPHA

    one, other = log_probs().unbind(-1)
    assert largest(one - other) > 1e-3
    one, other = log_probs(dropout_per_head=False).unbind(-1)
    assert largest(one - other) <= 1e-12


def layers() -> list[object]:
    return [StateScale(2, 3), AdditiveCoupling(2, 3)]


def test_a_learned_temperature_needs_a_normalized_flow() -> None:
    with pytest.raises(
        ValueError, match="A temperature that changes needs a flow with normalized"
    ):
        build("additive", 2, 3, temperature=LearnedTemperature(0.5))
    with pytest.raises(
        ValueError, match="A temperature that changes needs a flow with normalized"
    ):
        EnergyBasedFlow(
            StandardNormal(2),
            layers(),
            temperature=LearnedTemperature(0.5),
            shift=RewardShift(3, 2),
        )


@pytest.mark.parametrize("obs_dim", [3, None])
def test_a_normalized_flow_needs_a_shift(obs_dim: int | None) -> None:
    with pytest.raises(ValueError, match="A normalized flow needs a shift, which is its value"):
        build("additive", 2, obs_dim, temperature=0.5, heads=0, normalized=True)
    with pytest.raises(ValueError, match="A normalized flow needs a shift"):
        EnergyBasedFlow(StandardNormal(2), layers(), temperature=0.5, normalized=True)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_a_fixed_temperature_is_checked_as_ever(alpha: float) -> None:
    with pytest.raises(ValueError, match="temperature must be positive and finite"):
        build("additive", 2, 3, temperature=alpha, normalized=True)


def test_observations_of_another_size_are_refused_by_the_value_too() -> None:
    flow = normalized("additive")
    for value in (flow.value, flow.value_module()):
        with pytest.raises(ValueError, match=r"observation must have shape \(\*batch, 3\)"):
            value(torch.zeros(5, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match="must be float32 or float64"):
        flow.value(torch.zeros(5, 3, dtype=torch.float16))


def test_it_says_what_it_is() -> None:
    assert "normalized=True" in repr(normalized("additive", kind="fixed"))
    assert "temperature=0.4" in repr(normalized("additive", kind="fixed"))
    shown = repr(normalized("additive"))
    assert "LearnedTemperature(initial=0.4)" in shown
    assert "temperature=tensor" not in shown
