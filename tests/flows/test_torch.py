"""What PyTorch users do with a module: copy, save, cast, stack, compile."""

from __future__ import annotations

import copy
import io
import itertools

import pytest
import torch
from torch import Tensor, nn

from maxentflow.flows import EnergyBasedFlow, options, registered

from .cases import FLOWS, largest, make_flow, perturb, uniform

over_flows = pytest.mark.parametrize("name", FLOWS)
over_registered = pytest.mark.parametrize("name", registered())
over_dropout = pytest.mark.parametrize(
    "name", [name for name in registered() if "dropout" in options(name)]
)


class Call(nn.Module):
    """A flow's method as a module's forward, which torch.func calls."""

    def __init__(self, flow: EnergyBasedFlow, method: str) -> None:
        super().__init__()
        self.flow = flow
        self.method = method

    def forward(self, *inputs: Tensor) -> Tensor:
        return getattr(self.flow, self.method)(*inputs)


@pytest.fixture
def action() -> Tensor:
    torch.manual_seed(1)
    return uniform(5, 2, bound=0.9)


@pytest.fixture
def observation() -> Tensor:
    torch.manual_seed(2)
    return uniform(5, 3, bound=2)


def make(name: str, seed: int = 0) -> EnergyBasedFlow:
    torch.manual_seed(seed)
    return perturb(make_flow(name, 2, 3), 0.2).double().eval()


def outputs(flow: EnergyBasedFlow, action: Tensor, observation: Tensor) -> list[Tensor]:
    torch.manual_seed(3)
    return [
        *flow.q_and_value(action, observation),
        flow.value(observation),
        flow.value_module()(observation),
        flow.mode(observation),
        *flow.sample(observation),
    ]


@over_flows
def test_a_deep_copy_is_equal_and_independent(
    name: str, action: Tensor, observation: Tensor
) -> None:
    flow = make(name)
    before = outputs(flow, action, observation)
    other = copy.deepcopy(flow)
    assert all(map(torch.equal, outputs(other, action, observation), before))
    perturb(other)
    assert all(map(torch.equal, outputs(flow, action, observation), before))
    for old, new in zip(before, outputs(other, action, observation), strict=True):
        assert largest(old - new) > 1e-4
    v = other.q_and_value(action, observation)[1]
    assert largest(other.value(observation) - v) <= 1e-9


@over_flows
def test_a_saved_state_dict_restores_the_flow(
    name: str, action: Tensor, observation: Tensor
) -> None:
    flow, other = make(name), make(name, seed=9)
    file = io.BytesIO()
    torch.save(flow.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    restored, expected = outputs(other, action, observation), outputs(flow, action, observation)
    assert all(map(torch.equal, restored, expected))


@over_flows
def test_every_parameter_is_registered_once(name: str) -> None:
    flow = make(name)
    names = [key for key, _ in flow.named_parameters(remove_duplicate=False)]
    assert len(names) == len({id(p) for p in flow.parameters()})
    assert not any(key.startswith("_value") for key in flow.state_dict())


@over_registered
def test_a_cast_reaches_every_output(name: str, action: Tensor, observation: Tensor) -> None:
    flow = make(name)
    double = flow.q_and_value(action, observation)
    single = flow.float().q_and_value(action.float(), observation.float())
    for expected, value in zip(double, single, strict=True):
        assert value.dtype == torch.float32
        assert largest(value - expected) <= 1e-4 * (1 + largest(expected))
    assert all(value.dtype == torch.float32 for value in flow.sample(observation.float()))


@over_registered
@pytest.mark.parametrize("method", ["q_value", "log_prob", "value", "mode"])
@pytest.mark.quick_for("log_prob", "mode")
def test_stacked_flows_run_under_vmap(
    name: str, method: str, action: Tensor, observation: Tensor
) -> None:
    calls = [Call(make(name, seed), method) for seed in range(3)]
    parameters, buffers = torch.func.stack_module_state(calls)
    inputs = (action, observation) if method in ("q_value", "log_prob") else (observation,)

    def one(parameters: dict, buffers: dict) -> Tensor:
        return torch.func.functional_call(calls[0], (parameters, buffers), inputs)

    stacked = torch.func.vmap(one)(parameters, buffers)
    for value, call in zip(stacked, calls, strict=True):
        assert largest(value - call(*inputs)) <= 1e-12
    assert all(largest(a - b) > 1e-4 for a, b in itertools.pairwise(stacked))


@over_registered
def test_a_functional_call_runs_on_the_parameters_it_is_given(
    name: str, observation: Tensor
) -> None:
    flow, other = make(name), make(name, seed=9)
    state = dict(other.named_parameters())
    call = Call(flow, "value")
    given = {f"flow.{key}": value for key, value in state.items()}
    value = torch.func.functional_call(call, given, (observation,))
    assert largest(value - other.value(observation)) <= 1e-12
    assert largest(value - flow.value(observation)) > 1e-4


@over_registered
@pytest.mark.quick_for("additive", "spline]")
def test_compiled_whole_it_gives_the_same(name: str, action: Tensor, observation: Tensor) -> None:
    torch.compiler.reset()
    flow = make(name)
    compiled = torch.compile(flow.q_and_value, backend="aot_eager", fullgraph=True)
    parameters = list(flow.parameters())
    results = [
        (q, v, *torch.autograd.grad((q.square() + v).sum(), parameters))
        for q, v in (compiled(action, observation), flow.q_and_value(action, observation))
    ]
    for value, eager in zip(*results, strict=True):
        assert largest(value - eager) <= 1e-12 * (1 + largest(eager))


@over_dropout
@pytest.mark.quick_for("additive")
def test_training_with_dropout_compiles_whole(
    name: str, action: Tensor, observation: Tensor
) -> None:
    torch.compiler.reset()
    flow = make(name).train()
    compiled = torch.compile(flow.q_and_value, backend="eager", fullgraph=True)
    torch.manual_seed(4)
    expected = flow.q_and_value(action, observation)
    torch.manual_seed(4)
    for value, eager in zip(compiled(action, observation), expected, strict=True):
        assert largest(value - eager) <= 1e-12
