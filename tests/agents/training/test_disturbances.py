"""Returns in changed worlds against a world that is known."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from tensordict.nn import TensorDictModule

from maxentflow.agents import robustness
from maxentflow.agents.training import Robustness, evaluate
from maxentflow.envs import Perturbed

TASK = "InvertedPendulum-v5"


@pytest.fixture
def still():
    """A policy that does nothing."""
    return TensorDictModule(
        lambda observation: torch.zeros(len(observation), 1), ["observation"], ["action"]
    )


def test_each_value_is_the_evaluation_of_that_world(still):
    values = [0.25, 1.0, 4.0]
    found = robustness(still, TASK, "gravity", values, episodes=3, seed=5)
    assert found.quantity == "gravity"
    assert found.values.tolist() == values
    for value, returns in zip(values, found.returns, strict=True):
        world = lambda value=value: Perturbed(gym.make(TASK), gravity=value)  # noqa: E731
        np.testing.assert_array_equal(returns, evaluate(still, world, episodes=3, seed=5).returns)
    np.testing.assert_array_equal(found.undisturbed, found.returns[1])
    # A pendulum that nobody holds falls the sooner, the heavier it is.
    assert (np.diff(found.returns.mean(1)) < 0).all()


def test_delays_are_whole_steps(still):
    found = robustness(still, TASK, "action_delay", [0.0, 2.0], episodes=2)
    np.testing.assert_array_equal(found.returns[0], found.undisturbed)
    with pytest.raises(ValueError, match=r"action_delay must be .* whole numbers, got 0.5"):
        robustness(still, TASK, "action_delay", [0.5], episodes=2)


def test_the_relative_area_by_hand():
    made = lambda undisturbed: Robustness(  # noqa: E731
        "mass", np.array([0.5, 1.0, 2.0]), np.array([[2.0], [4.0], [1.0]]), np.array(undisturbed)
    )
    area = ((2 + 4) / 2 * 0.5 + (4 + 1) / 2 * 1.0) / 1.5
    assert made([3.0, 5.0]).relative_area == pytest.approx(area / 4.0)
    assert np.isnan(made([-1.0]).relative_area)


@pytest.mark.parametrize(
    ("task", "quantity", "values", "says"),
    [
        (TASK, "wind", [1.0], "nothing called 'wind' to change"),
        (TASK, "push_rate", [0.0, 1.0], "nothing called 'push_rate' to change"),
        (TASK, "env", [0.0, 1.0], "nothing called 'env' to change"),
        (TASK, "mass", [0.5, 99.0], "mass must be between 0.1 and 10"),
        (TASK, "mass", [2.0, 1.0], r"Values must increase, got \[2.0, 1.0\]"),
        (TASK, "mass", [], "Values must increase"),
        ("Pendulum-v1", "mass", [2.0], "needs a task of MuJoCo, got Pendulum-v1"),
        ("Hoper-v5", "mass", [2.0], "Unknown task 'Hoper-v5'"),
    ],
)
def test_what_is_refused_before_any_episode(still, monkeypatch, task, quantity, values, says):
    monkeypatch.setattr(
        "maxentflow.agents.training.disturbances.evaluate", lambda *_, **__: pytest.fail("ran")
    )
    with pytest.raises(ValueError, match=says):
        robustness(still, task, quantity, values)
