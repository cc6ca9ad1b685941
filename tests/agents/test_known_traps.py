"""Faults that others have reported of the losses that these agents stand on."""

import math

import pytest
import torch
from tensordict import TensorDict
from torch import nn
from torchrl.modules import TanhNormal

from maxentflow import agents, envs, flows

from .common import SMALL, differences, make_trainer, task
from .test_agent import batch_for

REPLAY = [name for name in agents.registered() if name not in ("ppo", "bc")]
SAC = ("sac", "flow-sac")


@pytest.mark.parametrize("name", SAC)
@pytest.mark.parametrize("env_id", ["Pendulum-v1", "Hopper-v4"])
def test_the_target_entropy_is_a_number_from_the_start(name, env_id):
    """TorchRL's "auto" reads it off a spec that may be missing (pytorch/rl #3291)."""
    env = envs.make(env_id)
    agent = agents.make(name, env, **SMALL[name])
    assert float(agent.loss.target_entropy) == -env.single_action_space.shape[0]


def test_the_target_entropy_of_discrete_actions_can_be_reached():
    """Minus the number of actions, as "auto" once gave, lies below every entropy there is."""
    agent = agents.make("discrete-sac", envs.make("CartPole-v1"), **SMALL["discrete-sac"])
    assert 0 < float(agent.loss.target_entropy) < math.log(2)


def test_log_probabilities_of_samples_at_the_bounds():
    """Of SAC's tanh-Gaussian, whose inverse cannot tell them (pytorch/rl #4080, #2199)."""
    agent = agents.make("sac", envs.make("Pendulum-v1"), **SMALL["sac"])
    observation = TensorDict(observation=torch.randn(64, 3), batch_size=[64])
    mean = next(
        each for each in reversed(list(agent.policy.modules())) if isinstance(each, nn.Linear)
    )
    nn.init.constant_(mean.bias, 12.0)
    policy = agent.policy.get_dist(observation)
    assert isinstance(policy, TanhNormal)
    torch.manual_seed(0)
    action, log_prob = policy.rsample_and_log_prob()
    assert (action > 1 - 1e-5).any()
    torch.manual_seed(0)
    raw = (policy.loc + policy.scale * torch.randn_like(policy.loc)).double()
    normal = torch.distributions.Normal(policy.loc.double(), policy.scale.double())
    slope = 2 * (math.log(2) - raw - nn.functional.softplus(-2 * raw))
    expected = (normal.log_prob(raw) - slope).sum(-1)
    torch.testing.assert_close(log_prob.double(), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", [*SAC, "sac with flow critics"])
def test_no_dropout_inside_of_saclosss_vmap(name):
    """One mask for both critics, or an error (pytorch/rl #2313)."""
    forms = {"critic_flow": "additive"} if "with" in name else {}
    agent = agents.make(name.split()[0], envs.make("Pendulum-v1"), **forms)
    kinds = (nn.Dropout, flows.Dropout)
    for module in (agent.loss.actor_network, agent.loss.qvalue_network):
        rates = [each.p for each in module.modules() if isinstance(each, kinds)]
        assert not any(rates)


@pytest.mark.parametrize("name", REPLAY)
def test_what_follows_a_terminated_step_is_not_looked_at(name):
    """Of such states there is no value (pytorch/rl #2590)."""
    env = envs.make(task(name))
    agent = agents.make(name, env, **SMALL[name])
    batch = batch_for(agent, env, size=12)
    other = batch.clone()
    ended = batch["next", "terminated"][:, 0]
    other["next", "observation"][ended] = 1e3
    reports = []
    for each in (batch, other):
        torch.manual_seed(0)
        reports.append(agent.loss(each.clone()))
    losses = [key for key in map(str, reports[0].keys()) if "loss" in key]
    for key in losses:
        torch.testing.assert_close(reports[0][key], reports[1][key], rtol=1e-6, atol=1e-6)
    other["next", "observation"][~ended] = 3.0  # but of others it is
    torch.manual_seed(0)
    moved = agent.loss(other)
    assert any((moved[key] - reports[0][key]).abs() > 1e-4 for key in losses)


@pytest.mark.parametrize("name", ["dqn", "ddpg"])
@pytest.mark.quick_for("dqn")
def test_exploration_goes_on_after_a_resume(name):
    """Returns that fall after one (stable-baselines3 #435): everything random comes back."""
    whole = make_trainer(agent=name, total_steps=120, eval_every=0)
    whole.run()
    first = make_trainer(agent=name, total_steps=70, eval_every=0)
    first.run()
    again = make_trainer(agent=name, total_steps=120, eval_every=0)
    again.restore(first.state())
    again.run()
    ours, theirs = again.state(), whole.state()
    for part in ("policy", "behavior", "loss", "state", "experience", "statistics"):
        assert not differences(ours[part], theirs[part], part)
