"""What goes into TensorDict's CUDA graphs; without a GPU these call the function as it is."""

import pytest
import torch

from maxentflow.agents.compiled import acting as acting_module
from maxentflow.agents.compiled import update as update_module
from maxentflow.agents.compiled.acting import CompiledActing
from maxentflow.agents.compiled.update import CompiledUpdate, record, recorded

from .common import MAKERS, assert_close, observed, random_batch, snapshot


class Recorded:
    """Refuses what a recording could not follow: other inputs than tensors in fixed shapes."""

    def __init__(self, function, device):
        self.function = function
        self.calls = 0
        self.shapes = None

    def __call__(self, *given):
        shapes = [(entry.shape, entry.dtype) for entry in given]
        self.shapes = self.shapes or shapes
        assert shapes == self.shapes
        self.calls += 1
        return self.function(*(entry.clone() for entry in given))


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.quick_for("td3")
def test_launches_are_updates_and_actions(monkeypatch, as_traced, name):
    """The vectors stay where they are, whatever is loaded, so that one recording serves."""
    monkeypatch.setattr(update_module, "CudaGraphModule", Recorded)
    for module in (update_module, acting_module):
        monkeypatch.setattr(module, "recorded", record)
    agent, plain = (MAKERS[name]() for _ in range(2))
    batch, observation = random_batch(), observed()
    update = CompiledUpdate(agent, batch)
    acting = CompiledActing(agent, update.layout, observation)
    update.compile(batch)
    acting.compile(observation)
    places = [tensor.data_ptr() for tensor in update.layout.tensors]
    for step in range(4):
        if step == 2:
            agent.load_state_dict(snapshot(agent))
        batch, observation = random_batch(), observed()
        torch.manual_seed(step)
        assert update.accepts(batch)
        report, acted = update(batch.clone()), acting(observation.clone())
        torch.manual_seed(step)
        expected, expected_acted = plain.update(batch.clone()), plain.act(observation.clone())
        assert_close(report.to_dict(), expected.to_dict(), 1e-10)
        assert_close(acted.to_dict(), expected_acted.to_dict(), 1e-10)
    assert [tensor.data_ptr() for tensor in update.layout.tensors] == places
    assert acting._function.calls == 2 + 4
    functions = update._functions.values()
    assert sum(function.calls for function in functions) == 2 * len(functions) + 4


def test_recording_puts_the_state_back(monkeypatch):
    monkeypatch.setattr(update_module, "CudaGraphModule", Recorded)
    state = torch.zeros(2)
    graph = record(lambda step: [state.add_(step).clone()], [state], [torch.ones(2)])
    assert state.tolist() == [0.0, 0.0]
    assert graph(torch.ones(2))[0].tolist() == [1.0, 1.0]


def test_a_recording_that_fails_leaves_the_state(monkeypatch):
    """It fails while a run gets ready, which then goes on without."""

    class Failing(Recorded):
        def __call__(self, *given):
            outputs = super().__call__(*given)
            if self.calls == 2:
                raise RuntimeError("cannot be recorded")
            return outputs

    monkeypatch.setattr(update_module, "CudaGraphModule", Failing)
    state = torch.zeros(2)
    with pytest.raises(RuntimeError, match="cannot be recorded"):
        record(lambda step: [state.add_(step).clone()], [state], [torch.ones(2)])
    assert state.tolist() == [0.0, 0.0]


def test_nothing_is_recorded_without_a_gpu():
    assert recorded(torch.add, [torch.zeros(1)], [torch.zeros(1)]) is torch.add
