"""The temperature: fixed, learned or scheduled, by the same settings in every agent."""

import math
from functools import cache

import pytest
import torch

from maxentflow import agents, envs
from maxentflow.agents import compiled

from .common import SMALL, differences, make_trainer, task

NAMES = [name for name in agents.registered() if hasattr(agents.config(name), "temperature")]
LEARNS = [name for name in NAMES if name != "sql"]
FIXED = {"temperature": 0.5, "target_entropy": None}
SCHEDULED = {**FIXED, "final_temperature": 0.125, "temperature_steps": 50}
RUN = {"total_steps": 90, "warmup_steps": 30, "eval_every": 0, "checkpoint_every": 0}
UNITS = {"meow": {"normalize_rewards": False}}


def trained(name, settings, **changes):
    trainer = make_trainer(
        agent=name, settings={**UNITS.get(name, {}), **settings}, **{**RUN, **changes}
    )
    trainer.run()
    return trainer


def alpha(trainer):
    """As the loss of the last update says it, or has it."""
    report = trainer._run.report
    if "alpha" in report:
        return report["alpha"].item()
    loss = trainer.agent.loss
    return loss.temperature if hasattr(loss, "temperature") else loss.alpha.item()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.quick_for("soft-q")
def test_a_fixed_temperature_stays(name):
    trainer = trained(name, FIXED)
    assert alpha(trainer) == pytest.approx(0.5, rel=1e-6)
    assert not any("loss_alpha" in step.losses for step in trainer.agent.steps)
    assert "temperature" not in trainer.agent.state


@pytest.mark.parametrize("name", LEARNS)
@pytest.mark.quick_for("meow")
def test_a_learned_temperature_moves(name):
    rates = {"temperature_learning_rate": 0.01, "temperature": 0.5, "target_entropy": 0.2}
    trainer = trained(name, rates)
    moved = abs(math.log(alpha(trainer) / 0.5))
    assert 0.05 < moved <= 0.01 * trainer.updates + 1e-6  # a step of Adam is at most its rate
    (step,) = (step for step in trainer.agent.steps if "loss_alpha" in step.losses)
    assert step.optimizer.param_groups[0]["lr"] == 0.01
    assert len(step.parameters()) == 1


@pytest.fixture(scope="module")
def scheduled():
    """Runs that end within a schedule or after it, made when first asked for."""
    torch.set_num_threads(1)
    return cache(lambda name, steps: trained(name, SCHEDULED, total_steps=steps))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.quick_for("meow")
def test_a_scheduled_temperature_follows_the_environments_steps(scheduled, name):
    for steps, share in ((45, 0.9), (90, 1.0)):
        trainer = scheduled(name, steps)
        expected = 0.5 * 0.25**share
        assert alpha(trainer) == pytest.approx(expected, rel=1e-5), steps
        if trainer.agent.critic is not None:  # that of the policy that is used
            temperature = trainer.agent.critic.temperature
            assert float(temperature) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.quick_for("soft-q")
def test_a_schedule_is_resumed(scheduled, name):
    first, whole = scheduled(name, 45), scheduled(name, 90)
    again = make_trainer(agent=name, settings={**UNITS.get(name, {}), **SCHEDULED}, **RUN)
    again.restore(first.state())
    again.run()
    ours, theirs = again.state(), whole.state()
    for part in ("policy", "loss", "state"):
        assert not differences(ours[part], theirs[part], part)


@pytest.mark.parametrize("name", ["sac", "soft-q"])
@pytest.mark.slow
def test_a_compiled_update_follows_the_schedule(traced_only, capsys, name):
    ours, theirs = (make_trainer(agent=name, settings=SCHEDULED, **RUN) for _ in range(2))
    ours.run(compiled.learner([ours.agent], compile=True))
    theirs.run()
    assert capsys.readouterr().err == ""  # it was compiled
    assert alpha(ours) == pytest.approx(0.125, rel=1e-5)
    state, expected = dict(ours.state()["loss"]), dict(theirs.state()["loss"])
    torch.testing.assert_close(state, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", LEARNS)
def test_learned_and_scheduled_at_once_is_refused(name):
    with pytest.raises(
        ValueError, match=r"scheduled: final_temperature 0\.1 needs target_entropy None, got 0\.2"
    ):
        agents.config(name, target_entropy=0.2, final_temperature=0.1)


def test_steins_sampler_cannot_learn_one():
    with pytest.raises(ValueError, match=r"target_entropy must be None, got -1\.0"):
        agents.config("sql", target_entropy=-1.0)


def test_units_of_the_target_entropy():
    """Nats for each entry of a continuous action, a fraction of log n for n actions."""
    continuous, discrete = envs.make("Hopper-v4"), envs.make("CartPole-v1")
    for name in ("meow", "sac", "flow-sac"):
        made = agents.make(name, continuous, **{**SMALL[name], "target_entropy": -0.75})
        assert float(made.loss.target_entropy) == pytest.approx(3 * -0.75)
    for name in ("soft-q", "discrete-sac"):
        made = agents.make(name, discrete, **{**SMALL[name], "target_entropy": 0.25})
        assert float(made.loss.target_entropy) == pytest.approx(0.25 * math.log(2))
    assert task("soft-q") == "CartPole-v1"
