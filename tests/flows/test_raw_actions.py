"""Actions before the squash, at which Q is exact in single precision too."""

from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.envs.utils import ExplorationType, set_exploration_type

from maxentflow.flows import (
    AdditiveCoupling,
    EnergyBasedFlow,
    FlowPolicy,
    LearnedTemperature,
    NormalizedModel,
    RawActions,
    RewardShift,
    SimplexSquash,
    StandardNormal,
    StateScale,
    TanhSquash,
    build,
    options,
    registered,
)

from .cases import HIDDEN, largest, perturb, uniform

ALPHA = 0.4
SQUASHES = {
    "tanh": lambda: TanhSquash(2),
    "bounds": lambda: TanhSquash(2, low=[0.0, -1.0], high=[10.0, 3.0]),
    "simplex": lambda: SimplexSquash(2),
    "none": lambda: "none",
}
"""Two entries come before each."""
MODERATE, FAR = (-1.0, -0.3), (2.5, 3.0)
"""Log-sigmas of actions that keep away from the ends of their bounds, and of some that do not."""

over_flows = pytest.mark.parametrize("name", registered())
over_squashes = pytest.mark.parametrize("squash", ["tanh", "bounds", "simplex"])
over_forms = pytest.mark.parametrize("form", ["usual", "normalized", "learned"])


def flow_of(
    name: str = "additive",
    squash: str = "tanh",
    form: str = "usual",
    *,
    dtype: torch.dtype = torch.float64,
    log_sigma: tuple[float, float] = MODERATE,
    noise: float = 0.1,
    **further: object,
) -> EnergyBasedFlow:
    """A random flow of observations of size 3 in evaluation mode."""
    torch.manual_seed(1)
    small = {"hidden": HIDDEN, "blocks": 2, "max_log_scale": 0.5, "bins": 4, "components": 3}
    flow = build(
        name,
        3 if squash == "simplex" else 2,
        3,
        temperature=LearnedTemperature(ALPHA) if form == "learned" else ALPHA,
        normalized=form != "usual",
        log_sigma=log_sigma,
        squash=SQUASHES[squash](),
        scale={"hidden": HIDDEN},
        shift={"hidden": HIDDEN},
        **{**{key: value for key, value in small.items() if key in options(name)}, **further},
    )
    flow = perturb(flow, noise).to(dtype).eval()
    if flow.temperature_module is not None:
        flow.temperature_module.log_alpha.data.fill_(math.log(ALPHA))
    return flow


