"""The energy-based flow: Q, V and the policy against quadrature, autograd and each other."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import kstest
from torch import Tensor, nn

from maxentflow.flows import (
    ActNorm,
    AdditiveCoupling,
    Dropout,
    EnergyBasedFlow,
    Inverse,
    Layer,
    RewardShift,
    StandardNormal,
    StateScale,
    TanhSquash,
    build,
    options,
    registered,
)

from .cases import (
    FLOWS,
    HIDDEN,
    MIXED,
    SMOOTH,
    FlowCase,
    action_grid,
    few,
    flow_cases,
    grid_around,
    largest,
    latent_grid,
    make_flow,
    perturb,
    quick,
    uniform,
)

over_flows = pytest.mark.parametrize("name", FLOWS)
over_registered = pytest.mark.parametrize("name", registered())
over_dropout = pytest.mark.parametrize(
    "name", [*(name for name in registered() if "dropout" in options(name)), MIXED]
)
DATA = given(data=st.data())

# Batches of actions beside batches of observations that broadcast with them.
BROADCASTS = [((), (5,)), ((5,), ()), ((7, 1), (5,)), ((1,), (2, 3)), ((4, 2, 3), (2, 3))]


def keep_units(flow: EnergyBasedFlow) -> EnergyBasedFlow:
    """Training mode, masks included, in which no unit is ever dropped."""
    flow.train()
    for module in flow.modules():
        if isinstance(module, Dropout):
            module.eval()
    return flow


@over_flows
@pytest.mark.parametrize("dim", [1, 2])
@few
@DATA
@pytest.mark.quick_for("additive", "spline", "mixed")
def test_the_policy_is_normalised_and_v_is_the_soft_maximum_of_q(
    name: str, dim: int, data: st.DataObject
) -> None:
    batches = st.just((3 - dim,))
    even = {"log_sigma": (-1.0, -0.3), "noise": 0.1}
    case = data.draw(flow_cases(name, dims=st.just(dim), batches=batches, **even))
    flow, _, observations = case
    tolerance = 1e-6 if name in SMOOTH else 1e-9
    for observation in observations:
        if name in SMOOTH:
            grid = action_grid(dim, case.ends_in_squash)
        else:
            grid = latent_grid(flow, observation)
        with torch.no_grad():
            q, v = flow.q_and_value(grid.action, observation)
            integral = grid.log_integral((q - v) / flow.temperature).exp()
            soft_maximum = flow.temperature * grid.log_integral(q / flow.temperature)
            assert integral.shape == (flow.heads,)
            assert largest(integral - 1) <= tolerance
            assert largest(flow.value(observation) - soft_maximum) <= tolerance * flow.temperature


@over_flows
@quick
@DATA
def test_q_minus_v_is_the_log_prob(name: str, data: st.DataObject) -> None:
    flow, action, observation = data.draw(flow_cases(name))
    q, v = flow.q_and_value(action, observation)
    log_prob = flow.log_prob(action, observation)
    assert q.shape == v.shape == (*action.shape[:-1], flow.heads)
    assert log_prob.shape == action.shape[:-1]
    assert largest((q - v) / flow.temperature - log_prob.unsqueeze(-1)) <= 1e-9


@over_flows
@quick
@DATA
def test_the_value_depends_on_the_observation_alone(name: str, data: st.DataObject) -> None:
    flow, action, observation = data.draw(flow_cases(name))
    value = flow.value(observation)
    assert value.shape == (*observation.shape[:-1], flow.heads)
    for at in (action, 0.5 * action, torch.zeros_like(action)):
        q, v = flow.q_and_value(at, observation)
        assert largest(v - value) <= 1e-9
        assert torch.equal(flow.q_value(at, observation), q)
    action.requires_grad_()
    v = flow.q_and_value(action, observation)[1].sum()
    (slope,) = torch.autograd.grad(v, action, allow_unused=True, materialize_grads=True)
    assert largest(slope) <= 1e-12


@over_flows
@quick
@DATA
def test_layers_together_are_invertible_with_the_jacobians_log_det(
    name: str, data: st.DataObject
) -> None:
    flow, action, observation = data.draw(flow_cases(name, batches=st.just(())))

    def to_latent(x: Tensor) -> tuple[Tensor, Tensor]:
        total = torch.zeros((), dtype=torch.float64)
        for layer in reversed(flow.layers):
            x, log_det = layer.inverse(x, observation)
            total = total + log_det
        return x, total

    z, log_det = to_latent(action)
    jacobian = torch.autograd.functional.jacobian(lambda x: to_latent(x)[0], action)
    assert largest(log_det - torch.linalg.slogdet(jacobian).logabsdet) <= 1e-9
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum() + log_det
    assert largest(flow.log_prob(action, observation) - expected) <= 1e-9
    for layer in flow.layers:
        z = layer(z, observation)[0]
    assert largest(z - action) <= 1e-9


@over_flows
@quick
@DATA
def test_samples_come_with_their_log_prob(name: str, data: st.DataObject) -> None:
    case = data.draw(flow_cases(name))
    flow, _, observation = case
    sample_shape = data.draw(st.sampled_from([(), (3,), (2, 4)]))
    action, log_prob = flow.sample(observation, sample_shape)
    assert action.shape == (*sample_shape, *observation.shape[:-1], flow.action_dim)
    assert log_prob.shape == action.shape[:-1]
    error = (flow.log_prob(action, observation) - log_prob).abs()
    if case.ends_in_squash:
        # tanh rounds by 1e-16, which atanh magnifies by 1 / (1 - a**2) near the ends.
        inside = action.abs().amax(-1) <= 1 - 1e-6
        assume(inside.double().mean() > 0.5)
        error = error[inside]
    assert largest(error) <= 1e-8


@over_flows
def test_samples_carry_gradients_to_every_parameter_of_the_policy(name: str) -> None:
    torch.manual_seed(0)
    flow = perturb(make_flow(name, 2, 3)).double().eval()
    action, log_prob = flow.sample(uniform(64, 3, bound=2))
    for output in (action, log_prob):
        parameters = dict(flow.layers.named_parameters())
        gradients = torch.autograd.grad(output.sum(), list(parameters.values()), retain_graph=True)
        for key, gradient in zip(parameters, gradients, strict=True):
            assert gradient.isfinite().all(), key
            assert gradient.any() or output is log_prob, key


@over_flows
@pytest.mark.parametrize("squash", [True, False])
@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.quick_for("additive", "spline")
def test_samples_follow_the_density(name: str, squash: bool, dim: int) -> None:
    torch.manual_seed(2)
    flow = perturb(make_flow(name, dim, 2, squash=squash), 0.1).double().eval()
    observation = uniform(2, bound=2)
    with torch.no_grad():
        samples = flow.sample(observation, (2000,))[0]
        grid = grid_around(samples, squash)
        masses = (flow.log_prob(grid.action, observation) + grid.log_weight).exp()
    masses = masses.reshape([len(axis) for axis in grid.axes])
    for entry, axis in enumerate(grid.axes):
        marginal = masses if dim == 1 else masses.sum(1 - entry)
        # A trapezoid's mass is half to the left of its point.
        cumulative = marginal.cumsum(0) - marginal / 2
        position = torch.atanh(samples[:, entry]) if squash else samples[:, entry]
        index = torch.searchsorted(axis, position.contiguous())
        left, right = axis[index - 1], axis[index]
        share = (position - left) / (right - left)
        levels = cumulative[index - 1] * (1 - share) + cumulative[index] * share
        assert kstest(levels.numpy(), "uniform").pvalue > 1e-3


@quick
@DATA
def test_the_mode_of_an_additive_flow_is_the_maximum_of_q(data: st.DataObject) -> None:
    flow, _, observation = data.draw(flow_cases("additive", squash=st.just(False)))
    mode = flow.mode(observation).detach().requires_grad_()
    q = flow.q_value(mode, observation)
    shift = 0.0 if flow.shift is None else flow.shift(observation)
    assert mode.shape == (*observation.shape[:-1], flow.action_dim)
    assert largest(q - flow.temperature * shift) <= 1e-12
    (slope,) = torch.autograd.grad(q.sum(), mode)
    assert largest(slope) <= 1e-9
    for size in (0.01, 0.1, 1.0, 10.0):
        elsewhere = mode + size * torch.randn(50, *mode.shape, dtype=torch.float64)
        assert (flow.q_value(elsewhere, observation) < q).all()


@over_flows
@quick
@DATA
def test_the_mode_is_where_the_latent_is_zero(name: str, data: st.DataObject) -> None:
    case = data.draw(flow_cases(name))
    flow, _, observation = case
    z = flow.mode(observation)
    # Nearer to the ends, tanh's rounding is more than the tolerance.
    assume(not case.ends_in_squash or largest(z) <= 1 - 1e-6)
    for layer in reversed(flow.layers):
        z = layer.inverse(z, observation)[0]
    assert z.shape == (*observation.shape[:-1], flow.action_dim)
    assert largest(z) <= 1e-9


@over_flows
@pytest.mark.parametrize(("action_batch", "observation_batch"), BROADCASTS)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.quick_for("True")
def test_batches_of_actions_and_observations_broadcast(
    name: str,
    action_batch: tuple[int, ...],
    observation_batch: tuple[int, ...],
    training: bool,
) -> None:
    torch.manual_seed(0)
    flow = perturb(make_flow(name, 2, 3)).double().eval()
    action = uniform(*action_batch, 2, bound=0.9)
    observation = uniform(*observation_batch, 3, bound=2)
    batch = torch.broadcast_shapes(action_batch, observation_batch)
    all_actions, all_observations = action.expand(*batch, 2), observation.expand(*batch, 3)
    expected_q, expected_v = flow.q_and_value(all_actions, all_observations)
    expected_log_prob = flow.log_prob(all_actions, all_observations)
    if training:
        keep_units(flow)
    q, v = flow.q_and_value(action, observation)
    assert q.shape == (*batch, 2)
    assert largest(q - expected_q) <= 1e-12
    assert largest(v - expected_v) <= 1e-12
    log_prob = flow.log_prob(action, observation)
    assert log_prob.shape == batch
    assert largest(log_prob - expected_log_prob) <= 1e-12


class Noisy(Layer):
    """A random shift, without a module that anybody could know: it says so itself."""

    is_linear = is_volume_preserving = True
    is_stochastic = True

    def noise(self, x: Tensor) -> Tensor:
        return torch.rand_like(x)

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return z + self.noise(z), z.new_zeros(z.shape[:-1])

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x - self.noise(x), x.new_zeros(x.shape[:-1])


class Dropping(Noisy):
    """The same by torch's dropout, which a layer need not mention."""

    is_stochastic = Layer.is_stochastic

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def noise(self, x: Tensor) -> Tensor:
        return self.drop(torch.ones_like(x))


