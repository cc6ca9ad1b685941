import gymnasium as gym
import pytest
import torch

from .common import COUNT, Count


@pytest.fixture(autouse=True)
def reproducible():
    """One seed, and one thread, as in a run of the trainer."""
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture
def count():
    """Registers Count with a time limit of 10 steps."""

    def register(**kwargs):
        gym.register(COUNT, Count, max_episode_steps=10, disable_env_checker=True, kwargs=kwargs)
        return COUNT

    yield register
    del gym.registry[COUNT]
