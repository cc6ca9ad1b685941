"""TwoPaths: contact with walls, ways around them, and plans that are blocked."""

import re

import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maxentflow.envs import TwoPathsEnv
from maxentflow.envs.two_paths import GOAL
from maxentflow.envs.walls import Rectangle, WaysAround, move, sees

ID = "maxentflow/TwoPaths-v0"
SQUARE = Rectangle(left=-1.0, right=1.0, bottom=-1.0, top=1.0)
THIN = Rectangle(left=0.0, right=1e-9, bottom=-5.0, top=5.0)


def after(start, displacement, *walls):
    return move(np.array(start), np.array(displacement), walls).tolist()


@pytest.mark.parametrize(
    ("start", "displacement", "end"),
    [
        ((-2.0, 0.0), (0.5, 0.5), [-1.5, 0.5]),  # not as far as the wall
        ((-2.0, 0.0), (3.0, 0.0), [-1.0, 0.0]),  # stops at it
        ((-2.0, 0.0), (2.0, 0.5), [-1.0, 0.5]),  # slides along it
        ((-1.0, 0.0), (1.0, 0.5), [-1.0, 0.5]),  # is at it already
        ((-1.0, 0.0), (-1.0, 0.5), [-2.0, 0.5]),  # leaves it
        ((-1.0, 0.0), (0.0, 3.0), [-1.0, 3.0]),  # along a side, past its end
        ((-2.0, 0.0), (2.0, 4.0), [0.0, 4.0]),  # past the corner without touching
        ((-2.0, 0.5), (2.0, 1.0), [0.0, 1.5]),  # touches the very corner
        ((-2.0, 0.25), (2.0, 1.0), [-1.0, 1.25]),  # slides past the end of the side
        ((0.0, 2.0), (0.5, -2.0), [0.5, 1.0]),  # from above
        ((2.0, 1.0), (-4.0, 0.0), [-2.0, 1.0]),  # along the upper side
    ],
)
def test_contact(start, displacement, end):
    assert after(start, displacement, SQUARE) == end


def test_no_wall_is_too_thin():
    assert after((-1.0, 0.0), (1e6, 0.25), THIN) == [0.0, 0.25]


def test_a_corner_between_two_walls_holds_a_point():
    floor, side = Rectangle(-9.0, 9.0, -3.0, 0.0), Rectangle(2.0, 9.0, -3.0, 9.0)
    assert after((0.0, 1.0), (5.0, -5.0), floor, side) == [2.0, 0.0]
    assert after((2.0, 0.0), (5.0, -5.0), floor, side) == [2.0, 0.0]


@given(
    start=st.tuples(*2 * [st.floats(-3, 3)]),
    steps=st.lists(st.tuples(*2 * [st.floats(-4, 4)]), min_size=1, max_size=20),
)
def test_a_point_is_never_inside_and_never_faster(start, steps):
    walls = [SQUARE, Rectangle(0.5, 2.0, 0.5, 2.0), Rectangle(-3.0, -2.0, -0.5, 0.5)]
    inside = lambda p: any(  # noqa: E731
        w.left < p[0] < w.right and w.bottom < p[1] < w.top for w in walls
    )
    position = np.array(start)
    if inside(position):
        return
    for step in steps:
        moved = move(position, np.array(step), walls)
        assert not inside(moved)
        assert (np.abs(moved - position) <= np.abs(step) * (1 + 1e-12) + 1e-12).all()
        assert sees(position, moved, walls) or not sees(position, position + step, walls)
        position = moved


@pytest.mark.slow
def test_contact_against_tiny_steps():
    """A million times shorter steps, each undone along an axis that would lead into the wall."""
    chance = np.random.default_rng(0)
    for _ in range(20):
        start = np.array([-1.5, chance.uniform(-1.5, 1.5)])
        displacement = chance.uniform([0.2, -1.0], [1.5, 1.0])
        position, count = start.copy(), 20_000
        for _ in range(count):
            for axis in (0, 1):
                tried = position.copy()
                tried[axis] += displacement[axis] / count
                if not (np.abs(tried) < 1.0).all():
                    position = tried
        np.testing.assert_allclose(after(start, displacement, SQUARE), position, atol=5e-4)