class TestDropoutPerHead:
    """In training, heads see dropout masks of their own, and V none at all."""

    observation = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(8, 3)
    action = torch.linspace(-0.9, 0.9, 16, dtype=torch.float64).reshape(8, 2)

    def flow(self, name: str, **options: object) -> EnergyBasedFlow:
        torch.manual_seed(0)
        return perturb(make_flow(name, 2, 3, **options)).double().train()

    def log_probs(self, flow: EnergyBasedFlow) -> Tensor:
        q, v = flow.q_and_value(self.action, self.observation)
        return (q - v) / flow.temperature

    @over_dropout
    def test_heads_differ_in_training_only(self, name: str) -> None:
        flow = self.flow(name, heads=3)
        first, second, third = self.log_probs(flow).unbind(-1)
        assert largest(first - second) > 1e-3
        assert largest(second - third) > 1e-3
        first, second, third = self.log_probs(flow.eval()).unbind(-1)
        assert largest(first - second) <= 1e-12
        assert largest(second - third) <= 1e-12

    @over_dropout
    def test_one_mask_serves_all_heads_if_asked(self, name: str) -> None:
        flow = self.flow(name, heads=3, dropout_per_head=False)
        once, again = self.log_probs(flow), self.log_probs(flow)
        assert largest(once - once[:, :1]) <= 1e-12
        assert largest(once - again) > 1e-3

    @over_flows
    @pytest.mark.parametrize("dropout_per_head", [True, False])
    def test_v_is_never_dropped(self, name: str, dropout_per_head: bool) -> None:
        flow = self.flow(name, dropout_per_head=dropout_per_head)
        in_training = flow.q_and_value(self.action, self.observation)[1]
        value_in_training = flow.value(self.observation)
        expected = flow.eval().value(self.observation)
        assert largest(in_training - expected) <= 1e-12
        assert largest(value_in_training - expected) <= 1e-12

    @pytest.mark.parametrize("kind", ["torch's dropout", "noise of its own", "turned round"])
    def test_a_layer_of_ones_own_has_a_pass_for_each_head(self, kind: str) -> None:
        layer: Layer = Noisy() if kind == "noise of its own" else Dropping()
        if kind == "turned round":
            layer = Inverse(Noisy())
        shift = RewardShift(3, 2, hidden=HIDDEN)
        flow = EnergyBasedFlow(StandardNormal(2), [layer], temperature=0.5, shift=shift).double()
        first, second = self.log_probs(flow.train()).unbind(-1)
        assert largest(first - second) > 1e-3

    @over_dropout
    @pytest.mark.parametrize("heads", [0, 1])
    def test_with_a_single_head_every_call_drops_anew(self, name: str, heads: int) -> None:
        flow = self.flow(name, heads=heads)
        once, again = self.log_probs(flow), self.log_probs(flow)
        assert once.shape == (8, 1)
        assert largest(once - again) > 1e-3

    @over_dropout
    def test_a_batch_of_as_many_rows_as_heads_has_masks_for_each_head(self, name: str) -> None:
        flow = self.flow(name, heads=2)
        q, v = flow.q_and_value(self.action[0], self.observation[:2])
        log_prob = (q - v) / flow.temperature
        assert largest(log_prob[:, 0] - log_prob[:, 1]) > 1e-3


