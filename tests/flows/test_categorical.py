"""The categorical energy model against enumeration over its actions."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from tensordict import TensorDict
from torch import Tensor, nn

from maxentflow.flows import CategoricalEnergy, LearnedTemperature, RewardShift, Swish
from maxentflow.flows.batched_mlp import BatchedLinear
from maxentflow.objectives import SoftBellmanLoss

from .cases import BATCHES, HIDDEN, SEEDS, largest, perturb, quick, uniform


class Case(NamedTuple):
    model: CategoricalEnergy
    observation: Tensor


@st.composite
def cases(draw: st.DrawFn) -> Case:
    torch.manual_seed(draw(SEEDS))
    obs_dim = draw(st.integers(1, 3))
    model = CategoricalEnergy(
        draw(st.integers(1, 6)),
        obs_dim,
        temperature=draw(st.floats(0.01, 3.0)),
        heads=draw(st.integers(1, 3)),
        hidden=draw(st.sampled_from([(), (16,), HIDDEN])),
        activation=draw(st.sampled_from(["relu", "swish", "tanh"])),
    )
    observation = uniform(*draw(BATCHES), obs_dim, bound=2)
    return Case(perturb(model).double().eval(), observation)


def all_actions(case: Case) -> Tensor:
    """Every action, in a dimension before those of the observations."""
    return torch.arange(case.model.n_actions).reshape(-1, *[1] * (case.observation.ndim - 1))


@quick
@given(case=cases())
def test_exp_of_q_minus_v_sums_to_one_for_each_head(case: Case) -> None:
    q, v = case.model.q_and_value(all_actions(case), case.observation)
    total = ((q - v) / case.model.temperature).exp().sum(0)
    assert total.shape == (*case.observation.shape[:-1], case.model.heads)
    assert largest(total - 1) <= 1e-12


@quick
@given(case=cases())
def test_v_is_the_soft_maximum_of_q(case: Case) -> None:
    model, observation = case
    q = model.q_value(all_actions(case), observation)
    largest_q = q.amax(0)
    alpha = model.temperature
    expected = largest_q + alpha * ((q - largest_q) / alpha).exp().sum(0).log()
    assert largest(model.value(observation) - expected) <= 1e-9
    assert torch.equal(model.q_and_value(all_actions(case), observation)[0], q)
    assert torch.equal(model.q_values(observation).movedim(-2, 0), q)


@quick
@given(case=cases())
def test_every_head_is_a_network_of_its_own(case: Case) -> None:
    model, observation = case
    q_values = model.q_values(observation)
    for head in range(model.heads):
        x = observation
        for module in model.net:
            if isinstance(module, BatchedLinear):
                x = x @ module.weight[head] + module.bias[head, 0]
            elif isinstance(module, Swish):
                x = x / (1 + torch.exp(-module.beta[head, 0] * x))
            else:
                x = module(x)
        assert largest(q_values[..., head] - x) <= 1e-12


@quick
@given(case=cases())
def test_the_policy_is_the_softmax_of_the_heads_mean(case: Case) -> None:
    model, observation = case
    weights = (model.q_value(all_actions(case), observation).mean(-1) / model.temperature).exp()
    probability = weights / weights.sum(0)
    log_prob = model.log_prob(all_actions(case), observation)
    assert log_prob.shape == (model.n_actions, *observation.shape[:-1])
    assert largest(log_prob.exp() - probability) <= 1e-9
    assert largest(model.log_probs(observation).movedim(-1, 0) - log_prob) <= 1e-12
    assert torch.equal(model.mode(observation), log_prob.argmax(0))
    if model.heads == 1:
        q, v = model.q_and_value(all_actions(case), observation)
        assert largest((q - v)[..., 0] / model.temperature - log_prob) <= 1e-9


@quick
@given(case=cases(), sample_shape=st.sampled_from([(), (4,), (2, 3)]))
def test_a_samples_log_prob_is_that_of_the_action(
    case: Case, sample_shape: tuple[int, ...]
) -> None:
    model, observation = case
    action, log_prob = model.sample(observation, sample_shape)
    assert action.dtype == torch.int64
    assert action.shape == log_prob.shape == (*sample_shape, *observation.shape[:-1])
    assert ((action >= 0) & (action < model.n_actions)).all()
    assert torch.equal(log_prob, model.log_prob(action, observation))


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("heads", [1, 2])
def test_samples_have_the_policys_frequencies(temperature: float, heads: int) -> None:
    torch.manual_seed(0)
    model = CategoricalEnergy(5, 3, temperature=temperature, heads=heads, hidden=HIDDEN)
    observation = torch.randn(4, 3)
    count = 20_000
    action, _ = perturb(model, 0.1).sample(observation, (count,))
    expected = model.log_probs(observation).double().softmax(-1).detach()
    for draws, probability in zip(action.T, expected, strict=True):
        found = draws.bincount(minlength=5).numpy()
        assert chisquare(found, count * probability.numpy()).pvalue > 1e-3


@quick
@given(case=cases())
def test_the_entropys_gradient_flows_through_the_log_prob(case: Case) -> None:
    model, observation = case
    _, log_prob = model.sample(observation)
    gradients = torch.autograd.grad(log_prob.sum(), list(model.parameters()), allow_unused=True)
    assert all(g is None or g.isfinite().all() for g in gradients)
    assert gradients[-1] is not None


@pytest.mark.parametrize("temperature", [1e-3, 1e3])
def test_single_precision_stays_finite_at_any_temperature(temperature: float) -> None:
    torch.manual_seed(0)
    model = perturb(CategoricalEnergy(4, 3, temperature=temperature), 3.0)
    observation = 10 * torch.randn(50, 3)
    action, log_prob = model.sample(observation)
    for value in (*model.q_and_value(action, observation), log_prob, model.value(observation)):
        assert value.dtype == torch.float32
        assert value.isfinite().all()


def batch(rows: int) -> TensorDict:
    """Transitions in which action 2 earns 1 and any other 0, and every episode ends."""
    action = torch.arange(rows) % 4
    ends = torch.ones(rows, 1, dtype=torch.bool)
    reward = (action == 2).float().unsqueeze(-1)
    following = TensorDict(observation=torch.randn(rows, 3), reward=reward)
    following.update({"done": ends, "terminated": ends})
    return TensorDict(
        observation=torch.randn(rows, 3), action=action, next=following, batch_size=[rows]
    )


def test_the_soft_bellman_loss_trains_it_as_it_trains_a_flow() -> None:
    torch.manual_seed(0)
    model = CategoricalEnergy(4, 3, temperature=0.2, hidden=(32,))
    loss = SoftBellmanLoss(model)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-2)
    for _ in range(300):
        data = batch(64)
        report = loss(data)
        optimizer.zero_grad()
        report["loss"].backward()
        optimizer.step()
    assert set(report.keys()) == {"loss", "q", "value", "target", "td_error", "entropy"}
    assert data["td_error"].shape == (64,)
    observation = torch.randn(50, 3)
    q = model.q_value(torch.arange(4).unsqueeze(-1), observation)
    assert largest(q - torch.tensor([0.0, 0.0, 1.0, 0.0]).reshape(4, 1, 1)) <= 0.15
    value = 0.2 * math.log(3 + math.exp(1 / 0.2))
    assert largest(model.value(observation) - value) <= 0.15
    assert (model.mode(observation) == 2).all()


class TestRefusals:
    @pytest.mark.parametrize(
        ("sizes", "options"),
        [
            ((0, 3), {}),
            ((4, 0), {}),
            ((4, 3), {"heads": 0}),
            ((4, 3), {"hidden": (8, 0)}),
        ],
    )
    def test_sizes_below_one(self, sizes: tuple[int, int], options: dict) -> None:
        with pytest.raises(ValueError, match="CategoricalEnergy needs sizes of at least 1, got"):
            CategoricalEnergy(*sizes, temperature=1.0, **options)

    @pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
    def test_a_temperature_that_is_not_positive(self, temperature: float) -> None:
        with pytest.raises(ValueError, match="temperature must be positive and finite, got"):
            CategoricalEnergy(4, 3, temperature=temperature)

    def test_a_shift_of_other_observations(self) -> None:
        with pytest.raises(ValueError, match="shift takes observations of 5, the model of 3"):
            CategoricalEnergy(4, 3, temperature=1.0, shift=RewardShift(5))

    @pytest.mark.parametrize("method", ["value", "mode", "sample", "log_probs"])
    def test_observations_of_another_size(self, method: str) -> None:
        model = CategoricalEnergy(4, 3, temperature=1.0)
        with pytest.raises(ValueError, match=r"observation must have shape \(\*batch, 3\), got"):
            getattr(model, method)(torch.zeros(5, 2))

    @pytest.mark.parametrize("method", ["q_value", "q_and_value", "log_prob"])
    def test_actions_that_are_not_integers(self, method: str) -> None:
        model = CategoricalEnergy(4, 3, temperature=1.0)
        with pytest.raises(ValueError, match=r"action must be an int64 tensor of shape"):
            getattr(model, method)(torch.zeros(5), torch.zeros(5, 3))


# With a reward shift


@st.composite
def shifted(draw: st.DrawFn) -> Case:
    torch.manual_seed(draw(SEEDS))
    obs_dim = draw(st.integers(1, 3))
    model = CategoricalEnergy(
        draw(st.integers(1, 6)),
        obs_dim,
        temperature=draw(st.floats(0.01, 3.0)),
        shift=RewardShift(obs_dim, draw(st.integers(1, 3)), hidden=(16,)),
        normalized=draw(st.booleans()),
        hidden=HIDDEN,
    )
    observation = uniform(*draw(BATCHES), obs_dim, bound=2)
    return Case(perturb(model).double().eval(), observation)


@quick
@given(case=shifted())
def test_the_forms_of_q_and_v_with_a_shift(case: Case) -> None:
    model, observation = case
    alpha, shift = model.temperature, model.shift(observation)
    energies = model.net(observation).squeeze(-1)
    if model.normalized:
        energies = energies - energies.exp().sum(-1, keepdim=True).log()
    q = model.q_values(observation)
    assert q.shape == (*observation.shape[:-1], model.n_actions, model.heads)
    assert largest(q - (alpha * energies.unsqueeze(-1) + shift.unsqueeze(-2))) <= 1e-12
    v = model.value(observation)
    expected = alpha * energies.exp().sum(-1, keepdim=True).log() + shift
    assert largest(v - expected) <= 1e-12
    soft_maximum = alpha * (q / alpha).exp().sum(-2).log()
    assert soft_maximum.isinf().any() or largest(v - soft_maximum) <= 1e-9
    policy = model.log_probs(observation)
    for head in range(model.heads):  # the shift leaves the policy alone
        assert largest((q[..., head] - v[..., head, None]) / alpha - policy) <= 1e-9
    ours = model.q_and_value(all_actions(case), observation)
    assert largest(ours[0] - q.movedim(-2, 0)) <= 1e-12
    assert largest(ours[1] - v) <= 1e-12


def test_v_of_a_normalized_model_stays_when_the_temperature_moves() -> None:
    torch.manual_seed(0)
    alpha = LearnedTemperature(0.5)
    model = perturb(
        CategoricalEnergy(4, 3, temperature=alpha, shift=RewardShift(3, 2), normalized=True)
    ).eval()
    alpha.reset_parameters()
    observation = torch.randn(5, 3)
    v, policy, q = (
        model.value(observation),
        model.log_probs(observation),
        model.q_values(observation),
    )
    alpha.log_alpha.data.fill_(math.log(1.5))
    assert torch.equal(model.value(observation), v)
    assert torch.equal(model.log_probs(observation), policy)
    moved = model.q_values(observation) - v.unsqueeze(-2)
    torch.testing.assert_close(moved, 3 * (q - v.unsqueeze(-2)), rtol=1e-4, atol=1e-5)


def test_a_normalized_model_needs_a_shift() -> None:
    with pytest.raises(ValueError, match="needs a shift, which is its value"):
        CategoricalEnergy(2, 3, temperature=1.0, normalized=True)


def test_observations_of_another_form_are_encoded() -> None:
    torch.manual_seed(0)
    plain = CategoricalEnergy(4, 6, temperature=0.5, hidden=HIDDEN)
    encoded = CategoricalEnergy(4, 6, temperature=0.5, hidden=HIDDEN, encoder=nn.Flatten(-2))
    encoded.net.load_state_dict(plain.net.state_dict())
    picture = torch.randn(5, 2, 3)
    for method in ("q_values", "value", "log_probs", "mode"):
        ours = getattr(encoded, method)(picture)
        assert torch.equal(ours, getattr(plain, method)(picture.flatten(1)))
    with pytest.raises(ValueError, match=r"shape \(\*batch, 6\), got \(5, 9\)"):
        encoded.value(torch.randn(5, 3, 3))
