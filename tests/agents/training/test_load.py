"""A run's agent back in Python, and its actions for NumPy arrays."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from maxentflow import agents, envs

from ..common import make_trainer


@pytest.fixture
def run(tmp_path):
    """The folder of a small run, and its trainer."""
    trainer = make_trainer(folder=tmp_path / "run")
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


def test_samples_differ_and_the_mode_does_not():
    agent = agents.make("meow", envs.make("Pendulum-v1"))
    observation = np.zeros((64, 3), np.float32)
    assert agent.predict(observation).std() == pytest.approx(0.0, abs=1e-6)
    assert agent.predict(observation, deterministic=False).std() > 0.05


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match=r"is not a run folder: it has no config\.yaml"):
        agents.load(tmp_path)