def test_the_shortest_way_is_a_line_or_goes_around_a_corner():
    ways = WaysAround(np.array([3.0, 0.0]), SQUARE.corners(), [SQUARE])
    assert ways.length(np.array([3.0, 2.0])) == 2.0
    over = 2 * np.hypot(2.0, 1.0) + 2.0
    assert ways.length(np.array([-3.0, 0.0])) == pytest.approx(over, abs=1e-12)
    near_top = np.hypot(2.0, 0.5) + 2.0 + np.hypot(2.0, 1.0)
    assert ways.length(np.array([-3.0, 0.5])) == pytest.approx(near_top, abs=1e-12)
    shut = [SQUARE, Rectangle(-0.5, 0.5, 0.5, 99.0), Rectangle(-0.5, 0.5, -99.0, -0.5)]
    assert (
        WaysAround(np.array([3.0, 0.0]), SQUARE.corners(), shut).length(np.zeros(2) - 3) == np.inf
    )


def play(env, actions, seed=0):
    """Steps to the end of the episode, or of the actions."""
    env.reset(seed=seed)
    steps = []
    for action in actions:
        steps.append(env.step(np.array(action)))
        if steps[-1][2]:
            break
    return steps


OVER = [(0.7, 1.0)] * 3 + [(1.0, 0.0)] * 6 + [(0.7, -1.0)] * 3 + [(0.5, 0.0)] * 4
UNDER = [(x, -y) for x, y in OVER]


@pytest.mark.parametrize(("actions", "path"), [(OVER, 0), (UNDER, 1)])
def test_both_ways_to_the_goal(actions, path):
    env = TwoPathsEnv()
    observation, _ = env.reset(seed=3)
    first, steps = observation.astype(float), play(env, actions, seed=3)
    observation, _, terminated, truncated, info = steps[-1]
    ways = WaysAround(GOAL, env.walls[0].corners(), env.walls)
    assert terminated
    assert not truncated
    assert info == {"path": path}
    assert np.linalg.norm(observation - GOAL) <= 0.5 + 1e-6
    gained = ways.length(first) - ways.length(observation.astype(float))
    total = sum(step[1] for step in steps)
    assert total == pytest.approx(gained - 0.1 * len(steps), abs=1e-5)


def test_the_start_is_gymnasiums_normal_draw():
    env = TwoPathsEnv()
    for seed in range(5):
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
        expected = np.float32([-5.0, 0.0] + 0.1 * generator.standard_normal(2))
        np.testing.assert_array_equal(env.reset(seed=seed)[0], expected)


def test_an_offset_makes_the_bridge_longer():
    env = TwoPathsEnv(offset=1.0)
    assert env.walls == (Rectangle(-3.0, 3.0, -1.0, 3.0),)
    env.reset(seed=0)
    up, down = (env._ways[False].length(np.array([-3.5, y])) for y in (3.0, -1.0))
    assert up - down == pytest.approx(np.hypot(2.0, 3.0) - np.hypot(2.0, 1.0))


@pytest.mark.parametrize(
    ("blocked", "closed", "free"), [("bridge", OVER, UNDER), ("tunnel", UNDER, OVER)]
)
def test_a_gate_holds_whoever_comes_and_not_the_other_way(blocked, closed, free):
    env = TwoPathsEnv(blocked=blocked)
    steps = play(env, [*closed[:9], *[(1.0, 0.0)] * 5, (1.0, 1.0), (1.0, -1.0)] * 2)
    assert max(step[0][0] for step in steps) == -0.25
    assert play(env, free)[-1][2]
    rewards = [step[1] for step in steps]
    assert np.isfinite(rewards).all()
    assert min(rewards) >= -1.6  # the way back is the way that counts
    assert sum(rewards[3:9]) < 0


