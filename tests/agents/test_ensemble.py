"""Agents in an ensemble against the same agents on their own."""

import copy

import pytest
import torch

from maxentflow import agents, envs, flows
from maxentflow.agents.ensemble import Ensemble

from .common import SMALL, differences
from .test_agent import random_batch

SEEDS = 0, 1, 2
OBSERVATION = torch.zeros(4, 3)


@pytest.fixture
def env():
    return envs.make("Pendulum-v1")


def make(name, env, seed, **settings):
    torch.manual_seed(seed)
    agent = agents.make(name, env, **{**SMALL[name], **settings})
    return agent, torch.get_rng_state()


def team(name, env, **settings):
    made = [make(name, env, seed, **settings) for seed in SEEDS]
    return [agent for agent, _ in made], [state for _, state in made]


def draw(function, generators):
    """What each draws from its own generator."""
    drawn = []
    for index, state in enumerate(generators):
        torch.set_rng_state(state)
        drawn.append(function())
        generators[index] = torch.get_rng_state()
    return drawn


def assert_together_as_alone(name, env, compiled=False, **settings):
    together, generators = team(name, env, **settings)
    alone, own = team(name, env, **settings)
    ensemble = Ensemble(together, random_batch(env, 8), OBSERVATION)
    if compiled:
        before = [stack.clone() for stack in ensemble._stacks]
        ensemble.compile(random_batch(env, 8), OBSERVATION)
        assert all(map(torch.equal, ensemble._stacks, before))
    for _ in range(5):
        batches = [random_batch(env, 8) for _ in SEEDS]
        observations = [torch.randn_like(OBSERVATION) for _ in SEEDS]
        reports = ensemble.update(batches, draw(ensemble.learner.draw, generators))
        actions = ensemble.act(observations, draw(ensemble.actor.draw, generators))
        for index, agent in enumerate(alone):
            torch.set_rng_state(own[index])
            expected = agent.update(batches[index].clone())
            action = agent.act(observations[index])
            own[index] = torch.get_rng_state()
            torch.testing.assert_close(
                reports[index].to_dict(), expected.to_dict(), rtol=1e-4, atol=1e-4
            )
            torch.testing.assert_close(actions[index], action, rtol=1e-4, atol=1e-5)
    assert all(map(torch.equal, generators, own))
    ensemble.write_back()
    for one, other in zip(together, alone, strict=True):
        for part in ("loss", "policy", "optimizer"):
            torch.testing.assert_close(
                getattr(one, part).state_dict(),
                getattr(other, part).state_dict(),
                rtol=1e-4,
                atol=1e-4,
            )


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("meow", {}),
        ("meow", {"average_decay": 0.0, "max_grad_norm": None}),
        ("meow", {"flow": "affine"}),
        ("meow", {"flow": "spline", "max_grad_norm": 0.1}),
        ("sac", {"average_decay": 0.5}),
    ],
)
def test_together_as_alone(env, name, settings):
    assert_together_as_alone(name, env, **settings)


@pytest.mark.parametrize("name", agents.registered())
def test_compiled_as_alone(env, name, traced_only):
    assert_together_as_alone(name, env, compiled=True)


def test_agents_are_as_they_were_until_they_are_written_back(env):
    together, generators = team("meow", env)
    before = [copy.deepcopy(dict(agent.loss.state_dict())) for agent in together]
    ensemble = Ensemble(together, random_batch(env, 8), OBSERVATION)
    ensemble.update([random_batch(env, 8)] * 3, draw(ensemble.learner.draw, generators))
    for agent, state in zip(together, before, strict=True):
        assert not differences(dict(agent.loss.state_dict()), state)
    ensemble.write_back()
    for agent, state in zip(together, before, strict=True):
        assert differences(dict(agent.loss.state_dict()), state)


def test_parameters_cast_while_they_are_stacked_are_refused(env):
    together, _ = team("meow", env)
    ensemble = Ensemble(together, random_batch(env, 8), OBSERVATION)
    together[1].loss.double()
    with pytest.raises(RuntimeError, match="was moved, cast or frozen"):
        ensemble.write_back()


def test_a_loss_that_is_not_finite_stops_its_own_agent_only(env):
    together, generators = team("meow", env)
    ensemble = Ensemble(together, random_batch(env, 8), OBSERVATION)
    before = [stack.clone() for stack in ensemble._stacks]
    batches = [random_batch(env, 8) for _ in SEEDS]
    batches[1]["next", "reward"][3] = float("nan")
    reports = ensemble.update(batches, draw(ensemble.learner.draw, generators))
    assert [bool(report["loss"].isfinite()) for report in reports] == [True, False, True]
    for stack, old in zip(ensemble._stacks, before, strict=True):
        assert torch.equal(stack[1], old[1])
        assert stack.isfinite().all()
    assert not torch.equal(ensemble._stacks[0][0], before[0][0])


def test_buffers_that_differ_are_refused(env):
    together, _ = team("meow", env)
    mask = next(b for n, b in together[1].loss.named_buffers() if b.numel() and "target" not in n)
    mask.add_(1.0)
    with pytest.raises(NotImplementedError, match="differs between the agents"):
        Ensemble(together, random_batch(env, 8), OBSERVATION)


def test_permutations_drawn_at_random_are_refused():
    env = envs.make("Hopper-v4")
    together = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        layers = [
            flows.StateScale(3, 11, bounds=(-5.0, -0.3)),
            flows.Permutation(3, torch.randperm(3).tolist()),
            flows.TanhSquash(3),
        ]
        flow = flows.EnergyBasedFlow(flows.StandardNormal(3), layers, temperature=0.2)
        together.append(agents.meow(env, flow=flow))
    with pytest.raises(NotImplementedError, match="differs between the agents"):
        Ensemble(together, random_batch(env, 8), torch.zeros(1, 11))
