"""Soft Q-learning with Stein's sampler: its value, its direction, and what the sampler learns."""

from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict
from torch import nn
from torchrl.objectives import SoftUpdate
from torchrl.objectives.utils import ValueEstimators

from maxentflow.objectives import SteinSoftQLoss, stein_direction

from .common import closely

ALPHA = 0.5


class Quadratic(nn.Module):
    """Q = -(a - center)^2 / 2 + bias, for each of two heads, whatever the observation."""

    def __init__(self, center=0.25, dim=1):
        super().__init__()
        self.center = nn.Parameter(torch.full((dim,), center, dtype=torch.float64))
        self.bias = nn.Parameter(torch.tensor([0.0, 0.5], dtype=torch.float64))

    def forward(self, observation, action):
        q = -0.5 * (action - self.center).square().sum(-1, keepdim=True)
        return q + self.bias + 0.0 * observation[..., :1]


class Sampler(nn.Module):
    """Mean and scale before the tanh, for any observation."""

    def __init__(self, dim=1):
        super().__init__()
        self.action_dim = dim
        self.net = nn.Sequential(nn.Linear(dim, 32), nn.Tanh(), nn.Linear(32, dim)).double()

    def raw_action(self, observation, noise):
        return self.net(noise) + 0.0 * observation[..., :1]


def make(dim=1, gamma=0.875, **options):
    torch.manual_seed(0)
    loss = SteinSoftQLoss(Sampler(dim), Quadratic(dim=dim), temperature=ALPHA, **options)
    return loss.make_value_estimator(gamma=gamma)


def batch(size=6, dim=1):
    flags = torch.arange(size)[:, None] % 3
    return TensorDict(
        observation=torch.randn(size, 3, dtype=torch.float64),
        action=torch.rand(size, dim, dtype=torch.float64) * 2 - 1,
        next=TensorDict(
            observation=torch.randn(size, 3, dtype=torch.float64),
            reward=torch.randn(size, 1, dtype=torch.float64),
            done=flags > 0,
            terminated=flags == 1,
            batch_size=[size],
        ),
        batch_size=[size],
    )


def density(points):
    """exp(Q / alpha) over actions, by the smaller head, on a grid; and the width of its cells."""
    grid = torch.linspace(-1, 1, points, dtype=torch.float64)
    return grid, (-0.5 * (grid - 0.25).square() / ALPHA).exp(), 2 / (points - 1)


@pytest.mark.parametrize("dim", [1, 2])
def test_the_value_approaches_the_integral(dim):
    """From below, as a concave function of a mean is; by quadrature for many samples."""
    loss = make(dim, value_samples=100_000)
    _, heights, width = density(20_001)
    integral = (heights.sum() - 0.5 * (heights[0] + heights[-1])) * width
    expected = dim * ALPHA * integral.log().item()
    value = loss.value(torch.zeros(1, 3, dtype=torch.float64)).item()
    assert value == pytest.approx(expected, abs=4e-3)
    few = make(dim, value_samples=2).value(torch.zeros(20_000, 3, dtype=torch.float64))
    assert few.mean().item() < expected - 1e-3
    assert few.shape == (20_000, 1)


@pytest.mark.parametrize(("n", "m", "dim"), [(1, 1, 1), (3, 2, 1), (4, 5, 3)])
def test_the_direction_by_loops(n, m, dim):
    generator = torch.Generator().manual_seed(0)
    fixed, score, moving = (
        torch.randn(size, dim, generator=generator, dtype=torch.float64) for size in (n, n, m)
    )
    distances = [(x - y).square().sum() for x in fixed for y in moving]
    bandwidth = torch.stack(distances).median() / math.log(n + 1)
    expected = []
    for y in moving:
        total = torch.zeros(dim, dtype=torch.float64)
        for x, gradient in zip(fixed, score, strict=True):
            x = x.clone().requires_grad_(True)
            kernel = (-(x - y).square().sum() / bandwidth).exp()
            (slope,) = torch.autograd.grad(kernel, x)
            total += kernel.detach() * gradient + slope
        expected.append(total / n)
    closely(stein_direction(fixed, score, moving), torch.stack(expected))


def test_batches_have_a_bandwidth_each():
    x = torch.randn(4, 7, 2, dtype=torch.float64)
    y, score = 3 * torch.randn(3, 7, 2, dtype=torch.float64), torch.randn_like(x)
    together = stein_direction(x, score, y)
    for index in range(7):
        alone = stein_direction(x[:, index], score[:, index], y[:, index])
        closely(together[:, index], alone)


