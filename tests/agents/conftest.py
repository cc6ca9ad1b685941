import gymnasium as gym
import pytest
import torch._inductor

from .common import COUNT, Count


@pytest.fixture(autouse=True)
def of_every_run(no_collections):
    """Runs of these tests are small."""


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


@pytest.fixture(params=["in memory", "in files"])
def saved(request, tmp_path):
    """Saves a replay and loads it into another, in memory or through a folder."""

    def copy(replay, other):
        if request.param == "in memory":
            other.load_state_dict(replay.state_dict())
        else:
            other.load(replay.save(tmp_path), tmp_path)

    return copy
