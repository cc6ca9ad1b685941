"""Agents by name, and one update against Adam written out by hand."""

import copy
from dataclasses import InitVar, dataclass, field
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import SyncVectorEnv
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.objectives import LossModule

from maxentflow import agents, envs, flows
from maxentflow.agents import Agent, Rollout, Step, registry

from .common import DISCRETE, SMALL, differences, make_double_agent, task

NOT_POSITIVE = (0.0, -1.0, float("inf"), float("nan"))
MANY = "maxentflow/MultiGoal-v0", "Pendulum-v1", "Hopper-v4", "CartPole-v1"
NAMES = agents.registered()


@pytest.fixture
def env():
    return envs.make("Pendulum-v1")


def fits(name, env_id):
    """Whether an agent acts in a task."""
    kind = "discrete" if env_id == "CartPole-v1" else "continuous"
    if name == "bc":  # whose demonstrations are of one task
        return env_id == task(name)
    return kind in agents.summaries()[name].actions


PAIRS = [(name, env_id) for name in NAMES for env_id in MANY if fits(name, env_id)]


def small(name, env=None, **settings):
    """A small agent, in its task unless another is given."""
    return agents.make(name, env or envs.make(task(name)), **{**SMALL[name], **settings})


def parts(agent):
    """All that an agent's state is made of."""
    return copy.deepcopy(agent.state_dict())


def batch_for(agent, env, size=6):
    """Transitions that its loss reads."""
    batch = random_batch(env, size)
    if agent.rollout is not None:
        with torch.no_grad():
            acted = agent.act(batch.select("observation"))
            batch = agent.rollout.estimator(acted.update(batch.select("next"))[None])[0]
    return batch


def random_batch(env, size=6, dtype=torch.float32):
    obs_dim, space = env.single_observation_space.shape[0], env.single_action_space
    kind = torch.arange(size)[:, None] % 3
    if isinstance(space, gym.spaces.Discrete):
        action = torch.randint(int(space.n), (size,))
    else:
        action = torch.rand(size, *space.shape, dtype=dtype) * 1.6 - 0.8
    return TensorDict(
        observation=torch.randn(size, obs_dim, dtype=dtype),
        action=action,
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
    assert set(agents.registered()) == set(SMALL)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("moew", " Did you mean 'meow'?"),
        ("softq", " Did you mean 'soft-q'?"),
        ("sca", " Did you mean 'sac'?"),
        ("x", ""),
    ],
)
def test_an_unknown_agent_is_refused_with_near_matches(env, name, hint):
    for call in (agents.config, partial(agents.make, env=env)):
        with pytest.raises(ValueError, match="Unknown agent") as caught:
            call(name)
        assert str(caught.value) == (f"Unknown agent {name!r}; known: {', '.join(NAMES)}.{hint}")


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_setting_is_refused_with_those_accepted(name):
    with pytest.raises(ValueError, match="has no setting 'temprature', 'zeta'") as caught:
        agents.make(name, envs.make(task(name)), temprature=1.0, zeta=2)
    for setting in vars(agents.config(name)):
        assert setting in str(caught.value)


@pytest.mark.parametrize(("name", "env_id"), PAIRS)
def test_settings_replace_the_tasks_defaults(name, env_id):
    defaults, changed = agents.config(name, env_id), agents.config(name, env_id, gamma=0.5)
    assert changed.gamma == 0.5
    assert type(defaults) is type(changed)
    assert {**vars(changed), "gamma": defaults.gamma} == vars(defaults)
    made = small(name, envs.make(env_id), gamma=0.5)
    assert vars(made.config) == {**vars(changed), **SMALL[name]}
    assert made.name == name


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("ppo", "bc")])
def test_settings_reach_the_loss_and_the_updater(name):
    made = small(name, gamma=0.5, tau=0.25)
    assert made.loss.value_estimator.gamma.item() == 0.5
    learning, entries = dict(made.loss.named_parameters()), made.loss.state_dict()
    targets = {key: f"target_{key}" for key in learning if f"target_{key}" in entries}
    for source, target in targets.items():
        entries[source].fill_(1.0)
        entries[target].fill_(0.0)
    for _ in range(getattr(made.config, "policy_delay", 1)):
        made.target_updater.step()
    assert targets
    assert all((entries[target] == 0.25).all() for target in targets.values())


