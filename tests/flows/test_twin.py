"""Two flows, of which the second checks the first."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from maxentflow.flows import (
    EnergyBasedFlow,
    LearnedTemperature,
    RewardShift,
    StandardNormal,
    StateScale,
    StateTranslation,
    TanhSquash,
    TwinFlow,
    build,
    registered,
)

ALPHA = 0.3


def gaussian(dim: int, obs_dim: int, alpha: float | LearnedTemperature, squash: bool):
    """A Gaussian policy, with a tanh after it or not."""
    layers = [
        StateScale(dim, obs_dim, bounds=(-2.0, 0.5), init="orthogonal"),
        StateTranslation(dim, obs_dim, init="orthogonal"),
    ]
    return EnergyBasedFlow(
        base=StandardNormal(dim),
        layers=[*layers, TanhSquash(dim)] if squash else layers,
        temperature=alpha,
        shift=RewardShift(obs_dim, 1, init="orthogonal"),
        normalized=True,
    )


def moments(flow: EnergyBasedFlow, observation: Tensor) -> tuple[Tensor, Tensor]:
    scale, mean = flow.layers[0], flow.layers[1]
    return mean.net(observation), scale.log_sigma(observation).exp()


def twin(name: str, dim: int = 2, obs_dim: int = 3, **options) -> TwinFlow:
    make = lambda: build(  # noqa: E731
        name, dim, obs_dim, temperature=ALPHA, heads=1, normalized=True, **options
    )
    return TwinFlow(make(), make()).eval()


@pytest.mark.parametrize("squash", [False, True])
@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.quick_for("3-True")
def test_the_mean_disagreement_is_the_divergence_of_gaussians(squash: bool, dim: int) -> None:
    """A squash changes both densities by the same factor, and the divergence not at all."""
    torch.manual_seed(dim)
    alpha = LearnedTemperature(ALPHA)
    both = TwinFlow(gaussian(dim, 4, alpha, squash), gaussian(dim, 4, alpha, squash)).double()
    observation = torch.randn(4, 4, dtype=torch.float64)
    with torch.no_grad():
        (mean, sigma), (other_mean, other_sigma) = (
            moments(flow, observation) for flow in (both.first, both.second)
        )
        divergence = (
            (other_sigma / sigma).log()
            + (sigma.square() + (mean - other_mean).square()) / (2 * other_sigma.square())
            - 0.5
        ).sum(-1)
        both.clip = math.inf
        drawn = both.disagreement(observation.expand(20_000, 4, 4))
    drawn = drawn.squeeze(-1)
    error = drawn.std(0) / math.sqrt(len(drawn))
    assert ((drawn.mean(0) + ALPHA * divergence).abs() < 4 * error).all()


def test_value_and_disagreement_are_the_integral_of_the_second_q_under_the_first_policy() -> None:
    torch.manual_seed(0)
    both = twin("affine", dim=1, translation={"init": "orthogonal"}).double()
    observation = torch.randn(1, 3, dtype=torch.float64)
    points, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(400))
    with torch.no_grad():
        log_prob = both.log_prob(points.unsqueeze(-1), observation)
        q = both.q_value(points.unsqueeze(-1), observation)[:, 1]
        worth = float((weights * log_prob.exp() * (q - ALPHA * log_prob)).sum())
        both.clip = math.inf
        drawn = both.disagreement(observation.expand(20_000, 3))
        value = float(both.critic_value(observation))
    error = float(drawn.std()) / math.sqrt(len(drawn))
    assert worth < value - 10 * error
    assert value + float(drawn.mean()) == pytest.approx(worth, abs=4 * error)


@pytest.mark.parametrize("name", registered())
def test_the_heads_are_those_of_the_two_flows(name: str) -> None:
    both = twin(name)
    observation = torch.randn(5, 3)
    action = torch.rand(5, 2) * 1.8 - 0.9
    q, value = both.q_and_value(action, observation)
    for head, flow in enumerate((both.first, both.second)):
        assert torch.equal(q[:, [head]], flow.q_value(action, observation))
        assert torch.equal(value[:, [head]], flow.value(observation))
    assert torch.equal(both.q_value(action, observation), q)
    assert torch.equal(both.value(observation), value)
    assert torch.equal(both.critic_value(observation), value[:, [1]])
    raw = torch.atanh(action)
    raw_q, raw_value = both.raw_q_and_value(raw, observation)
    torch.testing.assert_close(raw_q, q, rtol=1e-4, atol=1e-4)
    assert torch.equal(raw_value, value)
    torch.testing.assert_close(
        both.second.raw_log_prob(raw, observation),
        both.second.log_prob(action, observation),
        rtol=1e-4,
        atol=1e-4,
    )


def test_acting_is_the_first_flows() -> None:
    both = twin("additive")
    observation = torch.randn(5, 3)
    for draw in ("sample", "sample_raw"):
        torch.manual_seed(1)
        ours = getattr(both, draw)(observation)
        torch.manual_seed(1)
        theirs = getattr(both.first, draw)(observation)
        assert all(map(torch.equal, ours, theirs))
    assert torch.equal(both.mode(observation), both.first.mode(observation))
    action = both.mode(observation)
    assert torch.equal(
        both.log_prob(action, observation), both.first.log_prob(action, observation)
    )
    assert both.temperature == ALPHA
    assert both.squash is both.first.squash


def test_flows_that_agree_have_no_disagreement() -> None:
    both = twin("spline")
    both.second.load_state_dict(both.first.state_dict())
    torch.testing.assert_close(
        both.disagreement(torch.randn(50, 3)), torch.zeros(50, 1), rtol=0, atol=1e-4
    )


def test_disagreement_is_cut_where_the_second_flow_excludes_a_sample() -> None:
    both = twin("additive", translation={})
    with torch.no_grad():
        both.second.layers[-2].net[-1].bias.fill_(100.0)
    found = both.disagreement(torch.randn(50, 3))
    torch.testing.assert_close(found, torch.full((50, 1), -ALPHA * 5.0 * 2))


@pytest.mark.parametrize("clip", [0.0, -1.0, float("nan")])
def test_a_clip_that_is_not_positive_is_refused(clip: float) -> None:
    both = twin("additive")
    with pytest.raises(ValueError, match="clip must be positive"):
        TwinFlow(both.first, both.second, clip=clip)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normalized": False}, "normalized"),
        ({"heads": 2}, "one head"),
        ({"action_dim": 3}, "same sizes"),
        ({"obs_dim": 4}, "same sizes"),
        ({"squash": "none"}, "no squash"),
        ({"squash": TanhSquash(2, low=[-2.0, -1.0])}, r"TanhSquash\(\[-2.0, -1.0\]"),
        ({"temperature": 0.2}, "share their temperature"),
    ],
)
def test_flows_that_do_not_go_together_are_refused(change: dict, message: str) -> None:
    usual = {
        "action_dim": 2,
        "obs_dim": 3,
        "temperature": ALPHA,
        "heads": 1,
        "normalized": True,
    }
    with pytest.raises(ValueError, match=message):
        TwinFlow(build("additive", **usual), build("additive", **{**usual, **change}))


def test_learned_temperatures_of_their_own_are_refused() -> None:
    flows = [
        build("additive", 2, 3, temperature=LearnedTemperature(0.1), heads=1, normalized=True)
        for _ in range(2)
    ]
    with pytest.raises(ValueError, match="share their temperature"):
        TwinFlow(*flows)
