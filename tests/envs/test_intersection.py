"""Intersection: what its driver can do, and what it is told."""

import sys

import gymnasium as gym
import numpy as np
import pytest

from maxentflow import envs
from maxentflow.envs.intersection import DURATION, OUTCOMES, IntersectionEnv

FULL = np.ones(1, np.float32)


def drive(env, accelerate, seed):
    observation, info = env.reset(seed=seed)
    seen, infos, rewards, over = [observation], [info], [], False
    while not over:
        observation, reward, terminated, truncated, info = env.step(accelerate(observation))
        seen.append(observation)
        infos.append(info)
        rewards.append(reward)
        over = terminated or truncated
    return np.array(seen), infos, rewards, terminated


def test_alone_at_full_speed_the_car_arrives():
    env = IntersectionEnv(vehicles=1, spawn_probability=0.0)
    env._road._spawn_vehicle = lambda *_, **__: None  # nor the challenger
    seen, infos, rewards, terminated = drive(env, lambda _: FULL, 0)
    assert terminated
    assert OUTCOMES[infos[-1]["outcome"]] == "arrival"
    assert [info["outcome"] for info in infos[:-1]] == [-1] * (len(infos) - 1)
    assert rewards == [1.0] * len(rewards)
    assert max(info["speed"] for info in infos) == pytest.approx(12.0, abs=1.0)
    assert np.ptp(seen[:, 1]) < 1e-6  # straight ahead
    assert (np.diff(seen[:, 2]) < 0).all()  # y points down


@pytest.mark.slow
def test_who_brakes_stands_and_runs_out_of_time():
    env = IntersectionEnv()
    for seed in range(3):
        _, infos, _, terminated = drive(env, lambda _: -FULL, seed)
        if infos[-1]["outcome"] == -1:
            assert not terminated
            assert len(infos) == DURATION + 1
            assert abs(infos[-1]["speed"]) < 1.1
            return
    pytest.fail("every episode ended in a collision")


def test_collisions_end_an_episode_and_cost_five():
    env = IntersectionEnv(vehicles=20, spawn_probability=1.0)
    for seed in range(30):
        _, infos, rewards, terminated = drive(env, lambda _: FULL, seed)
        if infos[-1]["outcome"] == OUTCOMES.index("collision"):
            assert terminated
            assert -5.0 <= rewards[-1] <= -4.0
            return
    pytest.fail("no collision in thirty episodes at full speed")


def test_the_observation_is_of_the_cars_that_are_there():
    env = IntersectionEnv()
    observation, _ = env.reset(seed=0)
    cars = observation.reshape(6, 7)
    own = env._road.vehicle
    np.testing.assert_allclose(cars[0, 1:3], own.position / 100, atol=1e-6)
    np.testing.assert_allclose(cars[0, 3:5], own.velocity / 20, atol=1e-6)
    others = [v for v in env._road.road.vehicles if v is not own]
    for car in cars[1:]:
        if car[0]:
            near = [np.abs(v.position / 100 - car[1:3]).max() for v in others]
            assert min(near) < 1e-6
        else:
            assert not car.any()


@pytest.mark.slow
def test_resume_in_the_middle_of_an_episode():
    env, other = (envs.make("maxentflow/Intersection-v0", seed=seed) for seed in (3, 4))
    env.reset()
    other.reset()
    for _ in range(3):
        env.step(np.zeros((1, 1), np.float32))
    envs.restore(other, envs.states(env))
    for _ in range(15):
        one, two = (each.step(np.full((1, 1), 0.3, np.float32)) for each in (env, other))
        for first, second in zip(one[:4], two[:4], strict=True):
            np.testing.assert_array_equal(first, second)


@pytest.mark.slow
def test_the_figure(tmp_path, monkeypatch):
    monkeypatch.setattr("maxentflow.envs.intersection._EPISODES", 4)
    said = IntersectionEnv.summary(
        lambda x: np.tile(FULL, (len(x), 1)), tmp_path / "figure.png", vehicles=3
    )
    assert said.startswith("Of 4 sampled episodes ")
    assert (tmp_path / "figure.png").stat().st_size > 5_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vehicles": 0}, "vehicles must be a whole number, at least 1, got 0"),
        ({"vehicles": 2.5}, "vehicles must be a whole number"),
        ({"spawn_probability": 1.5}, r"spawn_probability must be in \[0, 1\], got 1.5"),
        ({"render_mode": "human"}, "render_mode must be None or 'rgb_array'"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        IntersectionEnv(**options)


@pytest.mark.parametrize("action", [[np.nan], [0.0, 0.0], 0.0])
def test_actions_that_are_none(action):
    env = IntersectionEnv()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action must be one finite number"):
        env.step(action)


def test_the_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "highway_env.envs.intersection_env", None)
    with pytest.raises(ValueError, match=r"pip install 'maxentflow\[driving\]'"):
        envs.make("maxentflow/Intersection-v0")


def test_pictures():
    env = gym.make("maxentflow/Intersection-v0", render_mode="rgb_array")
    env.reset(seed=0)
    picture = env.render()
    assert picture.shape == (600, 600, 3)
    assert picture.std() > 10
