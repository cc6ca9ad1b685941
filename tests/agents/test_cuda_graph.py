"""What surrounds a CUDA graph, with a recording that runs on the CPU in its place."""

import pytest
import torch

from maxentflow import agents, envs
from maxentflow.agents import cuda_graph
from maxentflow.agents.cuda_graph import CudaGraph
from maxentflow.agents.learner import Actor, Learner

from .common import SMALL
from .test_agent import random_batch


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


@pytest.mark.parametrize("name", agents.registered())
def test_launches_are_updates_and_actions(monkeypatch, traced_only, name):
    env = envs.make("Pendulum-v1")
    made = []
    for _ in range(2):
        torch.manual_seed(0)
        agent = agents.make(name, env, **SMALL[name])
        made.append((agent, Learner(agent, random_batch(env, 8)), Actor(agent, torch.zeros(1, 3))))
    (recorded, learner, actor), (_, plain, acting) = made
    capture = recorder(learner.state(recorded))
    monkeypatch.setattr(cuda_graph, "_capture", capture)
    for step in range(4):
        if step == 2:  # new moments, elsewhere: recorded again
            recorded.optimizer.load_state_dict(recorded.optimizer.state_dict())
            monkeypatch.setattr(cuda_graph, "_capture", recorder(learner.state(recorded)))
        batch, observation = random_batch(env, 8), torch.randn(1, 3)
        torch.manual_seed(step)
        with torch.no_grad():
            outputs = learner._launch(batch)
            action = actor._launch(observation)
        torch.manual_seed(step)
        expected = plain(batch.clone())
        report = learner.report(outputs)
        torch.testing.assert_close(report.to_dict(), expected.to_dict())
        torch.testing.assert_close(action, acting(observation))


def test_losses_that_are_looked_at_later():
    """On a GPU an update does not wait for its loss; a check does."""
    env = envs.make("Pendulum-v1")
    agent = agents.make("meow", env, **SMALL["meow"])
    agent.check()
    for finite in (True, False, True):
        flag = torch.tensor(finite)
        agent._finite = flag if agent._finite is None else agent._finite & flag
    with pytest.raises(FloatingPointError, match="loss is not finite"):
        agent.check()
    agent.check()
