"""Whole flows by name: what is built, what is registered, what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from maxentflow.flows import (
    AdditiveCoupling,
    EnergyBasedFlow,
    GaussianMixture,
    Permutation,
    SimplexSquash,
    StandardNormal,
    StateLinear,
    StateScale,
    StudentT,
    TanhSquash,
    Uniform,
    build,
    options,
    register,
    registered,
    registry,
)

from .cases import FLOWS, HIDDEN, largest, latent_grid, make_flow, perturb, uniform

over_registered = pytest.mark.parametrize("name", registered())


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(registry, "_RECIPES", dict(registry._RECIPES))


def test_the_papers_flows_are_registered() -> None:
    assert {"additive", "affine"} <= set(registered())


@over_registered
@pytest.mark.parametrize(
    ("heads", "squash"), [(0, "tanh"), (0, "none"), (1, "tanh"), (2, "none"), (3, "tanh")]
)
def test_build_makes_a_flow_of_the_asked_sizes(name: str, heads: int, squash: str) -> None:
    flow = build(name, 1, 3, temperature=0.7, heads=heads, squash=squash)
    assert isinstance(flow, EnergyBasedFlow)
    assert (flow.action_dim, flow.obs_dim, flow.temperature) == (1, 3, 0.7)
    assert flow.heads == max(heads, 1)
    assert (flow.shift is None) == (heads == 0)
    assert isinstance(flow.layers[-1], TanhSquash) == (squash == "tanh")
    q, v = flow.q_and_value(torch.zeros(5, 1), torch.zeros(5, 3))
    assert q.shape == v.shape == (5, flow.heads)


@over_registered
def test_build_hands_its_options_on(name: str) -> None:
    flow = build(
        name,
        2,
        3,
        temperature=1.0,
        log_sigma=(-2.0, 1.0),
        scale={"hidden": (7,)},
        shift={"hidden": (5, 6)},
        dropout_per_head=False,
    )
    assert isinstance(flow.layers[0], StateScale)
    assert flow.layers[0].bounds == (-2.0, 1.0)
    assert flow.layers[0].net[0].out_features == 7
    assert [m.weight.shape[-1] for m in flow.shift.net if hasattr(m, "weight")] == [5, 6, 1]
    assert not flow.dropout_per_head


@over_registered
def test_the_defaults_that_options_gives_are_those_of_build(name: str) -> None:
    torch.manual_seed(0)
    plain = build(name, 2, 3, temperature=1.0).state_dict()
    torch.manual_seed(0)
    spelled_out = build(name, 2, 3, temperature=1.0, **options(name)).state_dict()
    assert plain.keys() == spelled_out.keys()
    assert all(torch.equal(plain[key], spelled_out[key]) for key in plain)


@pytest.mark.parametrize("name", ["additive", "affine"])
def test_recipe_options_reach_the_couplings(name: str) -> None:
    flow = build(name, 2, 3, temperature=1.0, blocks=3, hidden=(9,), dropout=0.0, layer_norm=False)
    couplings = flow.layers[1:-1]
    assert len(couplings) == 6
    for coupling in couplings:
        assert [type(module).__name__ for module in coupling.net] == ["Linear", "Swish", "Linear"]
        assert coupling.net[0].out_features == 9


def test_affine_bounds_its_log_scale() -> None:
    flow = build("affine", 2, 3, temperature=1.0, max_log_scale=0.7)
    assert [layer.function.max_log_scale for layer in flow.layers[1:-1]] == [0.7] * 4
    assert options("affine")["max_log_scale"] == 0.5


@pytest.mark.parametrize("name", ["additive", "affine", "spline", "mixture-cdf"])
@pytest.mark.parametrize(("mask", "kept"), [("even", 0), ("odd", 1)])
def test_the_last_mask_is_what_the_layer_next_to_the_action_keeps(
    name: str, mask: str, kept: int
) -> None:
    flow = perturb(make_flow(name, 2, 3, squash=False, last_mask=mask, blocks=2)).double().eval()
    z, observation = uniform(10, 2, bound=2), uniform(10, 3, bound=2)
    for layer, keeps in zip(reversed(flow.layers[1:]), (kept, 1 - kept) * 2, strict=True):
        moved = (layer(z, observation)[0] - z).abs().amax(0)
        assert moved[keeps] == 0
        assert moved[1 - keeps] > 1e-3


def test_the_last_mask_is_that_of_the_reference_or_of_a_density_model() -> None:
    assert {name: options(name).get("last_mask") for name in registered()} == {
        **dict.fromkeys(registered()),
        **dict.fromkeys(("affine", "spline", "mixture-cdf"), "even"),
        "additive": "odd",
    }
    with pytest.raises(ValueError, match="last_mask must be 'even' or 'odd', got 'last'"):
        build("affine", 2, 3, temperature=1.0, last_mask="last")


@pytest.mark.parametrize("conditional", [True, False])
def test_glows_linear_maps_depend_on_the_observation_if_asked(conditional: bool) -> None:
    flow = perturb(make_flow("glow", 2, 3, conditional_linear=conditional)).double().eval()
    z, observations = uniform(1, 2, bound=2).expand(10, 2), uniform(10, 3, bound=2)
    (linear,) = (layer for layer in flow.layers if isinstance(layer, StateLinear))
    x, log_det = linear(z, observations)
    assert (largest(x - x[0]) > 1e-3) == conditional
    assert (largest(log_det - log_det[0]) > 1e-3) == conditional
    assert (linear.context_dim == 3) == conditional


@pytest.mark.usefixtures("own_registry")
def test_a_recipe_of_ones_own() -> None:
    @register("reversed")
    def reversed_additive(action_dim: int, obs_dim: int, *, width: int = 32) -> list:
        return [AdditiveCoupling(action_dim, obs_dim, hidden=(width,)), Permutation(action_dim)]

    assert registered()[-1] == "reversed"
    assert options("reversed") == {"width": 32}
    flow = build("reversed", 2, 3, temperature=1.0, width=5)
    kinds = [type(layer).__name__ for layer in flow.layers]
    assert kinds == ["StateScale", "AdditiveCoupling", "Permutation", "TanhSquash"]
    assert flow.layers[1].net[0].out_features == 5
    with pytest.raises(ValueError, match="'reversed' is registered already"):
        register("reversed")


@pytest.mark.usefixtures("own_registry")
def test_options_that_recipes_share_reach_them_as_keywords() -> None:
    given = []

    @register("shared", hidden=(9,), dropout=0.25)
    def shared(action_dim: int, obs_dim: int, *, blocks: int = 2, **network: object) -> list:
        given.append((blocks, network))
        return []

    assert options("shared") == {"blocks": 2, "hidden": (9,), "dropout": 0.25}
    build("shared", 2, 3, temperature=1.0)
    build("shared", 2, 3, temperature=1.0, blocks=5, dropout=0.0)
    assert given == [
        (2, {"hidden": (9,), "dropout": 0.25}),
        (5, {"hidden": (9,), "dropout": 0.0}),
    ]
    with pytest.raises(ValueError, match=r"no option 'depth'; its options: blocks, hidden, drop"):
        build("shared", 2, 3, temperature=1.0, depth=1)
    with pytest.raises(ValueError, match=r"Option 'hidden' of flow 'shared' is \(9,\) by default"):
        build("shared", 2, 3, temperature=1.0, hidden=9)


def test_tests_leave_the_registry_as_it_was() -> None:
    assert set(registered()) < set(FLOWS)
    assert make_flow(FLOWS[-1], 2, 3).obs_dim == 3


@over_registered
def test_a_name_is_registered_once(name: str) -> None:
    with pytest.raises(ValueError, match=rf"A flow named '{name}' is registered already\."):
        register(name)


@pytest.mark.parametrize("function", [options, lambda name: build(name, 2, 3, temperature=1.0)])
def test_an_unknown_name_is_refused_with_the_near_ones(function) -> None:
    message = "Unknown flow 'aditive'; registered: additive, affine.* Did you mean 'additive'"
    with pytest.raises(ValueError, match=message):
        function("aditive")
    with pytest.raises(ValueError, match=r"Unknown flow 'zzz'; registered: [^.]*\.$"):
        function("zzz")


@over_registered
def test_an_unknown_option_is_refused_with_the_accepted_ones(name: str) -> None:
    accepted = ", ".join(options(name))
    with pytest.raises(ValueError, match=f"no option 'colour', 'depth'; its options: {accepted}"):
        build(name, 2, 3, temperature=1.0, depth=3, colour="red")


@over_registered
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action_dim": 0}, "action_dim=0, obs_dim=3, heads=2"),
        ({"obs_dim": 0}, "action_dim=2, obs_dim=0, heads=2"),
        ({"heads": -1}, "action_dim=2, obs_dim=3, heads=-1"),
        ({"temperature": 0.0}, "temperature must be positive and finite, got 0.0"),
        ({"temperature": float("inf")}, "temperature must be positive and finite, got inf"),
        ({"log_sigma": (0.0, -1.0)}, "bounds of log-sigma must be finite and increasing"),
        ({"scale": {"hidden": (0,)}}, "sizes of at least 1"),
        ({"shift": {"hidden": (0,)}}, "sizes of at least 1"),
    ],
)
def test_values_out_of_range_are_refused(name: str, changes: dict, message: str) -> None:
    arguments = {"action_dim": 2, "obs_dim": 3, "temperature": 1.0, "heads": 2, **changes}
    with pytest.raises(ValueError, match=message):
        build(name, **arguments)


@pytest.mark.parametrize("name", ["additive", "affine"])
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"blocks": 0}, "blocks must be from 1 to 1,000, got 0"),
        ({"hidden": (8, 0)}, "sizes of at least 1"),
        ({"activation": "swosh"}, "Unknown activation 'swosh'"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
    ],
)
def test_recipe_options_out_of_range_are_refused(name: str, option: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, 2, 3, temperature=1.0, **option)


@over_registered
@pytest.mark.parametrize(
    ("base", "kind"),
    [("normal", StandardNormal), ("mixture", GaussianMixture), ("student-t", StudentT)],
)
def test_bases_by_name(name: str, base: str, kind: type) -> None:
    flow = build(name, 3, 2, temperature=1.0, base=base, squash="simplex")
    assert type(flow.base) is kind
    assert flow.base.dim == 2
    assert flow.base.context_dim == (2 if base == "mixture" else None)
    assert flow.action_dim == 3
    assert isinstance(flow.layers[-1], SimplexSquash)


def test_parts_of_ones_own_are_taken_as_they_are() -> None:
    base, squash = StudentT(2), TanhSquash(2, 0.0, [3.0, 5.0])
    flow = build("affine", 2, 3, temperature=1.0, base=base, squash=squash)
    assert flow.base is base
    assert flow.layers[-1] is squash
    action, _ = flow.sample(torch.zeros(200, 3))
    assert ((action >= 0) & (action <= torch.tensor([3.0, 5.0]))).all()
    assert (action.amax(0) > 2).all()
    own = SimplexSquash(2)
    assert build("affine", 3, 3, temperature=1.0, squash=own).base.dim == 2


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"base": StudentT(3)}, r"\(StateScale\) has dimension 2, the base 3"),
        ({"squash": TanhSquash(3)}, r"\(TanhSquash\) has dimension 3, .* 2"),
        ({"squash": SimplexSquash(2)}, "action_dim"),
        ({"base": "norml"}, "Unknown base 'norml'; registered: normal, .* Did you mean 'normal'"),
        ({"base": "zzz"}, r"Unknown base 'zzz'; registered: [^.]*\.$"),
        ({"squash": "tahn"}, "Unknown squash 'tahn'; registered: tanh, .* Did you mean 'tanh'"),
        ({"squash": "zzz"}, r"Unknown squash 'zzz'; registered: [^.]*\.$"),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("affine", 2, 3, temperature=1.0, **parts)


@over_registered
@pytest.mark.parametrize("base", ["normal", "mixture", "student-t"])
def test_a_density_reads_no_observation(name: str, base: str) -> None:
    torch.manual_seed(0)
    flow = make_flow(name, 2, None, heads=0, base=base)
    flow = perturb(flow, 0.1).double().eval()
    assert flow.obs_dim is None
    assert flow.shift is None
    action, log_prob = flow.sample(sample_shape=(3, 50))
    assert action.shape == (3, 50, 2)
    inside = action.abs().amax(-1) <= 1 - 1e-6
    assert inside.double().mean() > 0.5
    assert largest((flow.log_prob(action) - log_prob)[inside]) <= 1e-8
    q, v = flow.q_and_value(action)
    assert q.shape == v.shape == (3, 50, 1)
    assert largest((q - v).squeeze(-1) / flow.temperature - flow.log_prob(action)) <= 1e-9
    assert flow.value().shape == (1,)
    assert largest(v - flow.value()) <= 1e-9
    latent = flow.mode()
    assert latent.shape == (2,)
    for layer in reversed(flow.layers):
        latent = layer.inverse(latent, None)[0]
    assert largest(latent - flow.base.mode()) <= 1e-9


@over_registered
@pytest.mark.parametrize("log_sigma", [(-2.0, 2.0), None])
def test_a_density_integrates_to_one(name: str, log_sigma: tuple[float, float] | None) -> None:
    torch.manual_seed(0)
    flow = make_flow(name, 1, None, heads=0, log_sigma=log_sigma)
    assert any(isinstance(layer, StateScale) for layer in flow.layers) == (log_sigma is not None)
    flow = perturb(flow, 0.1).double().eval()
    grid = latent_grid(flow, None)
    with torch.no_grad():
        assert largest(grid.log_integral(flow.log_prob(grid.action))) <= 1e-9
        soft_maximum = grid.log_integral(flow.q_value(grid.action) / flow.temperature)
        assert largest(flow.value() - flow.temperature * soft_maximum) <= 1e-9


def test_a_density_with_heads_is_refused() -> None:
    with pytest.raises(ValueError, match="heads must be 0, got 2"):
        build("affine", 2, None, temperature=1.0)


class TestUniformBase:
    """A density on a box, for layers that map the box onto itself."""

    def flow(self, name: str, action_dim: int, obs_dim: int | None, **given) -> EnergyBasedFlow:
        heads = {"heads": 0} if obs_dim is None else {}
        torch.manual_seed(0)
        return build(
            name,
            action_dim,
            obs_dim,
            temperature=0.5,
            shift={"hidden": HIDDEN},
            **{"base": "uniform", "squash": "none", "bound": 1.0, "hidden": HIDDEN, **given},
            **heads,
        )

    @pytest.mark.parametrize("name", ["spline", "maf-spline"])
    @pytest.mark.parametrize("obs_dim", [None, 3])
    @pytest.mark.quick_for("3-spline")
    def test_it_integrates_to_one_on_the_box(self, name: str, obs_dim: int | None) -> None:
        flow = perturb(self.flow(name, 1, obs_dim), 0.1).double().eval()
        observation = None if obs_dim is None else uniform(obs_dim, bound=2)
        cells = 50_000
        middles = (2 * torch.arange(cells).double() + 1).unsqueeze(-1) / cells - 1
        with torch.no_grad():
            density = flow.log_prob(middles, observation).exp()
            assert abs(density.mean().item() * 2 - 1) <= 1e-6
            assert density.std() > 0.05
            q = flow.q_value(middles, observation) / flow.temperature
            soft_maximum = (q + math.log(2 / cells)).logsumexp(0)
            assert largest(flow.value(observation) - flow.temperature * soft_maximum) <= 1e-6
            outside = torch.tensor([[1.01], [-1.01]]).double()
            assert (flow.log_prob(outside, observation) == -math.inf).all()

    @pytest.mark.parametrize("name", ["spline", "maf-spline"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_samples_lie_in_the_box_and_have_a_density(
        self, name: str, dtype: torch.dtype
    ) -> None:
        flow = perturb(self.flow(name, 3, 2), 0.1).to(dtype).eval()
        action, log_prob = flow.sample(torch.zeros(2, dtype=dtype), (2000,))
        assert action.abs().max() <= 1
        tolerance = {torch.float32: 1e-2, torch.float64: 1e-8}[dtype]
        again = flow.log_prob(action, torch.zeros(2, dtype=dtype))
        assert largest(again - log_prob) <= tolerance
        ends = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0]).to(dtype)] * 3)
        assert flow.log_prob(ends, torch.zeros(2, dtype=dtype)).isfinite().all()

    def test_a_box_of_ones_own(self) -> None:
        flow = self.flow("spline", 2, 3, **{"base": Uniform(2, 3.0), "bound": 3.0})
        assert flow.sample(torch.zeros(500, 3))[0].abs().max() > 2

    @over_registered
    @pytest.mark.parametrize(
        ("squash", "bound"), [("tanh", 1.0), ("simplex", 1.0), ("none", 1.0), ("none", 5.0)]
    )
    def test_it_is_refused_elsewhere(self, name: str, squash: str, bound: float) -> None:
        bounds = {"bound": bound} if "bound" in options(name) else {}
        arguments = {"temperature": 1.0, "base": "uniform", "squash": squash, **bounds}
        if bounds and bound == 1.0 and squash == "none":
            assert isinstance(build(name, 2, 3, **arguments).base, Uniform)
            return
        message = rf"layers that map its box onto itself.* flow '{name}' as given does not"
        with pytest.raises(ValueError, match=message):
            build(name, 2, 3, **arguments)


BASES = ("normal", "mixture", "student-t")
SQUASHES = (("tanh", 2), ("simplex", 3), ("none", 2))
# A Latin square: every two of recipe, base and squash meet.
TOGETHER = [
    (name, base, *SQUASHES[(i + j) % 3])
    for i, name in enumerate(registered())
    for j, base in enumerate(BASES)
]


@pytest.mark.parametrize(("name", "base", "squash", "action_dim"), TOGETHER)
def test_every_recipe_goes_with_every_base_and_squash(
    name: str, base: str, squash: str, action_dim: int
) -> None:
    torch.manual_seed(0)
    flow = build(name, action_dim, 3, temperature=0.5, base=base, squash=squash).double().eval()
    observation = torch.randn(20, 3, dtype=torch.float64)
    action, log_prob = flow.sample(observation)
    q, v = flow.q_and_value(action, observation)
    assert flow.mode(observation).shape == action.shape == (20, action_dim)
    # Nearer to the ends, tanh's rounding is more than the tolerance.
    inside = (action.abs().amax(-1) < 1 - 1e-6) | (squash != "tanh")
    assert inside.double().mean() > 0.5
    error = (q - v) / 0.5 - log_prob.unsqueeze(-1)
    assert error[inside].abs().max() <= 1e-8
    assert (flow.value(observation) - v).abs().max() <= 1e-12
