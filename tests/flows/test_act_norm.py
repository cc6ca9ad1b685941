"""Activation normalisation: when it starts from data, and from which."""

from __future__ import annotations

import math

import pytest
import torch

from maxentflow.flows import ActNorm, EnergyBasedFlow, registered

from .cases import largest, make_flow, perturb, uniform


@pytest.mark.parametrize("batch", [(100,), (7, 5), (2,)])
def test_initialize_normalises_the_latents_of_a_batch(batch: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = perturb(ActNorm(3)).double()
    x = uniform(*batch, 3, bound=2) * torch.tensor([1e-3, 1.0, 1e3]) + torch.tensor([5.0, 0, -9])
    layer.initialize(x)
    z, log_det = layer.inverse(x)
    rows = z.reshape(-1, 3)
    assert largest(rows.mean(0)) <= 1e-9
    assert largest(rows.std(0) - 1) <= 1e-9
    assert log_det.shape == batch
    assert largest(log_det + x.reshape(-1, 3).std(0).log().sum()) <= 1e-12


def test_calls_change_nothing() -> None:
    layer, x = ActNorm(2), 3 + 2 * torch.randn(10, 2)
    for run in (layer, layer.inverse):
        assert torch.equal(run(x)[0], x)
    assert not any(parameter.any() for parameter in layer.parameters())


@pytest.mark.parametrize(
    ("action_batch", "observation_batch"), [((200,), (200,)), ((200,), ()), ((40, 5), (5,))]
)
def test_a_flow_starts_every_layer_from_what_those_before_it_leave(
    action_batch: tuple[int, ...], observation_batch: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    flow = make_flow("glow", 2, 3, blocks=3)
    flow = perturb(flow, 0.2).double().eval()
    action, observation = (
        uniform(*action_batch, 2, bound=0.95),
        uniform(*observation_batch, 3, bound=2),
    )
    before = {key: value.clone() for key, value in flow.state_dict().items()}
    flow.initialize(action, observation)
    count = 0
    for layer in reversed(flow.layers):
        action, _ = layer.inverse(action, observation)
        if isinstance(layer, ActNorm):
            rows = action.reshape(-1, 2)
            assert largest(rows.mean(0)) <= 1e-9
            assert largest(rows.std(0) - 1) <= 1e-9
            count += 1
    assert count == 3
    changed = {
        key for key, value in flow.state_dict().items() if not torch.equal(value, before[key])
    }
    starts = [f"layers.{i}." for i, layer in enumerate(flow.layers) if isinstance(layer, ActNorm)]
    assert changed == {start + name for start in starts for name in ("log_scale", "shift")}


def without_data(flow: EnergyBasedFlow) -> bool:
    return not any(isinstance(layer, ActNorm) for layer in flow.layers)


@pytest.mark.parametrize("name", [n for n in registered() if without_data(make_flow(n, 2, 3))])
def test_other_flows_do_not_start_from_data(name: str) -> None:
    flow = make_flow(name, 2, 3)
    before = {key: value.clone() for key, value in flow.state_dict().items()}
    flow.initialize(torch.zeros(5, 2), torch.zeros(5, 3))
    assert all(torch.equal(value, before[key]) for key, value in flow.state_dict().items())


@pytest.mark.parametrize("entry", [[1.0, 1.0, 1.0], [1.0, math.nan, 2.0], [1.0, math.inf, 2.0]])
def test_a_batch_without_a_spread_is_refused_and_changes_nothing(entry: list[float]) -> None:
    layer = perturb(ActNorm(2))
    before = [parameter.clone() for parameter in layer.parameters()]
    varying = torch.arange(3.0)
    with pytest.raises(
        ValueError, match="a batch whose entries are finite and vary, got standard"
    ):
        layer.initialize(torch.stack([varying, torch.tensor(entry)], dim=-1))
    assert all(map(torch.equal, layer.parameters(), before))


@pytest.mark.parametrize("size", [1, 3])
def test_a_flow_refuses_actions_of_another_size(size: int) -> None:
    with pytest.raises(ValueError, match=r"action must have shape \(\*batch, 2\), got"):
        make_flow("glow", 2, 3).initialize(torch.zeros(5, size), torch.zeros(5, 3))


@pytest.mark.parametrize("log_scale", [-1e30, -1e3, -20.0, 20.0, 1e3, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_log_scale_stays_finite_and_goes_back(log_scale: float, dtype: torch.dtype) -> None:
    layer = ActNorm(2).to(dtype)
    layer.log_scale.data.fill_(log_scale)
    z = torch.tensor([[0.0, 1.0], [-50.0, 1e-3]], dtype=dtype)
    x, log_det = layer(z)
    torch.testing.assert_close(x, z * math.exp(math.copysign(20, log_scale)))
    assert torch.equal(log_det, torch.full((2,), math.copysign(40, log_scale), dtype=dtype))
    torch.testing.assert_close(layer.inverse(x)[0], z)
    assert torch.equal(layer.inverse(x)[1], -log_det)


@pytest.mark.parametrize("size", [1e-9, 1e9])
def test_a_batch_whose_scale_is_out_of_bounds_is_refused(size: float) -> None:
    layer = perturb(ActNorm(2))
    before = [parameter.clone() for parameter in layer.parameters()]
    batch = torch.randn(10, 2) * torch.tensor([1.0, size])
    with pytest.raises(ValueError, match=r"standard deviations from 2\.1e-09 to 4\.9e\+08, got"):
        layer.initialize(batch)
    assert all(map(torch.equal, layer.parameters(), before))
