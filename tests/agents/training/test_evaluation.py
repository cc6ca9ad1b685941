"""Evaluation against a loop written out by hand over gymnasium's own tasks."""

import inspect
import os
import subprocess
import sys
from functools import partial

import gymnasium as gym
import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torchrl.envs import GymWrapper
from torchrl.envs.utils import ExplorationType, set_exploration_type

from maxentflow import agents, envs
from maxentflow.agents import Evaluation, evaluate
from maxentflow.agents.training import evaluation, record_video

from ..common import COUNT, MULTIGOAL, Count, Scripted, lean, plain

TASK = "Hopper-v4"


def by_hand(policy, env_id, episodes, seed):
    """One environment, one episode after the other."""
    returns, lengths = [], []
    env = plain(env_id)
    for index in range(episodes):
        observation, _ = env.reset(seed=seed + index)
        total, length, over = 0.0, 0, False
        while not over:
            batch = TensorDict(observation=torch.as_tensor(observation).float()[None])
            with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
                action = policy(batch)["action"][0].numpy()
            observation, reward, terminated, truncated, _ = env.step(action)
            total, length = total + float(reward), length + 1  # sum() rounds less from 3.12 on
            over = terminated or truncated
        returns.append(total)
        lengths.append(length)
    return returns, lengths


@pytest.mark.parametrize("episodes", [1, 4, 13])
@pytest.mark.quick_for("4")
def test_equals_a_loop_by_hand(episodes):
    result = evaluate(Scripted(lean), TASK, episodes=episodes, seed=7)
    returns, lengths = by_hand(Scripted(lean), TASK, episodes, seed=7)
    assert result.lengths.tolist() == lengths
    assert result.returns.tolist() == returns
    assert len(set(returns)) == episodes


@pytest.mark.slow
def test_a_flow_equals_a_loop_by_hand():
    """At the time limit too, which ends every one of these episodes."""
    flow_policy = agents.make("meow", envs.make("Pendulum-v1")).policy
    result = evaluate(flow_policy, "Pendulum-v1", episodes=2, seed=3)
    returns, lengths = by_hand(flow_policy, "Pendulum-v1", 2, seed=3)
    assert result.lengths.tolist() == lengths == [200, 200]
    # Matrix products of one row and of two round differently, over 200 steps.
    np.testing.assert_allclose(result.returns, returns, rtol=1e-3)


@pytest.mark.parametrize(
    "copies", [3, *(pytest.param(copies, marks=pytest.mark.slow) for copies in (1, 13, 20))]
)
def test_the_number_of_environments_does_not_matter(copies):
    expected = evaluate(Scripted(lean), TASK, episodes=13, seed=7)
    result = evaluate(Scripted(lean), envs.make(TASK, copies), episodes=13, seed=7)
    assert result.returns.tolist() == expected.returns.tolist()
    assert result.lengths.tolist() == expected.lengths.tolist()


def test_an_environment_that_is_given_stays_open_and_can_be_used_again():
    env = envs.make(TASK, 2)
    first = evaluate(Scripted(lean), env, episodes=3)
    again = evaluate(Scripted(lean), env, episodes=3)
    assert first.returns.tolist() == again.returns.tolist()


def test_samples_and_the_mode():
    mode = evaluate(Scripted(lean), TASK, episodes=4)
    sampled = evaluate(Scripted(lean), TASK, episodes=4, deterministic=False)
    again = evaluate(Scripted(lean), TASK, episodes=4, deterministic=False)
    assert (mode.returns != sampled.returns).all()
    assert sampled.returns.tolist() == again.returns.tolist()
    without_noise = evaluate(Scripted(lean, noise=0), TASK, episodes=4, deterministic=False)
    assert mode.returns.tolist() == without_noise.returns.tolist()


def test_another_seed_is_another_evaluation():
    first = evaluate(Scripted(lean), TASK, episodes=3, seed=0)
    shifted = evaluate(Scripted(lean), TASK, episodes=3, seed=1)
    assert first.returns[1:].tolist() == shifted.returns[:-1].tolist()
    assert first.returns[0] != shifted.returns[-1]


@pytest.mark.parametrize("deterministic", [True, False])
def test_torchs_generator_is_left_as_it_was(deterministic):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    evaluate(Scripted(lean), TASK, episodes=2, deterministic=deterministic)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("episodes", [0, -1])
def test_no_episodes_are_refused(episodes):
    with pytest.raises(ValueError, match=f"episodes must be at least 1, got {episodes}"):
        evaluate(Scripted(lean), TASK, episodes=episodes)


def test_in_words():
    result = Evaluation(np.array([1.0, 4.0]), np.array([10, 21]))
    assert str(result) == "return 2.5 ± 1.5 over 2 episodes of 16 steps"


def frames(path):
    with imageio.get_reader(path) as reader:
        return [np.asarray(frame) for frame in reader]


@pytest.mark.slow
def test_a_video_has_a_frame_for_each_state(tmp_path):
    path = tmp_path / "hopper.mp4"
    options = {"deterministic": False, "seed": 7}
    torch.manual_seed(5)
    record_video(Scripted(lean), TASK, str(path), **options)
    after = torch.rand(3)
    length = evaluate(Scripted(lean), TASK, episodes=1, **options).lengths[0]
    film = frames(path)
    assert len(film) == length + 1
    assert film[0].shape == (480, 480, 3)
    assert film[0].std() > 10  # a picture of something
    assert np.abs(film[0].astype(float) - film[-1]).mean() > 1  # that moves
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), after)