def test_the_regression_by_hand():
    loss, data = make(value_samples=5), batch()
    torch.manual_seed(3)
    out = loss(data)
    torch.manual_seed(3)
    action = 2 * torch.rand(5, 6, 1, dtype=torch.float64) - 1
    q = -0.5 * (action - 0.25).square()
    value = ALPHA * ((q / ALPHA).exp().mean(0).log() + math.log(2))
    following = data["next"]
    target = following["reward"] + 0.875 * (1 - following["terminated"].double()) * value
    heads = -0.5 * (data["action"] - 0.25).square() + torch.tensor([0.0, 0.5])
    closely(out["loss_qvalue"], ((heads - target) ** 2).mean())
    closely(out["td_error"], (heads - target).abs().mean())
    closely(out["value"], value.mean())
    closely(out["q"], heads.mean())
    assert set(out.keys()) == set(loss.out_keys)
    assert set(loss.in_keys) == {
        "observation",
        "action",
        *(("next", key) for key in ("observation", "reward", "done", "terminated")),
    }


def test_each_loss_has_its_own_parameters():
    loss = make()
    out = loss(batch())
    actor = list(loss.actor_network_params.values(True, True))
    critic = list(loss.qvalue_network_params.values(True, True))
    target = list(loss.target_qvalue_network_params.values(True, True))
    for name, learns, rest in (("loss_actor", actor, critic), ("loss_qvalue", critic, actor)):
        gradients = torch.autograd.grad(
            out[name], [*learns, *rest], allow_unused=True, retain_graph=True
        )
        assert all(each is not None for each in gradients[: len(learns)])
        assert all(each is None for each in gradients[len(learns) :])
    assert not any(entry.requires_grad for entry in target)
    SoftUpdate(loss, tau=0.5)  # TorchRL's updater finds the target


def test_the_actors_gradient_is_steins_direction():
    loss, data = make(particles=6), batch()
    torch.manual_seed(5)
    out = loss(data)
    torch.manual_seed(5)
    torch.rand(32, 6, 1, dtype=torch.float64)  # of the value
    noise = torch.randn(6, 6, 1, dtype=torch.float64)
    sampler = Sampler()
    sampler.net.load_state_dict(
        {
            key: loss.actor_network_params["model", "net", *key.split(".")]
            for key in sampler.net.state_dict()
        }
    )
    raw = sampler.raw_action(data["observation"], noise)
    fixed = raw[:3].detach().requires_grad_(True)
    log_density = -0.5 * (fixed.tanh() - 0.25) ** 2 / ALPHA + (1 - fixed.tanh() ** 2).log()
    (score,) = torch.autograd.grad(log_density.sum(), fixed)
    direction = stein_direction(fixed, score, raw[3:]).detach()
    closely(out["loss_actor"], -(raw[3:] * direction).sum(-1).mean())


@pytest.mark.slow
def test_the_sampler_learns_the_boltzmann_policy():
    """Its mean and spread against quadrature of exp(Q / alpha)."""
    loss = make(particles=64, value_samples=1)
    actor = list(loss.actor_network_params.values(True, True))
    optimizer, data = torch.optim.Adam(actor, lr=3e-3), batch(2)
    for _ in range(1_000):
        optimizer.zero_grad()
        loss(data)["loss_actor"].backward()
        optimizer.step()
    grid, heights, _ = density(2_001)
    weights = heights / heights.sum()
    mean = (weights * grid).sum().item()
    spread = (weights * (grid - mean).square()).sum().sqrt().item()
    noise = torch.randn(20_000, 1, dtype=torch.float64)
    with torch.no_grad(), loss.actor_network_params.to_module(loss.actor_network):
        sample = loss.actor_network(torch.zeros(20_000, 3, dtype=torch.float64), noise).tanh()
    assert sample.mean().item() == pytest.approx(mean, abs=0.05)
    assert sample.std().item() == pytest.approx(spread, rel=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature must be positive and finite, got 0.0"),
        ({"value_samples": 0}, "value_samples must be at least 1 and particles at least 2, got 0"),
        ({"particles": 1}, "particles at least 2, got 32 and 1"),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SteinSoftQLoss(Sampler(), Quadratic(), **{"temperature": ALPHA, **options})


def test_other_estimators_are_refused():
    with pytest.raises(NotImplementedError, match="TD0"):
        make().make_value_estimator(ValueEstimators.TDLambda)


def test_keys_of_ones_own():
    loss, data = make(), batch()
    torch.manual_seed(0)
    expected = loss(data)
    loss.set_keys(observation="seen", reward="paid", terminated="over")
    for old, new in (("observation", "seen"), (("next", "observation"), ("next", "seen"))):
        data.rename_key_(old, new)
    data.rename_key_(("next", "reward"), ("next", "paid"))
    data.rename_key_(("next", "terminated"), ("next", "over"))
    torch.manual_seed(0)
    closely(loss(data)["loss_qvalue"], expected["loss_qvalue"])