def observations(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return uniform(*shape, 3, bound=2).to(dtype)


# What the flow gives


@pytest.mark.parametrize(
    ("squash", "form"),
    [("tanh", "usual"), ("tanh", "learned"), ("bounds", "normalized"), ("simplex", "usual")],
)
@over_flows
def test_at_moderate_actions_it_is_the_q_and_value_of_the_action(
    name: str, squash: str, form: str
) -> None:
    flow, observation = flow_of(name, squash, form), observations(5)
    raw = uniform(4, 5, 2, bound=1.5)
    action, _ = flow.squash(raw)
    expected = flow.q_and_value(action, observation)
    for got, wanted in zip(flow.raw_q_and_value(raw, observation), expected, strict=True):
        assert got.shape == wanted.shape
        assert largest(got - wanted) <= 1e-9


@over_squashes
def test_gradients_too_are_those_at_the_action(squash: str) -> None:
    flow, observation = flow_of("affine", squash), observations(5)
    raw = uniform(5, 2, bound=1.5).requires_grad_()
    parameters = [*flow.parameters(), raw]
    options = {"allow_unused": True, "materialize_grads": True}
    found, expected = (
        torch.autograd.grad(q.square().sum(), parameters, **options)
        for q in (
            flow.raw_q_and_value(raw, observation)[0],
            flow.q_value(flow.squash(raw)[0], observation),
        )
    )
    assert any(gradient.any() for gradient in found[:-1])
    for one, other in zip(found, expected, strict=True):
        assert largest(one - other) <= 1e-8


@pytest.mark.parametrize(
    ("squash", "form"), [("tanh", "usual"), ("tanh", "normalized"), ("bounds", "learned")]
)
@over_flows
def test_far_beyond_the_margin_it_is_the_samples_own_log_density_in_single_precision(
    name: str, squash: str, form: str
) -> None:
    """The action alone does not tell: whole nats are lost where the squash is flat."""
    flow = flow_of(name, squash, form, dtype=torch.float32, log_sigma=FAR)
    observation = observations(64, dtype=torch.float32)
    with torch.no_grad():
        action, log_prob, raw = flow.sample_raw(observation)
        exact = ALPHA * log_prob.unsqueeze(-1)
        q, value = flow.raw_q_and_value(raw, observation)
        assert largest((q - value - exact) / ALPHA) <= 1e-4 * largest(log_prob)
        by_action = flow.q_value(action, observation)
    beyond = raw.abs().amax(-1) > 9
    assert beyond.double().mean() > 0.5
    assert ((by_action - value - exact)[beyond] / ALPHA).abs().max() > 1.0


def test_far_beyond_the_margin_additive_layers_are_exact_to_a_ten_thousandth_of_a_nat() -> None:
    flow = flow_of(dtype=torch.float32, log_sigma=FAR)
    observation = observations(64, dtype=torch.float32)
    with torch.no_grad():
        _, log_prob, raw = flow.sample_raw(observation)
        q, value = flow.raw_q_and_value(raw, observation)
    assert largest((q - value) / ALPHA - log_prob.unsqueeze(-1)) <= 1e-4


def test_shares_that_vanish_in_single_precision() -> None:
    """A simplex's faces are beyond its margin."""
    flow = flow_of("additive", "simplex", dtype=torch.float32, log_sigma=(3.5, 4.0))
    observation = observations(64, dtype=torch.float32)
    with torch.no_grad():
        action, log_prob, raw = flow.sample_raw(observation)
        q, value = flow.raw_q_and_value(raw, observation)
        assert largest((q - value) / ALPHA - log_prob.unsqueeze(-1)) <= 1e-4
        beyond = action.amin(-1) < 1e-12
        assert beyond.double().mean() > 0.3
        off = (flow.q_value(action, observation) - q)[beyond] / ALPHA
    assert off.abs().max() > 1.0


@pytest.mark.parametrize(
    ("squash", "sample_shape"), [("tanh", ()), ("bounds", (3,)), ("simplex", (2, 4))]
)
@over_flows
def test_samples_are_those_of_sample_with_what_was_squashed(
    name: str, squash: str, sample_shape: tuple[int, ...]
) -> None:
    flow, observation = flow_of(name, squash), observations(5)
    torch.manual_seed(3)
    action, log_prob = flow.sample(observation, sample_shape)
    after = torch.rand(1)
    torch.manual_seed(3)
    drawn, of_drawn, raw = flow.sample_raw(observation, sample_shape)
    assert torch.equal(torch.rand(1), after)
    assert torch.equal(drawn, action)
    assert torch.equal(of_drawn, log_prob)
    assert raw.shape == (*sample_shape, 5, 2)
    assert torch.equal(flow.squash(raw)[0], action)


@over_squashes
def test_unsquash_inverts_the_squash(squash: str) -> None:
    flow = flow_of(squash=squash)
    raw = uniform(4, 5, 2, bound=2.0)
    assert largest(flow.unsquash(flow.squash(raw)[0]) - raw) <= 1e-9


def test_unsquash_of_the_ends_is_the_margin() -> None:
    flow = flow_of(dtype=torch.float32)
    ends = flow.unsquash(torch.tensor([[1.0, -1.0]]))
    expected = math.atanh(1 - 1e-5)
    # Single precision rounds 1 - 1e-5 by 3e-8, which atanh magnifies.
    torch.testing.assert_close(ends, torch.tensor([[expected, -expected]]), rtol=0, atol=2e-3)


@over_forms
@pytest.mark.parametrize("name", [n for n in registered() if "dropout" in options(n)])
def test_heads_have_the_same_dropout_masks_by_either_way(name: str, form: str) -> None:
    flow, observation = flow_of(name, form=form, dropout=0.5).train(), observations(5)
    raw = uniform(5, 2, bound=1.5)
    torch.manual_seed(0)
    q, value = flow.raw_q_and_value(raw, observation)
    torch.manual_seed(0)
    expected, same = flow.q_and_value(flow.squash(raw)[0], observation)
    assert largest(q - expected) <= 1e-9
    assert largest(value - same) <= 1e-9
    assert largest((q - value)[..., 0] - (q - value)[..., 1]) > 1e-3


# Refusals


def test_without_a_squash_there_are_no_raw_actions() -> None:
    flow, observation = flow_of(squash="none"), observations(5)
    assert flow.squash is None
    for refused in (
        lambda: flow.raw_q_and_value(uniform(5, 2, bound=1.0), observation),
        lambda: flow.sample_raw(observation),
        lambda: flow.unsquash(uniform(5, 2, bound=1.0)),
    ):
        with pytest.raises(ValueError, match="This flow has no squash: its actions are the raw"):
            refused()
    with pytest.raises(ValueError, match="A flow without a squash has no raw actions"):
        RawActions(flow)


def test_a_squash_that_is_not_the_last_layer_does_not_count() -> None:
    flow = EnergyBasedFlow(
        StandardNormal(2),
        [StateScale(2, 3), TanhSquash(2), AdditiveCoupling(2, 3)],
        temperature=ALPHA,
        shift=RewardShift(3, 2),
    )
    assert flow.squash is None


def test_sizes_are_those_before_the_squash() -> None:
    flow, observation = flow_of(squash="simplex"), observations(5)
    with pytest.raises(ValueError, match=r"raw_action must have shape \(\*batch, 2\), got \(5, 3"):
        flow.raw_q_and_value(uniform(5, 3, bound=1.0), observation)
    with pytest.raises(ValueError, match=r"action must have shape \(\*batch, 3\), got \(5, 2"):
        flow.unsquash(uniform(5, 2, bound=1.0))
    with pytest.raises(ValueError, match=r"observation must have shape \(\*batch, 3\), got"):
        flow.raw_q_and_value(uniform(5, 2, bound=1.0), observation[:, :2])
    with pytest.raises(ValueError, match="raw_action must be float32 or float64"):
        flow.raw_q_and_value(uniform(5, 2, bound=1.0).half(), observation)


# Acting


@pytest.mark.parametrize("normalized", [False, True])
def test_a_policy_writes_them_where_it_samples(normalized: bool) -> None:
    flow = flow_of()
    model = NormalizedModel(flow) if normalized else flow
    policy = FlowPolicy(model, raw_action_key=("own", "raw"))
    step = TensorDict(observation=observations(5), batch_size=[5])
    torch.manual_seed(0)
    acted = policy(step.clone())
    torch.manual_seed(0)
    expected = flow.sample_raw(step["observation"])
    for key, wanted in zip(("action", "action_log_prob", ("own", "raw")), expected, strict=True):
        assert torch.equal(acted[key], wanted)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        acted = policy(step.clone())
    assert ("own", "raw") not in acted.keys(True)
    assert torch.equal(acted["action"], flow.mode(step["observation"]))
    torch.manual_seed(0)
    plain = FlowPolicy(model)(step.clone())
    assert torch.equal(plain["action"], expected[0])
    assert set(plain.keys()) == {"observation", "action", "action_log_prob"}


@over_squashes
def test_random_actions_get_theirs_and_others_keep_theirs(squash: str) -> None:
    flow = flow_of(squash=squash)
    part = RawActions(flow)
    raw = uniform(5, 2, bound=2.0)
    step = TensorDict(action=flow.squash(raw)[0], batch_size=[5])
    part.observe(step)
    assert largest(step["raw_action"] - raw) <= 1e-9
    assert not step["raw_action"].requires_grad
    own = torch.full((5, 2), 99.0, dtype=torch.float64)
    step["raw_action"] = own
    part.observe(step)
    assert torch.equal(step["raw_action"], own)


def test_the_part_that_adds_them_has_no_state() -> None:
    part = RawActions(flow_of())
    assert part.state_dict() == {}
    part.load_state_dict({})
