"""Recorded episodes against the environment's own, and data sets read back."""

import gymnasium as gym
import minari
import numpy as np
import pytest
import torch
from tensordict.nn import TensorDictModule

from maxentflow import agents, envs
from maxentflow.agents.parts.demonstrations import read_demonstrations
from maxentflow.agents.training import collect, evaluate, write_dataset

TASK = "Pendulum-v1"


@pytest.fixture
def turning():
    """A policy that turns against the speed."""
    return TensorDictModule(
        lambda observation: -0.5 * observation[:, 2:].sign(), ["observation"], ["action"]
    )


def test_each_step_is_the_environments(turning):
    recorded = collect(turning, TASK, episodes=2, seed=5)
    env = gym.make(TASK)
    for index, episode in enumerate(recorded):
        assert episode.batch_size == (200,)
        observation, _ = env.reset(seed=5 + index)
        for step in episode:
            np.testing.assert_array_equal(step["observation"], observation)
            assert step["action"].item() == -0.5 * np.sign(observation[2])
            observation, reward, terminated, truncated, _ = env.step(2 * step["action"].numpy())
            np.testing.assert_array_equal(step["next", "observation"], observation)
            assert step["next", "reward"].item() == pytest.approx(reward, rel=1e-6)
            assert step["next", "terminated"].item() == terminated
            assert step["next", "truncated"].item() == truncated
        assert truncated
    returns = evaluate(turning, TASK, episodes=2, seed=5).returns
    sums = [float(episode["next", "reward"].sum()) for episode in recorded]
    np.testing.assert_allclose(sums, returns, rtol=1e-5)


def test_samples_differ_and_repeat():
    torch.manual_seed(0)
    policy = agents.make("sac", envs.make(TASK), hidden=(8,)).policy
    once, twice = (collect(policy, TASK, episodes=1, seed=1)[0] for _ in range(2))
    mode = collect(policy, TASK, episodes=1, seed=1, deterministic=True)[0]
    assert torch.equal(once["action"], twice["action"])
    assert not torch.equal(once["action"], mode["action"])


def test_a_minari_data_set_has_the_tasks_own_actions(turning, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    recorded = collect(turning, TASK, episodes=3)
    write_dataset(recorded, "pendulum/turning-v0", TASK)
    dataset = minari.load_dataset("pendulum/turning-v0")
    assert (dataset.total_episodes, dataset.total_steps) == (3, 600)
    for episode, own in zip(dataset.iterate_episodes(), recorded, strict=True):
        np.testing.assert_array_equal(episode.actions, 2 * own["action"])
        np.testing.assert_array_equal(episode.observations[:-1], own["observation"])
        np.testing.assert_array_equal(episode.observations[-1], own["next", "observation"][-1])
        np.testing.assert_array_equal(episode.rewards, own["next", "reward"].squeeze(-1))
        assert episode.truncations.tolist() == [False] * 199 + [True]
    read = read_demonstrations("pendulum/turning-v0", envs.make(TASK))
    assert torch.equal(read["action"], torch.cat([each["action"] for each in recorded]))
    with pytest.raises(ValueError, match="Data set 'pendulum/turning-v0' exists already"):
        write_dataset(recorded, "pendulum/turning-v0", TASK)


def test_what_is_refused(turning, monkeypatch):
    with pytest.raises(ValueError, match="episodes must be at least 1, got 0"):
        collect(turning, TASK, episodes=0)
    discrete = TensorDictModule(
        lambda observation: torch.zeros(len(observation), dtype=torch.int64),
        ["observation"],
        ["action"],
    )
    recorded = collect(discrete, "CartPole-v1", episodes=1)
    with pytest.raises(ValueError, match="needs continuous actions"):
        write_dataset(recorded, "steps.npz", "CartPole-v1")
    monkeypatch.setitem(__import__("sys").modules, "minari", None)
    with pytest.raises(ValueError, match=r"pip install 'maxentflow\[offline\]'"):
        write_dataset(collect(turning, TASK, episodes=1), "a/b-v0", TASK)
