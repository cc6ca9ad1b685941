"""States taken in the middle of an episode continue exactly."""

import json
from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch

from maxentflow.envs import Resumable, make, make_single, restore, states

TASKS = ["Hopper-v4", "maxentflow/MultiGoal-v0", "maxentflow/TwoPaths-v0", "Pendulum-v1"]


def actions_for(env, count, seed=0):
    generator = np.random.default_rng(seed)
    shape = (count, *env.action_space.shape)
    return generator.uniform(-1.0, 1.0, shape).astype(np.float32)


def play(env, actions):
    """Every step's outcome, with a reset wherever an episode ends."""
    outcomes = []
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        outcomes.append((observation.tolist(), float(reward), terminated, truncated))
        if terminated or truncated:
            outcomes.append(env.reset()[0].tolist())
    return outcomes


def through_json(state):
    return json.loads(json.dumps(state))


@pytest.mark.parametrize("steps", [0, 1, 13, 150])
@pytest.mark.parametrize("task", TASKS)
def test_a_fresh_environment_continues_exactly(task, steps):
    env = make_single(task)
    env.reset(seed=3)
    play(env, actions_for(env, steps))
    state = through_json(env.state())
    future = actions_for(env, 250, seed=1)  # enough for every task to end an episode
    expected = play(env, future)
    assert any(isinstance(outcome, list) for outcome in expected)
    other = make_single(task)
    other.restore(state)
    assert play(other, future) == expected


@pytest.mark.parametrize("own_seed", [None, 7])
@pytest.mark.parametrize("task", TASKS)
def test_in_a_later_episode(task, own_seed):
    env = make_single(task)
    env.reset(seed=3)
    env.step(actions_for(env, 1)[0])
    env.reset()
    env.reset()
    play(env, actions_for(env, 7))
    state = through_json(env.state())
    future = actions_for(env, 220, seed=1)
    expected = play(env, future)
    other = make_single(task, seed=own_seed)
    other.restore(state)
    assert play(other, future) == expected


@pytest.mark.parametrize("task", TASKS)
def test_without_any_seed(task):
    env = make_single(task)
    env.reset()
    play(env, actions_for(env, 7))
    state = through_json(env.state())
    future = actions_for(env, 220, seed=1)
    expected = play(env, future)
    other = make_single(task)
    other.restore(state)
    assert play(other, future) == expected


@pytest.mark.parametrize("task", TASKS)
def test_in_an_environment_already_used(task):
    env, other = make_single(task), make_single(task)
    env.reset(seed=3)
    other.reset(seed=4)
    play(env, actions_for(env, 9))
    play(other, actions_for(env, 30, seed=5))
    state = env.state()
    future = actions_for(env, 220, seed=1)
    expected = play(env, future)
    other.restore(state)
    assert play(other, future) == expected


@pytest.mark.parametrize("task", TASKS)
def test_restore_gives_the_observation(task):
    env, other = make_single(task), make_single(task)
    first = env.reset(seed=3)[0]
    np.testing.assert_array_equal(other.restore(env.state()), first)
    for action in actions_for(env, 5):
        last = env.step(action)[0]
    np.testing.assert_array_equal(other.restore(env.state()), last)


@pytest.mark.parametrize("task", TASKS)
def test_a_restored_state_is_the_state(task):
    env, other = make_single(task), make_single(task)
    env.reset(seed=3)
    env.reset()
    play(env, actions_for(env, 5))
    state = through_json(env.state())
    other.restore(state)
    assert through_json(other.state()) == state


@pytest.mark.parametrize("task", TASKS)
def test_taking_a_state_changes_nothing(task):
    env, other = make_single(task), make_single(task)
    env.reset(seed=3)
    other.reset(seed=3)
    actions = actions_for(env, 10)
    for action in actions:
        outcome, expected = env.step(action), other.step(action)
        env.state()
        np.testing.assert_array_equal(outcome[0], expected[0])
        assert outcome[1:4] == expected[1:4]


@pytest.mark.parametrize("task", TASKS)
def test_a_state_is_not_changed_by_later_steps(task):
    env = make_single(task)
    env.reset(seed=3)
    play(env, actions_for(env, 3))
    state = env.state()
    copied = through_json(state)
    play(env, actions_for(env, 3))
    env.reset()
    assert through_json(state) == copied


