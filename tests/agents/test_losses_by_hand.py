"""Losses and gradients of agents on TorchRL's losses, against their papers' formulas.

What is random in a target is taken out by hand: TD3's noise is clipped to zero, and SAC's targets
are of terminated steps or drawn from the same generator.
"""

import copy

import pytest
import torch
from tensordict import TensorDict
from torch.nn.functional import mse_loss

from maxentflow import agents, envs

from .common import SMALL

GAMMA = 0.875


def batch_of(env, size=32):
    torch.manual_seed(1)
    obs_dim, space = env.single_observation_space.shape[0], env.single_action_space
    discrete = not space.shape
    flags = torch.arange(size)[:, None] % 3
    return TensorDict(
        observation=torch.randn(size, obs_dim),
        action=torch.randint(int(space.n), (size,)) if discrete else torch.rand(size, 1) * 2 - 1,
        next=TensorDict(
            observation=torch.randn(size, obs_dim),
            reward=torch.randn(size, 1),
            done=flags > 0,
            terminated=flags == 1,
            batch_size=[size],
        ),
        batch_size=[size],
    )


def make(name, env_id, **settings):
    torch.manual_seed(0)
    env = envs.make(env_id)
    agent = agents.make(name, env, **{**SMALL[name], "gamma": GAMMA, **settings})
    with torch.no_grad():  # targets that differ from what learns
        for key, entry in agent.loss.state_dict().items():
            if key.startswith("target_") and entry.is_floating_point():
                entry.add_(0.1 * torch.randn_like(entry))
    return agent, batch_of(env)


def functions(agent, part, target=False):
    """Copies of the networks of a loss, plain modules of tensors."""
    loss = agent.loss
    params = getattr(loss, f"{'target_' if target else ''}{part}_network_params")
    stacked = params.batch_size[0] if params.batch_size else 0
    sets = [params[index] for index in range(stacked)] if stacked else [params]
    networks = []
    for each in sets:
        network = copy.deepcopy(getattr(loss, f"{part}_network"))
        each.data.clone().to_module(network)
        for parameter in network.parameters():
            parameter.requires_grad_(True)
        networks.append(network)
    return networks


def q_of(network, observation, action):
    data = TensorDict(observation=observation, action=action, batch_size=observation.shape[:1])
    return network(data)["state_action_value"]


def action_of(network, observation):
    return network(TensorDict(observation=observation, batch_size=observation.shape[:1]))["action"]


def target_of(batch, value):
    following = batch["next"]
    return following["reward"] + GAMMA * (1 - following["terminated"].float()) * value


def assert_gradients(agent, report, name, part, networks, expected):
    """Of the loss by hand, and of TorchRL's."""
    assert report[name].item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
    params = getattr(agent.loss, f"{part}_network_params")
    entries = [each for each in params.values(True, True) if each.requires_grad]
    ours = torch.autograd.grad(report[name], entries, retain_graph=True)
    by_hand = [
        torch.autograd.grad(expected, list(network.parameters()), retain_graph=True)
        for network in networks
    ]
    norm = sum(gradient.square().sum() for gradient in ours).sqrt()
    hand = sum(gradient.square().sum() for each in by_hand for gradient in each).sqrt()
    assert norm > 1e-3
    assert norm.item() == pytest.approx(hand.item(), rel=1e-4)


def test_ddpg():
    """Lillicrap et al. 2016, algorithm 1."""
    agent, batch = make("ddpg", "Pendulum-v1")
    report = agent.loss(batch.clone())
    (actor,), (critic,) = functions(agent, "actor"), functions(agent, "value")
    (old_actor,) = functions(agent, "actor", target=True)
    (old_critic,) = functions(agent, "value", target=True)
    with torch.no_grad():
        following = batch["next", "observation"]
        target = target_of(batch, q_of(old_critic, following, action_of(old_actor, following)))
    q = q_of(critic, batch["observation"], batch["action"])
    assert_gradients(agent, report, "loss_value", "value", [critic], mse_loss(q, target))
    acted = action_of(actor, batch["observation"])
    gain = q_of(critic, batch["observation"], acted)
    assert_gradients(agent, report, "loss_actor", "actor", [actor], -gain.mean())


def test_td3():
    """Fujimoto et al. 2018, algorithm 1, with its noise clipped to next to nothing."""
    agent, batch = make("td3", "Pendulum-v1", target_noise_clip=1e-9)
    report = agent.loss(batch.clone())
    (actor,), critics = functions(agent, "actor"), functions(agent, "qvalue")
    (old_actor,) = functions(agent, "actor", target=True)
    old_critics = functions(agent, "qvalue", target=True)
    with torch.no_grad():
        following = batch["next", "observation"]
        acted = action_of(old_actor, following)
        least = torch.min(*(q_of(each, following, acted) for each in old_critics))
        target = target_of(batch, least)
    errors = [
        mse_loss(q_of(each, batch["observation"], batch["action"]), target) for each in critics
    ]
    assert_gradients(agent, report, "loss_qvalue", "qvalue", critics, sum(errors))
    gain = q_of(critics[0], batch["observation"], action_of(actor, batch["observation"]))
    assert_gradients(agent, report, "loss_actor", "actor", [actor], -gain.mean())


