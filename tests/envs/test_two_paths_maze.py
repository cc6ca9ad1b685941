"""TwoPathsMaze: the ball's ways through MuJoCo's maze."""

import sys

import gymnasium as gym
import numpy as np
import pytest

from maxentflow import envs
from maxentflow.envs import Resumable, TwoPathsMazeEnv

ID = "maxentflow/TwoPathsMaze-v0"
OVER = [(0, 1)] * 8 + [(1, 0)] * 45 + [(0, -1)] * 20
UNDER = [(x, -y) for x, y in OVER]


def play(env, actions, seed=0):
    env.reset(seed=seed)
    steps = []
    for action in actions:
        steps.append(env.step(np.array(action, np.float32)))
        if steps[-1][2]:
            break
    return steps


@pytest.mark.parametrize(("actions", "path"), [(OVER, 0), (UNDER, 1)])
def test_both_ways_to_the_goal(actions, path):
    env = TwoPathsMazeEnv()
    start, _ = env.reset(seed=0)
    steps = play(env, actions)
    observation, _, terminated, _, info = steps[-1]
    assert terminated
    assert info == {"path": path}
    goal = np.array([2.0, 0.0])
    assert np.linalg.norm(observation[:2] - goal) <= 0.45
    # Around the nearer corner, along the block and around the other one.
    side = 1 if path == 0 else -1
    corners = np.array([[-1.5, 0.5 * side], [1.5, 0.5 * side]])
    to_corner = min(np.linalg.norm(start[:2] - [-1.5, y]) for y in (0.5, -0.5))
    first = to_corner + 3.0 + np.linalg.norm(goal - corners[1])
    left = np.linalg.norm(observation[:2] - goal)
    total = sum(step[1] for step in steps)
    assert total == pytest.approx(first - left - 0.1 * len(steps), abs=1e-9)


@pytest.mark.parametrize(
    ("blocked", "closed", "free"), [("bridge", OVER, UNDER), ("tunnel", UNDER, OVER)]
)
def test_a_blocked_path(blocked, closed, free):
    env = TwoPathsMazeEnv(blocked=blocked)
    steps = play(env, closed)
    assert not steps[-1][2]
    assert max(step[0][0] for step in steps) < -0.5
    assert play(env, free)[-1][2]


def test_the_goal_stays_and_the_start_moves_a_little():
    env = TwoPathsMazeEnv()
    starts = np.array([env.reset(seed=seed)[0] for seed in range(50)])
    assert (starts[:, 2:] == 0.0).all()
    offset = starts[:, :2] - [-2.0, 0.0]
    assert 0.05 < np.abs(offset).max() <= 0.1
    np.testing.assert_array_equal(env.unwrapped.goal, [2.0, 0.0])


def test_states_continue_exactly():
    env = Resumable(gym.make(ID))
    play(env, OVER[:20], seed=4)
    other = Resumable(gym.make(ID))
    other.restore(env.state())
    for action in OVER[20:40]:
        one = env.step(np.array(action, np.float32))
        two = other.step(np.array(action, np.float32))
        np.testing.assert_array_equal(one[0], two[0])
        assert one[1:] == two[1:]


def test_what_is_refused():
    with pytest.raises(ValueError, match="blocked must be 'bridge', 'tunnel' or None, got 'road'"):
        TwoPathsMazeEnv(blocked="road")
    env = TwoPathsMazeEnv()
    env.reset(seed=0)
    for action in ([0.0], [np.nan, 0.0]):
        with pytest.raises(ValueError, match="action must be two finite numbers"):
            env.step(np.array(action))


def test_without_gymnasium_robotics_one_sentence_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("gymnasium_robotics")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)
    with pytest.raises(ValueError, match=r"cannot be made: .*pip install 'maxentflow\[maze\]'"):
        envs.make(ID)
