"""The default MEow on tasks whose numbers are unusual."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from .common import make_trainer


class Hard(gym.Env):
    """One step an episode, or ten; an observation that never changes; rewards of any size."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, reward=1.0, length=10):
        self.reward, self.length, self.steps = reward, length, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.array([5.0, -1e4], np.float32), {}

    def step(self, action):
        self.steps += 1
        observation = np.array([5.0, -1e4], np.float32)
        reward = self.reward * (1 - float(action[0]) ** 2)
        return observation, reward, self.steps == self.length, False, {}


def trained(reward, length):
    torch.set_num_threads(1)
    run = {"total_steps": 120, "eval_every": 0, "checkpoint_every": 0}
    trainer = make_trainer(lambda: Hard(reward, length), **run)
    trainer.run()
    return trainer


@pytest.fixture(scope="module", params=[1, 10])
def one(request):
    """A length, and a run of such episodes with rewards of the usual size."""
    return request.param, trained(1.0, request.param)


@pytest.mark.slow
@pytest.mark.parametrize("reward", [1e-6, 1e6])
def test_units_of_reward_do_not_matter(reward, one):
    """The same run but for the unit: the scaled loss and the policy agree to rounding."""
    length, one = one
    same = trained(reward, length)
    reports = [trainer.state()["report"] for trainer in (one, same)]
    for name in ("loss", "policy_entropy", "entropy"):
        assert reports[1][name].item() == pytest.approx(reports[0][name].item(), rel=0.02)
    for name in ("q", "value", "target", "td_error", "alpha"):
        assert reports[1][name].item() == pytest.approx(
            reward * reports[0][name].item(), rel=0.02, abs=1e-4 * reward
        )
    assert all(entry.isfinite().all() for entry in same.agent.loss.state_dict().values())
    norm = same.agent.policy.flow.observations
    seen = norm(torch.tensor([[5.0, -1e4]]))
    assert seen.abs().max() < 0.2  # a constant is zero, to the rounding of its running mean
