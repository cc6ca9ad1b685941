"""MultiGoal against its published dynamics and reward."""

import re

import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
import pytest

from maxentflow.envs import GOALS, MultiGoalEnv, Rollouts

ID = "maxentflow/MultiGoal-v0"


def at(x, y):
    """An environment at a position known exactly: from the corner, where positions clip to 7."""
    env = MultiGoalEnv()
    env.reset(seed=0)
    for _ in range(15):
        env.step(np.ones(2))
    displacement = np.array([x, y]) - 7.0
    for _ in range(16):
        observation = env.step(displacement / 16)[0]  # a sixteenth is exact
    np.testing.assert_array_equal(observation, np.float32([x, y]))
    return env


# position, action, next position, reward by hand, goal reached
TRANSITIONS = [
    ((0.0, 0.0), (0.5, 0.0), (0.5, 0.0), -30 * 0.25 - 4.5**2, -1),
    ((0.0, 0.0), (0.0, -1.0), (0.0, -1.0), -30 - 16, -1),
    ((1.0, 2.0), (0.0, 0.0), (1.0, 2.0), -(1 + 9), -1),
    ((-2.0, -2.5), (0.5, -0.5), (-1.5, -3.0), -30 * 0.5 - (1.5**2 + 2**2), -1),
    ((3.0, 0.0), (1.0, 0.0), (4.0, 0.0), -30 - 1 + 10, 0),  # the boundary belongs to the goal
    ((3.0, 0.0), (0.9375, 0.0), (3.9375, 0.0), -30 * 0.9375**2 - 1.0625**2, -1),
    ((-7.0, 0.0), (1.0, 0.0), (-6.0, 0.0), -30 - 1 + 10, 1),  # from behind
    ((0.0, 4.0), (0.0, 0.5), (0.0, 4.5), -30 * 0.25 - 0.25 + 10, 2),
    ((0.0, -4.0), (0.0, -1.0), (0.0, -5.0), -30 + 10, 3),
    ((7.0, 7.0), (1.0, 1.0), (7.0, 7.0), -60 - (4 + 49), -1),  # stopped by the wall
    ((6.5, -6.5), (1.0, -0.25), (7.0, -6.75), -30 * 1.0625 - (4 + 6.75**2), -1),
    ((-6.5, 6.5), (-1.0, 1.0), (-7.0, 7.0), -60 - (4 + 49), -1),
    ((0.0, 0.0), (3.0, -8.0), (1.0, -1.0), -60 - (1 + 16), -1),  # actions clip to 1
]


@pytest.mark.parametrize(("start", "action", "end", "reward", "goal"), TRANSITIONS)
def test_transitions(start, action, end, reward, goal):
    observation, paid, terminated, truncated, info = at(*start).step(np.array(action))
    np.testing.assert_array_equal(observation, np.float32(end))
    assert observation.dtype == np.float32
    assert paid == pytest.approx(reward, rel=1e-14)
    assert isinstance(paid, float)
    assert terminated is (goal >= 0)
    assert truncated is False
    assert info == {"goal": goal}


def test_goals():
    np.testing.assert_array_equal(GOALS, [[5, 0], [-5, 0], [0, 5], [0, -5]])


def test_spaces():
    env = MultiGoalEnv()
    assert env.observation_space == gym.spaces.Box(-7.0, 7.0, (2,), np.float32)
    assert env.action_space == gym.spaces.Box(-1.0, 1.0, (2,), np.float32)


def test_start_is_gymnasiums_normal_draw():
    env = MultiGoalEnv()
    for seed in range(20):
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
        observation, info = env.reset(seed=seed)
        np.testing.assert_array_equal(observation, np.float32(0.1 * generator.standard_normal(2)))
        assert info == {"goal": -1}


def test_start_statistics():
    env = MultiGoalEnv()
    starts = np.array([env.reset(seed=seed)[0] for seed in range(2000)])
    # Four standard errors of 2000 draws.
    np.testing.assert_allclose(starts.mean(0), 0.0, atol=4 * 0.1 / np.sqrt(2000))
    np.testing.assert_allclose(starts.std(0), 0.1, rtol=4 / np.sqrt(2 * 2000))
    assert abs(np.corrcoef(starts.T)[0, 1]) < 4 / np.sqrt(2000)