def test_settings_reach_ppo():
    made = small("ppo", gamma=0.5, gae_lambda=0.25, clip=0.125, entropy_coefficient=0.5)
    assert made.rollout.estimator.gamma.item() == 0.5
    assert made.rollout.estimator.lmbda.item() == 0.25
    assert made.loss.clip_epsilon.item() == 0.125
    assert made.loss.entropy_coeff.item() == 0.5
    assert (made.rollout.steps, made.rollout.epochs, made.rollout.minibatch_size) == (32, 2, 16)
    assert "loss_entropy" in made.steps[0].losses
    assert "loss_entropy" not in small("ppo", entropy_coefficient=0.0).steps[0].losses


OUT_OF_RANGE = [
    ({"gamma": 1.01}, r"gamma must be in \[0, 1\], got 1.01"),
    ({"gamma": -0.1}, r"gamma must be in \[0, 1\], got -0.1"),
    ({"gamma": float("nan")}, r"gamma must be in \[0, 1\], got nan"),
    ({"gae_lambda": 1.5}, r"gae_lambda must be in \[0, 1\], got 1.5"),
    ({"tau": 0.0}, r"tau must be in \(0, 1\], got 0.0"),
    ({"tau": 7.0}, r"tau must be in \(0, 1\], got 7.0"),
    ({"average_decay": 1.0}, r"average_decay must be in \[0, 1\), got 1.0"),
    ({"average_decay": -0.5}, r"average_decay must be in \[0, 1\), got -0.5"),
    ({"max_grad_norm": -1.0}, r"max_grad_norm must be positive and finite, got -1.0"),
    ({"temperature": 0.0}, r"temperature must be in \[1e-6, 1e6\], got 0.0"),
    ({"temperature": float("inf")}, r"temperature must be in \[1e-6, 1e6\], got inf"),
    ({"entropy_coefficient": -1.0}, r"entropy_coefficient must be in \[0, 1\], got -1.0"),
    ({"hidden": (0,)}, r"hidden must be widths of at least 1, below 10\^9, got \(0,\)"),
    ({"hidden": (8, -8)}, r"hidden must be widths of at least 1, below 10\^9, got \(8, -8\)"),
    *(
        ({name: value}, f"{name} must be positive and finite, got {value}")
        for name in (
            "learning_rate",
            "actor_learning_rate",
            "critic_learning_rate",
            "exploration_noise",
            "target_noise",
            "target_noise_clip",
            "clip",
        )
        for value in NOT_POSITIVE
    ),
    *(
        ({name: value}, f"{name} must be at least 1, got {value}")
        for name in ("policy_delay", "epochs", "minibatch_size", "rollout_steps")
        for value in NOT_POSITIVE
    ),
]


@pytest.mark.parametrize("name", NAMES)
def test_values_out_of_range(name):
    known, refused = vars(agents.config(name)), 0
    for settings, message in OUT_OF_RANGE:
        if settings.keys() <= known.keys():
            refused += 1
            with pytest.raises(ValueError, match=message):
                agents.config(name, **settings)
    assert refused > 7


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("heads", -1),
        ("log_sigma", (0.0, -1.0)),
        ("flow", "nice"),
        ("flow_options", {"blocks": 0}),
    ],
)
def test_values_that_a_flow_refuses(env, setting, value):
    word = {"log_sigma": "log-sigma", "flow_options": "blocks"}.get(setting, setting)
    with pytest.raises(ValueError, match=word):
        agents.make("meow", env, **{setting: value})


