"""Settings given in Python: values of another type are refused, those of NumPy are Python's."""

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Final, NewType

import numpy as np
import pytest
import torch

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


@dataclass
class Loose(AgentConfig):
    """What people annotate their own settings with."""

    hidden: tuple = (64, 64)
    options: dict = field(default_factory=dict)
    names: list = field(default_factory=list)
    shape: tuple | None = None
    units: NewType("Units", int) = 3
    rate: Final[float] = 0.5
    order: int = 1
    word: str = "a"


def test_annotations_that_say_little_accept_much():
    class Order(IntEnum):
        SECOND = 2

    class Word(StrEnum):
        B = "b"

    config = Loose(hidden=[8, 8], shape=(2,), order=Order.SECOND, word=Word.B, options={"a": 1})
    assert config.hidden == (8, 8)
    assert (config.shape, config.order, config.word, config.units) == ((2,), 2, "b", 3)
    for entries in ({"hidden": 8}, {"options": [1]}, {"order": True}, {"shape": "2"}):
        with pytest.raises(ValueError, match=f"{next(iter(entries))} must be "):
            Loose(**entries)


@pytest.mark.parametrize("value", [np.array([0.2, 0.3]), torch.tensor([0.2, 0.3]), 10**400, "a"])
def test_what_cannot_be_compared_is_refused(value):
    with pytest.raises(ValueError, match=r"gamma must be in \[0, 1\], got"):
        AgentConfig(gamma=value)


@pytest.mark.parametrize("use", [training.evaluate, training.collect])
def test_an_agent_in_place_of_its_policy(use):
    agent = agents.make("sac", envs.make("Pendulum-v1"), hidden=(8,))
    with pytest.raises(ValueError, match=r"A policy is needed, such as agent.policy, got Agent"):
        use(agent, "Pendulum-v1", episodes=1)
