"""What every task of this package keeps to."""

import warnings

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env

from maxentflow import envs
from maxentflow.agents.presets import preset

TASKS = sorted(name for name in gym.registry if name.startswith("maxentflow/"))


def test_the_tasks():
    assert [
        f"maxentflow/{name}-v0"
        for name in (
            "Intersection",
            "MultiGoal",
            "Portfolio",
            "PortfolioScores",
            "TwoPaths",
            "TwoPathsGrid",
            "TwoPathsMaze",
        )
    ] == TASKS


@pytest.mark.parametrize("task", TASKS)
def test_gymnasiums_checker(task):
    """Without a warning, but for the infinite bounds of MuJoCo's observations."""
    env = gym.make(task, render_mode="rgb_array", disable_env_checker=True)
    is_mujoco = task == "maxentflow/TwoPathsMaze-v0"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if is_mujoco else "error")
        checked = envs.TwoPathsMazeEnv() if is_mujoco else env.unwrapped
        check_env(checked, skip_render_check=is_mujoco)


@pytest.mark.parametrize("task", TASKS)
def test_training_defaults(task):
    found = preset(task)
    assert found.total_steps <= 40_000
    assert 0 < found.gamma < 1
    if gym.spec(task).max_episode_steps is not None:  # others truncate by themselves
        assert gym.spec(task).max_episode_steps <= 150


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.quick_for("MultiGoal", "Portfolio", "TwoPaths")
def test_seeds_reproduce_to_the_bit(task):
    def episode():
        env = envs.make_single(task, seed=3)
        env.action_space.seed(0)
        steps = [env.reset()[0].tolist()]
        for _ in range(20):
            observation, reward, *_ = env.step(env.action_space.sample())
            steps.append((observation.tolist(), float(reward)))
        return steps

    assert episode() == episode()


@pytest.mark.parametrize("task", TASKS)
def test_pictures_only_where_they_are_asked_for(task):
    if task != "maxentflow/TwoPathsMaze-v0":  # MuJoCo's, which warns
        env = gym.make(task).unwrapped
        env.reset(seed=0)
        assert env.render() is None
        with pytest.raises(
            ValueError, match="render_mode must be None or 'rgb_array', got 'human'"
        ):
            type(env)(render_mode="human")
