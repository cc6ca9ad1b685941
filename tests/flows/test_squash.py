"""Squashes against closed forms in double precision, and against torch.distributions."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import AffineTransform, ComposeTransform, TanhTransform
from torch.distributions.transforms import StickBreakingTransform

from maxentflow.flows import EnergyBasedFlow, SimplexSquash, TanhSquash, build, registered

from .cases import HIDDEN, SMOOTH, action_grid, largest, perturb, uniform


@pytest.fixture
def double_by_default() -> Iterator[None]:
    """Constants of a layer that are as exact as its inputs, not cast from single precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


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


@pytest.mark.usefixtures("double_by_default")
class TestBounds:
    @pytest.mark.parametrize(
        ("low", "high"), [(0.0, 10.0), (-3.0, [1.0, -2.9]), ([-1.0, 7.0], [1.0, 9.0])]
    )
    def test_they_shift_and_stretch_the_tanh(self, low: object, high: object) -> None:
        torch.manual_seed(0)
        squash, z = TanhSquash(2, low, high), uniform(50, 2, bound=8)
        low, high = torch.as_tensor(low), torch.as_tensor(high)
        transform = ComposeTransform(
            [TanhTransform(), AffineTransform((low + high) / 2, (high - low) / 2)]
        )
        expected = transform(z)
        x, log_det = squash(z)
        assert largest(x - expected) <= 1e-12
        expected_log_det = transform.log_abs_det_jacobian(z, expected).sum(-1)
        assert largest(log_det - expected_log_det) <= 1e-12
        assert ((x > low) & (x < high)).all()
        z_again, log_det_back = squash.inverse(x)
        assert largest((z_again - z) / z.cosh().square()) <= 1e-14
        at_hand = z.abs().amax(-1) < 4
        assert largest((log_det + log_det_back)[at_hand]) <= 1e-10

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_those_of_the_default_change_no_bit(self, dtype: torch.dtype) -> None:
        z = torch.linspace(-20, 20, 200, dtype=dtype).reshape(50, 4)
        x = torch.tanh(z)
        log_det = (2 * (math.log(2) - z + torch.nn.functional.logsigmoid(2 * z))).sum(-1)
        margin = {torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
        inside = x.clamp(margin - 1, 1 - margin)
        log_det_back = -torch.log((1 - inside) * (1 + inside)).sum(-1)
        for squash in (TanhSquash(4), TanhSquash(4, -1, 1), TanhSquash(4, [-1.0] * 4, 1.0)):
            assert all(map(torch.equal, squash.to(dtype)(z), (x, log_det)))
            assert all(map(torch.equal, squash.inverse(x), (inside.atanh(), log_det_back)))

    def test_the_margin_is_of_half_the_interval(self) -> None:
        squash = TanhSquash(1, 2.0, 6.0, margin=0.1)
        for end, sign in ((2.0, -1), (6.0, 1), (99.0, 1)):
            z, log_det = squash.inverse(torch.tensor([end]))
            assert z.item() == pytest.approx(sign * math.atanh(0.9), abs=1e-12)
            assert log_det.item() == pytest.approx(-math.log(2 * (1 - 0.9**2)), abs=1e-12)


def test_saturated_actions_stay_within_their_bounds() -> None:
    """As an environment checks them, in single precision."""
    torch.manual_seed(0)
    low = 3 * torch.randn(1000)
    high = low + 5 * torch.rand(1000) + 0.01
    squash = TanhSquash(1000, low.tolist(), high.tolist())
    for size in (-60.0, 60.0):
        x, _ = squash(torch.full((1000,), size))
        assert ((x >= low) & (x <= high)).all()
        assert torch.allclose(x, high if size > 0 else low, atol=1e-5)


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (1.0, 1.0),
        (2.0, 1.0),
        ([0.0, 2.0], [1.0, 1.0]),
        (-math.inf, 1.0),
        (0.0, math.inf),
        (math.nan, 1.0),
        ([0.0], 1.0),
        (0.0, [1.0, 1.0, 1.0]),
        ([[0.0, 0.0]], 1.0),
    ],
)
def test_bounds_that_are_none_are_refused(low: object, high: object) -> None:
    message = "Bounds must be finite and increasing, one for all or 2, got"
    with pytest.raises(ValueError, match=message):
        TanhSquash(2, low, high)


def simplex_flow(name: str, shares: int) -> EnergyBasedFlow:
    """With a smooth density, observations of size 3 and two heads."""
    flow = build(
        name,
        shares,
        3,
        temperature=0.5,
        log_sigma=(-1.0, 0.0),
        squash="simplex",
        hidden=HIDDEN,
        scale={"hidden": HIDDEN},
        shift={"hidden": HIDDEN},
    )
    return perturb(flow, 0.1).double().eval()


def simplex_grid(dim: int) -> tuple[Tensor, Tensor]:
    """Shares ``(points, dim + 1)`` with the logarithms of their quadrature weights.

    Of what is left, each share takes (1 + tanh u) / 2.
    """
    grid = action_grid(dim, squash=True, half_width=14.0)
    fraction, rest = (1 + grid.action) / 2, torch.ones(len(grid.action)).double()
    shares, log_weight = [], grid.log_weight
    for i in range(dim):
        log_weight = log_weight + (rest / 2).log()
        shares.append(fraction[:, i] * rest)
        rest = rest * (1 - grid.action[:, i]) / 2
    return torch.stack([*shares, rest], dim=-1), log_weight


