"""Whole runs by compiled code against the same runs without."""

import pytest
import torch

from maxentflow import agents
from maxentflow.agents import compiled

from ..common import differences, make_trainer

pytestmark = pytest.mark.xdist_group("compile")
RUN = {
    "total_steps": 64,
    "warmup_steps": 24,
    "eval_every": 0,
    "log_every": 1_000,
    "checkpoint_every": 0,
}
LINE = "The run goes on without; it learns the same, slower.\n"


def others(*names):
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


def trainer(name, seed=0, **changes):
    run = {**RUN, **changes}
    if name == "meow twin":
        name, run = "meow", run | {"settings": {"twin": True}}
    if name == "bc":
        run |= {"warmup_steps": 0}
    if name == "ppo":
        run |= {"warmup_steps": 0, "settings": {"learning_rate": 0.01}}
    return make_trainer(agent=name, seed=seed, **run)


def assert_same_run(ours, theirs, tolerance=1e-3):
    """The same numbers of everything, and weights to the rounding of some ten updates."""
    state, expected = ours.state(), theirs.state()
    assert (ours.step, ours.updates, ours.episodes) == (
        theirs.step,
        theirs.updates,
        theirs.episodes,
    )
    assert ours.updates > 0
    assert torch.equal(state["random_state"][0], expected["random_state"][0])
    for part in ("policy", "behavior", "loss"):
        torch.testing.assert_close(
            dict(state[part]), dict(expected[part]), rtol=tolerance, atol=tolerance
        )


@pytest.mark.quick_for("flow-sac")
@pytest.mark.parametrize("name", [*agents.registered(), "meow twin"])
def test_every_agent_trains_by_one_graph(traced_only, capsys, name):
    ours, theirs = trainer(name), trainer(name)
    ours.run(compiled.learner([ours.agent], compile=True))
    theirs.run()
    assert capsys.readouterr().err == ""  # it was compiled
    assert_same_run(ours, theirs)


@pytest.mark.parametrize("name", ["meow", *others(*agents.registered()[1:], "meow twin")])
@pytest.mark.slow
def test_seeds_of_every_agent_train_as_one_program(capsys, name):
    together = [trainer(name, seed) for seed in (0, 1)]
    agents.train(together, compiled.learner([each.agent for each in together], compile=False))
    assert capsys.readouterr().err == ""  # they were batched
    for seed, ours in enumerate(together):
        theirs = trainer(name, seed)
        theirs.run()
        assert_same_run(ours, theirs)


@pytest.mark.slow
def test_seeds_that_differ_train_one_after_the_other(capsys):
    together = [trainer("meow", seed) for seed in (0, 1)]
    together[1].agent.steps[0].optimizer.param_groups[0]["lr"] = 0.5
    agents.train(together, compiled.learner([each.agent for each in together], compile=False))
    error = capsys.readouterr().err
    assert "differ in more than their weights: learning rates" in error
    assert error.endswith(LINE)
    theirs = trainer("meow", 1)
    theirs.agent.steps[0].optimizer.param_groups[0]["lr"] = 0.5
    theirs.run()
    assert_same_run(together[1], theirs, tolerance=0.0)


@pytest.mark.parametrize("name", ["soft-q", "ppo", *others("meow", "sac", "bc")])
def test_a_compiled_run_that_goes_on_is_the_run_bit_for_bit(traced_only, name):
    """Also its first action, which comes before its first update."""
    whole, first, second = (trainer(name, total_steps=steps) for steps in (64, 48, 64))
    for run in (whole, first):
        run.run(compiled.learner([run.agent], compile=True))
    torch.manual_seed(99)
    second.restore(first.state())
    second.run(compiled.learner([second.agent], compile=True))
    ours, theirs = second.state(), whole.state()
    for part in ("policy", "loss", "experience", "random_state", "step", "updates"):
        assert not differences(ours[part], theirs[part], part)
