"""Health checks: each finding is not well where it should not be, and only there."""

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from maxentflow import agents, envs
from maxentflow.agents.training.health import health

ROWS = [{"step": 10, "eval_return": -9.0}, {"step": 20, "eval_return": -3.0}]
ACTIONS = np.linspace(-0.5, 0.5, 8, dtype=np.float32)[:, None]


@pytest.fixture(scope="module")
def agent():
    torch.manual_seed(0)
    made = agents.make("sac", envs.make("Pendulum-v1"), hidden=(8,))
    following = TensorDict(
        observation=torch.randn(16, 3),
        reward=torch.randn(16, 1),
        done=torch.zeros(16, 1, dtype=torch.bool),
        terminated=torch.zeros(16, 1, dtype=torch.bool),
        batch_size=[16],
    )
    made.update(
        TensorDict(
            observation=torch.randn(16, 3),
            action=torch.rand(16, 1),
            next=following,
            batch_size=[16],
        )
    )
    return made


def not_well(rows, agent, actions):
    return {each.name for each in health(rows, agent, actions) if not each.is_well}


def test_a_healthy_run(agent):
    assert not_well(ROWS, agent, ACTIONS) == set()


@pytest.mark.parametrize(
    ("rows", "actions", "expected"),
    [
        ([*ROWS, {"step": 30, "loss": float("inf")}], ACTIONS, {"numbers"}),
        ([*ROWS, {"step": 30, "eval_return": -7.0}], ACTIONS, {"return"}),
        ([*ROWS, {"step": 30, "eval_return": -5.0}], ACTIONS, set()),
        ([*ROWS, {"step": 30, "policy_entropy": -6.0}], ACTIONS, {"alarms", "entropy"}),
        ([*ROWS, {"step": 30, "policy_entropy": -4.0, "entropy": -6.0}], ACTIONS, set()),
        ([*ROWS, {"step": 30, "entropy": -6.0}], ACTIONS, {"entropy"}),
        (ROWS, np.ones((8, 1), np.float32), {"saturated actions"}),
    ],
)
def test_what_is_wrong_is_found(agent, rows, actions, expected):
    assert not_well(rows, agent, actions) == expected


def test_parameters_without_a_gradient(agent):
    (finding,) = [each for each in health(ROWS, agent, ACTIONS) if each.name == "gradients"]
    assert finding.is_well
    states = [state for step in agent.steps for state in step.optimizer.state.values()]
    squares = torch.cat([state["exp_avg_sq"].flatten() for state in states])
    dead = (squares == 0).double().mean()
    assert finding.text == f"{dead:.1%} of {len(squares)} parameters have not had one."
    for state in states[: len(states) // 2]:
        state["exp_avg_sq"].zero_()
    assert not_well(ROWS, agent, ACTIONS) == {"gradients"}


def test_discrete_actions_are_not_saturated():
    agent = agents.make("dqn", envs.make("CartPole-v1"), hidden=(8,))
    names = [each.name for each in health([], agent, np.ones(8, np.int64))]
    assert names == ["numbers", "return", "alarms", "gradients"]
