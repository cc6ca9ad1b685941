"""TwoPathsGrid against its model, and its model against a count of its paths."""

import re

import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy.special import logsumexp

from maxentflow.envs import Rollouts, TwoPathsGridEnv

ID = "maxentflow/TwoPathsGrid-v0"
UP, RIGHT, DOWN, LEFT = range(4)
BRIDGE = [UP] * 2 + [RIGHT] * 6 + [DOWN] * 2
TUNNEL = [DOWN] * 2 + [RIGHT] * 6 + [UP] * 2


def play(env, actions):
    env.reset(seed=0)
    return [env.step(action) for action in actions]


@pytest.mark.parametrize(
    ("detour", "actions", "path"),
    [
        (0, BRIDGE, 0),
        (0, TUNNEL, 1),
        (2, BRIDGE, 0),
        (2, [DOWN] * 4 + [RIGHT] * 6 + [UP] * 4, 1),
    ],
)
def test_both_ways_to_the_goal(detour, actions, path):
    steps = play(TwoPathsGridEnv(detour=detour), actions)
    assert [step[2] for step in steps] == [False] * (len(actions) - 1) + [True]
    assert [step[4]["path"] for step in steps] == [-1] * (len(actions) - 1) + [path]
    assert {step[1] for step in steps} == {-1.0}


def test_walls_are_all_around_the_corridor():
    """A move leads to a neighbouring cell, or nowhere: the corridor is one ring."""
    env = TwoPathsGridEnv(width=5, height=1, detour=1)
    transition, _ = env.model()
    assert len(env.cells) == 2 * 4 + 2 * 3
    for cell in range(len(env.cells)):
        if cell == env.goal:
            continue
        after = transition[cell].argmax(-1)
        neighbours = np.abs(env.cells - env.cells[cell]).sum(-1) == 1
        assert neighbours.sum() == 2
        assert {place for place in after if place != cell} == set(np.flatnonzero(neighbours))


def test_the_observation_is_the_cell():
    env = TwoPathsGridEnv()
    observation, info = env.reset(seed=0)
    assert observation.dtype == np.float32
    assert (observation.sum(), observation.argmax()) == (1.0, env.start)
    assert info == {"path": -1}
    assert env.step(LEFT)[0].argmax() == env.start
    place = env.step(UP)[0].argmax()
    assert env.cells[place].tolist() == [1, 0]
    assert (env.path_of(place), env.path_of(env.start), env.path_of(env.goal)) == (0, -1, -1)
    assert env.path_of(len(env.cells) - 1) == 1


@pytest.mark.parametrize("slip", [0.0, 0.4])
def test_steps_follow_the_model(slip):
    """The share of each next cell, within four standard errors."""
    env = TwoPathsGridEnv(width=4, height=1, slip=slip)
    env.reset(seed=0)
    transition, reward = env.model()
    np.testing.assert_allclose(transition.sum(-1), 1.0, atol=1e-12)
    count = 400
    for cell in range(len(env.cells)):
        for action in range(4):
            if cell == env.goal:
                assert transition[cell, action, cell] == 1.0
                assert reward[cell, action] == 0.0
                continue
            seen = np.zeros(len(env.cells))
            for _ in range(count):
                env.load_state_dict({"cell": cell, "steps": 0, "is_closed": False})
                observation, paid, *_ = env.step(action)
                seen[observation.argmax()] += 1 / count
                assert paid == reward[cell, action] == -1.0
            expected = transition[cell, action]
            spread = np.sqrt(expected * (1 - expected) / count)
            assert (np.abs(seen - expected) <= 4 * spread + 1e-12).all()


@pytest.mark.parametrize("alpha", [0.2, 0.5])
@pytest.mark.parametrize("detour", [0, 1])
@pytest.mark.quick_for("1-0.5")
def test_soft_values_of_the_model_are_sums_over_paths(alpha, detour):
    """Without a discount, exp(V / alpha) is the sum over all action sequences to the goal of
    exp(-length / alpha), here added up by length."""
    env = TwoPathsGridEnv(detour=detour)
    transition, reward = env.model()
    value = np.zeros(len(transition))
    for _ in range(3_000):
        q = reward + transition @ value
        value = alpha * logsumexp(q / alpha, axis=1)
        value[env.goal] = 0.0
    counts = np.zeros(len(transition))  # sequences that are in a cell, times exp(-steps / alpha)
    counts[env.start], total = 1.0, 0.0
    for _ in range(3_000):
        counts = np.exp(-1 / alpha) * np.einsum("s,sat->t", counts, transition)
        total += counts[env.goal]
        counts[env.goal] = 0.0
    assert value[env.start] == pytest.approx(alpha * np.log(total), abs=1e-9)