@pytest.mark.parametrize("task", TASKS)
def test_actions_in_double_precision(task):
    env, other = make_single(task), make_single(task)
    env.reset(seed=3)
    for action in np.random.default_rng(0).uniform(-1, 1, (5, *env.action_space.shape)):
        last = env.step(action)
    state = through_json(env.state())
    np.testing.assert_array_equal(other.restore(state), last[0])
    future = actions_for(env, 20)
    assert play(other, future) == play(env, future)


def test_discrete_actions():
    env, other = Resumable(gym.make("CartPole-v1")), Resumable(gym.make("CartPole-v1"))
    env.reset(seed=3)
    for action in (0, 1, 1):
        env.step(action)
    other.restore(through_json(env.state()))
    np.testing.assert_array_equal(other.step(1)[0], env.step(1)[0])


def test_time_limits_are_kept():
    env, other = make_single("Pendulum-v1"), make_single("Pendulum-v1")
    env.reset(seed=3)
    actions = actions_for(env, 200)
    play(env, actions[:150])
    other.restore(env.state())
    truncations = [other.step(action)[3] for action in actions[150:]]
    assert truncations == [False] * 49 + [True]


def test_copies_in_a_vector_environment():
    env, other = make("Hopper-v4", 2, seed=3), make("Hopper-v4", 2)
    env.reset()
    for action in actions_for(env, 60):
        env.step(action)
    observations = [
        restored.restore(through_json(single.state()))
        for restored, single in zip(other.envs, env.envs, strict=True)
    ]
    for action in actions_for(env, 3, seed=1):
        expected = env.step(action)
        for single, row in zip(other.envs, action, strict=True):
            observations.append(single.step(row)[0])
        np.testing.assert_array_equal(observations[-2:], expected[0])


def test_there_is_no_state_before_a_reset():
    with pytest.raises(RuntimeError, match="before its first reset"):
        make_single("Pendulum-v1").state()


def test_actions_are_kept_up_to_a_limit():
    env = Resumable(gym.make("MountainCarContinuous-v0", max_episode_steps=-1), max_actions=5)
    for _ in range(2):
        env.reset(seed=0)
        assert env.state()["actions"] == []
        for _ in range(5):
            env.step(np.zeros(1, np.float32))
        assert len(env.state()["actions"]) == 5
        for _ in range(3):
            env.step(np.zeros(1, np.float32))
            assert env._actions.nbytes == 0
            with pytest.raises(ValueError, match="more than 5 steps cannot be saved; give"):
                env.state()


def test_limits_below_one_are_refused():
    with pytest.raises(ValueError, match="max_actions must be at least 1, got 0"):
        Resumable(gym.make("CartPole-v1"), max_actions=0)


def test_memory_is_bounded_by_default():
    env = Resumable(Corridor())
    env.reset()
    for _ in range(100_001):
        env.step(1)
        assert env._actions.nbytes <= 8 * 100_000
    with pytest.raises(ValueError, match="more than 100,000 steps"):
        env.state()


class Corridor(gym.Env):
    """Moves by an action that is looked up, as in gymnasium's tutorial."""

    observation_space = gym.spaces.Discrete(4)
    action_space = gym.spaces.Discrete(2, start=1)
    moves: ClassVar = {1: -1, 2: 1}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position = 0
        return 0, {}

    def step(self, action):
        self.position = (self.position + self.moves[action]) % 4
        return self.position, 0.0, False, False, {}


def test_an_index_can_be_a_key():
    env, other = make(Corridor, 2), make(Corridor, 2)
    env.reset()
    for actions in ([1, 2], [2, 2], [2, 2]):
        observation, *_ = env.step(np.array(actions))
    np.testing.assert_array_equal(observation.argmax(-1), [1, 3])
    np.testing.assert_array_equal(restore(other, states(env)), observation)


class Named(Corridor):
    action_space = gym.spaces.Dict(move=Corridor.action_space)

    def step(self, action):
        return super().step(action["move"])


def test_actions_that_are_no_arrays_pass_and_are_not_saved():
    env = make_single(Named)
    env.reset()
    assert env.step({"move": 2})[0].argmax() == 1
    with pytest.raises(ValueError, match=r"Actions in Dict\(.*\) cannot be saved"):
        env.state()


def test_a_state_is_plain_and_loads_without_unpickling(tmp_path):
    env = make("Hopper-v4", 2, seed=3)
    env.reset()
    for action in actions_for(env, 5):
        env.step(action)
    torch.save(states(env), tmp_path / "states.pt")
    loaded = torch.load(tmp_path / "states.pt", weights_only=True)
    assert loaded == through_json(states(env)) == states(env)