class Grid(gym.Env):
    """Acts in a matrix, which no agent here does."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (2, 2), np.float32)


class FromOne(Grid):
    action_space = gym.spaces.Discrete(2, start=1)


class Picture(gym.Env):
    """A small image."""

    observation_space = gym.spaces.Box(0, 255, (4, 4, 3), np.uint8)
    action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)


class DiscretePicture(Picture):
    action_space = gym.spaces.Discrete(2)


@pytest.mark.parametrize("name", NAMES)
def test_other_spaces_are_refused(env, name):
    grid = SyncVectorEnv([Grid])
    if name in DISCRETE:
        hint = "for continuous actions there are meow, sac, .* and ppo"
        with pytest.raises(ValueError, match=rf"'{name}' needs discrete .*, got Box.*; {hint}"):
            agents.make(name, env)
        with pytest.raises(ValueError, match=r"needs discrete actions 0, 1, 2, .*, got .*start=1"):
            agents.make(name, SyncVectorEnv([FromOne]))
        return
    with pytest.raises(ValueError, match=rf"'{name}' needs a one-dimensional .*\(2, 2\)"):
        agents.make(name, grid)
    if name != "ppo":
        hint = "for discrete actions there are soft-q, discrete-sac, dqn and ppo"
        with pytest.raises(ValueError, match=rf"'{name}' needs .*, got Discrete\(2\); {hint}"):
            agents.make(name, envs.make("CartPole-v1"))


class Table(Picture):
    observation_space = gym.spaces.Box(0, 255, (4, 4), np.uint8)


class DiscreteTable(Table):
    action_space = gym.spaces.Discrete(2)


class ChannelsFirst(Picture):
    observation_space = gym.spaces.Box(0, 255, (4, 84, 84), np.uint8)


class DiscreteChannelsFirst(ChannelsFirst):
    action_space = gym.spaces.Discrete(2)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "sql"])
def test_images_with_their_channels_first_are_refused(name):
    copies = SyncVectorEnv([DiscreteChannelsFirst if name in DISCRETE else ChannelsFirst])
    with pytest.raises(
        ValueError, match=r"as \(height, width, channels\), got shape \(4, 84, 84\)"
    ):
        agents.make(name, copies, **SMALL[name])


@pytest.mark.parametrize("name", NAMES)
def test_observations_that_are_neither_vectors_nor_images_are_refused(name):
    copies = SyncVectorEnv([DiscreteTable if name in DISCRETE else Table])
    known = "vectors" if name == "sql" else r"vectors, or images \(height, width, channels\)"
    with pytest.raises(
        ValueError, match=rf"'{name}' needs observations that are {known}, got Box.*Flatten"
    ):
        agents.make(name, copies, **SMALL[name])


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("sql", "bc", "ppo")])
def test_images(name):
    """Every network has an encoder of its own that learns, in the target too."""
    copies = SyncVectorEnv([DiscretePicture if name in DISCRETE else Picture])
    agent = agents.make(name, copies, **SMALL[name])
    bytes_of = lambda *shape: torch.randint(256, (*shape, 4, 4, 3), dtype=torch.uint8)  # noqa: E731
    acted = agent.act(TensorDict(observation=bytes_of(5), batch_size=[5]))
    assert acted["action"].shape[0] == 5
    batch = TensorDict(
        observation=bytes_of(8),
        action=torch.randint(2, (8,)) if name in DISCRETE else torch.rand(8, 2) * 2 - 1,
        next=TensorDict(
            observation=bytes_of(8),
            reward=torch.randn(8, 1),
            done=torch.zeros(8, 1, dtype=torch.bool),
            terminated=torch.zeros(8, 1, dtype=torch.bool),
            batch_size=[8],
        ),
        batch_size=[8],
    )
    before = parts(agent)["loss"]
    for _ in range(2):
        agent.update(batch)
    moved = differences(before, agent.state_dict()["loss"])
    filters = [key for key in before if "convolutions.0.weight" in key]
    assert filters
    assert {f"state/{key}" for key in filters} <= set(moved)


def test_an_agent_of_ones_own_by_name(env, monkeypatch):
    """Its builder gets the task's defaults, less what is replaced, and the device."""
    monkeypatch.setattr(registry, "_AGENTS", dict(registry._AGENTS))

    @dataclass
    class PlainConfig(agents.AgentConfig):
        max_grad_norm: float | None = None
        size: int = 1

        @classmethod
        def for_task(cls, env_id):
            return cls(size=len(env_id))

    given = []

    @agents.register("plain", PlainConfig)
    def plain(env, config, *, device):
        given.append((config, device))
        return agents.make("sac", env, **SMALL["sac"])

    assert agents.registered() == (*NAMES, "plain")
    assert agents.make("plain", env, device="meta", max_grad_norm=2.0).name == "sac"
    assert given == [(PlainConfig(2.0, len("Pendulum-v1")), "meta")]


def test_the_name_of_a_built_in_agent_is_taken():
    with pytest.raises(ValueError, match="An agent 'sac' comes with the package; choose another"):
        agents.register("sac", agents.SacConfig)(lambda env, config, *, device: None)


def test_an_agent_is_not_copied(env):
    """The copy's optimisers would train nothing."""
    with pytest.raises(TypeError, match="build another, and give it load_state_dict"):
        copy.deepcopy(agents.make("sac", env, **SMALL["sac"]))