def test_resets_go_on_drawing():
    env = MultiGoalEnv()
    first, second = env.reset(seed=1)[0], env.reset()[0]
    assert (first != second).all()
    np.testing.assert_array_equal(env.reset(seed=1)[0], first)
    np.testing.assert_array_equal(env.reset()[0], second)


def test_registration():
    env = gym.make(ID)
    assert isinstance(env.unwrapped, MultiGoalEnv)
    env.reset(seed=0)
    truncations = [env.step(np.zeros(2, np.float32))[3] for _ in range(100)]
    assert truncations == [False] * 99 + [True]


@pytest.mark.parametrize(
    "action", [[0.0], [0.0, 0.0, 0.0], 0.0, [[0.0, 0.0]], [0.0, np.nan], [np.inf, 0.0]], ids=str
)
def test_a_bad_action_is_refused(action):
    env = MultiGoalEnv()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action must be two finite numbers"):
        env.step(np.array(action))


def test_a_refused_action_moves_nothing():
    env = at(1.0, 1.0)
    with pytest.raises(ValueError, match="finite"):
        env.step(np.array([np.nan, 0.0]))
    np.testing.assert_array_equal(env.step(np.zeros(2))[0], np.float32([1.0, 1.0]))


def test_rendering():
    env = MultiGoalEnv(render_mode="rgb_array")
    env.reset(seed=0)
    first = env.render()
    assert first.shape == (288, 288, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(env.render(), first)
    env.step(np.array([1.0, 0.5]))
    second = env.render()
    assert (second != first).any()
    assert_red_at(first, 0.0, 0.0)
    assert_red_at(second, 1.0, 0.5)


def assert_red_at(image, x, y):
    """The marker's centre of mass is at a position, to within the start's spread and a pixel."""
    red, green, blue = image.astype(int).transpose(2, 0, 1)
    rows, columns = np.nonzero((red > 180) & (green < 80) & (blue < 80))
    centre = np.array([columns.mean() * 14 / 288 - 7, 7 - rows.mean() * 14 / 288])
    np.testing.assert_allclose(centre, [x, y], atol=0.35)


def test_rendering_is_off_by_default():
    env = MultiGoalEnv()
    env.reset(seed=0)
    assert env.render() is None


def test_an_unknown_render_mode_is_refused():
    with pytest.raises(ValueError, match="'human'"):
        MultiGoalEnv(render_mode="human")


# The figure at the end of a run


def straight_on(position):
    """To the nearest goal on an axis, as fast as it goes."""
    main = np.abs(position).argmax(-1)
    action = np.zeros_like(position)
    rows = np.arange(len(position))
    action[rows, main] = np.sign(position[rows, main])
    return action


def test_episodes_end_where_a_straight_line_leads():
    rollouts = Rollouts.sample(MultiGoalEnv, straight_on, 40, outcome="goal", seed=3)
    starts = np.stack([path[0] for path in rollouts.paths])
    for path, goal in zip(rollouts.paths, rollouts.outcomes, strict=True):
        assert np.linalg.norm(path[-1] - GOALS[goal]) <= 1.0
        assert (np.linalg.norm(path[:-1, None] - GOALS, axis=-1) > 1.0).all()
    expected = np.abs(starts).argmax(-1)
    ends = np.stack([GOALS[goal] for goal in rollouts.outcomes])
    np.testing.assert_array_equal(np.abs(ends).argmax(-1), expected)
    env = MultiGoalEnv()
    np.testing.assert_array_equal(starts[7], env.reset(seed=10)[0])


def test_an_episode_that_goes_nowhere_has_no_goal():
    rollouts = Rollouts.sample(MultiGoalEnv, np.zeros_like, 2, outcome="goal")
    assert rollouts.outcomes.tolist() == [-1, -1]
    assert [len(path) for path in rollouts.paths] == [1001, 1001]


def test_the_summary_is_a_sentence_and_a_figure(tmp_path):
    seen = []

    def value(position):
        seen.append(position.shape)
        return position.sum(-1)

    path = tmp_path / "figures" / "multigoal.png"
    sentence = MultiGoalEnv.summary(straight_on, path, value)
    shares = [int(share) for share in re.findall(r"(\d+)%", sentence)]
    assert sentence.startswith("Sampled episodes that end at each goal: (+5, +0) ")
    assert sum(shares) == pytest.approx(100, abs=2)
    assert seen == [(141 * 141, 2)]
    assert plt.imread(path).shape[0] > 500