def test_a_gate_that_shuts_during_an_episode():
    assert play(TwoPathsEnv(blocked="bridge", blocked_from=4), OVER)[-1][2] is False
    assert play(TwoPathsEnv(blocked="bridge", blocked_from=9), OVER)[-1][2] is True
    env = TwoPathsEnv(blocked="bridge", blocked_from=4)
    env.reset(seed=0)
    env.load_state_dict({"path": [[0.0, 3.0]], "steps": 9, "side": 0, "is_shut": False})
    assert env.step(np.array([0.1, 0.0]))[0].tolist() == pytest.approx([0.1, 3.0])
    assert env.step(np.array([0.5, 0.0]))[0].tolist() == pytest.approx([0.6, 3.0])  # it waited
    assert env.step(np.array([-1.0, 0.0]))[0].tolist() == pytest.approx([0.25, 3.0])


def test_states_are_taken_and_given_back():
    env, other = (
        TwoPathsEnv(blocked="tunnel", blocked_from=3),
        TwoPathsEnv(blocked="tunnel", blocked_from=3),
    )
    play(env, OVER[:6])
    other.reset(seed=9)
    other.load_state_dict(env.state_dict())
    for action in OVER[6:9]:
        one, two = env.step(np.array(action)), other.step(np.array(action))
        np.testing.assert_array_equal(one[0], two[0])
        assert one[1:] == two[1:]


def test_registration():
    env = gym.make(ID, offset=0.5)
    env.reset(seed=0)
    truncations = [env.step(np.zeros(2, np.float32))[3] for _ in range(60)]
    assert truncations == [False] * 59 + [True]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"offset": 2.0}, "offset must be between -1.5 and 1.5, got 2.0"),
        ({"offset": float("nan")}, "offset must be between -1.5 and 1.5, got nan"),
        ({"blocked": "road"}, "blocked must be 'bridge', 'tunnel' or None, got 'road'"),
        ({"blocked_from": -1}, "blocked_from must be at least 0, got -1"),
        ({"render_mode": "human"}, "render_mode must be None or 'rgb_array', got 'human'"),
    ],
)
def test_arguments_that_are_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        TwoPathsEnv(**arguments)


@pytest.mark.parametrize("action", [[0.0], [0.0, np.nan], [np.inf, 0.0], 0.0], ids=str)
def test_actions_that_are_refused(action):
    env = TwoPathsEnv()
    before, _ = env.reset(seed=0)
    with pytest.raises(ValueError, match="action must be two finite numbers"):
        env.step(np.array(action))
    np.testing.assert_array_equal(env.step(np.zeros(2))[0], before)


def test_rendering():
    env = TwoPathsEnv(render_mode="rgb_array", blocked="bridge")
    env.reset(seed=0)
    first = env.render()
    assert (first.shape, first.dtype) == ((240, 360, 3), np.uint8)
    at = lambda x, y: first[int((4 - y) * 30), int((x + 6) * 30)].astype(int)  # noqa: E731
    assert at(0, 0).max() < 90  # the block
    assert at(0, 3).max() < 90  # the gate
    assert at(0, -3).min() > 240  # the tunnel
    assert at(5, 0)[1] > at(5, 0)[0] + 50  # the goal
    env.step(np.array([0.0, 1.0]))
    assert (env.render() != first).any()
    assert TwoPathsEnv().render() is None


def test_the_summary_is_a_sentence_and_a_figure(tmp_path):
    """A policy that turns to the side on which an episode happens to begin."""

    def act(position):
        x, y = position.T
        side, low = np.where(y >= 0, 1.0, -1.0), (x < -3) & (np.abs(y) < 2.5)
        turn = np.where(low, side, np.where(x >= 2.9, -np.clip(y, -1, 1), 0.0))
        return np.stack([np.where(low, 0.4, np.where(x >= 2.9, 0.6, 1.0)), turn], -1)

    path = tmp_path / "new" / "two_paths.png"
    sentence = TwoPathsEnv.summary(act, path, lambda position: position.sum(-1))
    bridge, tunnel = (int(share) for share in re.findall(r"(\d+)%", sentence))
    assert bridge + tunnel == 100
    assert 30 <= bridge <= 70
    assert plt.imread(path).shape[0] > 400