class TestSinglePrecision:
    """Nothing turns into NaN or infinity, at the squash's ends or far out."""

    def finite(self, flow: EnergyBasedFlow, action: Tensor) -> None:
        action.requires_grad_()
        observation = torch.randn(*action.shape[:-1], 3)
        q, v = flow.q_and_value(action, observation)
        log_prob = flow.log_prob(action, observation)
        leaves = [action, *flow.parameters()]
        gradients = torch.autograd.grad(q.sum() + v.sum() + log_prob.sum(), leaves)
        for value in (q, v, log_prob, flow.value(observation), *gradients):
            assert value.isfinite().all()

    @over_registered
    @pytest.mark.parametrize(("squash", "size"), [("tanh", 1.0), ("none", 50.0)])
    @pytest.mark.quick_for("tanh")
    def test_actions_at_the_ends(self, name: str, squash: str, size: float) -> None:
        for dim, noise in itertools.product((1, 2, 3), (0.0, 0.3)):
            torch.manual_seed(dim)
            flow = perturb(build(name, dim, 3, temperature=0.25, squash=squash), noise)
            corners = torch.cartesian_prod(*[torch.tensor([-size, 0.0, size])] * dim)
            self.finite(flow, corners.reshape(-1, dim))

    @over_registered
    @pytest.mark.quick_for("additive", "spline")
    def test_latents_of_fifty_under_the_squash(self, name: str) -> None:
        torch.manual_seed(0)
        flow = perturb(build(name, 2, 3, temperature=0.25, log_sigma=(3.9, 4.0)), 0.3)
        action, log_prob = flow.sample(torch.randn(500, 3))
        assert (action.abs() == 1).any()
        parameters = list(flow.layers.parameters())
        gradients = torch.autograd.grad(action.sum() + log_prob.sum(), parameters)
        for value in (action, log_prob, *gradients):
            assert value.isfinite().all()
        self.finite(flow, action.detach())