def test_an_agent_is_shown_in_a_line(env):
    assert repr(agents.make("sac", env, **SMALL["sac"])) == "Agent('sac', updates=0)"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["meow", "sac", "flow-sac"])
def test_target_entropies_that_are_not_finite(name, value):
    with pytest.raises(ValueError, match=f"target_entropy must be finite, got {value}"):
        agents.config(name, target_entropy=value)


def test_settings_that_are_no_agents_are_refused():
    @dataclass
    class Loose:
        size: int = 1

    with pytest.raises(ValueError, match=r"derive from AgentConfig, got .*Loose"):
        agents.register("loose", Loose)


@dataclass
class Derived(agents.MeowConfig):
    temperature: float = 0.5  # the rule of MeowConfig still holds
    pair: tuple[float, float] = (1.0, 1.0)
    note: InitVar[str] = ""
    later: float = field(init=False)

    def __post_init__(self, note):
        super().__post_init__()
        self.later = 1.0


def test_rules_of_settings_are_inherited():
    assert Derived("affine", note="own").flow == "affine"
    with pytest.raises(ValueError, match=r"^temperature must be in \[1e-6, 1e6\], got -1.0\.$"):
        Derived(temperature=-1.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gamma": None}, r"gamma must be in \[0, 1\], got None"),
        ({"tau": "fast"}, r"tau must be in \(0, 1\], got fast"),
        ({"temperature": None}, r"temperature must be in \[1e-6, 1e6\], got None"),
    ],
)
def test_settings_of_another_type_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        agents.MeowConfig(**settings)
    assert agents.MeowConfig(max_grad_norm=None).max_grad_norm is None


@pytest.mark.parametrize("name", NAMES)
def test_everything_of_an_agent_is_on_its_device(name, monkeypatch):
    """A recorded launch on a GPU cannot wait for a number that is not there."""
    # Meta tensors cannot answer these.
    answer = torch.Tensor.__bool__
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda self: not self.is_meta and answer(self))
    monkeypatch.setattr(torch.Tensor, "is_set_to", lambda *_: False)
    agent = small(name, device="meta")
    modules = [agent.loss, agent.policy, agent.behavior]
    if agent.rollout is not None:
        modules.append(agent.rollout.estimator)
    named = {}
    for module in modules:
        tensors = [*module.named_parameters(), *module.named_buffers()]
        named |= {key: t.device.type for key, t in tensors}
    assert {key: device for key, device in named.items() if device != "meta"} == {}
    assert name == "bc" or "gamma" in {key.split(".")[-1] for key in named}


@pytest.mark.parametrize("decay", [0.0, 0.9])
@pytest.mark.parametrize("name", [n for n in NAMES if hasattr(agents.config(n), "average_decay")])
def test_an_average_of_weights_is_the_policy(name, decay):
    """Of all parameters that act, and none where the decay is 0."""
    agent = small(name, average_decay=decay)
    if decay == 0:
        acting = map(id, agent.behavior.parameters())
        assert list(map(id, agent.policy.parameters())) == list(acting)
        return
    pairs = list(zip(agent.behavior.parameters(), agent.policy.parameters(), strict=True))
    assert all(torch.equal(newest, average) for newest, average in pairs)
    for newest, average in pairs:
        assert newest is not average
        assert not average.requires_grad
        newest.data.fill_(2.0), average.fill_(1.0)
    agent.target_updater.step()
    for _, average in pairs:
        torch.testing.assert_close(average, torch.full_like(average, 1.1))


def test_meow_takes_a_flows_name_as_the_other_agents_do(env):
    agent = agents.meow(env, flow="spline", flow_options={"blocks": 1})
    assert agent.config.flow == "spline"
    assert not agent.custom
    with pytest.raises(ValueError, match="Unknown flow 'splin'"):
        agents.meow(env, flow="splin")


