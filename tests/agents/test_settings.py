"""Settings given in Python: values of another type are refused, those of NumPy are Python's."""

from dataclasses import dataclass

import numpy as np
import pytest

from maxentflow import agents, envs, flows
from maxentflow.agents import TrainerConfig, training
from maxentflow.agents.settings import AgentConfig, Positive


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"batch_size": 16.5}, "batch_size must be int, got 16.5"),
        ({"seed": 1.5}, "seed must be int, got 1.5"),
        ({"log_every": 33.3}, "log_every must be int, got 33.3"),
        ({"total_steps": True}, "total_steps must be int, got True"),
        ({"workers": "no"}, "workers must be bool, got 'no'"),
        ({"utd_ratio": True}, "utd_ratio must be float, got True"),
        ({"max_lag": 2.5}, r"max_lag must be .*int.*, got 2.5"),
        ({"replay_on": "tape"}, r"replay_on must be Literal\['memory', 'disk'\], got 'tape'"),
        ({"device": None}, "device must be str, got None"),
    ],
)
def test_another_type_is_refused(entries, message):
    with pytest.raises(ValueError, match=message):
        TrainerConfig(**entries)


@pytest.mark.parametrize("hidden", [[8.5], (8, "8"), 8, "8", [True]])
def test_widths_are_whole_numbers(hidden):
    with pytest.raises(ValueError, match=r"hidden must be "):
        agents.make("sac", envs.make("Pendulum-v1"), hidden=hidden)


def test_numbers_of_numpy_and_lists_are_as_a_run_folder_writes_them(tmp_path):
    numbers = {"total_steps": np.int64(40), "utd_ratio": np.float32(0.5), "workers": np.False_}
    config = TrainerConfig(**numbers)
    assert [type(getattr(config, name)) for name in numbers] == [int, float, bool]
    env = envs.make("Pendulum-v1")
    agent = agents.make("sac", env, hidden=[np.int64(8), 8], gamma=np.float64(0.5))
    assert agent.config.hidden == (8, 8)
    folder = agents.RunFolder(tmp_path / "run")
    folder.create(agent, config, "Pendulum-v1")
    assert folder.config()["trainer_config"]["total_steps"] == 40
    assert folder.config()["agent_config"]["gamma"] == 0.5


def test_a_setting_of_a_class_of_ones_own():
    class Named(str):
        pass

    @dataclass
    class Config(AgentConfig):
        rate: Positive = 1.0
        flow: flows.EnergyBasedFlow | None = None

    flow = flows.build("affine", action_dim=1, obs_dim=3, temperature=0.1)
    assert Config(rate=2, flow=flow).flow is flow
    with pytest.raises(ValueError, match=r"flow must be .*EnergyBasedFlow"):
        Config(flow=Named("affine"))


@pytest.mark.parametrize("use", [training.evaluate, training.collect])
def test_an_agent_in_place_of_its_policy(use):
    agent = agents.make("sac", envs.make("Pendulum-v1"), hidden=(8,))
    with pytest.raises(ValueError, match=r"A policy is needed, such as agent.policy, got Agent"):
        use(agent, "Pendulum-v1", episodes=1)