class TestSimplex:
    """Shares of a whole; densities are with respect to all shares but the last."""

    @pytest.mark.usefixtures("double_by_default")
    @pytest.mark.parametrize("dim", [1, 2, 5])
    def test_it_is_torchs_stick_breaking(self, dim: int) -> None:
        torch.manual_seed(0)
        squash, theirs, z = (
            SimplexSquash(dim),
            StickBreakingTransform(),
            uniform(200, dim, bound=8),
        )
        x, log_det = squash(z)
        assert largest(x - theirs(z)) <= 1e-12
        assert largest(log_det - theirs.log_abs_det_jacobian(z, theirs(z))) <= 1e-9
        assert largest(x.sum(-1) - 1) <= 1e-14
        assert (x > 0).all()
        assert largest(squash(torch.zeros(dim))[0] - 1 / (dim + 1)) <= 1e-14

    @pytest.mark.parametrize("dim", [1, 2, 4])
    def test_log_det_is_the_jacobians_of_the_first_shares(self, dim: int) -> None:
        torch.manual_seed(0)
        squash = SimplexSquash(dim).double()
        for z in uniform(10, dim, bound=3):
            x, log_det = squash(z)
            jacobian = torch.autograd.functional.jacobian(lambda z: squash(z)[0][:-1], z)
            assert largest(torch.linalg.slogdet(jacobian).logabsdet - log_det) <= 1e-9
            z_again, log_det_back = squash.inverse(x)
            assert largest(z_again - z) <= 1e-9
            assert largest(log_det + log_det_back) <= 1e-9

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_faces_and_far_latents_are_finite(self, dtype: torch.dtype) -> None:
        squash = SimplexSquash(3).to(dtype)
        corners = torch.cartesian_prod(*[torch.tensor([0.0, 1e-30, 1.0])] * 4)[1:].to(dtype)
        latents = torch.cartesian_prod(*[torch.tensor([-50.0, 0.0, 50.0])] * 3).to(dtype)
        for run, at in ((squash.inverse, corners / corners.sum(-1, True)), (squash, latents)):
            at.requires_grad_()
            y, log_det = run(at)
            (gradient,) = torch.autograd.grad(y.sum() + log_det.sum(), at)
            assert all(value.isfinite().all() for value in (y, log_det, gradient))

    @pytest.mark.parametrize("margin", [1e-12, 1e-3])
    def test_a_share_below_the_margin_counts_as_the_margin(self, margin: float) -> None:
        squash = SimplexSquash(1, margin=margin).double()
        z, _ = squash.inverse(torch.tensor([0.0, 1.0]).double())
        assert z.item() == pytest.approx(math.log(margin), abs=1e-9)

    @pytest.mark.parametrize("name", registered())
    def test_a_flow_onto_it(self, name: str) -> None:
        torch.manual_seed(0)
        flow = simplex_flow(name, 3)
        assert flow.action_dim == 3
        observation = uniform(50, 3, bound=2)
        action, log_prob = flow.sample(observation, (4,))
        assert action.shape == (4, 50, 3)
        assert (action >= 0).all()
        assert largest(action.sum(-1) - 1) <= 1e-12
        # Nearer to a face, the share's rounding and the margin show.
        inside = action.amin(-1) > 1e-6
        assert inside.double().mean() > 0.5
        assert largest((flow.log_prob(action, observation) - log_prob)[inside]) <= 1e-8
        q, v = flow.q_and_value(action, observation)
        difference = (q - v) / flow.temperature - flow.log_prob(action, observation).unsqueeze(-1)
        assert largest(difference) <= 1e-9
        assert largest(flow.value(observation) - v) <= 1e-9
        mode = flow.mode(observation)
        assert largest(mode.sum(-1) - 1) <= 1e-12

    @pytest.mark.parametrize("name", sorted(SMOOTH))
    @pytest.mark.parametrize("dim", [1, 2])
    @pytest.mark.quick_for("additive")
    def test_densities_are_normalised_and_v_is_the_soft_maximum_of_q(
        self, name: str, dim: int
    ) -> None:
        torch.manual_seed(0)
        flow, observation = simplex_flow(name, dim + 1), uniform(3, bound=2)
        shares, log_weight = simplex_grid(dim)
        with torch.no_grad():
            integral = (flow.log_prob(shares, observation) + log_weight).logsumexp(0)
            q = flow.q_value(shares, observation) / flow.temperature
            soft_maximum = flow.temperature * (q + log_weight.unsqueeze(-1)).logsumexp(0)
            assert largest(integral) <= 1e-6
            assert largest(flow.value(observation) - soft_maximum) <= 1e-6

    def test_fewer_than_two_shares_are_refused(self) -> None:
        with pytest.raises(ValueError, match="at least 2 shares, a latent of size 1; got dim=0"):
            build("affine", 1, 3, temperature=1.0, squash="simplex")

    @pytest.mark.parametrize("margin", [0.0, 1.0, float("nan")])
    def test_a_margin_outside_zero_and_one_is_refused(self, margin: float) -> None:
        with pytest.raises(ValueError, match=r"margin must be between 0 and 1, got"):
            SimplexSquash(2, margin=margin)
