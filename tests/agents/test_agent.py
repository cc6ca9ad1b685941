"""Agents by name, and one update against Adam written out by hand."""

import copy
from dataclasses import dataclass
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import SyncVectorEnv
from tensordict import TensorDict

from maxentflow import agents, envs, flows
from maxentflow.agents import Agent, MeowConfig, SacConfig
from maxentflow.agents import agent as agent_module

from .common import MULTIGOAL, SMALL, differences, make_double_agent

NOT_POSITIVE = (0.0, -1.0, float("inf"), float("nan"))
TASKS = [MULTIGOAL, "Pendulum-v1", "Hopper-v4"]


@pytest.fixture
def env():
    return envs.make("Pendulum-v1")


def random_batch(env, size=6, dtype=torch.float32):
    obs_dim, action_dim = env.single_observation_space.shape[0], env.single_action_space.shape[0]
    kind = torch.arange(size)[:, None] % 3
    return TensorDict(
        observation=torch.randn(size, obs_dim, dtype=dtype),
        action=torch.rand(size, action_dim, dtype=dtype) * 1.6 - 0.8,
        next=TensorDict(
            observation=torch.randn(size, obs_dim, dtype=dtype),
            reward=torch.randn(size, 1, dtype=dtype),
            done=kind > 0,
            terminated=kind == 1,
            batch_size=[size],
        ),
        batch_size=[size],
    )


# By name


def test_the_registered_agents():
    assert agents.registered() == ("meow", "sac")


@pytest.mark.parametrize(
    ("name", "hint"),
    [("moew", " Did you mean 'meow'?"), ("sca", " Did you mean 'sac'?"), ("x", "")],
)
def test_an_unknown_agent_is_refused_with_near_matches(env, name, hint):
    for call in (agents.config, partial(agents.make, env=env)):
        with pytest.raises(ValueError, match="Unknown agent") as caught:
            call(name)
        assert str(caught.value) == f"Unknown agent {name!r}; known: meow, sac.{hint}"


@pytest.mark.parametrize(("name", "kind"), [("meow", MeowConfig), ("sac", SacConfig)])
def test_an_unknown_setting_is_refused_with_those_accepted(env, name, kind):
    with pytest.raises(ValueError, match="has no setting 'temprature', 'zeta'") as caught:
        agents.make(name, env, temprature=1.0, zeta=2)
    for setting in kind.__dataclass_fields__:
        assert setting in str(caught.value)


@pytest.mark.parametrize("name", agents.registered())
@pytest.mark.parametrize("env_id", TASKS)
def test_settings_replace_the_tasks_defaults(name, env_id):
    defaults, changed = agents.config(name, env_id), agents.config(name, env_id, gamma=0.5)
    assert changed.gamma == 0.5
    assert type(defaults) is type(changed)
    assert {**vars(changed), "gamma": defaults.gamma} == vars(defaults)
    made = agents.make(name, envs.make(env_id), gamma=0.5, **SMALL[name])
    assert vars(made.config) == {**vars(changed), **SMALL[name]}
    assert made.name == name


@pytest.mark.parametrize("name", agents.registered())
def test_settings_reach_the_loss_and_the_updater(env, name):
    made = agents.make(name, env, gamma=0.5, tau=0.25)
    assert made.loss.value_estimator.gamma.item() == 0.5
    assert made.target_updater.eps == 0.75