@pytest.mark.parametrize(("blocked", "actions"), [("bridge", BRIDGE), ("tunnel", TUNNEL)])
def test_a_blocked_path_leads_nowhere_and_the_other_to_the_goal(blocked, actions):
    env = TwoPathsGridEnv(blocked=blocked)
    steps = play(env, [*actions[:8], *[RIGHT] * 10])
    places = [env.cells[step[0].argmax()].tolist() for step in steps]
    assert places[4:] == [[0 if blocked == "bridge" else 4, 2]] * 14  # before the middle, column 3
    other = TUNNEL if blocked == "bridge" else BRIDGE
    assert play(env, other)[-1][2]
    transition, _ = env.model()
    closed = [0 if blocked == "bridge" else 4, 3]
    (cell,) = np.flatnonzero((env.cells == closed).all(-1))
    assert transition[np.arange(len(env.cells)) != cell, :, cell].max() == 0.0


def test_a_path_that_closes_during_an_episode():
    env = TwoPathsGridEnv(blocked="bridge", blocked_from=4)
    assert env.cells[play(env, BRIDGE[:8])[-1][0].argmax()].tolist() == [0, 2]
    late = TwoPathsGridEnv(blocked="bridge", blocked_from=6)
    assert play(late, BRIDGE)[-1][4] == {"path": 0}
    standing = TwoPathsGridEnv(blocked="bridge", blocked_from=5)  # in the middle by then
    assert play(standing, BRIDGE)[-1][4] == {"path": 0}
    back = play(standing, [*BRIDGE[:5], LEFT, *[RIGHT] * 5])
    assert standing.cells[back[-1][0].argmax()].tolist() == [0, 2]


def test_registration():
    env = gym.make(ID, slip=0.1)
    env.reset(seed=0)
    assert [env.step(LEFT)[3] for _ in range(100)] == [False] * 99 + [True]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"width": 2}, "width must be at least 3"),
        ({"height": 0}, "height at least 1"),
        ({"detour": -1}, "detour and blocked_from at least 0"),
        ({"blocked_from": -1}, "detour and blocked_from at least 0"),
        ({"slip": 1.0}, r"slip must be in \[0, 1\), got 1.0"),
        ({"blocked": "road"}, "blocked must be 'bridge', 'tunnel' or None, got 'road'"),
        ({"render_mode": "human"}, "render_mode must be None or 'rgb_array', got 'human'"),
    ],
)
def test_arguments_that_are_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        TwoPathsGridEnv(**arguments)


@pytest.mark.parametrize("action", [-1, 4, 1.7, True, None])
def test_actions_that_are_refused(action):
    env = TwoPathsGridEnv()
    env.reset(seed=0)
    with pytest.raises(ValueError, match=f"action must be 0, 1, 2 or 3, got {action}"):
        env.step(action)
    assert env.step(LEFT)[0].argmax() == env.start


def test_rendering():
    env = TwoPathsGridEnv(render_mode="rgb_array", blocked="tunnel")
    env.reset(seed=0)
    first = env.render()
    assert (first.shape, first.dtype) == ((240, 336, 3), np.uint8)
    centre = lambda row, column: first[24 + 48 * row, 24 + 48 * column]  # noqa: E731
    red = centre(2, 0)
    assert red[0] > 180
    assert red[2] < 80
    assert centre(2, 3).max() < 90  # the block
    assert centre(0, 3).min() > 200  # the bridge
    assert centre(2, 6)[1] > centre(2, 6)[0]  # the goal
    assert 80 < centre(4, 3)[0] < 200  # the tunnel, blocked
    env.step(UP)
    assert (env.render() != first).any()
    assert TwoPathsGridEnv().render() is None


def test_the_summary_is_a_sentence_and_a_figure(tmp_path):
    """A policy that goes up or down at the start, with equal chances, and then straight on."""
    env, chance = TwoPathsGridEnv(), np.random.default_rng(0)

    def act(observation):
        row, column = env.cells[observation.argmax(-1)].T
        down = np.where(row == 2, chance.random(len(row)) < 0.5, row > 2)
        across = (row == 0) | (row == 4)
        onwards = np.where(across & (column < 6), RIGHT, np.where(down, DOWN, UP))
        return np.where((column == 6), np.where(row < 2, DOWN, UP), onwards)

    path = tmp_path / "new" / "grid.png"
    sentence = TwoPathsGridEnv.summary(act, path, lambda observation: -observation.argmax(-1))
    bridge, tunnel = (int(share) for share in re.findall(r"(\d+)%", sentence))
    assert bridge + tunnel == 100
    assert 38 <= bridge <= 62
    assert plt.imread(path).shape[0] > 500
    rollouts = Rollouts.sample(TwoPathsGridEnv, act, 5, outcome="path")
    assert {len(path) for path in rollouts.paths} == {11}
