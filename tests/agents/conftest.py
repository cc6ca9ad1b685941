import gymnasium as gym
import pytest
import torch._inductor

from .common import COUNT, Count


@pytest.fixture
def count():
    """Registers Count with a time limit of 10 steps."""

    def register(**kwargs):
        gym.register(COUNT, Count, max_episode_steps=10, disable_env_checker=True, kwargs=kwargs)
        return COUNT

    yield register
    del gym.registry[COUNT]


@pytest.fixture
def traced_only(monkeypatch):
    """Trace as ever, and then run torch's own kernels: seconds, not a minute."""
    monkeypatch.setattr(torch._inductor, "standalone_compile", lambda graph, *_, **__: graph)
