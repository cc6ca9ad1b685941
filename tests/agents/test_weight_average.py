"""The running average of weights against its closed form."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from maxentflow import agents, envs
from maxentflow.agents.weight_average import WeightAverage

from .common import differences, make_trainer


def test_the_average_is_the_weighted_sum_of_all_weights():
    """a_n = d^n w_0 + (1 - d) sum over k of d^(n - k) w_k."""
    decay, history = 0.875, [torch.randn(3, 2, dtype=torch.float64) for _ in range(6)]
    source = nn.Linear(2, 3, bias=False, dtype=torch.float64)
    source.weight.data.copy_(history[0])
    average = WeightAverage(source, decay)
    for weight in history[1:]:
        source.weight.data.copy_(weight)
        average.step()
    count = len(history) - 1
    shares = [decay**count, *((1 - decay) * decay ** (count - k) for k in range(1, count + 1))]
    assert sum(shares) == pytest.approx(1)
    expected = sum(share * weight for share, weight in zip(shares, history, strict=True))
    torch.testing.assert_close(average.module.weight, expected, rtol=0, atol=1e-14)
    assert torch.equal(source.weight, history[-1])


def test_buffers_are_the_newest():
    source = nn.BatchNorm1d(2)
    average = WeightAverage(source, 0.5)
    source(torch.randn(8, 2) + 3)
    average.step()
    assert not differences(dict(source.state_dict()), dict(average.module.state_dict()))
    assert source.num_batches_tracked == 1


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_out_of_range(decay):
    with pytest.raises(ValueError, match=rf"decay must be in \[0, 1\), got {decay}"):
        WeightAverage(nn.Linear(1, 1), decay)


def test_an_agent_refuses_a_decay_out_of_range():
    made = agents.make("meow", envs.make("Pendulum-v1"))
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\), got -0.5"):
        replace(made, average_decay=-0.5)


@pytest.mark.parametrize("name", agents.registered())
def test_the_average_changes_nothing_in_training(name):
    """Same losses and actions with it and without; only what is evaluated differs."""
    states = []
    for decay in (0.0, 0.9):
        trainer = make_trainer(agent=name, settings={"average_decay": decay})
        trainer.run()
        states.append(trainer.state())
    policies = [dict(state.pop("policy")) for state in states]
    assert differences(*policies)
    for state in states:
        del state["seconds"]
        state["loss"] = dict(state["loss"])
    assert not differences(*states)


@pytest.mark.parametrize("name", agents.registered())
def test_without_an_average_the_policy_is_the_one_that_learns(name):
    agent = agents.make(name, envs.make("Pendulum-v1"), average_decay=0.0)
    assert agent.policy is agent.behavior


def test_a_run_continues_with_its_average():
    """The rest of a run from a state, in a new agent, gives the same average to the last bit."""
    settings = {"average_decay": 0.9}
    whole = make_trainer(settings=settings)
    whole.run()
    half = make_trainer(settings=settings)
    half.config = replace(half.config, total_steps=80)
    half.run()
    state = copy.deepcopy(half.state())
    rest = make_trainer(settings=settings, seed=1)
    rest.config = replace(rest.config, seed=0)
    rest.restore(state)
    rest.run()
    first, second = (dict(t.agent.policy.state_dict()) for t in (whole, rest))
    assert not differences(first, second)
    assert differences(first, dict(rest.agent.behavior.state_dict()))
