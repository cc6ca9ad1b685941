"""Flows with large weights and large targets: their samples, their density, their training."""

from __future__ import annotations

import pytest
import scipy
import torch
from torch import Tensor, nn
from torch import distributions as td

from maxentflow.flows import EnergyBasedFlow, GaussianMixture, build, registered

from .cases import LAYERS, action_grid, largest, perturb

SEEDS = (0, 1)
OWN_LAYERS = [name for name in LAYERS if not name.startswith("normflows-")]  # theirs overflow


def make(name: str, dim: int, seed: int) -> EnergyBasedFlow:
    """A flow of the default widths with a mixture base."""
    torch.manual_seed(seed)
    return build(name, dim, 3, temperature=0.5, base="mixture", squash="none").double().eval()


def move_weights(module: nn.Module, noise: float) -> None:
    """Move every weight by a normal number, whatever the width."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(noise * torch.randn_like(parameter))


def mixture_cdfs(base: GaussianMixture, z: Tensor, context: Tensor) -> Tensor:
    """Each entry's distribution function given the entries before it, by torch's own mixtures."""
    logits, means, log_scales = base._mixture(context)
    components = td.Normal(means, log_scales.exp())
    log_densities = components.log_prob(z.unsqueeze(-2))
    entries = [
        td.MixtureSameFamily(
            td.Categorical(logits=logits + log_densities[..., :i].sum(-1)),
            td.Normal(means[..., i].expand(len(z), -1), components.stddev[..., i]),
        ).cdf(z[..., i])
        for i in range(base.dim)
    ]
    return torch.stack(entries, dim=-1)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("noise", [0.2, 0.5])
@pytest.mark.parametrize("dim", [2, 3])
def test_samples_of_glow_follow_its_density(dim: int, noise: float, seed: int) -> None:
    flow = make("glow", dim, seed)
    move_weights(flow, noise)
    observation = torch.randn(3, dtype=torch.float64)
    with torch.no_grad():
        action, log_prob = flow.sample(observation, (2000,))
        assert largest(flow.log_prob(action, observation) - log_prob) <= 1e-7
        latent = action
        for layer in reversed(flow.layers):
            latent, _ = layer.inverse(latent, observation)
        for cdf in mixture_cdfs(flow.base, latent, observation).T:
            assert scipy.stats.kstest(cdf.numpy(), "uniform").pvalue > 1e-3
            counts = torch.histc(cdf, 20, 0, 1)
            assert scipy.stats.chisquare(counts.numpy()).pvalue > 1e-3


@pytest.mark.parametrize("seed", SEEDS)
def test_the_density_of_glow_integrates_to_one_and_its_jacobian_is_autograds(seed: int) -> None:
    flow = make("glow", 2, seed)
    move_weights(flow.layers, 0.5)  # not the base, whose density the grid of latents then resolves
    observation = torch.randn(3, dtype=torch.float64)
    grid = action_grid(2, squash=False, half_width=10.0, points=81)
    latent = grid.action.clone().requires_grad_()
    action = latent
    for layer in flow.layers:
        action, _ = layer(action, observation)
    rows = [torch.autograd.grad(entry.sum(), latent, retain_graph=True)[0] for entry in action.T]
    (a, b), (c, d) = (row.T for row in rows)
    volume = (a * d - b * c).abs().log()
    with torch.no_grad():
        q, v = flow.q_and_value(action, observation)
        log_density = ((q - v) / flow.temperature)[:, 0]
    assert abs(grid.log_integral(log_density + volume)) <= 1e-9


@pytest.mark.quick_for("-10000.0-glow-40")
@pytest.mark.parametrize(
    ("name", "steps", "rate"), [*((name, 40, 0.03) for name in registered()), ("glow", 1000, 0.01)]
)
@pytest.mark.parametrize("target", [-1e4, 1e4])
def test_regression_on_large_targets_stays_finite(
    name: str, steps: int, rate: float, target: float
) -> None:
    torch.manual_seed(0)
    small = {"hidden": (16, 16)}
    flow = build(name, 2, 3, temperature=0.25, base="student-t", scale=small, shift=small, **small)
    optimizer = torch.optim.Adam(flow.parameters(), lr=rate)
    action, observation = 1.9 * torch.rand(32, 2) - 0.95, torch.randn(32, 3)
    for _ in range(steps):
        loss = (flow.q_value(action, observation) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        q, v = flow.q_and_value(action, observation)
    assert q.isfinite().all()
    assert v.isfinite().all()
    assert (q - target).abs().mean() < abs(target)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("noise", [10.0, 1000.0])
@pytest.mark.parametrize("name", OWN_LAYERS)
@pytest.mark.quick_for("1000.0-torch.float32", "1000.0-dtype0")
def test_large_weights_stay_finite(name: str, noise: float, dtype: torch.dtype) -> None:
    for dim in (1, 3):
        torch.manual_seed(dim)
        layer = perturb(LAYERS[name](dim, 3), noise).to(dtype).eval()
        z, context = torch.randn(20, dim, dtype=dtype), torch.randn(20, 3, dtype=dtype)
        for direction in (layer, layer.inverse):
            y, log_det = direction(z.clamp(-0.9, 0.9), context)
            assert y.isfinite().all()
            assert log_det.isfinite().all()
