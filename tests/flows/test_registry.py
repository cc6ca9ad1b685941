"""Whole flows by name: what is built, what is registered, what is refused."""

from __future__ import annotations

import pytest
import torch

from maxentflow.flows import (
    AdditiveCoupling,
    EnergyBasedFlow,
    Permutation,
    StateScale,
    TanhSquash,
    build,
    options,
    register,
    registered,
    registry,
)

from .cases import FLOWS, make_flow

over_registered = pytest.mark.parametrize("name", registered())


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(registry, "_RECIPES", dict(registry._RECIPES))


def test_the_papers_flows_are_registered() -> None:
    assert {"additive", "affine"} <= set(registered())


@over_registered
@pytest.mark.parametrize("heads", [0, 1, 2, 3])
@pytest.mark.parametrize("squash", ["tanh", "none"])
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
        scale_hidden=(7,),
        shift_hidden=(5, 6),
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
    assert options("affine")["max_log_scale"] == 2.0


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
        ({"scale_hidden": (0,)}, "sizes of at least 1"),
        ({"shift_hidden": (0,)}, "sizes of at least 1"),
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
        ({"blocks": 0}, "blocks must be at least 1, got 0"),
        ({"hidden": (8, 0)}, "sizes of at least 1"),
        ({"activation": "swosh"}, "Unknown activation 'swosh'"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
    ],
)
def test_recipe_options_out_of_range_are_refused(name: str, option: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, 2, 3, temperature=1.0, **option)
