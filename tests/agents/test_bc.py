"""Behaviour cloning: what it learns, what it reads, and a run without stepping the environment."""

import math
from pathlib import Path

import gymnasium as gym
import minari
import numpy as np
import pytest
import torch
from minari.data_collector import EpisodeBuffer
from tensordict import TensorDict

from maxentflow import agents, envs
from maxentflow.agents import Trainer, TrainerConfig
from maxentflow.agents.cli import main
from maxentflow.agents.parts.demonstrations import read_demonstrations

from .cli.tiny import stopped
from .common import MULTIGOAL


@pytest.fixture
def env():
    return envs.make("Pendulum-v1")


def expert(size=4_000):
    """Turns left or right with equal chances; how far depends on the observation."""
    chance = np.random.default_rng(0)
    observation = chance.normal(size=(size, 3)).astype(np.float32)
    side = chance.choice([-1.0, 1.0], size=(size, 1))
    center = 0.5 + 0.2 * np.tanh(observation[:, :1])
    action = side * center + 0.05 * chance.normal(size=(size, 1))
    return {"observation": observation, "action": action.clip(-1, 1).astype(np.float32)}


def data(**entries):
    tensors = {key: torch.as_tensor(entry) for key, entry in (entries or expert()).items()}
    return TensorDict(tensors, [len(tensors["action"])])


@pytest.mark.slow
def test_it_learns_both_ways_of_an_expert(env):
    """To within a tenth of a nat of the expert's own entropy, where one Gaussian is 1.5 away."""
    torch.manual_seed(0)
    agent = agents.bc(env, demonstrations=data(), hidden=(64,), learning_rate=3e-3)
    config = TrainerConfig(
        total_steps=600, warmup_steps=0, eval_every=0, batch_size=256, checkpoint_every=0
    )
    Trainer(agent, env, config, progress=False).run()
    assert agent.updates == 600
    seen = data()
    with torch.no_grad():
        log_prob = agent.policy.flow.log_prob(seen["action"], seen["observation"]).mean().item()
    entropy = math.log(2) + 0.5 * math.log(2 * math.pi * math.e) + math.log(0.05)
    gaussian = 0.5 * math.log(2 * math.pi * math.e) + math.log(0.5)
    assert log_prob > -entropy - 0.15
    assert -gaussian < -entropy - 1.0
    acted = agent.act(seen.select("observation"))["action"]
    assert 0.4 < (acted > 0).float().mean() < 0.6
    assert ((acted.abs() - 0.5).abs() < 0.4).float().mean() > 0.95


def test_the_environment_is_not_stepped(env, monkeypatch):
    monkeypatch.setattr(env, "step", lambda action: pytest.fail("a step was taken"))
    agent = agents.bc(env, demonstrations=data(), hidden=(8,), flow="additive")
    config = TrainerConfig(total_steps=20, warmup_steps=0, eval_every=10, eval_episodes=1)
    trainer = Trainer(agent, env, config, progress=False)
    trainer.run()
    assert (trainer.step, trainer.updates, trainer.episodes) == (20, 20, 0)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "expert.npz"
    np.savez(path, **expert(64))
    return str(path)


def test_a_file(env, file):
    read = read_demonstrations(file, env)
    assert read.batch_size == (64,)
    assert torch.equal(read["action"], torch.as_tensor(expert(64)["action"]))
    assert torch.equal(read["observation"], torch.as_tensor(expert(64)["observation"]))


