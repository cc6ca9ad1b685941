"""Base distributions against torch.distributions."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import kstest

from maxentflow.flows import StandardNormal

from .cases import largest, uniform


@pytest.mark.parametrize("dim", [1, 2, 4])
@pytest.mark.parametrize("batch", [(), (5,), (2, 3)])
def test_standard_normal_is_torchs(dim: int, batch: tuple[int, ...]) -> None:
    base, z = StandardNormal(dim).double(), uniform(*batch, dim, bound=5)
    one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    expected = torch.distributions.Normal(zero, one).log_prob(z).sum(-1)
    assert base.log_prob(z).shape == batch
    assert largest(base.log_prob(z) - expected) <= 1e-12
    split = base.unnormalized_log_prob(z) - base.log_normalizer()
    assert largest(split - expected) <= 1e-12


def test_the_unnormalized_density_is_zero_at_the_mode() -> None:
    base = StandardNormal(3)
    assert base.unnormalized_log_prob(base.mode()) == 0


def test_samples_are_standard_normal() -> None:
    torch.manual_seed(0)
    z = StandardNormal(2).double().rsample((5000, 2))
    assert z.shape == (5000, 2, 2)
    assert z.dtype == torch.float64
    assert kstest(z.flatten().numpy(), "norm").pvalue > 1e-3


def test_calling_it_gives_latents_and_their_log_prob() -> None:
    base = StandardNormal(2)
    z, log_prob = base(7)
    assert z.shape == (7, 2)
    assert torch.equal(log_prob, base.log_prob(z))


@pytest.mark.parametrize("dim", [0, -1])
def test_a_dimension_below_one_is_refused(dim: int) -> None:
    with pytest.raises(ValueError, match=rf"StandardNormal needs dim >= 1, got {dim}\."):
        StandardNormal(dim)