@pytest.mark.parametrize("name", agents.registered())
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gamma": 1.01}, r"gamma must be in \[0, 1\], got 1.01"),
        ({"gamma": -0.1}, r"gamma must be in \[0, 1\], got -0.1"),
        ({"gamma": float("nan")}, r"gamma must be in \[0, 1\], got nan"),
        ({"tau": 0.0}, r"tau must be in \(0, 1\], got 0.0"),
        ({"tau": 7.0}, r"tau must be in \(0, 1\], got 7.0"),
        ({"average_decay": 1.0}, r"average_decay must be in \[0, 1\), got 1.0"),
        ({"average_decay": -0.5}, r"average_decay must be in \[0, 1\), got -0.5"),
        ({"max_grad_norm": -1.0}, r"max_grad_norm must be positive and finite, got -1.0"),
    ],
)
def test_values_out_of_range(env, name, settings, message):
    with pytest.raises(ValueError, match=message):
        agents.make(name, env, **settings)


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        *(("meow", "temperature", value) for value in NOT_POSITIVE),
        *(("meow", "learning_rate", value) for value in NOT_POSITIVE),
        ("meow", "heads", -1),
        ("meow", "log_sigma", (0.0, -1.0)),
        ("meow", "flow", "nice"),
        ("meow", "flow_options", {"blocks": 0}),
        *(("sac", "alpha_init", value) for value in NOT_POSITIVE),
        *(("sac", "actor_learning_rate", value) for value in NOT_POSITIVE),
        *(("sac", "critic_learning_rate", value) for value in NOT_POSITIVE),
        ("sac", "hidden", (0,)),
        ("sac", "hidden", (8, -8)),
    ],
)
def test_values_that_only_one_agent_has(env, name, setting, value):
    word = {"log_sigma": "log-sigma", "flow_options": "blocks"}.get(setting, setting)
    with pytest.raises(ValueError, match=word):
        agents.make(name, env, **{setting: value})


class Grid(gym.Env):
    """Acts in a matrix, which no agent here does."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (2, 2), np.float32)


@pytest.mark.parametrize("name", agents.registered())
def test_other_action_spaces_are_refused(name):
    with pytest.raises(ValueError, match=rf"'{name}' needs .* continuous .*, got Discrete\(2\)"):
        agents.make(name, envs.make("CartPole-v1"))
    with pytest.raises(ValueError, match=rf"'{name}' needs a one-dimensional .*\(2, 2\)"):
        agents.make(name, SyncVectorEnv([Grid]))


def test_an_agent_of_ones_own_by_name(env, monkeypatch):
    """Its builder gets the task's defaults, less what is replaced, and the device."""
    monkeypatch.setattr(agent_module, "_AGENTS", dict(agent_module._AGENTS))

    @dataclass
    class PlainConfig:
        max_grad_norm: float | None = None
        size: int = 1

        @classmethod
        def for_task(cls, env_id):
            return cls(size=len(env_id))

    @agents.register("plain", PlainConfig)
    def plain(env, config, *, device):
        return Agent("plain", None, None, None, None, (config, device))

    assert agents.registered() == ("meow", "sac", "plain")
    config, device = agents.make("plain", env, device="meta", max_grad_norm=2.0).config
    assert (config, device) == (PlainConfig(2.0, len("Pendulum-v1")), "meta")


@pytest.mark.parametrize("name", agents.registered())
def test_everything_of_an_agent_is_on_its_device(name, monkeypatch):
    """A recorded launch on a GPU cannot wait for a number that is not there."""
    monkeypatch.setattr(torch.Tensor, "is_set_to", lambda *_: False)  # meta tensors have none
    agent = agents.make(name, envs.make("Pendulum-v1"), device="meta")
    for module in (agent.loss, agent.policy, agent.behavior):
        tensors = [*module.named_parameters(), *module.named_buffers()]
        assert {key: t.device.type for key, t in tensors if t.device.type != "meta"} == {}
    assert "gamma" in {key.split(".")[-1] for key, _ in agent.loss.named_buffers()}


def test_a_flow_of_ones_own_is_used(env):
    own = flows.build("affine", 1, 3, temperature=0.125, blocks=1, hidden=(8,))
    agent = agents.meow(env, flow=own)
    assert agent.behavior.flow is own
    assert not differences(dict(agent.policy.flow.state_dict()), dict(own.state_dict()))
    assert agent.loss.temperature == 0.125
    (vector,) = agent.optimizer.param_groups[0]["params"]
    storages = {parameter.untyped_storage().data_ptr() for parameter in own.parameters()}
    assert storages == {vector.untyped_storage().data_ptr()}
    assert vector.count_nonzero() == sum(p.count_nonzero() for p in own.parameters())
    before = copy.deepcopy(own.state_dict())
    agent.update(random_batch(env))
    assert differences(dict(before), dict(own.state_dict()))


@pytest.mark.parametrize("sizes", [(2, 3), (1, 4)])
def test_a_flow_of_other_sizes_is_refused(env, sizes):
    own = flows.build("affine", *sizes, temperature=0.125, blocks=1, hidden=(8,))
    with pytest.raises(ValueError, match="the environment has 1 and 3"):
        agents.meow(env, flow=own)


# The optimiser