@pytest.fixture
def minari_name(tmp_path, monkeypatch):
    """A small data set of Pendulum, whose actions lie in [-2, 2]."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    env = gym.make("Pendulum-v1")
    episodes = []
    for seed in range(2):
        observations = [env.reset(seed=seed)[0]]
        actions = np.array([[2.0], *4 * [[-1.0]]], np.float32)
        steps = [env.step(action) for action in actions]
        observations += [step[0] for step in steps]
        episodes.append(
            EpisodeBuffer(
                observations=np.stack(observations),
                actions=actions,
                rewards=np.array([step[1] for step in steps]),
                terminations=np.zeros(5, bool),
                truncations=np.arange(5) == 4,
            )
        )
    minari.create_dataset_from_buffers("pendulum/test-v0", episodes, env=env)
    return "pendulum/test-v0"


def test_a_minari_data_set_has_its_actions_rescaled(env, minari_name):
    read = read_demonstrations(minari_name, env)
    assert read.batch_size == (10,)
    assert read["action"].flatten().tolist() == 2 * [1.0, -0.5, -0.5, -0.5, -0.5]
    first = gym.make("Pendulum-v1").reset(seed=0)[0]
    torch.testing.assert_close(read["observation"][0], torch.as_tensor(first))
    agent = agents.bc(env, dataset=minari_name, hidden=(8,), flow="additive")
    assert len(agent.demonstrations()) == 10
    norm = agent.policy.flow.observations
    torch.testing.assert_close(norm.mean.float(), read["observation"].mean(0))


def spoilt(**changes):
    return {**expert(8), **changes}


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        (
            spoilt(action=np.zeros((8, 2), np.float32)),
            r"'action' has shape \(8, 2\), the env",
        ),
        (
            spoilt(observation=np.zeros((8, 4), np.float32)),
            r"'observation' has shape \(8, 4\)",
        ),
        (spoilt(action=np.full((8, 1), np.nan)), "'action' has numbers that are not finite"),
        (
            spoilt(action=np.full((8, 1), 2.0)),
            "'action' has numbers beyond the bounds",
        ),
        (spoilt(action=np.zeros((7, 1))), "8 observations and 7 actions"),
        ({"action": np.zeros((8, 1))}, "cannot be read: .*observation"),
        ({key: entry[:0] for key, entry in expert(8).items()}, r"has shape \(0, 3\)"),
        (spoilt(action=np.array([object()] * 8)), "cannot be read: .*pickle"),
    ],
)
def test_files_that_are_refused(env, tmp_path, entries, says):
    path = tmp_path / "spoilt.npz"
    np.savez(path, **entries)
    with pytest.raises(ValueError, match=rf"Data set .*{says}"):
        agents.bc(env, dataset=str(path)).demonstrations()


def test_transitions_that_are_refused(env):
    good = data(**expert(8))
    for key, entry, says in (
        ("action", torch.zeros(8, 2), r"'action' has shape \(8, 2\), the environment takes"),
        ("action", torch.full((8, 1), 3.0), "'action' has numbers beyond the bounds"),
        ("observation", torch.zeros(8, 4), r"'observation' has shape \(8, 4\)"),
    ):
        with pytest.raises(ValueError, match=rf"The demonstrations: entry {says}"):
            agents.bc(env, demonstrations=good.clone().set(key, entry))
    with pytest.raises(ValueError, match="The demonstrations have no entry 'action'"):
        agents.bc(env, demonstrations=good.select("observation"))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"\x93NUMPY\x01\x00"])
def test_damaged_files_are_refused(env, tmp_path, content):
    path = tmp_path / "damaged.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged\.npz' cannot be read: "):
        agents.bc(env, dataset=str(path)).demonstrations()
    np.savez(path, observation=np.float32(1.0), action=np.float32(1.0))
    with pytest.raises(ValueError, match="has numbers where it should have arrays"):
        agents.bc(env, dataset=str(path)).demonstrations()


def test_whole_numbers_become_floats(env):
    whole = data(observation=np.ones((8, 3), np.int64), action=np.zeros((8, 1), np.int8))
    agent = agents.bc(env, demonstrations=whole, hidden=(8,), flow="additive")
    assert {each.dtype for each in agent.demonstrations.values()} == {torch.float32}


def test_no_demonstrations(env, capsys):
    with pytest.raises(ValueError, match="bc needs demonstrations: name a Minari data set or"):
        agents.bc(env)
    with pytest.raises(ValueError, match=r"nowhere\.npz' cannot be read: .*No such file"):
        agents.bc(env, dataset="nowhere.npz").demonstrations()
    with pytest.raises(ValueError, match=r"'nothing/here-v0' cannot be read"):
        agents.bc(env, dataset="nothing/here-v0").demonstrations()
    assert stopped(["train", "bc", "--env", "Pendulum-v1"]) == 2
    assert "bc needs demonstrations" in capsys.readouterr().err


def test_without_minari_one_sentence_says_what_to_install(env, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "minari", None)
    with pytest.raises(ValueError, match=r"pip install 'maxentflow\[offline\]'"):
        agents.bc(env, dataset="pendulum/test-v0").demonstrations()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"num_envs": 2}, "num_envs must be 1, got 2"),
        ({"warmup_steps": 5}, "warmup_steps must be 0, got 5"),
        ({"utd_ratio": 2.0}, r"utd_ratio must be 1\.0, got 2\.0"),
    ],
)
def test_settings_of_stepping_an_environment_are_refused(settings, says):
    env = envs.make("Pendulum-v1", settings.get("num_envs", 1))
    agent = agents.bc(env, demonstrations=data(), hidden=(8,), flow="additive")
    config = TrainerConfig(**{"warmup_steps": 0, "eval_every": 0, **settings})
    with pytest.raises(ValueError, match=f"steps no environment: {says}"):
        Trainer(agent, env, config, progress=False)


@pytest.mark.slow
def test_from_the_command_line(file, tmp_path, capsys):
    run = tmp_path / "run"
    words = ["--dataset", file, "--flow", "additive", "--hidden", "8"]
    lengths = ["--total-steps", "40", "--eval-every", "20", "--eval-episodes", "1"]
    main(["train", "bc", "--env", "Pendulum-v1", "--run-dir", str(run), *words, *lengths])
    assert "Pendulum-v1 after 40 steps, mode: return " in capsys.readouterr().out
    main(["train", "--resume", str(run), "--total-steps", "50"])
    main(["evaluate", str(run), "--episodes", "1"])
    evaluated = capsys.readouterr().out.splitlines()[-1]
    Path(file).unlink()  # a trained policy does not need what it learned from
    main(["evaluate", str(run), "--episodes", "1"])
    assert capsys.readouterr().out.splitlines()[-1] == evaluated
    assert stopped(["train", "--resume", str(run), "--total-steps", "60"]) == 2
    assert "cannot be read" in capsys.readouterr().err
    other = {**expert(64), "action": -expert(64)["action"]}
    np.savez(file, **other)
    assert stopped(["train", "--resume", str(run), "--total-steps", "60"]) == 2
    assert "has learned from other transitions" in capsys.readouterr().err
    np.savez(file, **expert(32))  # no longer what the run has learned from
    assert stopped(["train", "--resume", str(run), "--total-steps", "60"]) == 2
    assert "has learned from 64 transitions, there are 32 now" in capsys.readouterr().err


def test_flows_whose_actions_do_not_fit_are_refused():
    for name in ("bc", "meow", "flow-sac"):
        for squash, image in (
            ("none", r"\[-inf, inf\]"),
            ("simplex", r"a maxentflow.envs.Simplex"),
        ):
            with pytest.raises(ValueError, match=rf"squash='{squash}' acts in {image}, "):
                agents.make(name, envs.make(MULTIGOAL), squash=squash)