def test_a_flow_of_ones_own_is_used(env):
    own = flows.build("affine", 1, 3, temperature=0.125, blocks=1, hidden=(8,))
    agent = agents.meow(env, flow=own)
    assert agent.behavior.flow is own
    assert not differences(dict(agent.policy.flow.state_dict()), dict(own.state_dict()))
    assert agent.loss.temperature == 0.125
    learning = {id(parameter) for parameter in agent.steps[0].parameters()}
    assert learning == {id(parameter) for parameter in own.parameters()}
    assert agent.custom == ("flow",)
    assert agents.meow(env).custom == ()
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
    """The loss's parameters by name, and for each the optimiser's group that has it."""
    groups = {
        id(parameter): group
        for step in agent.steps
        for group in step.optimizer.param_groups
        for parameter in group["params"]
    }
    return {
        key: (parameter, groups[id(parameter)])
        for key, parameter in agent.loss.named_parameters()
        if not key.startswith("target_")
    }


@pytest.mark.parametrize(("name", "env_id"), PAIRS)
def test_the_optimizers_have_each_parameter_once(name, env_id):
    agent = small(name, envs.make(env_id))
    parameters = [parameter for parameter, _ in learned(agent).values()]
    assert len({id(parameter) for parameter in parameters}) == len(parameters)
    given = [id(parameter) for step in agent.steps for parameter in step.parameters()]
    assert sorted(given) == sorted(map(id, parameters))
    assert all(parameter.requires_grad for parameter in parameters)


def test_learning_rates_of_sac(env):
    rates = {"critic": 0.5, "actor": 0.25, "temperature": 0.125}
    agent = agents.make("sac", env, **{f"{k}_learning_rate": rate for k, rate in rates.items()})
    named = {key: group["lr"] for key, (_, group) in learned(agent).items()}
    critic = {key for key, rate in named.items() if rate == 0.5}
    assert critic == {key for key in named if key.startswith("qvalue_network_params")}
    assert named.pop("log_alpha") == 0.125
    assert {named[key] for key in set(named) - critic} == {0.25}
    assert any(key.startswith("actor_network_params") for key in set(named) - critic)


def hand_loss(flow, target, batch, gamma):
    """Mean over heads and batch of (Q - r - gamma (1 - terminated) min V)^2."""
    value = target.value(batch["next", "observation"]).amin(-1, keepdim=True).detach()
    alive = 1 - batch["next", "terminated"].double()
    q = flow.q_value(batch["action"], batch["observation"])
    return ((q - batch["next", "reward"] - gamma * alive * value) ** 2).mean()


@pytest.mark.parametrize("max_grad_norm", [None, 0.125, 1e6])
@pytest.mark.parametrize(
    ("heads", "weight_decay", "fade"), [(1, 0.0, 2), (2, 0.0, None), (2, 0.5, None), (2, 0.5, 2)]
)
def test_three_updates_by_hand(env, heads, max_grad_norm, weight_decay, fade):
    rate, tau, decay = 0.01, 0.25, 0.75
    agent = make_double_agent(
        env,
        heads=heads,
        gamma=0.875,
        tau=tau,
        learning_rate=rate,
        flow_learning_rate=rate,
        flow_weight_decay=weight_decay,
        flow_decay_updates=fade,
        max_grad_norm=max_grad_norm,
        average_decay=decay,
    )
    flow, target = (copy.deepcopy(agent.behavior.flow) for _ in range(2))
    parameters = list(flow.parameters())
    layers = {id(parameter) for parameter in flow.layers.parameters()}
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
                if id(p) in layers:
                    share = 1.0 if fade is None or count <= fade else (fade / count) ** 0.5
                    p *= 1 - rate * weight_decay * share * env.single_action_space.shape[0]
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
    following = {"observation": observation, "reward": torch.zeros(5, 1, dtype=torch.float64)}
    flags = {name: torch.zeros(5, 1, dtype=torch.bool) for name in ("done", "terminated")}
    probe = TensorDict({"observation": observation, "next": {**following, **flags}}, [5])
    with torch.no_grad(), agent.loss.target_network_params.to_module(agent.loss.value_network):
        value = agent.loss.value_network(probe)["state_value"]
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


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_changes_nothing(name, value):
    env = envs.make(task(name))
    agent = small(name, env)
    for _ in range(2):
        agent.update(batch_for(agent, env))
    before = parts(agent)
    batch = batch_for(agent, env)
    key = "advantage" if agent.rollout else ("next", "reward")
    if name == "bc":  # which clamps what is infinite
        key, value = "action", float("nan")
    batch[key][2] = value
    with pytest.raises(FloatingPointError, match=r"loss is (nan|-?inf)"):
        agent.update(batch)
    assert not differences(before, parts(agent))
    agent.update(batch_for(agent, env))
    assert all(entry.isfinite().all() for entry in agent.loss.state_dict().values())
    assert differences(before, parts(agent))


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_that_is_not_finite_changes_nothing(name, monkeypatch):
    """As that of sqrt at 0, times 0, in a loss that is finite."""
    env = envs.make(task(name))
    agent = small(name, env)
    for _ in range(agent.steps[-1].every - 1 or 2):  # so that the last step is due
        agent.update(batch_for(agent, env))
    before = parts(agent)
    learning = agent.steps[-1].parameters()[-1]
    forward = agent.loss.forward

    def broken(batch):
        report = forward(batch)
        extra = (learning.flatten()[0] * 0).sqrt() * 0
        loss = agent.steps[-1].losses[0]
        return report.set(loss, report[loss] + extra)

    with monkeypatch.context() as patch:
        patch.setattr(agent.loss, "forward", broken)
        assert broken(batch_for(agent, env))[agent.steps[-1].losses[0]].isfinite()
        with pytest.raises(FloatingPointError, match=r"^gradient is nan$"):
            agent.update(batch_for(agent, env))
    assert not differences(before, parts(agent))
    assert all(entry.isfinite().all() for entry in agent.loss.state_dict().values())
    agent.update(batch_for(agent, env))