def learned(agent):
    """The loss's parameters by name, and for each the optimiser's group that has its memory."""
    storages = {
        vector.untyped_storage().data_ptr(): group
        for group in agent.optimizer.param_groups
        for vector in group["params"]
    }
    return {
        key: (parameter, storages[parameter.untyped_storage().data_ptr()])
        for key, parameter in agent.loss.named_parameters()
        if not key.startswith("target_")
    }


@pytest.mark.parametrize("env_id", TASKS)
@pytest.mark.parametrize("name", agents.registered())
def test_the_optimizer_has_each_parameter_once(name, env_id):
    agent = agents.make(name, envs.make(env_id))
    parameters = [parameter for parameter, _ in learned(agent).values()]
    for number, parameter in enumerate(parameters):
        parameter.data.fill_(number + 1)
    # Had two of them shared memory, the first would hold the second's number.
    assert all((p == number + 1).all() for number, p in enumerate(parameters))
    vectors = [vector for group in agent.optimizer.param_groups for vector in group["params"]]
    assert sum(map(torch.count_nonzero, vectors)) == sum(p.numel() for p in parameters)
    assert all(parameter.requires_grad for parameter in parameters)


def test_learning_rates_of_sac(env):
    agent = agents.make("sac", env, actor_learning_rate=0.25, critic_learning_rate=0.5)
    named = {key: group["lr"] for key, (_, group) in learned(agent).items()}
    critic = {key for key, rate in named.items() if rate == 0.5}
    assert critic == {key for key in named if key.startswith("qvalue_network_params")}
    assert {named[key] for key in set(named) - critic} == {0.25}
    assert "log_alpha" in set(named) - critic
    assert any(key.startswith("actor_network_params") for key in set(named) - critic)


def hand_loss(flow, target, batch, gamma):
    """Mean over heads and batch of (Q - r - gamma (1 - terminated) min V)^2."""
    value = target.value(batch["next", "observation"]).amin(-1, keepdim=True).detach()
    alive = 1 - batch["next", "terminated"].double()
    q = flow.q_value(batch["action"], batch["observation"])
    return ((q - batch["next", "reward"] - gamma * alive * value) ** 2).mean()


@pytest.mark.parametrize("max_grad_norm", [None, 0.125, 1e6])
@pytest.mark.parametrize("heads", [1, 2])
def test_three_updates_by_hand(env, heads, max_grad_norm):
    rate, tau, decay = 0.01, 0.25, 0.75
    agent = make_double_agent(
        env,
        heads=heads,
        gamma=0.875,
        tau=tau,
        learning_rate=rate,
        max_grad_norm=max_grad_norm,
        average_decay=decay,
    )
    flow, target = (copy.deepcopy(agent.behavior.flow) for _ in range(2))
    parameters = list(flow.parameters())
    averages = [parameter.detach().clone() for parameter in parameters]
    first = [torch.zeros_like(parameter) for parameter in parameters]
    second = [torch.zeros_like(parameter) for parameter in parameters]
    for count in range(1, 4):
        batch = random_batch(env, dtype=torch.float64)
        loss = hand_loss(flow, target, batch, 0.875)
        gradients = torch.autograd.grad(
            loss, parameters, materialize_grads=True, allow_unused=True
        )
        norm = torch.stack([(gradient**2).sum() for gradient in gradients]).sum().sqrt()
        clip = 1.0 if max_grad_norm is None else min(1.0, max_grad_norm / norm.item())
        assert (clip < 1) == (max_grad_norm == 0.125)
        with torch.no_grad():
            for p, g, m, v in zip(parameters, gradients, first, second, strict=True):
                m.mul_(0.9).add_(0.1 * clip * g)
                v.mul_(0.999).add_(0.001 * (clip * g) ** 2)
                p -= rate * (m / (1 - 0.9**count)) / ((v / (1 - 0.999**count)).sqrt() + 1e-8)
            for p, t in zip(parameters, target.parameters(), strict=True):
                t += tau * (p - t)
            for p, a in zip(parameters, averages, strict=True):
                a += (1 - decay) * (p - a)
        report = agent.update(batch)
        assert not report["loss"].requires_grad
        # torch clips by the norm plus 1e-6, which the formula does not have.
        assert report["loss"].item() == pytest.approx(loss.item(), rel=1e-7)
    names = dict(agent.behavior.flow.named_parameters())
    for (name, p), expected in zip(names.items(), parameters, strict=True):
        torch.testing.assert_close(p, expected, rtol=0, atol=1e-6, msg=name)
    for name, expected in zip(names, averages, strict=True):
        average = agent.policy.flow.get_parameter(name)
        torch.testing.assert_close(average, expected, rtol=0, atol=1e-6, msg=name)
    observation = torch.randn(5, 3, dtype=torch.float64)
    with (
        torch.no_grad(),
        agent.loss.target_value_network_params.to_module(agent.loss.value_network),
    ):
        value = agent.loss.value_network(TensorDict(observation=observation))["state_value"]
    expected = target.value(observation).amin(-1, keepdim=True)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-5)


