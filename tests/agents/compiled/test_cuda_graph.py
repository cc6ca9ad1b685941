"""What surrounds a CUDA graph, with a recording that runs on the CPU in its place."""

import pytest
import torch

from maxentflow.agents.compiled import cuda_graph
from maxentflow.agents.compiled.acting import CompiledActing
from maxentflow.agents.compiled.cuda_graph import CudaGraph
from maxentflow.agents.compiled.update import CompiledUpdate

from .common import MAKERS, assert_close, observed, random_batch, snapshot


def recorder(state=()):
    """Like a capture, it leaves the state and the generator alone until it is launched."""

    def capture(function):
        before = [tensor.clone() for tensor in state]
        with torch.random.fork_rng(), torch.no_grad():
            outputs = function()
        for tensor, old in zip(state, before, strict=True):
            tensor.copy_(old)

        def launch():
            for output, new in zip(outputs, function(), strict=True):
                output.copy_(new)

        return outputs, launch

    return capture


def test_inputs_are_copied_in_and_outputs_out():
    graph = CudaGraph(lambda x: [x[0] * x[1], x[0] + 1], [torch.ones(2)] * 2, capture=recorder())
    first = graph([torch.tensor([2.0, 3.0]), torch.tensor([5.0, 7.0])])
    second = graph([torch.zeros(2), torch.ones(2)])
    assert [entry.tolist() for entry in first] == [[10.0, 21.0], [3.0, 4.0]]
    assert [entry.tolist() for entry in second] == [[0.0, 0.0], [1.0, 1.0]]


@pytest.mark.parametrize("name", MAKERS)
def test_launches_are_updates_and_actions(monkeypatch, as_traced, name):
    """The vectors stay where they are, whatever is loaded, so that one recording serves."""
    agent, plain = (MAKERS[name]() for _ in range(2))
    batch, observation = random_batch(), observed()
    update = CompiledUpdate(agent, batch)
    acting = CompiledActing(agent, update.layout, observation)
    monkeypatch.setattr(cuda_graph, "_capture", recorder(update.layout.tensors))
    with torch.no_grad():
        update.record(batch)
        acting.record(observation)
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


@pytest.mark.parametrize("name", ["meow", "td3"])
def test_failures_that_are_looked_at_later(as_traced, name):
    """On a GPU an update does not wait for its loss."""
    agent = MAKERS[name]()
    update = CompiledUpdate(agent, random_batch())
    assert update.failure() is None
    for failed in (0, 1, 0):
        update.schedule.advance()
        flag = torch.tensor(failed)
        update._failures = flag if update._failures is None else update._failures + flag
    assert str(update.failure()) == "loss or gradient is not finite"
    assert agent.updates == 2
    assert update.failure() is None
