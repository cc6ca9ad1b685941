"""Running scales against numpy on whole arrays, and a model in units of reward around another."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.signal import lfilter
from tensordict import TensorDict
from torch import Tensor

from maxentflow.flows import (
    CategoricalEnergy,
    DiscountedReturns,
    EnergyBasedFlow,
    LearnedTemperature,
    NormalizedModel,
    ObservationNorm,
    ReturnScale,
    registered,
)

from .cases import action_grid, largest, make_flow, perturb, uniform

DTYPES = torch.float64, torch.float32
over_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
ALPHA, GAMMA = 0.4, 0.9
FIRST = 1e-4  # how many observations count as much as what is assumed before the first
LARGE = 1024.0  # a power of two, by which products are exact


def tolerance(dtype: torch.dtype) -> float:
    """Of running sums over hundreds of steps, relative to what is summed."""
    return 1e-12 if dtype == torch.float64 else 2e-5


# Observations


def observed(seed: int, rows: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Entries of very different scales and means."""
    generator = np.random.default_rng(seed)
    scales, means = np.array([1e-2, 1.0, 30.0, 1e3]), np.array([0.0, -2.0, 100.0, 1e3])
    return torch.as_tensor(means + scales * generator.normal(size=(rows, 4))).to(dtype)


def fed(norm: ObservationNorm, observations: Tensor, at_once: int) -> ObservationNorm:
    for part in observations.split(at_once):
        norm.update(part)
    return norm


@over_dtypes
@pytest.mark.parametrize("at_once", [1, 3, 500])
def test_mean_and_variance_are_numpys_of_all_observations(
    at_once: int, dtype: torch.dtype
) -> None:
    seen = observed(0, 500, dtype)
    norm = fed(ObservationNorm(4).to(dtype), seen, at_once)
    array = seen.double().numpy()
    mean, variance = (torch.as_tensor(each) for each in (array.mean(0), array.var(0)))
    share = FIRST / len(seen)
    square = mean.square() + variance + 1
    off = tolerance(dtype)
    assert (norm.mean - mean).abs().le(share * mean.abs() + off * square.sqrt()).all()
    assert (norm.variance - variance).abs().le(share * square + off * square).all()
    assert norm.count.item() == pytest.approx(500, rel=1e-6)
    assert {each.dtype for each in norm.state_dict().values()} == {dtype}


@over_dtypes
def test_it_standardises_and_clips_any_shape(dtype: torch.dtype) -> None:
    seen = observed(1, 300, dtype)
    norm = fed(ObservationNorm(4, clip=1.5).to(dtype), seen, 10)
    given = observed(2, 40, dtype).reshape(2, 20, 4)
    mean, variance = norm.mean.double().numpy(), norm.variance.double().numpy()
    expected = (given.double().numpy() - mean) / np.sqrt(variance + 1e-8)
    clipped = torch.as_tensor(np.clip(expected, -1.5, 1.5))
    got = norm(given)
    assert got.shape == (2, 20, 4)
    assert got.dtype == dtype
    assert largest(got - clipped) <= 10 * tolerance(dtype)
    assert got.abs().max() == 1.5
    unclipped = (seen - norm.mean) / norm.variance.sqrt()
    assert largest(unclipped.mean(0)) <= 1e-3
    assert largest(unclipped.var(0, correction=0) - 1) <= 1e-2


def test_before_the_first_observation_it_only_clips() -> None:
    given = torch.tensor([-30.0, -10.0, 0.25, 9.0, 1e9])
    expected = torch.tensor([-10.0, -10.0, 0.25, 9.0, 10.0])
    torch.testing.assert_close(ObservationNorm(5)(given), expected, rtol=1e-7, atol=0)


