"""A run's agent back in Python, and its actions for NumPy arrays."""

import copy
import re
from itertools import chain, repeat
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.wrappers import TransformReward

from maxentflow import agents, envs, flows
from maxentflow.agents import RunFolder
from maxentflow.agents.cli import main
from maxentflow.agents.training import StopAtReturn

from ..common import differences, make_trainer, resumed


@pytest.fixture
def run(tmp_path):
    """The folder of a small run, and its trainer."""
    trainer = make_trainer(folder=tmp_path / "run", total_steps=50, eval_every=0)
    trainer.run()
    return tmp_path / "run", trainer


def test_it_acts_as_the_one_that_was_trained(run):
    folder, trainer = run
    agent = agents.load(str(folder))
    observation = trainer.env.reset(seed=1)[0]
    assert (agent.predict(observation) == trainer.agent.predict(observation)).all()
    assert agent.updates == trainer.updates > 0


def test_nothing_else_changes(run):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        agents.load(run[0])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.rand(1) == expected


def test_an_agent_that_was_saved_in_python(run, tmp_path):
    _, trainer = run
    agents.save(trainer.agent, trainer.env, tmp_path / "saved.zip")
    again = agents.load(tmp_path / "saved.zip")
    observation = trainer.env.reset(seed=1)[0]
    assert (again.predict(observation) == trainer.agent.predict(observation)).all()
    assert again.updates == trainer.updates > 0
    assert not differences(again.state_dict(), trainer.agent.state_dict())


def test_a_saved_agent_knows_the_options_of_its_task(tmp_path, capsys):
    env = envs.make("Pendulum-v1", g=1.0)
    agent = agents.make("sac", env, hidden=(8, 8))
    agents.save(agent, env, tmp_path / "light.zip")
    main(["show", str(tmp_path / "light.zip")])
    assert re.search(r"^  g +1\.0$", capsys.readouterr().out, re.MULTILINE)
    expected = agents.evaluate(agent.policy, env, episodes=1)
    main(["evaluate", str(tmp_path / "light.zip"), "--episodes", "1"])
    assert f"return {expected.returns[0]:.1f} " in capsys.readouterr().out


