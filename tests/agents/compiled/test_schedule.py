"""What is due, against the counts of the steps and updaters themselves."""

import pytest
import torch
from torch import nn

from maxentflow.agents.agent import Agent, Step
from maxentflow.agents.compiled.schedule import Schedule
from maxentflow.objectives import DelayedUpdate, UpdaterChain, WeightAverage


def build(every, shape):
    """An agent of steps with these periods, and updaters from a nested shape: a number delays
    what follows it, a list is a chain."""
    net = nn.Linear(2, 2)
    parameters = [nn.Parameter(torch.zeros(1)) for _ in every]
    steps = [
        Step(("loss",), torch.optim.Adam([p]), each)
        for p, each in zip(parameters, every, strict=True)
    ]
    leaves = []

    def updater(shape):
        if isinstance(shape, tuple):
            return DelayedUpdate(updater(shape[1]), shape[0])
        if isinstance(shape, list):
            return UpdaterChain([updater(each) for each in shape])
        leaves.append(WeightAverage(net, 0.5))
        return leaves[-1]

    agent = Agent("own", None, None, steps, behavior=net, target_updaters=[updater(shape)])
    return agent, leaves


CASES = [
    ((1,), []),
    ((1,), [None, None]),
    ((1, 2), (2, None)),
    ((2, 3), [None, (2, [None, (3, None)])]),
    ((1,), (3, (2, None))),
]


@pytest.mark.parametrize(("every", "shape"), CASES)
def test_due_is_what_would_step(every, shape, monkeypatch):
    agent, leaves = build(every, shape)
    twin, _ = build(every, shape)
    schedule = Schedule(twin)
    assert [type(updater) for updater in schedule.updaters] == [WeightAverage] * len(leaves)
    stepped = []
    monkeypatch.setattr(WeightAverage, "step", lambda self: stepped.append(self))
    cycle, seen = schedule.cycle(), []
    for number in range(1, 25):
        stepped.clear()
        agent.target_updater.step()
        due = schedule.due()
        assert due.updaters == tuple(leaf in stepped for leaf in leaves)
        assert due.steps == tuple(step.is_due(number) for step in agent.steps)
        seen.append(due)
        schedule.advance()
        assert twin.updates == number
        assert twin.target_updater.state_dict() == agent.target_updater.state_dict()
    assert list(dict.fromkeys(seen)) == cycle


@pytest.mark.parametrize(("every", "shape"), CASES)
def test_updates_are_taken_back(every, shape):
    agent, _ = build(every, shape)
    schedule = Schedule(agent)
    states = []
    for _ in range(9):
        states.append((agent.updates, agent.target_updater.state_dict()))
        schedule.advance()
    schedule.advance(-3)
    assert (agent.updates, agent.target_updater.state_dict()) == states[6]


def test_a_cycle_begins_where_the_counts_are():
    agent, _ = build((1, 2), (2, None))
    schedule = Schedule(agent)
    assert [due.steps[1] for due in schedule.cycle()] == [False, True]
    agent.updates = 1  # and the updater has not been called
    assert [(due.steps[1], *due.updaters) for due in schedule.cycle()] == [
        (True, False),
        (False, True),
    ]