@over_dtypes
@pytest.mark.parametrize("constant", [0.0, 1e-3, -5.0, 1e4])
def test_an_entry_that_never_changes_is_about_zero(constant: float, dtype: torch.dtype) -> None:
    norm = ObservationNorm(1).to(dtype)
    seen = torch.full((1, 1), constant, dtype=dtype)
    for _ in range(1000):
        norm.update(seen)
    # What is assumed before the first has its share of the mean. In single precision the mean
    # cannot move by less than its last digit, which adds to this.
    assert largest(norm(seen)) <= (1e-2 / math.sqrt(1000) + (dtype == torch.float32) * 0.01)


def test_observing_takes_the_observation_that_was_acted_on() -> None:
    one, other = ObservationNorm(4), ObservationNorm(4)
    before, after = observed(0, 3, torch.float32), observed(1, 3, torch.float32)
    one.observe(TensorDict(observation=before, next=TensorDict(observation=after), batch_size=[3]))
    other.update(before)
    assert torch.equal(one.mean, other.mean)
    assert torch.equal(one.variance, other.variance)


@over_dtypes
def test_observations_go_on_from_a_state(dtype: torch.dtype) -> None:
    first, second = ObservationNorm(4).to(dtype), ObservationNorm(4).to(dtype)
    fed(first, observed(0, 50, dtype), 2)
    second.load_state_dict(first.state_dict())
    for norm in (first, second):
        fed(norm, observed(1, 50, dtype), 3)
    for one, other in zip(first.buffers(), second.buffers(), strict=True):
        assert torch.equal(one, other)
    assert not list(first.parameters())


@pytest.mark.parametrize(
    ("obs_dim", "clip"), [(0, 10.0), (-1, 10.0), (3, 0.0), (3, -1.0), (3, float("nan"))]
)
def test_sizes_of_observations_are_checked(obs_dim: int, clip: float) -> None:
    with pytest.raises(ValueError, match=r"ObservationNorm needs obs_dim >= 1 and clip > 0, got"):
        ObservationNorm(obs_dim, clip=clip)


# Rewards