def test_what_cannot_be_saved_is_refused(tmp_path):
    env = envs.make("Pendulum-v1")
    flow = flows.build("affine", action_dim=1, obs_dim=3, temperature=0.1)
    with pytest.raises(ValueError, match=r"Parts of your own \(flow\) cannot be made again"):
        agents.save(agents.meow(env, flow=flow), env, tmp_path / "own.zip")
    agent = agents.make("sac", env, hidden=(8, 8))
    with pytest.raises(ValueError, match=r"must be a file ending in \.zip"):
        agents.save(agent, env, tmp_path / "sac.pt")
    agents.save(agent, env, tmp_path / "sac.zip")
    with pytest.raises(ValueError, match="There is a file"):
        agents.save(agent, env, tmp_path / "sac.zip")
    twisted = envs.make(lambda: TransformReward(gym.make("Pendulum-v1"), lambda r: -r))
    with pytest.raises(ValueError, match=r"Parts of your own \(environment\) cannot be made"):
        agents.save(agent, twisted, tmp_path / "twisted.zip")
    with pytest.raises(ValueError, match=r"^The agent was not made for Hopper-v4: "):
        agents.save(agent, envs.make("Hopper-v4"), tmp_path / "hopper.zip")
    next(agent.policy.parameters()).data[0] = float("nan")
    with pytest.raises(ValueError, match=r"^The agent\.policy\..*weight has numbers that are not"):
        agents.save(agent, env, tmp_path / "nan.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["sac.zip"]


def test_episodes_by_predict_are_those_of_an_evaluation():
    agent = agents.make("sac", envs.make("Pendulum-v1"), hidden=(8, 8))
    env = envs.make("Pendulum-v1", seed=3)
    observation, _ = env.reset(seed=3)
    total = 0.0
    for _ in range(200):
        observation, reward, *_ = env.step(agent.predict(observation))
        total += reward[0]
    result = agents.evaluate(agent.policy, "Pendulum-v1", episodes=1, seed=3)
    assert total == pytest.approx(result.returns[0], rel=1e-5)


def test_one_observation_or_several():
    agent = agents.make("td3", envs.make("Pendulum-v1"), hidden=(8, 8))
    batch = np.random.default_rng(0).normal(size=(4, 3))
    actions = agent.predict(batch)
    assert actions.shape == (4, 1)
    assert agent.predict(batch[1]) == pytest.approx(actions[1])
    discrete = agents.make("soft-q", envs.make("CartPole-v1"), hidden=(8, 8))
    action = discrete.predict(np.zeros(4))
    assert gym.make("CartPole-v1").action_space.contains(int(action))


def test_observations_of_other_kinds():
    agent = agents.make("sac", envs.make("Pendulum-v1"), hidden=(8, 8))
    expected = agent.predict(np.array([1.0, 0.0, 0.0]))
    assert agent.predict([1, 0, 0]) == pytest.approx(expected)
    assert agent.predict(np.array([[0.0, 0.0, 1.0]])[:, ::-1]) == pytest.approx(expected[None])
    assert agent.predict(np.zeros((2, 3), bool)).shape == (2, 1)
    for wrong in (1.0, np.zeros((1,) * 5), ["a", "b", "c"]):
        with pytest.raises(ValueError, match="a vector or an image of numbers, or a batch"):
            agent.predict(wrong)
    with pytest.raises(ValueError, match=r"'sac' takes no observations of shape \(4,\)"):
        agent.predict(np.zeros(4))
    for wrong in (np.nan, np.inf):
        with pytest.raises(ValueError, match="finite numbers"):
            agent.predict(np.array([1.0, wrong, 0.0]))


def test_samples_differ_and_the_mode_does_not():
    agent = agents.make("meow", envs.make("Pendulum-v1"))
    observation = np.zeros((64, 3), np.float32)
    assert agent.predict(observation).std() == pytest.approx(0.0, abs=1e-6)
    assert agent.predict(observation, deterministic=False).std() > 0.05


def test_the_best_policy_is_kept(tmp_path):
    """An evaluation that is better replaces it, one that is worse does not."""
    trainer = make_trainer(folder=tmp_path / "run", total_steps=100, eval_every=20)
    returns = chain([1.0, 3.0, 2.0, 3.0], repeat(-1.0))
    kept = []

    def evaluate():
        result = SimpleNamespace(returns=np.array([next(returns)]), lengths=np.array([1.0]))
        result.first_observations = np.zeros((1, 2), np.float32)
        result.discounted_returns = np.zeros(1)
        kept.append(copy.deepcopy(trainer.agent.policy.state_dict()))
        return result

    trainer.evaluate = evaluate
    trainer.run()
    best = trainer.folder.load_best()
    assert (best["step"], best["return"]) == (40, 3.0)
    agent = agents.load(tmp_path / "run", best=True)
    for name, entry in agent.policy.state_dict().items():
        assert torch.equal(entry, kept[1][name])
    newest = agents.load(tmp_path / "run").policy.state_dict()
    assert any(not torch.equal(newest[name], entry) for name, entry in kept[1].items())


@pytest.mark.slow
def test_the_best_counts_on_after_a_resume(tmp_path):
    lengths = {"total_steps": 60, "warmup_steps": 20, "eval_every": 20, "checkpoint_every": 30}
    lengths |= {"agent": "sac"}
    whole = make_trainer(folder=tmp_path / "whole", **lengths)
    whole.run()
    cut = make_trainer(folder=tmp_path / "cut", **lengths, callbacks=[StopAtReturn(-1e9)])
    cut.run()
    resumed(tmp_path / "cut", **lengths).run()
    first, second = (RunFolder(tmp_path / name).load_best() for name in ("whole", "cut"))
    assert not differences(first, second)


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match=r"is not a run folder: it has no config\.yaml"):
        agents.load(tmp_path)
    trainer = make_trainer(folder=tmp_path / "run", total_steps=50, eval_every=0)
    trainer.run()
    with pytest.raises(ValueError, match="has no best policy yet: it has not been evaluated"):
        agents.load(tmp_path / "run", best=True)
    trainer.folder.checkpoint_path.with_name("best.pt").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"best\.pt is not a readable policy of maxentflow"):
        agents.load(tmp_path / "run", best=True)