def test_dropout_is_on_in_the_update(env):
    """From the same state and batch, another mask gives other weights."""
    batch, states = random_batch(env, dtype=torch.float64), []
    for mask_seed in (1, 1, 2):
        torch.manual_seed(0)
        agent = make_double_agent(env, dropout=0.5)
        torch.manual_seed(mask_seed)
        agent.update(batch.clone())
        states.append(dict(agent.loss.state_dict()))
    assert not differences(states[0], states[1])
    assert differences(states[0], states[2])


@pytest.mark.parametrize("name", agents.registered())
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_changes_nothing(env, name, value):
    agent = agents.make(name, env)
    agent.update(random_batch(env))
    before = copy.deepcopy([dict(agent.loss.state_dict()), agent.optimizer.state_dict()])
    batch = random_batch(env)
    batch["next", "reward"][2] = value
    with pytest.raises(FloatingPointError, match=r"loss is (nan|inf)"):
        agent.update(batch)
    assert not differences(before, [dict(agent.loss.state_dict()), agent.optimizer.state_dict()])
    agent.update(random_batch(env))
    assert all(entry.isfinite().all() for entry in agent.loss.state_dict().values())


def group_parameters(loss):
    named = {k: p for k, p in loss.named_parameters() if not k.startswith("target_")}
    return {
        prefix: [p for key, p in named.items() if key.startswith(prefix)]
        for prefix in ("actor_network_params", "qvalue_network_params", "log_alpha")
    }


def test_each_loss_of_sac_moves_its_own_part(env):
    agent = agents.make("sac", env, hidden=(8,))
    groups = group_parameters(agent.loss)
    report = agent.loss(random_batch(env))
    owners = {
        "loss_actor": "actor_network_params",
        "loss_qvalue": "qvalue_network_params",
        "loss_alpha": "log_alpha",
    }
    assert {key for key in report.keys() if key.startswith("loss")} == set(owners)  # noqa: SIM118
    total = sum(report[key] for key in owners)
    for key, owner in owners.items():
        for group, parameters in groups.items():
            options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
            alone = torch.autograd.grad(report[key], parameters, **options)
            moved = any(gradient.abs().max() > 0 for gradient in alone)
            assert moved == (group == owner), (key, group)
            if moved:
                together = torch.autograd.grad(total, parameters, **options)
                for a, b in zip(alone, together, strict=True):
                    torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_losses_of_sac_by_hand(env):
    """The critics' regression and the temperature's loss (Haarnoja et al. 2018, eq. 5 and 18)."""
    agent = agents.make("sac", env, hidden=(8,), alpha_init=0.5, gamma=0.875)
    batch = random_batch(env, 64)
    batch["next", "terminated"][:] = True  # targets are rewards, whatever is sampled
    report = agent.loss(batch.clone())
    action, observation = batch["action"], batch["observation"]
    total = 0.0
    for head in range(2):
        parameters = agent.loss.qvalue_network_params[head]
        with parameters.to_module(agent.loss.qvalue_network):
            data = TensorDict(observation=observation, action=action, batch_size=[64])
            q = agent.loss.qvalue_network(data)["state_action_value"]
        total += ((q - batch["next", "reward"]) ** 2).mean()
    assert report["loss_qvalue"].item() == pytest.approx(total.item(), rel=1e-5)  # float32
    assert report["alpha"].item() == pytest.approx(0.5)
    wanted = -np.log(0.5) * (-report["entropy"].item() + -1.0)  # target entropy -1
    assert report["loss_alpha"].item() == pytest.approx(wanted, rel=1e-4)  # float32