@pytest.mark.parametrize("name", NAMES)
def test_a_state_comes_back(name):
    """In an agent that has learned something else; later updates are the same."""
    env = envs.make(task(name))
    agent, other = small(name, env), small(name, env)
    for _ in range(3):
        agent.update(batch_for(agent, env))
        other.update(batch_for(other, env))
    state = parts(agent)
    assert differences(state, parts(other))
    other.load_state_dict(state)
    assert not differences(state, parts(other))
    for each in (agent, other):
        torch.manual_seed(1)
        for _ in range(3):
            each.update(batch_for(each, env))
    assert not differences(parts(agent), parts(other))
    assert (agent.updates, other.updates) == (6, 6)


@pytest.mark.parametrize("name", NAMES)
def test_acting_gives_all_that_the_behaviour_writes(name):
    env = envs.make(task(name), 3)
    agent = small(name, env)
    observation = torch.as_tensor(env.reset(seed=0)[0])
    acted = agent.act(TensorDict(observation=observation, batch_size=[3]))
    assert torch.equal(acted["observation"], observation)
    assert acted["action"].shape == env.action_space.shape
    assert ("action_log_prob" in acted.keys()) == (  # noqa: SIM118
        name not in ("td3", "ddpg", "sql", "dqn")
    )
    assert not any(entry.requires_grad for entry in acted.values())
    other = agent.act(TensorDict(observation=observation, batch_size=[3]))
    if name not in DISCRETE:  # whose few actions may be the same
        assert (acted["action"] != other["action"]).any()  # it explores


# Steps


class Squares(LossModule):
    """Squares of two numbers, and whatever else is to be reported."""

    def __init__(self, **report):
        super().__init__()
        self.first = nn.Parameter(torch.tensor(1.0))
        self.second = nn.Parameter(torch.tensor(1.0))
        self.report = report

    def forward(self, batch):
        losses = {"loss_first": self.first.square(), "loss_second": self.second.square()}
        return TensorDict({**losses, **self.report})


def squares(*steps, **report):
    """An agent whose steps are given as (losses, options)."""
    loss = Squares(**report)
    policy = TensorDictModule(nn.Identity(), in_keys=["observation"], out_keys=["action"])
    made = [
        Step(losses, torch.optim.SGD([getattr(loss, name)], lr=0.5), **options)
        for losses, name, options in steps
    ]
    return Agent("squares", policy, loss, made)


FIRST, SECOND = (("loss_first",), "first", {}), (("loss_second",), "second", {})


def test_each_step_takes_its_turn():
    """Gradient descent of x^2 at rate 1/4 halves x each time, at 1/2 it is 0 at once."""
    agent = squares(FIRST, (("loss_second",), "second", {"every": 3}))
    agent.steps[0].optimizer.param_groups[0]["lr"] = 0.25
    values = []
    for _ in range(4):
        agent.update(TensorDict())
        values.append((agent.loss.first.item(), agent.loss.second.item()))
    assert values == [(0.5, 1.0), (0.25, 1.0), (0.125, 0.0), (0.0625, 0.0)]


