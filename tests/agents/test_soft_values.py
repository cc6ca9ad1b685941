"""Discrete agents against exact soft value iteration on small decision processes."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from tensordict import TensorDict
from torchrl.envs.utils import ExplorationType, set_exploration_type

from maxentflow import agents

STATES, ACTIONS, GAMMA = 5, 3, 0.8
CHANCE = np.random.default_rng(7)
NEXT = CHANCE.integers(STATES, size=(STATES, ACTIONS))
REWARD = CHANCE.uniform(-1.0, 1.0, (STATES, ACTIONS))
ENDS = CHANCE.uniform(size=(STATES, ACTIONS)) < 0.15
EYE = torch.eye(STATES)


class Table(gym.Env):
    observation_space = spaces.Box(0.0, 1.0, (STATES,), np.float32)
    action_space = spaces.Discrete(ACTIONS)


def soft_values(alpha):
    """Values, Q and policy by iterating the soft Bellman operator to its fixed point."""
    value = np.zeros(STATES)
    for _ in range(500):
        q = REWARD + GAMMA * ~ENDS * value[NEXT]
        top = q.max(1)
        value = top + alpha * np.log(np.exp((q - top[:, None]) / alpha).sum(1))
    return value, q, np.exp((q - value[:, None]) / alpha)


def every_transition():
    """One of each state and action."""
    state, action = np.divmod(np.arange(STATES * ACTIONS), ACTIONS)
    ends = torch.as_tensor(ENDS[state, action])[:, None]
    return TensorDict(
        observation=EYE[state],
        action=torch.as_tensor(action),
        next=TensorDict(
            observation=EYE[NEXT[state, action]],
            reward=torch.as_tensor(REWARD[state, action], dtype=torch.float32)[:, None],
            done=ends,
            terminated=ends,
            batch_size=[STATES * ACTIONS],
        ),
        batch_size=[STATES * ACTIONS],
    )


def learned(name, alpha, updates, **settings):
    torch.manual_seed(0)
    agent = agents.make(
        name,
        SyncVectorEnv([Table]),
        **{
            "temperature": alpha,
            "target_entropy": None,
            "gamma": GAMMA,
            "hidden": (32,),
            "learning_rate": 3e-3,
            "tau": 0.05,
            **settings,
        },
    )
    batch = every_transition()
    for _ in range(updates):
        agent.update(batch)
    return agent


FORMS = {
    "independent": {},
    "lrs": {"shifts": True, "heads": 1},
    "scdq": {"shifts": True, "heads": 2},
    "normalized": {"shifts": True, "heads": 2, "normalized": True},
}


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("form", FORMS)
def test_soft_q_learning_finds_the_soft_values(alpha, form):
    value, q, policy = soft_values(alpha)
    agent = learned("soft-q", alpha, 1_500, **FORMS[form])
    with torch.no_grad():
        ours = agent.critic.value(EYE).numpy()
        assert np.abs(ours - value[:, None]).max() < 0.02
        assert np.abs(agent.critic.q_values(EYE).numpy() - q[..., None]).max() < 0.05
        assert np.abs(agent.critic.log_probs(EYE).exp().numpy() - policy).max() < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_discrete_sac_finds_the_same_policy(alpha):
    """Its V is the policy's expectation of Q - alpha log pi. At lower temperatures the actor's
    softmax saturates before the critics are right, and then hardly learns."""
    value, _, policy = soft_values(alpha)
    agent = learned("discrete-sac", alpha, 1_500)
    data = TensorDict(observation=EYE, batch_size=[STATES])
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        ours = agent.policy.get_dist(data).probs
        loss = agent.loss
        table = loss._vmap_qnetworkN0(data, loss.qvalue_network_params)["action_value"].amin(0)
    soft = (ours * (table - alpha * ours.log())).sum(-1).numpy()
    assert np.abs(ours.numpy() - policy).max() < 0.05
    assert np.abs(soft - value).max() < 0.02


@pytest.mark.slow
def test_double_q_learning_finds_the_hard_values():
    """The limit of a temperature of zero."""
    value, _, policy = soft_values(1e-3)
    torch.manual_seed(0)
    agent = agents.make(
        "dqn", SyncVectorEnv([Table]), gamma=GAMMA, hidden=(32,), learning_rate=3e-3, tau=0.05
    )
    batch = every_transition()
    for _ in range(1_000):
        agent.update(batch)
    with torch.no_grad():
        acted = agent.policy(TensorDict(observation=EYE, batch_size=[STATES]))
    assert np.abs(acted["chosen_action_value"][:, 0].numpy() - value).max() < 0.02
    assert acted["action"].tolist() == policy.argmax(1).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["soft-q", "discrete-sac"])
def test_a_learned_temperature_arrives_at_its_target(name):
    """In the mean over states of the batch, from either side."""
    found = []
    for alpha in (0.02, 2.0):
        agent = learned(name, alpha, 4_000, target_entropy=0.6, temperature_learning_rate=3e-3)
        batch = every_transition()
        report = agent.loss(batch)
        entropy = report["policy_entropy" if name == "soft-q" else "entropy"]
        found.append((float(report["alpha"]), float(entropy.mean())))
    (low, entropy), (high, other) = found
    assert low == pytest.approx(high, rel=0.15)
    for each in (entropy, other):  # of one sample for each state where it is sampled
        assert each == pytest.approx(0.6 * math.log(ACTIONS), abs=0.25)