class TestValueModule:
    """All that V reads, nothing else."""

    @over_registered
    def test_it_holds_what_the_value_depends_on(self, name: str) -> None:
        torch.manual_seed(0)
        flow = perturb(make_flow(name, 2, 3)).double()
        value = flow.value(uniform(5, 3, bound=2)).sum()
        parameters = list(flow.parameters())
        gradients = torch.autograd.grad(value, parameters, allow_unused=True)
        read = {id(p) for p, g in zip(parameters, gradients, strict=True) if g is not None}
        held = {id(p) for p in flow.value_module().parameters()}
        # A linear layer is copied whole, with the offset that V does not read.
        unread = {id(layer.shift) for layer in flow.layers if isinstance(layer, ActNorm)}
        assert held - unread == read
        assert 0 < len(held) < len(parameters)

    @over_flows
    def test_it_leaves_the_couplings_out(self, name: str) -> None:
        flow = make_flow(name, 2, 3)
        kept = {id(layer) for layer in flow.value_module().layers}
        for layer in flow.layers:
            counted = layer.is_linear and not layer.is_volume_preserving
            assert (id(layer) in kept) == counted

    @over_flows
    @quick
    @DATA
    def test_it_gives_the_same_numbers(self, name: str, data: st.DataObject) -> None:
        flow, _, observation = data.draw(flow_cases(name))
        module = flow.value_module()
        value = flow.value(observation)
        assert torch.equal(module.value(observation), value)
        assert torch.equal(module(observation), value)
        assert torch.equal(copy.deepcopy(module)(observation), value)

    @over_flows
    def test_it_follows_the_flow_and_its_copy_does_not(self, name: str) -> None:
        flow, observation = make_flow(name, 2, 3).double(), uniform(5, 3, bound=2)
        module, target = flow.value_module(), copy.deepcopy(flow.value_module())
        before = flow.value(observation)
        perturb(flow)
        assert torch.equal(module(observation), flow.value(observation))
        assert torch.equal(target(observation), before)
        assert largest(module(observation) - before) > 1e-3


