"""Both ways between normflows and this package."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import normflows
import normflows.flows as nf
import pytest
import torch
from normflows.flows import (
    AffineConstFlow,
    AutoregressiveRationalQuadraticSpline,
    CoupledRationalQuadraticSpline,
    InvertibleAffine,
    LULinearPermute,
)
from normflows.nets import LipschitzMLP
from torch import Tensor, nn

from maxentflow.flows import (
    EnergyBasedFlow,
    NormflowsLayer,
    StandardNormal,
    StateScale,
    TanhSquash,
    registered,
)

from .cases import (
    action_grid,
    flow_around,
    largest,
    latent_grid,
    make_flow,
    normalisation_error,
    perturb,
    uniform,
)
from .normflows_cases import NORMFLOWS_LAYERS, SMALLEST_DIM


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
        lambda: nf.CCAffineConst(2, 3),
        lambda: nf.ActNorm(2),
        lambda: nf.Invertible1x1Conv(2),
        lambda: nf.GlowBlock(2, 4, scale=False),
    ],
    ids=["lu", "matrix", "constant", "conditional", "act-norm", "convolution", "glow"],
)
def test_their_linear_layers_in_our_flow_are_normalised(make: Callable, squash: bool) -> None:
    torch.manual_seed(0)
    flow = flow_around(NormflowsLayer(make()), squash)
    assert normalisation_error(flow, action_grid(2, squash), uniform(3, bound=2)) <= 1e-6


@pytest.mark.parametrize("squash", [True, False])
def test_their_splines_in_our_flow_are_normalised(squash: bool) -> None:
    torch.manual_seed(0)
    layer = NormflowsLayer(AutoregressiveRationalQuadraticSpline(1, 1, 16, 3))
    grid = action_grid(1, squash, half_width=5.0, points=100_001)
    assert normalisation_error(flow_around(layer, squash, 1), grid, uniform(3, bound=2)) <= 1e-6


@pytest.mark.parametrize("squash", [True, False])
@pytest.mark.parametrize("context_dim", [3, None])
def test_their_splines_of_two_dimensions_in_our_flow_are_normalised(
    context_dim: int | None, squash: bool
) -> None:
    """On images of latents: no grid of actions is fine enough for a density with kinks."""
    torch.manual_seed(0)
    flow, observation = (
        flow_around(NormflowsLayer(spline(context_dim)), squash),
        uniform(3, bound=2),
    )
    assert normalisation_error(flow, latent_grid(flow, observation), observation) <= 1e-9


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


LINEAR = {
    "Permute",
    "LULinearPermute",
    "InvertibleAffine",
    "Invertible1x1Conv",
    "AffineConstFlow",
    "CCAffineConst",
    "ActNorm",
    "PeriodicShift",
    "MaskedAffineFlow-additive",
    "AffineCouplingBlock-additive",
    "GlowBlock-additive",
}
VOLUME_PRESERVING = {
    "Permute",
    "PeriodicShift",
    "MaskedAffineFlow-additive",
    "AffineCouplingBlock-additive",
}


@pytest.mark.parametrize("name", NORMFLOWS_LAYERS)
def test_which_layers_are_linear(name: str) -> None:
    layer = NORMFLOWS_LAYERS[name](2, 3)
    kind, _, option = name.partition("-")
    key = name if option == "additive" else kind
    assert layer.is_linear == (key in LINEAR)
    assert layer.is_volume_preserving == (key in VOLUME_PRESERVING)
    other = NormflowsLayer(layer.flow, is_linear=not layer.is_linear)
    assert other.is_linear != layer.is_linear
    assert not other.is_volume_preserving


@pytest.mark.parametrize("name", NORMFLOWS_LAYERS)
def test_results_have_the_precision_of_the_variable(name: str) -> None:
    dim = SMALLEST_DIM.get(name, 1)
    layer = NORMFLOWS_LAYERS[name](dim, 3).double()
    for direction in (layer.forward, layer.inverse):
        y, log_det = direction(uniform(4, dim, bound=1), uniform(4, 3, bound=1))
        assert y.dtype == log_det.dtype == torch.float64


@pytest.mark.parametrize("batch", [(), (5,), (2, 3)])
def test_a_layer_that_reads_no_context_ignores_the_observation(batch: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = perturb(NormflowsLayer(spline(None))).double()
    z, context = uniform(*batch, 2, bound=2), uniform(*batch, 3, bound=2)
    x, log_det = layer(z, context)
    expected_x, expected_log_det = layer(z)
    assert torch.equal(x, expected_x)
    assert torch.equal(log_det, expected_log_det)


CONDITIONAL = {
    "CCAffineConst",
    "CoupledRationalQuadraticSpline",
    "AutoregressiveRationalQuadraticSpline",
    "MaskedAffineAutoregressive",
    "CircularCoupledRationalQuadraticSpline",
    "CircularAutoregressiveRationalQuadraticSpline",
}


@pytest.mark.parametrize("name", NORMFLOWS_LAYERS)
def test_which_layers_read_the_context(name: str) -> None:
    torch.manual_seed(0)
    layer = perturb(NORMFLOWS_LAYERS[name](2, 3)).double()
    x = uniform(5, 2, bound=2)
    if name not in CONDITIONAL:
        assert layer.context_dim is None
        return
    assert layer.context_dim == 3
    z, other = (layer.inverse(x, uniform(5, 3, bound=2))[0] for _ in range(2))
    assert ((z - other).abs().amax(-1) > 0).all()
    with pytest.raises(ValueError, match="needs a context"):
        layer(x)


class ContextScale(nf.Flow):
    """A layer of the user's own."""

    def forward(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        return z * context[:, :1].exp(), z.shape[-1] * context[:, 0]

    def inverse(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        return x * (-context[:, :1]).exp(), -x.shape[-1] * context[:, 0]


@pytest.mark.parametrize("is_linear", [None, True])
def test_a_layer_of_ones_own(is_linear: bool | None) -> None:
    torch.manual_seed(0)
    layer = NormflowsLayer(ContextScale(), is_linear=is_linear)
    assert layer.is_linear == bool(is_linear)
    flow, observation = flow_around(layer, squash=True), uniform(3, bound=2)
    assert normalisation_error(flow, action_grid(2, True), observation) <= 1e-6


@pytest.mark.parametrize(
    "make",
    [
        lambda: nf.GlowBlock(2, 4, split_mode="checkerboard"),
        lambda: nf.Invertible1x1Conv(2),
        lambda: nf.ActNorm((2, 1, 1)),
    ],
    ids=["glow", "convolution", "act-norm"],
)
def test_a_layer_of_images_sees_the_shape_that_is_asked_for(make: Callable) -> None:
    torch.manual_seed(0)
    layer = perturb(NormflowsLayer(make(), event_shape=(2, 2, 2))).double()
    assert layer.dim == 8
    z = uniform(3, 5, 8, bound=2)
    x, log_det = layer(z)
    expected_x, expected_log_det = layer.flow(z.reshape(15, 2, 2, 2))
    assert torch.equal(x, expected_x.reshape(3, 5, 8))
    assert torch.equal(log_det, expected_log_det.expand(15).reshape(3, 5))
    assert largest(layer.inverse(x)[0] - z) <= 1e-9


ACT_NORMS = {
    "alone": lambda: nf.ActNorm(2),
    "in-glow": lambda: nf.GlowBlock(2, 4),
    "in-the-network-of-glow": lambda: nf.GlowBlock(2, 4, net_actnorm=True),
}


@pytest.mark.parametrize("make", ACT_NORMS.values(), ids=ACT_NORMS)
class TestActNorm:
    def test_no_call_sets_it(self, make: Callable) -> None:
        flow = flow_around(NormflowsLayer(make()), squash=True)
        before = {key: value.clone() for key, value in flow.state_dict().items()}
        observation = uniform(5, 3, bound=2)
        flow.value(observation)
        flow.sample(observation[0])
        flow.q_and_value(uniform(5, 2, bound=0.9), observation)
        assert all(torch.equal(value, before[key]) for key, value in flow.state_dict().items())

    def test_it_keeps_what_it_was_set_to(self, make: Callable) -> None:
        torch.manual_seed(0)
        theirs = make().double()
        x = uniform(50, 2, bound=3) + 1
        rows = x if isinstance(theirs, nf.ActNorm) else x.reshape(50, 2, 1, 1)
        expected = theirs.inverse(rows)[0].reshape(50, 2)
        assert torch.equal(NormflowsLayer(theirs).inverse(x)[0], expected)

    def test_initialize_sets_it_in_place(self, make: Callable) -> None:
        torch.manual_seed(0)
        layer = NormflowsLayer(make()).double()
        addresses = [parameter.data_ptr() for parameter in layer.parameters()]
        x = uniform(10, 20, 2, bound=3) + 1
        layer.initialize(x)
        assert [parameter.data_ptr() for parameter in layer.parameters()] == addresses
        norm = layer.flow if isinstance(layer.flow, nf.ActNorm) else layer.flow.flows[-1]
        rows = x.reshape(200, 2)
        assert largest(norm.t.reshape(2) - rows.mean(0)) <= 1e-12
        assert largest(norm.s.reshape(2).exp() - rows.std(0)) <= 1e-5
        z, _ = layer.inverse(x)
        assert largest(layer(z)[0] - x) <= 1e-9

    @pytest.mark.parametrize("x", [torch.ones(5, 2), torch.randn(1, 2)], ids=["constant", "one"])
    @pytest.mark.filterwarnings("ignore:std")
    def test_a_batch_that_does_not_vary_is_refused(self, make: Callable, x: Tensor) -> None:
        layer = NormflowsLayer(make())
        with pytest.raises(ValueError, match="finite and vary, got standard deviations"):
            layer.initialize(x)


def test_initialize_leaves_other_layers_alone() -> None:
    NormflowsLayer(LULinearPermute(2)).initialize(torch.ones(1, 2))


PERIODIC = {
    "shift": lambda: nf.PeriodicShift([0], bound=1.0, shift=0.5),
    "autoregressive": lambda: nf.CircularAutoregressiveRationalQuadraticSpline(
        1, 1, 16, [0], num_context_channels=3, num_bins=4, tail_bound=1.0
    ),
}


@pytest.mark.parametrize("make", PERIODIC.values(), ids=PERIODIC)
def test_periodic_layers_are_normalised_after_a_squash(make: Callable) -> None:
    torch.manual_seed(0)
    scale = StateScale(1, 3, bounds=(-1.0, -0.3), hidden=(16,))
    layers = [scale, TanhSquash(1), NormflowsLayer(make())]
    flow = perturb(EnergyBasedFlow(StandardNormal(1), layers, temperature=0.5), 0.2).double()
    grid = action_grid(1, True, points=100_001)
    assert normalisation_error(flow, grid, uniform(3, bound=2)) <= 1e-6


@pytest.mark.parametrize(
    "make",
    [
        lambda bound: nf.PeriodicShift([0, 1], bound=bound, shift=0.1),
        lambda bound: nf.CircularAutoregressiveRationalQuadraticSpline(
            2, 1, 16, [0], tail_bound=bound
        ),
        lambda bound: nf.CircularCoupledRationalQuadraticSpline(2, 1, 16, [0], tail_bound=bound),
        lambda bound: nf.CoupledRationalQuadraticSpline(
            2, 1, 16, tails=["circular", "linear"], tail_bound=bound
        ),
    ],
    ids=["shift", "autoregressive", "coupled", "coupled-tails"],
)
@pytest.mark.parametrize("bound", [2.0, torch.tensor([2.0, 3.0])], ids=["number", "tensor"])
def test_outside_its_box_a_periodic_layer_refuses(make: Callable, bound: float | Tensor) -> None:
    layer = NormflowsLayer(make(bound))
    ends = torch.as_tensor(bound).expand(2)
    inside = ends * torch.tensor([[1.0, 1.0], [-1.0, -1.0], [0.3, 1 + 1e-6]])
    for direction in (layer.forward, layer.inverse):
        y, log_det = direction(inside)
        assert (y.abs() <= ends * (1 + 1e-6)).all()
        assert log_det.isfinite().all()
        for outside in (ends * torch.tensor([0.0, 1.1]), ends * torch.tensor([-1.1, 0.0])):
            with pytest.raises(ValueError, match=r"maps the box with half sides \[2.0, [23].0\]"):
                direction(outside)


def residual(reverse: bool = True, **options: object) -> nf.Residual:
    net = LipschitzMLP([2, 16, 2], init_zeros=False)
    return nf.Residual(net, reverse, **{"brute_force": True, **options})


@pytest.mark.parametrize("reverse", [True, False])
class TestResidual:
    def test_it_remains_a_contraction_as_its_weights_change(self, reverse: bool) -> None:
        torch.manual_seed(0)
        layer = NormflowsLayer(residual(reverse)).double()
        z = uniform(100, 2, bound=5)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.add_(torch.randn_like(parameter))
        x, _ = layer(z)
        assert largest(layer.inverse(x)[0] - z) <= 1e-9

    def test_gradients_are_those_of_the_inverse_function(self, reverse: bool) -> None:
        torch.manual_seed(0)
        layer = NormflowsLayer(residual(reverse)).double()
        z = uniform(5, 2, bound=2).requires_grad_()
        x, log_det = layer(z)
        z_again, log_det_back = layer.inverse(x)
        weights = list(layer.flow.iresblock.nnet.parameters())
        cotangent = uniform(5, 2, bound=1)
        to_z, *others = torch.autograd.grad(z_again, [z, *weights], cotangent, retain_graph=True)
        others += torch.autograd.grad((log_det + log_det_back).sum(), [z, *weights])
        assert largest(to_z - cotangent) <= 1e-9
        assert max(largest(gradient) for gradient in others) <= 1e-9

    def test_two_calls_share_one_backward(self, reverse: bool) -> None:
        layer = NormflowsLayer(residual(reverse))
        z = torch.randn(5, 2)
        (layer(z)[0] + layer.inverse(z)[0]).sum().backward()

    def test_nothing_is_marked_as_requiring_gradients(self, reverse: bool) -> None:
        layer, z = NormflowsLayer(residual(reverse)), torch.randn(5, 2)
        with torch.no_grad():
            results = (*layer(z), *layer.inverse(z))
        assert not any(tensor.requires_grad for tensor in (z, *results))


def test_a_residual_of_no_contraction_is_an_error() -> None:
    net = nn.Linear(2, 2)
    nn.init.constant_(net.weight, 2.0)
    layer = NormflowsLayer(nf.Residual(net, brute_force=True))
    with pytest.raises(RuntimeError, match="must be a contraction"):
        layer(torch.randn(5, 2))


@pytest.mark.parametrize("what", [nn.Linear(2, 2), TanhSquash, TanhSquash(2), "LULinearPermute"])
def test_what_is_no_layer_of_normflows_is_refused(what: object) -> None:
    with pytest.raises(ValueError, match="NormflowsLayer adapts layers of normflows, got"):
        NormflowsLayer(what)


TARGET = normflows.distributions.TwoMoons()
REFUSED: dict[str, tuple[Callable[[], nf.Flow], str]] = {
    "Radial": (lambda: nf.Radial((2,)), "has no inverse"),
    "Planar": (lambda: nf.Planar((2,)), "has no inverse"),
    "Planar-leaky_relu": (lambda: nf.Planar((2,), act="leaky_relu"), "single precision"),
    "BatchNorm": (nf.BatchNorm, "has no inverse"),
    "Reverse": (lambda: nf.Reverse(LULinearPermute(2)), "put it in Inverse"),
    "Composite": (lambda: nf.Composite([LULinearPermute(2)]), "one by one"),
    "Split": (nf.Split, "changes the shape"),
    "Merge": (nf.Merge, "changes the shape"),
    "Squeeze": (nf.Squeeze, "changes the shape"),
    "AffineCoupling": (lambda: nf.AffineCoupling(nn.Linear(1, 2)), "AffineCouplingBlock"),
    "PeriodicWrap": (lambda: nf.PeriodicWrap([0]), "is not one-to-one"),
    "MetropolisHastings": (lambda: nf.MetropolisHastings(TARGET, None, 1), "random transition"),
    "HamiltonianMonteCarlo": (
        lambda: nf.HamiltonianMonteCarlo(TARGET, 1, torch.zeros(2), torch.zeros(2)),
        "random transition",
    ),
    "Residual": (lambda: residual(brute_force=False), "only brute_force=True is exact"),
    "Residual-exact_trace": (
        lambda: residual(brute_force=False, exact_trace=True),
        "only brute_force=True is exact",
    ),
    "CoupledRationalQuadraticSpline-no_tails": (
        lambda: CoupledRationalQuadraticSpline(2, 1, 16, tails=None),
        "the unit interval only",
    ),
    "MaskedAffineAutoregressive-batch_norm": (
        lambda: nf.MaskedAffineAutoregressive(2, 16, use_batch_norm=True),
        "contains a BatchNorm1d",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_exact_is_refused_by_name(name: str) -> None:
    make, reason = REFUSED[name]
    with pytest.raises(ValueError, match=f"^{name.partition('-')[0]} .*{reason}"):
        NormflowsLayer(make())


def test_every_layer_of_normflows_is_decided() -> None:
    theirs = {
        name
        for name, kind in vars(nf).items()
        if isinstance(kind, type) and issubclass(kind, nf.Flow) and kind is not nf.Flow
    }
    assert theirs == {name.partition("-")[0] for name in (*NORMFLOWS_LAYERS, *REFUSED)}


@pytest.mark.parametrize(
    ("name", "costs"),
    [
        ("LULinearPermute", ("1 pass", "1 pass")),
        ("AutoregressiveRationalQuadraticSpline", ("3 passes", "1 pass")),
        ("CircularAutoregressiveRationalQuadraticSpline", ("3 passes", "1 pass")),
        ("MaskedAffineAutoregressive", ("1 pass", "3 passes")),
        ("Residual", ("iterative", "1 pass")),
        ("Residual-forward", ("1 pass", "iterative")),
    ],
)
def test_costs(name: str, costs: tuple[str, str]) -> None:
    layer = NORMFLOWS_LAYERS[name](3, 2)
    assert (layer.forward_cost, layer.inverse_cost) == costs
    if "passes" not in "".join(costs):
        return
    net = getattr(layer.flow, "autoregressive_net", None) or layer.flow.mprqat.autoregressive_net
    calls: list[int] = []
    net.register_forward_hook(lambda *_: calls.append(1))
    for direction, cost in zip((layer.forward, layer.inverse), costs, strict=True):
        calls.clear()
        direction(uniform(4, 3, bound=1).float(), uniform(4, 2, bound=1).float())
        assert len(calls) == int(cost.split()[0])
