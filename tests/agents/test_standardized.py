"""Standardised observations before any agent that learns from a replay."""

from dataclasses import dataclass, replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torch import nn
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.objectives import SACLoss

from maxentflow import agents, envs, flows
from maxentflow.agents import compiled, registry
from maxentflow.agents.learner import RandomStreams
from maxentflow.agents.training.export import export

from .common import SMALL, comparable, differences, make_trainer, resumed, task

ON = {"normalize_observations": True}
RUN = {"total_steps": 60, "warmup_steps": 24, "eval_every": 0, "log_every": 30}
NAMES = [name for name in agents.registered() if name not in ("meow", "ppo", "bc")]


def trainer_of(name, **changes):
    return make_trainer(agent=name, settings=ON, **{**RUN, "num_envs": 2, **changes})


@pytest.fixture(scope="module", params=NAMES)
def trainer(request):
    torch.set_num_threads(1)
    trainer = trainer_of(request.param)
    trainer.run()
    return trainer


def by_hand(observation, seen):
    """From all observations of a run, in double precision."""
    mean, deviation = seen.mean(0), np.sqrt(seen.var(0) + 1e-8)
    return torch.tensor(np.clip((observation - mean) / deviation, -10, 10), dtype=torch.float32)


def all_seen(trainer):
    return trainer.experience.buffer[:]["observation"].double().numpy()


def sample(trainer):
    torch.manual_seed(1)
    return trainer.experience.buffer[:][torch.randint(60, (16,))]


@pytest.mark.quick_for("meow", "td3")
def test_the_loss_sees_standardised_observations_and_the_batch_keeps_its_own(trainer):
    loss, batch, seen = trainer.agent.loss, sample(trainer), all_seen(trainer)
    given = batch.clone()
    torch.manual_seed(2)
    report = loss(given)
    expected = batch.clone()
    expected["observation"] = by_hand(batch["observation"].numpy(), seen)
    expected["next", "observation"] = by_hand(batch["next", "observation"].numpy(), seen)
    torch.manual_seed(2)
    plain = loss.loss(expected)
    for name, entry in plain.items():
        torch.testing.assert_close(report[name], entry, rtol=1e-3, atol=1e-4)
    assert torch.equal(given["observation"], batch["observation"])
    assert torch.equal(given["next", "observation"], batch["next", "observation"])
    assert set(given.keys()) == set(expected.keys())  # such as errors, for priorities


@pytest.mark.parametrize("which", ["policy", "behavior"])
@pytest.mark.quick_for("td3-policy", "sql-policy", "soft-q-policy")
def test_what_acts_sees_them_too(trainer, which):
    acts = getattr(trainer.agent, which)
    batch = sample(trainer)
    observation = batch["observation"]
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        acted = acts(batch.clone())
        standard = by_hand(observation.numpy(), all_seen(trainer))
        plain = acts.policy(TensorDict(observation=standard, batch_size=[16]))
    assert torch.equal(acted["observation"], observation)
    assert torch.equal(acted["next", "observation"], batch["next", "observation"])
    torch.testing.assert_close(acted["action"], plain["action"], rtol=1e-3, atol=1e-4)