def test_dqn():
    """Van Hasselt et al. 2016, eq. 4: the online network chooses, the target evaluates."""
    agent, batch = make("dqn", "CartPole-v1")
    report = agent.loss(batch.clone())
    (network,), (target_network,) = functions(agent, "value"), functions(agent, "value", True)

    def table(each, observation):
        data = TensorDict(observation=observation, batch_size=observation.shape[:1])
        return each(data)["action_value"]

    with torch.no_grad():
        following = batch["next", "observation"]
        chosen = table(network, following).argmax(-1, keepdim=True)
        assert (chosen != table(target_network, following).argmax(-1, keepdim=True)).any()
        target = target_of(batch, table(target_network, following).gather(-1, chosen))
    q = table(network, batch["observation"]).gather(-1, batch["action"][:, None])
    assert_gradients(agent, report, "loss", "value", [network], mse_loss(q, target))


def test_discrete_sac():
    """Christodoulou 2019, eq. 10 to 12."""
    agent, batch = make("discrete-sac", "CartPole-v1", temperature=0.5)
    report = agent.loss(batch.clone())
    (actor,), critics = functions(agent, "actor"), functions(agent, "qvalue")
    old_critics = functions(agent, "qvalue", target=True)

    def table(each, observation):
        data = TensorDict(observation=observation, batch_size=observation.shape[:1])
        return each(data)["action_value"]

    def log_policy(observation):
        data = TensorDict(observation=observation, batch_size=observation.shape[:1])
        return actor.get_dist(data).logits.log_softmax(-1)

    with torch.no_grad():
        following = batch["next", "observation"]
        least = torch.min(*(table(each, following) for each in old_critics))
        log_prob = log_policy(following)
        value = (log_prob.exp() * (least - 0.5 * log_prob)).sum(-1, keepdim=True)
        target = target_of(batch, value)
    index = batch["action"][:, None]
    errors = [
        mse_loss(table(each, batch["observation"]).gather(-1, index), target) for each in critics
    ]
    assert_gradients(agent, report, "loss_qvalue", "qvalue", critics, sum(errors))
    log_prob = log_policy(batch["observation"])
    with torch.no_grad():
        least = torch.min(*(table(each, batch["observation"]) for each in critics))
    loss = (log_prob.exp() * (0.5 * log_prob - least)).sum(-1).mean()
    assert_gradients(agent, report, "loss_actor", "actor", [actor], loss)


@pytest.mark.parametrize("name", ["sac", "flow-sac"])
@pytest.mark.parametrize("forms", [{}, {"reward_shift": True}, {"critic_flow": "additive"}])
def test_sac_with_any_actor_and_critic(name, forms):
    """Haarnoja et al. 2018, eq. 5 and 9, with the actor's samples from the same generator."""
    agent, batch = make(name, "Pendulum-v1", temperature=0.5, **forms)
    torch.manual_seed(2)
    report = agent.loss(batch.clone())
    (actor,), critics = functions(agent, "actor"), functions(agent, "qvalue")
    old_critics = functions(agent, "qvalue", target=True)

    def sample(observation):
        data = TensorDict(observation=observation, batch_size=observation.shape[:1])
        return actor.get_dist(data).rsample_and_log_prob()

    torch.manual_seed(2)
    with torch.no_grad():  # the target's sample is drawn first
        following = batch["next", "observation"]
        acted, log_prob = sample(following)
        least = torch.min(*(q_of(each, following, acted) for each in old_critics))
        target = target_of(batch, least - 0.5 * log_prob[:, None])
    errors = [
        mse_loss(q_of(each, batch["observation"], batch["action"]), target) for each in critics
    ]
    acted, log_prob = sample(batch["observation"])
    least = torch.min(*(q_of(each, batch["observation"], acted) for each in critics))
    loss = (0.5 * log_prob - least[:, 0]).mean()
    assert_gradients(agent, report, "loss_qvalue", "qvalue", critics, sum(errors))
    assert_gradients(agent, report, "loss_actor", "actor", [actor], loss)


def test_the_reward_shift_leaves_the_actor_alone():
    """Q + b(s) has the gradients of Q in the action."""
    agent, batch = make("sac", "Pendulum-v1", reward_shift=True, temperature=0.5)
    params = agent.loss.qvalue_network_params
    actor = list(agent.loss.actor_network_params.values(True, True))
    biases = [each for key, each in params.items(True, True) if {"shift", "bias"} <= set(key)]
    losses, gradients = [], []
    for shift in (0.0, 100.0):
        biases[-1].data.add_(shift)  # of the last layer, for both critics
        torch.manual_seed(2)
        report = agent.loss(batch.clone())
        losses.append(report["loss_actor"].item())
        gradients.append(torch.autograd.grad(report["loss_actor"], actor))
    assert losses[1] == pytest.approx(losses[0] - 100.0, rel=1e-4)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
