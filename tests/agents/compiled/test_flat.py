"""Agents laid out as vectors against the same agents as they are, all updates uncompiled."""

import copy
import io

import pytest
import torch
from torch.nn.utils import clip_grad_norm_

from maxentflow.agents.agent import Agent, Step
from maxentflow.agents.compiled.flat import Layout
from maxentflow.agents.compiled.schedule import Schedule

from .common import MAKERS, assert_close, changes, meow, random_batch, sac, snapshot, td3, tensors

NAMES = tuple(MAKERS)


def laid_out(agent):
    return Layout(agent, Schedule(agent).updaters)


def learn(agent, count, seed=0):
    for step in range(count):
        torch.manual_seed(seed + step)
        agent.update(random_batch())


@pytest.mark.parametrize(("name", "before"), [*((name, 3) for name in NAMES), ("td3", 0)])
def test_updates_go_on_as_they_would(name, before):
    flat, plain = (MAKERS[name](average=0.5, max_grad_norm=0.1) for _ in range(2))
    for agent in (flat, plain):
        learn(agent, before)
    laid_out(flat)
    for agent in (flat, plain):
        learn(agent, 4, seed=10)
    assert_close(flat.state_dict(), plain.state_dict(), 1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_values_stay(name):
    agent = MAKERS[name](average=0.5)
    learn(agent, 2)
    before = snapshot(agent)
    laid_out(agent)
    assert not changes(before, agent.state_dict())


def test_state_is_made_as_adams_first_step_would():
    flat, plain = meow(), meow()
    laid_out(flat)
    (optimizer,), (other,) = ([step.optimizer for step in agent.steps] for agent in (flat, plain))
    assert set(optimizer.state) == set(optimizer.param_groups[0]["params"])
    learn(plain, 1)
    for parameter, theirs in zip(optimizer.state, other.state.values(), strict=True):
        ours = optimizer.state[parameter]
        assert {name: entry.dtype for name, entry in ours.items()} == {
            name: entry.dtype for name, entry in theirs.items()
        }
        assert not any(entry.count_nonzero() for entry in ours.values())


@pytest.mark.parametrize("name", NAMES)
def test_everything_is_a_view_of_a_vector(name):
    agent = MAKERS[name](average=0.5)
    layout = laid_out(agent)
    storages = {tensor.untyped_storage().data_ptr() for tensor in layout.tensors}
    assert len(storages) == len(layout.tensors)
    states = [step.optimizer.state_dict()["state"] for step in agent.steps]
    entries = {**tensors(states), **tensors(dict(agent.loss.named_parameters()))}
    followed = [target for follower in layout.followers for target, _ in follower.places]
    assert len(followed) > 4
    for entry in (*entries.values(), *followed, *agent.policy.parameters()):
        assert entry.untyped_storage().data_ptr() in storages


def test_padding_stays_zero():
    agent = meow(dropout=0.0)
    layout = laid_out(agent)
    learn(agent, 3)
    (group,) = layout.groups
    count = sum(parameter.numel() for parameter in group.parameters)
    assert len(group.vector) > count
    assert len(group.vector) % 16 == 0
    for vector in (group.vector, group.exp_avg, group.exp_avg_sq):
        assert vector.count_nonzero() <= count
        assert all(
            place.data_ptr() % 64 == vector.data_ptr() % 64 for _, place in group.places(vector)
        )


def test_groups_have_vectors_of_their_own():
    layout = laid_out(sac())
    assert [group.step for group in layout.groups] == [0, 1, 1]
    assert [len(group.parameters) for group in layout.groups] == [4, 4, 1]


def test_gradients_are_clipped_and_zeroed_as_usual():
    flat, plain = sac(), sac()
    laid_out(flat)
    norms = []
    for agent in (flat, plain):
        torch.manual_seed(0)
        agent.loss(random_batch())["loss_qvalue"].backward()
        (group,) = agent.steps[0].optimizer.param_groups
        norms.append(clip_grad_norm_(group["params"], 0.1))
        agent.steps[0].optimizer.step()
        agent.steps[0].optimizer.zero_grad()
        assert all(parameter.grad is None for parameter in group["params"])
    torch.testing.assert_close(*norms)
    assert_close(dict(flat.loss.state_dict()), dict(plain.loss.state_dict()), 1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_states_are_saved_and_loaded_as_usual(name):
    flat, plain, donor = MAKERS[name](), MAKERS[name](), MAKERS[name](seed=3)
    layout = laid_out(flat)
    learn(donor, 3)
    laid_out(donor)
    file = io.BytesIO()
    torch.save(donor.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    for agent in (flat, plain):
        agent.load_state_dict(copy.deepcopy(state))
    assert layout.refresh()
    assert not layout.refresh()
    for agent in (flat, plain):
        learn(agent, 3)
    assert_close(flat.state_dict(), plain.state_dict(), 1e-12)
    assert layout.counts_agree(
        {i: [True] * len(g.parameters) for i, g in enumerate(layout.groups)}
    )


def test_refreshing_takes_back_what_lies_elsewhere():
    agent = td3(average=0.5)
    layout = laid_out(agent)
    learn(agent, 2)
    places = [tensor.data_ptr() for tensor in layout.tensors]
    for parameter in (*agent.loss.parameters(), *agent.policy.parameters()):
        parameter.data = parameter.data.clone()
    agent.steps[0].optimizer.load_state_dict(agent.steps[0].optimizer.state_dict())
    before = snapshot(agent)
    assert layout.refresh()
    assert not changes(before, agent.state_dict())
    assert [tensor.data_ptr() for tensor in layout.tensors] == places
    for group in layout.groups:
        for parameter, place in group.places(group.vector):
            assert parameter.data_ptr() == place.data_ptr()


@pytest.mark.parametrize(
    "change",
    [
        lambda agent: agent.loss.float(),
        lambda agent: next(iter(agent.loss.parameters())).requires_grad_(False),
        lambda agent: agent.policy.float(),
    ],
    ids=["cast", "frozen", "average cast"],
)
def test_what_was_cast_or_frozen_is_refused(change):
    agent = meow(average=0.5)
    layout = laid_out(agent)
    change(agent)
    with pytest.raises(RuntimeError, match=r"shape \(.*\) was moved, cast or frozen"):
        layout.refresh()


def test_counts_that_disagree_are_noticed():
    agent = sac()
    layout = laid_out(agent)
    learn(agent, 2)
    everything = {i: [True] * len(group.parameters) for i, group in enumerate(layout.groups)}
    assert layout.counts_agree(everything)
    assert not layout.counts_agree({0: [True, False, True, True]})
    layout.groups[0].steps[1] = 0
    assert not layout.counts_agree(everything)
    assert layout.counts_agree({0: [True, False, True, True]})


def test_what_does_not_fit_one_vector_is_refused():
    agent = meow()
    parameters = list(agent.loss.parameters())
    other = torch.nn.Parameter(torch.zeros(3))
    frozen = torch.nn.Parameter(torch.zeros(3), requires_grad=False)
    for extra, message in (
        (other, "parameters of a group differ in dtype or device"),
        (frozen, "differ in dtype or device"),
        (frozen.double().requires_grad_(False), "parameters that are frozen"),
    ):
        steps = [Step(("loss",), torch.optim.Adam([*parameters, extra]))]
        with pytest.raises(NotImplementedError, match=message):
            laid_out(Agent("own", agent.policy, agent.loss, steps))