def test_a_step_clips_its_own_gradient():
    """The gradients are 2; clipped to 1/2 they move by a quarter."""
    agent = squares(FIRST, (("loss_second",), "second", {"max_grad_norm": 0.5}))
    agent.steps[0].optimizer.param_groups[0]["lr"] = 0.25
    agent.update(TensorDict())
    assert agent.loss.first.item() == 0.5
    assert agent.loss.second.item() == pytest.approx(0.75, abs=1e-5)  # torch adds 1e-6


def test_a_step_minimises_the_sum_of_its_losses():
    agent = squares((("loss_first", "loss_first"), "first", {}), SECOND)
    agent.update(TensorDict())
    assert (agent.loss.first.item(), agent.loss.second.item()) == (-1.0, 0.0)


@pytest.mark.parametrize("index", [0, 1])
def test_one_bad_gradient_of_several_changes_nothing(index):
    """Also where the other's is good."""
    agent = squares(FIRST, SECOND)
    before = parts(agent)
    name = ("first", "second")[index]
    getattr(agent.loss, name).register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(FloatingPointError, match=r"^gradient is inf$"):
        agent.update(TensorDict())
    assert not differences(before, parts(agent))


@pytest.mark.parametrize(
    ("steps", "report", "message"),
    [
        (
            [(("loss_third",), "first", {})],
            {},
            r"reports loss_first, loss_second, no 'loss_third'",
        ),
        (
            [(("extra",), "first", {})],
            {"extra": torch.zeros(4)},
            r"'extra' must be a scalar, got shape \(4,\); make the loss with reduction='mean'",
        ),
    ],
)
def test_losses_that_cannot_be_minimised_are_refused(steps, report, message):
    agent = squares(*steps, **report)
    with pytest.raises(ValueError, match=message):
        agent.update(TensorDict())
    assert agent.updates == 0


def test_a_loss_without_reduction_is_refused(env):
    agent = agents.make("meow", env, **SMALL["meow"])
    agent.loss.reduction = "none"
    with pytest.raises(ValueError, match=r"^'loss' must be a scalar, got shape \(6,\)"):
        agent.update(random_batch(env))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every must be at least 1, got 0"),
        ({"max_grad_norm": 0.0}, "max_grad_norm must be positive and finite, got 0.0"),
        ({"max_grad_norm": float("inf")}, "max_grad_norm must be positive and finite, got inf"),
        ({"losses": ()}, r"losses must be a tuple of names, got \(\)"),
        ({"losses": "loss"}, "losses must be a tuple of names, got 'loss'"),
    ],
)
def test_steps_out_of_range_are_refused(options, message):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))])
    with pytest.raises(ValueError, match=message):
        Step(**{"losses": ("loss",), "optimizer": optimizer, **options})


def test_agents_whose_steps_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="'squares' needs a step that is due in every update"):
        squares()
    with pytest.raises(ValueError, match="Two steps of agent 'squares' share a parameter"):
        squares(FIRST, FIRST)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"minibatch_size": 0}, "minibatch_size must be at least 1, got 0"),
        ({"minibatch_size": 9}, "minibatch of 9 transitions needs .* as many steps, got 8"),
    ],
)
def test_rollouts_out_of_range_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        Rollout(**{"steps": 8, "epochs": 1, "minibatch_size": 4, **sizes})


# SAC


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
    agent = agents.make("sac", env, hidden=(8,), temperature=0.5, gamma=0.875)
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


@pytest.mark.parametrize("make", [str, gym.make])
def test_what_is_no_vector_environment_is_refused(make):
    with pytest.raises(ValueError, match=r"such as envs.make\('Pendulum-v1'\), got .*Pendulum"):
        agents.make("sac", make("Pendulum-v1"))


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("name", ["sac", "meow", "ppo", "soft-q", "discrete-sac", "dqn"])
def test_a_policy_that_acts_with_nan_is_told(env, name, deterministic):
    is_continuous = "continuous" in registry.summaries()[name].actions
    env = env if is_continuous else envs.make("CartPole-v1")
    agent = agents.make(name, env)
    with torch.no_grad():
        for parameter in agent.policy.parameters():
            parameter.fill_(torch.nan)
    observation = np.ones(env.single_observation_space.shape)
    with pytest.raises(FloatingPointError, match=r"acts with nan or inf|is not finite"):
        agent.predict(observation, deterministic=deterministic)
