"""Copies in one process, against gymnasium's own."""

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from maxentflow.envs.same_step import SameStepVectorEnv


def lists(entry):
    """With lists for the arrays of objects among infos, which NumPy compares entry by entry."""
    if isinstance(entry, dict):
        return {key: lists(value) for key, value in entry.items()}
    if isinstance(entry, tuple):
        return tuple(map(lists, entry))
    return entry.tolist() if entry.dtype == object else entry


@pytest.mark.parametrize(
    ("task", "count"), [("Hopper-v4", 3), ("Hopper-v4", 1), ("CartPole-v1", 2)]
)
def test_gives_what_gymnasium_does(task, count):
    """Over the ends of episodes, and a reset of one of the copies amid the others' episodes."""
    copies = [partial(gym.make, task, max_episode_steps=40)] * count
    env = SameStepVectorEnv(copies)
    reference = SyncVectorEnv(copies, autoreset_mode=AutoresetMode.SAME_STEP)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    np.testing.assert_equal(env.reset(seed=4), reference.reset(seed=4))
    env.action_space.seed(0)
    ended = 0
    for step in range(120):
        if step == 60:
            mask = np.arange(count) == 0
            np.testing.assert_equal(
                env.reset(options={"reset_mask": mask}),
                reference.reset(options={"reset_mask": mask}),
            )
        action = env.action_space.sample()
        outcome = env.step(action)
        np.testing.assert_equal(lists(outcome), lists(reference.step(action)))
        assert outcome[0].dtype == env.observation_space.dtype
        ended += "final_obs" in outcome[4]
    assert ended > 2


def test_a_step_leaves_what_earlier_ones_gave():
    env = SameStepVectorEnv([partial(gym.make, "Pendulum-v1")] * 2)
    env.reset(seed=0)
    outcome = env.step(np.ones((2, 1), np.float32))
    kept = [np.copy(array) for array in outcome[:4]]
    env.step(-np.ones((2, 1), np.float32))
    np.testing.assert_equal(list(outcome[:4]), kept)


@pytest.mark.parametrize("count", [1, 3])
def test_refuses_another_number_of_actions(count):
    env = SameStepVectorEnv([partial(gym.make, "Pendulum-v1")] * 2)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="argument 2"):
        env.step(np.zeros((count, 1), np.float32))