def test_without_a_context_any_observation_serves() -> None:
    flow = EnergyBasedFlow(StandardNormal(2), [TanhSquash(2)], temperature=0.5).double()
    case = FlowCase(flow, uniform(5, 2, bound=0.9), uniform(5, 7, bound=1))
    q, v = flow.q_and_value(case.action, case.observation)
    density = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(torch.zeros(2).double(), 1.0),
        torch.distributions.TanhTransform(),
    )
    expected = density.log_prob(case.action).sum(-1, keepdim=True)
    assert q.shape == v.shape == (5, 1)
    assert largest((q - v) / 0.5 - expected) <= 1e-12
    assert flow.sample(case.observation)[0].shape == (5, 2)


class TestRefusals:
    @pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
    def test_temperature(self, temperature: float) -> None:
        with pytest.raises(ValueError, match="temperature must be positive and finite, got"):
            EnergyBasedFlow(StandardNormal(2), [], temperature=temperature)

    def test_what_is_no_layer(self) -> None:
        layers = [TanhSquash(2), torch.nn.Linear(2, 2)]
        with pytest.raises(ValueError, match=r"layers\[1\] is a Linear; expected a Layer"):
            EnergyBasedFlow(StandardNormal(2), layers, temperature=1.0)

    def test_a_layer_of_another_dimension(self) -> None:
        message = r"layers\[0\] \(TanhSquash\) has dimension 3, the base 2"
        with pytest.raises(ValueError, match=message):
            EnergyBasedFlow(StandardNormal(2), [TanhSquash(3)], temperature=1.0)

    @pytest.mark.parametrize(
        ("layers", "shift"),
        [
            ([StateScale(2, 3), AdditiveCoupling(2, 4)], None),
            ([StateScale(2, 3)], RewardShift(4)),
        ],
    )
    def test_parts_that_read_different_observations(
        self, layers: list, shift: RewardShift | None
    ) -> None:
        with pytest.raises(ValueError, match=r"must read one observation size, got \[3, 4\]"):
            EnergyBasedFlow(StandardNormal(2), layers, temperature=1.0, shift=shift)

    @over_registered
    @pytest.mark.parametrize("shape", [(), (4,), (3, 1)])
    def test_observations_of_another_size(self, name: str, shape: tuple[int, ...]) -> None:
        flow = make_flow(name, 2, 3)
        for method in (flow.value, flow.sample, flow.mode):
            with pytest.raises(
                ValueError, match=r"observation must have shape \(\*batch, 3\), got"
            ):
                method(torch.zeros(shape))

    @over_registered
    @pytest.mark.parametrize(
        ("action", "observation", "message"),
        [
            ((5, 3), (5, 3), r"action must have shape \(\*batch, 2\), got \(5, 3\)"),
            ((), (3,), r"action must have shape \(\*batch, 2\), got \(\)"),
            ((5, 2), (5, 2), r"observation must have shape \(\*batch, 3\), got \(5, 2\)"),
        ],
    )
    def test_actions_and_observations_of_another_size(
        self, name: str, action: tuple[int, ...], observation: tuple[int, ...], message: str
    ) -> None:
        flow = make_flow(name, 2, 3)
        for method in (flow.q_value, flow.q_and_value, flow.log_prob):
            with pytest.raises(ValueError, match=message):
                method(torch.zeros(action), torch.zeros(observation))


def test_observations_of_another_form_are_encoded() -> None:
    """Images, say; every method sees what the encoder makes of them."""
    torch.manual_seed(0)
    plain = perturb(build("affine", 2, 6, temperature=0.5, blocks=1), 0.2).eval()
    encoded = build("affine", 2, 6, temperature=0.5, blocks=1, encoder=nn.Flatten(-2)).eval()
    encoded.load_state_dict(plain.state_dict())
    picture, action = torch.randn(5, 2, 3), torch.rand(5, 2)
    flat = picture.flatten(1)
    assert torch.equal(encoded.value(picture), plain.value(flat))
    assert torch.equal(encoded.mode(picture), plain.mode(flat))
    for method in ("q_value", "log_prob"):
        assert torch.equal(
            getattr(encoded, method)(action, picture), getattr(plain, method)(action, flat)
        )
    torch.manual_seed(1)
    ours = encoded.sample(picture)
    torch.manual_seed(1)
    assert torch.equal(ours[0], plain.sample(flat)[0])
