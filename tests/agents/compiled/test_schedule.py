"""What is due, against the counts of the steps and updaters themselves."""

import pytest
import torch
from torch import nn

from maxentflow.agents.agent import Agent, Step
from maxentflow.agents.compiled.schedule import Schedule
from maxentflow.objectives import DelayedUpdate, UpdaterChain, WeightAverage


def build(every, delays):
    """An agent of steps with these periods, and of updaters with these delays."""
    net = nn.Linear(2, 2)
    steps = [
        Step(("loss",), torch.optim.Adam([nn.Parameter(torch.zeros(1))]), each) for each in every
    ]
    leaves = [WeightAverage(net, 0.5) for _ in delays]
    updaters = [
        leaf if delay is None else DelayedUpdate(leaf, delay)
        for leaf, delay in zip(leaves, delays, strict=True)
    ]
    agent = Agent("own", None, None, steps, behavior=net, target_updaters=updaters)
    return agent, leaves


CASES = [((1,), []), ((1,), [None, None]), ((1, 2), [2]), ((1, 2, 3), [None, 2, 4])]


@pytest.mark.parametrize(("every", "delays"), CASES)
def test_due_is_what_would_step(every, delays, monkeypatch):
    agent, leaves = build(every, delays)
    twin, _ = build(every, delays)
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


@pytest.mark.parametrize(("every", "delays"), CASES)
def test_updates_are_taken_back(every, delays):
    agent, _ = build(every, delays)
    schedule = Schedule(agent)
    states = []
    for _ in range(9):
        states.append((agent.updates, agent.target_updater.state_dict()))
        schedule.advance()
    schedule.advance(-3)
    assert (agent.updates, agent.target_updater.state_dict()) == states[6]


def test_a_cycle_begins_where_the_counts_are():
    agent, _ = build((1, 2), [2])
    schedule = Schedule(agent)
    assert [due.steps[1] for due in schedule.cycle()] == [False, True]
    agent.updates = 1  # and the updater has not been called
    assert [(due.steps[1], *due.updaters) for due in schedule.cycle()] == [
        (True, False),
        (False, True),
    ]


def test_updaters_made_of_others_are_refused():
    net = nn.Linear(2, 2)
    step = Step(("loss",), torch.optim.Adam([nn.Parameter(torch.zeros(1))]))
    for inner in (UpdaterChain([]), DelayedUpdate(WeightAverage(net, 0.5), 2)):
        updater = DelayedUpdate(inner, 2)
        agent = Agent("own", None, None, [step], behavior=net, target_updaters=[updater])
        with pytest.raises(NotImplementedError, match=f"{type(inner).__name__} is not supported"):
            Schedule(agent)