def test_values_for_evaluations_are_of_standardised_observations():
    trainer = trainer_of("soft-q")
    trainer.run()
    observation = sample(trainer)["observation"]
    standard = by_hand(observation.numpy(), all_seen(trainer))
    value = trainer.agent.critic.value(observation)
    plain = trainer.agent.policy.policy.flow.value(standard)
    torch.testing.assert_close(value, plain, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.quick_for("soft-q")
def test_a_resumed_run_goes_on_to_the_bit(tmp_path, name):
    whole = trainer_of(name)
    whole.run()
    trainer_of(name, folder=tmp_path, total_steps=40).run()
    again = resumed(tmp_path, agent=name, settings=ON, **{**RUN, "num_envs": 2})
    again.run()
    assert not differences(comparable(whole.state()), comparable(again.state()))


@pytest.mark.quick_for("td3")
@pytest.mark.xdist_group("compile")
@pytest.mark.parametrize("name", NAMES)
def test_compiled_updates_follow_the_statistics(traced_only, capsys, name):
    """They change with every step, and are no constants of the compiled code."""
    ours, theirs = trainer_of(name), trainer_of(name)
    ours.run(compiled.learner([ours.agent], compile=True))
    theirs.run()
    assert capsys.readouterr().err == ""
    state, expected = ours.state(), theirs.state()
    for part in ("policy", "behavior", "loss"):
        torch.testing.assert_close(dict(state[part]), dict(expected[part]), rtol=1e-3, atol=1e-3)


def another_function(loss):
    loss.loss_function = "l1"


def another_discount(loss):
    loss.make_value_estimator(gamma=0.1)


@pytest.mark.xdist_group("compile")
@pytest.mark.parametrize("change", [another_function, another_discount])
@pytest.mark.slow
def test_a_setting_of_the_loss_that_changes_is_noticed(traced_only, change):
    """The loss is inside another, which has no settings."""
    ours, theirs = trainer_of("sac"), trainer_of("sac")
    learner = compiled.learner([ours.agent], compile=True)
    ours.run(learner)
    theirs.run()
    batch, streams = sample(theirs), RandomStreams(1)
    for each in (ours, theirs):
        change(each.agent.loss.loss)
    torch.manual_seed(0)
    (report,) = learner.update([batch.clone()], streams)
    torch.manual_seed(0)
    expected = theirs.agent.update(batch.clone())
    torch.testing.assert_close(report["loss_qvalue"], expected["loss_qvalue"], rtol=1e-3, atol=0)


@pytest.mark.slow
@pytest.mark.xdist_group("compile")
def test_seeds_follow_each_its_own_statistics(capsys):
    together = [trainer_of("sac", seed=seed) for seed in (0, 1)]
    agents.train(together, compiled.learner([each.agent for each in together], compile=False))
    assert capsys.readouterr().err == ""
    for seed, ours in enumerate(together):
        theirs = trainer_of("sac", seed=seed)
        theirs.run()
        state, expected = ours.state(), theirs.state()
        torch.testing.assert_close(
            dict(state["loss"]), dict(expected["loss"]), rtol=1e-3, atol=1e-3
        )


@pytest.mark.parametrize("name", ["td3", "soft-q"])
@pytest.mark.slow
def test_an_exported_policy_standardises(tmp_path, name):
    trainer = trainer_of(name)
    trainer.run()
    assert export(trainer.agent, trainer.env, tmp_path / "policy.pt2") == []
    exported = torch.export.load(tmp_path / "policy.pt2").module()
    observation = sample(trainer)["observation"]
    expected = trainer.agent.predict(observation.numpy())
    space = trainer.env.single_action_space
    assert isinstance(space, gym.spaces.Box | gym.spaces.Discrete)
    np.testing.assert_allclose(exported(observation).numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("own_flow", [False, True])
def test_meow_standardises_by_itself_but_for_flows_that_it_is_given(own_flow):
    flow = flows.build("additive", 1, 3, temperature=0.2, blocks=1)
    agent = agents.meow(envs.make("Pendulum-v1"), **({"flow": flow} if own_flow else {}))
    assert not hasattr(agent.policy, "policy")
    if own_flow:
        assert agent.behavior.flow is flow
        assert "observations" not in agent.state
    else:
        assert agent.state["observations"] is agent.loss.observations


def test_agents_of_a_function_have_it_too():
    env = envs.make("Pendulum-v1")
    assert "observations" in agents.make("sac", env, **ON, **SMALL["sac"]).state
    assert "observations" in agents.sac(env, **ON, **SMALL["sac"]).state
    assert "observations" not in agents.sac(env, **SMALL["sac"]).state


@dataclass
class OwnConfig(agents.AgentConfig):
    width: int = 16


@pytest.mark.parametrize("builder", ["without its config", "with it", "standardised", "refused"])
def test_agents_that_are_registered_have_it(monkeypatch, builder):
    monkeypatch.setattr(registry, "_AGENTS", dict(registry._AGENTS))
    kind = agents.SacConfig if builder == "with it" else OwnConfig

    @agents.register("own", kind)
    def own(env, config, *, device):
        if builder == "with it":
            return agents.sac(env, config)
        agent = agents.sac(env, hidden=(8,), normalize_observations=builder == "standardised")
        state = {"observations": nn.Linear(1, 1)} if builder == "refused" else agent.state
        return replace(agent, state=state, config={"width": config.width})

    env = envs.make("Pendulum-v1")
    if builder == "refused":
        with pytest.raises(ValueError, match="in the state of 'sac', which is Linear"):
            agents.make("own", env, **ON)
        return
    agent = agents.make("own", env, **ON)
    assert isinstance(agent.state["observations"], flows.ObservationNorm)
    assert isinstance(agent.loss.loss, SACLoss)  # one front, not two


@pytest.mark.parametrize(
    ("name", "message"),
    [("ppo", "what its own policy just saw"), ("bc", "demonstrations")],
)
def test_agents_without_a_replay_are_refused(name, message):
    env = envs.make(task(name))
    with pytest.raises(ValueError, match=f"'{name}' learns from {message}"):
        agents.make(name, env, **ON, **SMALL[name])


def test_images_are_refused():
    class Screen(gym.Env):
        observation_space = gym.spaces.Box(0, 255, (10, 10, 3), np.uint8)
        action_space = gym.spaces.Discrete(2)

    with pytest.raises(ValueError, match="needs vectors, the environment has Box"):
        agents.make("dqn", envs.make(Screen), **ON)