def test_a_video_of_multigoal(tmp_path):
    path = tmp_path / "multigoal.mp4"
    policy = Scripted(lambda observation: torch.ones_like(observation) * torch.tensor([1.0, 0.0]))
    record_video(policy, MULTIGOAL, str(path), deterministic=True, seed=0)
    x = plain(MULTIGOAL).reset(seed=0)[0][0]
    film = frames(path)
    assert len(film) == 1 + int(np.ceil(4 - x))  # the goal is entered at x = 4, or next to it
    assert film[0].shape == (288, 288, 3)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Elsewhere there is always a screen.")
def test_a_video_without_a_screen_says_nothing(tmp_path):
    """In a process of its own: SDL looks for a screen once."""
    code = """
import sys
from maxentflow import agents, envs
policy = agents.make("sac", envs.make("Pendulum-v1")).policy
agents.training.record_video(policy, "Pendulum-v1", sys.argv[1], max_steps=3)
"""
    screens = {"DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR", "SDL_VIDEODRIVER"}
    environ = {name: by for name, by in os.environ.items() if name not in screens}
    words = [sys.executable, "-c", code, str(tmp_path / "film.mp4")]
    done = subprocess.run(words, env=environ, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
    assert len(frames(tmp_path / "film.mp4")) == 4


def test_a_film_of_a_task_that_pygame_draws_is_not_black(tmp_path, monkeypatch):
    """highway-env leaves pictures black where SDL has its dummy driver."""
    monkeypatch.delenv("SDL_VIDEODRIVER", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)
    path = tmp_path / "film.mp4"
    still = Scripted(lambda observation: torch.zeros(observation.shape[0], 1))
    record_video(still, "maxentflow/Intersection-v0", str(path), max_steps=1)
    assert frames(path)[0].std() > 10


def test_a_video_that_cannot_be_written(tmp_path):
    path = tmp_path / "missing" / "film.mp4"
    with pytest.raises(ValueError, match=r"Cannot write the video .*film\.mp4"):
        record_video(Scripted(lean), TASK, str(path), deterministic=True, seed=0)


def test_a_video_ends_where_the_task_does_not(tmp_path):
    """Some of the frames of a point that never moves."""
    path = tmp_path / "endless.mp4"
    still = Scripted(torch.zeros_like)
    record_video(still, envs.MultiGoalEnv, str(path), max_steps=7)
    assert len(frames(path)) == 8
    limit = inspect.signature(record_video).parameters["max_steps"].default
    assert limit == evaluation.STEP_LIMIT


# Tasks in other forms


def endless(**kwargs):
    return Count(**kwargs)


def test_evaluation_ends_where_the_task_does_not(monkeypatch):
    monkeypatch.setattr(evaluation, "STEP_LIMIT", 30)
    torchrl = GymWrapper(gym.wrappers.RescaleAction(endless(), -1.0, 1.0))
    for env in (endless, envs.make(endless, 2), torchrl):
        result = evaluate(Scripted(straight), env, episodes=3)
        assert result.lengths.tolist() == [30] * 3
        assert result.returns.tolist() == [30.0] * 3
        assert result.cut == 3
        assert str(result).endswith("over 3 episodes of 30 steps, 3 of which were cut there")


def straight(observation):
    return observation[..., :1] * 0


def test_a_time_limit_is_the_tasks_own(count, monkeypatch):
    monkeypatch.setattr(evaluation, "STEP_LIMIT", 3)
    result = evaluate(Scripted(straight), count(), episodes=3)
    assert (result.lengths.tolist(), result.cut) == ([10] * 3, 0)


@pytest.mark.parametrize(("limit", "length", "cut"), [(4, 4, 3), (10, 10, 0), (99, 10, 0)])
def test_a_limit_that_is_given(count, limit, length, cut):
    result = evaluate(Scripted(straight), count(), episodes=3, max_steps=limit)
    assert (result.lengths.tolist(), result.cut) == ([length] * 3, cut)
    with pytest.raises(ValueError, match=r"^max_steps must be at least 1, got 0\.$"):
        evaluate(Scripted(straight), COUNT, max_steps=0)


def test_a_function_is_a_task():
    """With the keyword arguments that it fills in."""
    by_id = evaluate(Scripted(lean), TASK, episodes=2, seed=7)
    function = partial(gym.make, TASK)
    assert evaluate(Scripted(lean), function, episodes=2, seed=7).returns.tolist() == (
        by_id.returns.tolist()
    )
    eager = partial(gym.make, TASK, forward_reward_weight=2.0)
    twice = evaluate(Scripted(lean), eager, episodes=2, seed=7)
    assert twice.lengths.tolist() == by_id.lengths.tolist()
    assert (twice.returns != by_id.returns).all()


def test_a_torchrl_environment():
    """The rewards of a rollout of TorchRL's own."""
    env = envs.make_torchrl(TASK)
    result = evaluate(Scripted(lean), env, episodes=2, seed=7)
    for index in range(2):
        env.set_seed(7 + index)
        with set_exploration_type(ExplorationType.DETERMINISTIC):
            data = env.rollout(1_000, Scripted(lean))
        assert result.lengths[index] == len(data)
        expected = data["next", "reward"].double().sum().item()
        assert result.returns[index] == pytest.approx(expected, rel=1e-12)
    assert result.cut == 0


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match=r"^seed must not be negative, got -1\.$"):
        evaluate(Scripted(lean), TASK, seed=-1)


def test_a_policy_of_another_task_is_refused():
    policy = agents.make("sac", envs.make("Pendulum-v1"), hidden=(8,)).policy
    with pytest.raises(ValueError, match=r"The policy takes no observations of shape \(4,\): "):
        agents.evaluate(policy, "InvertedPendulum-v4", episodes=1)
