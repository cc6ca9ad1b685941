"""The tanh squash against closed forms in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from maxentflow.flows import TanhSquash


def log_sech_squared(z: np.ndarray) -> np.ndarray:
    """log of the derivative of tanh, in a form without cancellation."""
    return -2 * (np.abs(z) + np.log1p(np.exp(-2 * np.abs(z))) - np.log(2))


LATENTS = np.concatenate([np.linspace(-50, 50, 2001), np.linspace(-1e-3, 1e-3, 101)])


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # A few units in the last place of the result, or of log 2 where the result is near zero.
    [(torch.float32, 4e-7), (torch.float64, 1e-14)],
)
def test_log_det_is_exact_for_latents_of_any_size(dtype: torch.dtype, tolerance: float) -> None:
    z = torch.tensor(LATENTS, dtype=dtype).unsqueeze(-1)
    expected = log_sech_squared(z.squeeze(-1).double().numpy())
    log_det = TanhSquash(1)(z)[1].double().numpy()
    assert np.all(np.abs(log_det - expected) <= tolerance * np.maximum(1, np.abs(expected)))


def test_log_det_sums_over_entries() -> None:
    z = torch.linspace(-50, 50, 12, dtype=torch.float64).reshape(4, 3)
    expected = log_sech_squared(z.numpy()).sum(-1)
    np.testing.assert_allclose(TanhSquash(3)(z)[1].numpy(), expected, rtol=1e-13)


def test_the_slope_is_finite_everywhere_in_single_precision() -> None:
    z = torch.tensor(LATENTS, dtype=torch.float32).unsqueeze(-1).requires_grad_()
    (slope,) = torch.autograd.grad(TanhSquash(1)(z)[1].sum(), z)
    np.testing.assert_allclose(slope.squeeze(-1), -2 * np.tanh(LATENTS), atol=1e-6)


@pytest.mark.parametrize("end", [-1.0, 1.0])
@pytest.mark.parametrize(
    ("dtype", "margin", "latent"),
    # atanh(1 - m) = log((2 - m) / m) / 2; the single-precision ends are rounded by 6e-8 / 1e-5.
    [(torch.float32, 1e-5, 6.10303), (torch.float64, 1e-12, 14.16208)],
)
def test_the_ends_have_the_density_of_the_clamped_action(
    end: float, dtype: torch.dtype, margin: float, latent: float
) -> None:
    x = torch.tensor([end], dtype=dtype, requires_grad=True)
    z, log_det = TanhSquash(1).inverse(x)
    assert z.item() == pytest.approx(end * latent, abs=5e-3)
    assert log_det.item() == pytest.approx(-np.log(margin * (2 - margin)), abs=1e-2)
    (slope,) = torch.autograd.grad(z.sum() + log_det, x)
    assert slope.item() == 0


@pytest.mark.parametrize("beyond", [1.5, -3.0])
def test_actions_beyond_the_ends_count_as_the_ends(beyond: float) -> None:
    squash = TanhSquash(1, margin=0.1)
    for given, at_end in zip(
        squash.inverse(torch.tensor([beyond])),
        squash.inverse(torch.tensor([np.copysign(0.9, beyond)], dtype=torch.float32)),
        strict=True,
    ):
        assert given.item() == at_end.item()


@pytest.mark.parametrize("margin", [0.5, 1e-3])
def test_a_margin_of_ones_own_is_where_the_inverse_stops(margin: float) -> None:
    z, _ = TanhSquash(1, margin=margin).inverse(torch.ones(1, dtype=torch.float64))
    assert z.item() == pytest.approx(np.arctanh(1 - margin), abs=1e-12)


@pytest.mark.parametrize("margin", [0.0, 1.0, -0.1, 2.0, float("nan")])
def test_a_margin_outside_zero_and_one_is_refused(margin: float) -> None:
    with pytest.raises(ValueError, match=r"margin must be between 0 and 1, got"):
        TanhSquash(2, margin=margin)
