"""Both ways between normflows and this package."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import normflows
import pytest
import torch
from normflows.flows import (
    AffineConstFlow,
    AutoregressiveRationalQuadraticSpline,
    CoupledRationalQuadraticSpline,
    InvertibleAffine,
    LULinearPermute,
    MaskedAffineFlow,
    Permute,
    Planar,
    Radial,
)
from torch import nn

from maxentflow.flows import (
    NormflowsLayer,
    TanhSquash,
    registered,
)

from .cases import (
    action_grid,
    flow_around,
    largest,
    make_flow,
    normalisation_error,
    perturb,
    uniform,
)


@pytest.fixture
def in_double() -> Iterator[None]:
    """normflows accumulates forward_kld in the default precision, whatever its input has."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", registered())
@pytest.mark.parametrize("dim", [1, 2, 4])
class TestOurLayersInTheirFlow:
    def flows(self, name: str, dim: int) -> tuple:
        torch.manual_seed(0)
        ours = perturb(make_flow(name, dim, 3), 0.2).double().eval()
        return ours, normflows.ConditionalNormalizingFlow(ours.base, list(ours.layers))

    def test_log_prob(self, name: str, dim: int) -> None:
        ours, theirs = self.flows(name, dim)
        action, observation = uniform(6, dim, bound=0.9), uniform(6, 3, bound=2)
        expected = ours.log_prob(action, observation)
        assert largest(theirs.log_prob(action, observation) - expected) <= 1e-9

    def test_forward_kld(self, name: str, dim: int, in_double: None) -> None:
        ours, theirs = self.flows(name, dim)
        action, observation = uniform(6, dim, bound=0.9), uniform(6, 3, bound=2)
        expected = -ours.log_prob(action, observation).mean()
        assert largest(theirs.forward_kld(action, observation) - expected) <= 1e-9

    def test_sample(self, name: str, dim: int) -> None:
        ours, theirs = self.flows(name, dim)
        observation = uniform(6, 3, bound=2)
        torch.manual_seed(1)
        action, log_prob = theirs.sample(6, observation)
        torch.manual_seed(1)
        expected_action, expected_log_prob = ours.sample(observation)
        assert action.shape == (6, dim)
        assert largest(action - expected_action) <= 1e-12
        assert largest(log_prob - expected_log_prob) <= 1e-9


def spline(context_dim: int | None) -> CoupledRationalQuadraticSpline:
    return CoupledRationalQuadraticSpline(
        2, 1, 16, num_context_channels=context_dim, activation=nn.SiLU
    )


@pytest.mark.parametrize("squash", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda: LULinearPermute(2),
        lambda: InvertibleAffine(2, use_lu=False),
        lambda: AffineConstFlow((2,)),
    ],
    ids=["lu", "matrix", "constant"],
)
def test_their_linear_layers_in_our_flow_are_normalised(make: Callable, squash: bool) -> None:
    torch.manual_seed(0)
    flow = flow_around(NormflowsLayer(make()), squash)
    assert normalisation_error(flow, action_grid(2, squash)) <= 1e-6


@pytest.mark.parametrize("squash", [True, False])
@pytest.mark.parametrize(
    ("make", "dim", "points", "tolerance"),
    [
        (lambda: AutoregressiveRationalQuadraticSpline(1, 1, 16, 3), 1, 100_001, 1e-6),
        # A spline's density has kinks, where the trapezoid rule errs by the spacing squared:
        # two dimensions cannot have a grid fine enough for 1e-6.
        (lambda: spline(3), 2, 801, 5e-5),
        (lambda: spline(None), 2, 801, 5e-5),
    ],
    ids=["autoregressive", "coupled", "coupled-without-context"],
)
def test_their_splines_in_our_flow_are_normalised(
    make: Callable, dim: int, points: int, tolerance: float, squash: bool
) -> None:
    torch.manual_seed(0)
    flow = flow_around(NormflowsLayer(make()), squash, dim)
    grid = action_grid(dim, squash, half_width=5.0, points=points)
    assert normalisation_error(flow, grid) <= tolerance


def test_a_linear_layers_log_det_is_counted_in_v() -> None:
    torch.manual_seed(0)
    layer = perturb(NormflowsLayer(LULinearPermute(2)), 1.0)
    flow = flow_around(layer, squash=False)
    observation = uniform(5, 3, bound=2)
    weight = layer.flow.linear.weight()
    expected = 0.5 * (
        flow.base.log_normalizer()
        + flow.layers[0].log_sigma(observation).sum(-1, keepdim=True)
        - torch.linalg.slogdet(weight).logabsdet
        + flow.shift(observation)
    )
    assert largest(flow.value(observation) - expected) <= 1e-9


@pytest.mark.parametrize(
    ("flow", "linear"),
    [
        (Permute(2), True),
        (LULinearPermute(2), True),
        (AffineConstFlow((2,)), True),
        (InvertibleAffine(2), True),
        (spline(None), False),
        (MaskedAffineFlow(torch.tensor([1.0, 0.0])), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_which_layers_are_linear(flow: normflows.flows.Flow, linear: bool) -> None:
    assert NormflowsLayer(flow).is_linear == linear
    assert NormflowsLayer(flow, is_linear=not linear).is_linear != linear


@pytest.mark.parametrize("batch", [(), (5,), (2, 3)])
def test_a_layer_that_reads_no_context_ignores_the_observation(batch: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = perturb(NormflowsLayer(spline(None))).double()
    z, context = uniform(*batch, 2, bound=2), uniform(*batch, 3, bound=2)
    x, log_det = layer(z, context)
    expected_x, expected_log_det = layer(z)
    assert torch.equal(x, expected_x)
    assert torch.equal(log_det, expected_log_det)


@pytest.mark.parametrize("what", [nn.Linear(2, 2), TanhSquash, "LULinearPermute"])
def test_what_is_no_layer_of_normflows_is_refused(what: object) -> None:
    with pytest.raises(ValueError, match="NormflowsLayer adapts layers of normflows, got"):
        NormflowsLayer(what)


@pytest.mark.parametrize("flow", [Radial((2,)), Planar((2,))], ids=["Radial", "Planar"])
def test_a_layer_without_inverse_is_refused(flow: normflows.flows.Flow) -> None:
    with pytest.raises(ValueError, match=f"{type(flow).__name__} has no inverse"):
        NormflowsLayer(flow)