def episodes(
    seed: int, steps: int, num_envs: int, size: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Rewards and ends ``(steps, num_envs, 1)``; environments end at times of their own."""
    generator = np.random.default_rng(seed)
    rewards = size * (0.5 + generator.normal(size=(steps, num_envs, 1)))
    done = generator.random((steps, num_envs, 1)) < 0.05
    return torch.as_tensor(rewards).to(dtype), torch.as_tensor(done)


def returns_of(rewards: Tensor, done: Tensor, gamma: float = GAMMA) -> np.ndarray:
    """The discounted returns of each episode, as a linear filter of its rewards."""
    found = []
    for row, ends in zip(rewards.double().unbind(1), done.unbind(1), strict=True):
        cuts = ends[:, 0].nonzero().flatten() + 1
        parts = np.split(row[:, 0].numpy(), cuts.numpy())
        found += [lfilter([1.0], [1.0, -gamma], part) for part in parts if len(part)]
    return np.concatenate(found)


def follow(returns: DiscountedReturns, rewards: Tensor, done: Tensor) -> ReturnScale:
    for reward, ended in zip(rewards, done, strict=True):
        returns.update(reward, ended)
    return returns.scale


@over_dtypes
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("g_max", [1e-3, 5.0, 1e3])
def test_the_scale_is_numpys_of_all_discounted_returns(
    g_max: float, num_envs: int, size: float, dtype: torch.dtype
) -> None:
    rewards, done = episodes(num_envs, 100, num_envs, size, dtype)
    returns = DiscountedReturns(ReturnScale(g_max=g_max), GAMMA).to(dtype)
    scale = follow(returns, rewards, done)
    array = returns_of(rewards, done)
    assert len(array) == 100 * num_envs
    expected = max(array.std(), np.abs(array).max() / g_max)
    # What is assumed before the first return counts as FIRST of one that is zero.
    share = FIRST / len(array) * (1 + array.mean() ** 2 / array.var())
    assert scale().item() == pytest.approx(expected, rel=share + tolerance(dtype))
    assert scale().shape == ()
    assert scale().dtype == dtype
    assert np.abs(array).max() / scale().item() <= g_max * (1 + tolerance(dtype))


@over_dtypes
def test_rewards_in_other_units_give_a_scale_in_other_units(dtype: torch.dtype) -> None:
    rewards, done = episodes(0, 200, 2, 1.0, dtype)
    one, other = (
        follow(DiscountedReturns(ReturnScale(), GAMMA).to(dtype), factor * rewards, done)()
        for factor in (1.0, LARGE)
    )
    # To the digits of the smallest numbers, the assumed first return included.
    assert torch.equal(other, LARGE * one)


@over_dtypes
def test_rewards_of_zero_leave_the_scale_at_one(dtype: torch.dtype) -> None:
    returns = DiscountedReturns(ReturnScale(), GAMMA).to(dtype)
    assert returns.scale() == 1
    rewards, done = episodes(0, 50, 2, 0.0, dtype)
    assert follow(returns, rewards, done)() == 1
    returns.update(torch.full((2, 1), 1e-3, dtype=dtype), torch.zeros(2, 1, dtype=torch.bool))
    assert returns.scale().item() == pytest.approx(1e-3 / 5, rel=1e-6)


def test_truncated_episodes_end_too() -> None:
    """An environment's next episode begins with a return of zero, the others go on."""
    returns = DiscountedReturns(ReturnScale(g_max=1.0), gamma=0.5)
    no = torch.zeros(2, 1, dtype=torch.bool)

    def step(reward: list[float], done: list[bool]) -> float:
        following = TensorDict(
            reward=torch.tensor(reward)[:, None],
            done=torch.tensor(done)[:, None],
            terminated=no,
            truncated=torch.tensor(done)[:, None],
            batch_size=[2],
        )
        returns.observe(TensorDict(next=following, batch_size=[2]))
        return returns.scale.largest.item()

    assert step([8.0, 1.0], [True, False]) == 8.0
    assert step([8.0, 1.0], [False, False]) == 8.0  # 12 if the episode had gone on
    assert step([8.0, 1.0], [False, False]) == 12.0


@over_dtypes
@pytest.mark.parametrize("steps", [0, 1, 40])
def test_returns_go_on_from_a_state(steps: int, dtype: torch.dtype) -> None:
    """Within an episode: the running return is part of the state."""
    first, second = (DiscountedReturns(ReturnScale(), GAMMA).to(dtype) for _ in range(2))
    rewards, _ = episodes(0, 80, 3, 1.0, dtype)
    done = torch.zeros(80, 3, 1, dtype=torch.bool)
    follow(second, 100 * rewards[:7], done[:7])  # whatever it held before
    follow(first, rewards[:steps], done[:steps])
    second.load_state_dict(first.state_dict())
    for returns in (first, second):
        follow(returns, rewards[steps:], done[steps:])
    for one, other in zip(first.buffers(), second.buffers(), strict=True):
        assert torch.equal(one, other)


def test_a_state_from_another_device_is_brought_to_the_scales() -> None:
    """A checkpoint is read on the CPU, the rewards are where the agent is."""
    returns = DiscountedReturns(ReturnScale(), GAMMA)
    returns.update(torch.ones(2, 1), torch.zeros(2, 1, dtype=torch.bool))
    running = returns.get_extra_state()
    assert running is not None
    elsewhere = DiscountedReturns(ReturnScale(), GAMMA).to("meta")
    elsewhere.set_extra_state(running)
    again = elsewhere.get_extra_state()
    assert again is not None
    assert again.device.type == "meta"


@pytest.mark.parametrize("g_max", [0.0, -1.0, float("nan")])
def test_the_largest_return_is_checked(g_max: float) -> None:
    with pytest.raises(ValueError, match="g_max must be positive, got"):
        ReturnScale(g_max=g_max)


@pytest.mark.parametrize("gamma", [-0.1, 1.1, float("nan")])
def test_the_discount_is_checked(gamma: float) -> None:
    with pytest.raises(ValueError, match=r"gamma must be in \[0, 1\], got"):
        DiscountedReturns(ReturnScale(), gamma)


# The model


def flow_of(name: str = "additive", dim: int = 2, **further: object) -> EnergyBasedFlow:
    torch.manual_seed(dim)
    options = {"temperature": ALPHA, "log_sigma": (-1.0, -0.3), **further}
    return perturb(make_flow(name, dim, 3, **options), 0.1).double().eval()


def scales(factor: float = 1.0) -> tuple[ObservationNorm, ReturnScale]:
    """Of random observations, and of returns of a size."""
    generator = np.random.default_rng(3)
    norm, returns = ObservationNorm(3, clip=2.0).double(), ReturnScale().double()
    norm.update(torch.as_tensor(generator.normal([1.0, 0.0, -9.0], [2.0, 0.1, 5.0], (50, 3))))
    returns.update(factor * torch.as_tensor(generator.normal(3.0, 7.0, 50)))
    return norm, returns


def by_hand(norm: ObservationNorm, observation: Tensor) -> Tensor:
    return ((observation - norm.mean) / (norm.variance + 1e-8).sqrt()).clamp(-2.0, 2.0)


def wide(*shape: int) -> Tensor:
    """Observations of which some are clipped."""
    return uniform(*shape, 3, bound=6)


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize(
    ("name", "parts"),
    [
        *((name, "both") for name in registered()),
        *(("additive", parts) for parts in ("observations", "returns", "neither")),
    ],
)
def test_everything_is_in_the_tasks_units(name: str, parts: str, normalized: bool) -> None:
    flow = flow_of(name, normalized=normalized)
    norm, returns = scales()
    c = returns().item() if parts in ("both", "returns") else 1.0
    model = NormalizedModel(
        flow,
        norm if parts in ("both", "observations") else None,
        returns if parts in ("both", "returns") else None,
    )
    observation, action = wide(5), uniform(5, 2, bound=0.9)
    seen = by_hand(norm, observation) if parts in ("both", "observations") else observation
    q, v = flow.q_and_value(action, seen)

    assert float(model.temperature) == pytest.approx(c * ALPHA, rel=1e-12)
    assert float(model.scale) == c
    assert largest(model.q_value(action, observation) - c * q) <= 1e-9
    assert largest(model.value(observation) - c * v) <= 1e-9
    for got, expected in zip(model.q_and_value(action, observation), (q, v), strict=True):
        assert largest(got - c * expected) <= 1e-9
    raw = torch.atanh(action)
    for got, expected in zip(model.raw_q_and_value(raw, observation), (q, v), strict=True):
        assert largest(got - c * expected) <= 1e-9
    log_prob = flow.log_prob(action, seen)
    assert largest(model.log_prob(action, observation) - log_prob) <= 1e-12
    assert largest(model.mode(observation) - flow.mode(seen)) <= 1e-12
    for draw, expected in (
        (model.sample, flow.sample),
        (model.sample_raw, flow.sample_raw),
    ):
        torch.manual_seed(0)
        drawn = draw(observation, (3,))
        torch.manual_seed(0)
        for got, wanted in zip(drawn, expected(seen, (3,)), strict=True):
            assert largest(got - wanted) <= 1e-9


@pytest.mark.parametrize("kind", ["usual", "normalized", "learned"])
@pytest.mark.parametrize("dim", [1, 2])
def test_the_policy_is_normalised_and_the_soft_maximum_of_q_in_units_of_reward(
    dim: int, kind: str
) -> None:
    temperature = LearnedTemperature(ALPHA) if kind == "learned" else ALPHA
    flow = flow_of(dim=dim, normalized=kind != "usual", temperature=temperature)
    model = NormalizedModel(flow, *scales())
    observation, grid = wide(), action_grid(dim, squash=True)
    with torch.no_grad():
        q, v = model.q_and_value(grid.action, observation)
        total = grid.log_integral(model.log_prob(grid.action, observation)).exp()
        alpha = model.temperature
        soft_maximum = alpha * grid.log_integral(q / alpha)
    assert largest(total - 1) <= 1e-6
    assert largest(grid.log_integral((q - v) / alpha).exp() - 1) <= 1e-6
    assert largest(model.value(observation) - soft_maximum) <= 1e-6 * float(alpha)


@pytest.mark.parametrize("normalized", [False, True])
def test_rewards_in_other_units_give_values_in_other_units(normalized: bool) -> None:
    flow = flow_of(normalized=normalized)
    one, other = (NormalizedModel(flow, *scales(factor)) for factor in (1.0, LARGE))
    observation, action = wide(5), uniform(5, 2, bound=0.9)
    for got, expected in (
        (other.temperature, one.temperature),
        (other.q_value(action, observation), one.q_value(action, observation)),
        (other.value(observation), one.value(observation)),
    ):
        assert torch.equal(got, LARGE * expected)
    assert torch.equal(other.log_prob(action, observation), one.log_prob(action, observation))


def test_it_follows_its_scales() -> None:
    norm, returns = scales()
    model = NormalizedModel(flow_of(), norm, returns)
    observation = wide(5)
    before = model.value(observation)
    returns.update(torch.tensor([1e4], dtype=torch.float64))
    c = returns().item()
    assert c == pytest.approx(2e3, rel=1e-9)
    norm.update(100 + wide(50))
    expected = c * model.model.value(by_hand(norm, observation))
    assert largest(model.value(observation) - expected) <= 1e-9
    assert largest(expected - before) > 1


def test_its_scales_are_saved_with_it() -> None:
    model = NormalizedModel(flow_of(), *scales())
    empty = NormalizedModel(
        flow_of(), ObservationNorm(3, clip=2.0).double(), ReturnScale().double()
    )
    observation = wide(5)
    assert not torch.equal(empty.value(observation), model.value(observation))
    empty.load_state_dict(model.state_dict())
    assert torch.equal(empty.value(observation), model.value(observation))
    assert {id(p) for p in model.parameters()} == {id(p) for p in model.model.parameters()}


def test_discrete_actions() -> None:
    inner = CategoricalEnergy(4, 3, temperature=ALPHA, hidden=(8,)).double()
    norm, returns = scales()
    model = NormalizedModel(inner, norm, returns)
    observation, action = wide(5), torch.arange(4).unsqueeze(-1)
    q, v = model.q_and_value(action, observation)
    c = returns().item()
    assert largest(q - c * inner.q_value(action, by_hand(norm, observation))) <= 1e-9
    assert largest(((q - v) / model.temperature).exp().sum(0) - 1) <= 1e-9
    drawn, log_prob = model.sample(observation)
    assert largest(model.log_prob(drawn, observation) - log_prob) <= 1e-9


def test_gradients_pass_through_it_to_the_observation() -> None:
    model = NormalizedModel(flow_of(), *scales())
    observation = 0.1 * wide(5)
    jacobian = torch.autograd.functional.jacobian(lambda s: model.value(s).sum(), observation)
    step = 1e-6 * torch.ones_like(observation)
    slope = (model.value(observation + step) - model.value(observation - step)).sum() / 2e-6
    assert jacobian.sum().item() == pytest.approx(slope.item(), rel=1e-6)


def test_what_is_clipped_keeps_huge_inputs_from_the_networks() -> None:
    model = NormalizedModel(flow_of(), ObservationNorm(3).double())
    far, near = (torch.full((3,), size, dtype=torch.float64) for size in (1e12, 10.0))
    assert largest(model.value(far) - model.model.value(near)) <= 1e-9
