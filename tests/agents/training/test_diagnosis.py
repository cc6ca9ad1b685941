"""Diagnoses of models whose values, returns, entropies and losses are known."""

import math
import re
from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy import integrate, stats
from tensordict import TensorDict
from torch import nn
from torchrl.envs import GymWrapper

from maxentflow import agents, envs, flows
from maxentflow.agents import diagnose, evaluate
from maxentflow.agents.training import Replay, evaluation
from maxentflow.agents.training.replay import read_files
from maxentflow.agents.training.simulator import Entry

from ..common import (
    COUNT,
    MULTIGOAL,
    Count,
    Scripted,
    checkpoint,
    differences,
    make_trainer,
    metrics,
    plain,
)

GAMMA = 0.9


class Known(nn.Module):
    """V is a linear function of the observation, the same for two heads but for 1; every action
    has the log-density -0.5."""

    temperature = 2.0

    def __init__(self, *weights, constant=0.0):
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights))
        self.constant = constant

    def value(self, observation):
        value = observation @ self.weights + self.constant
        return torch.stack([value + 1, value], -1)

    def sample(self, observation, sample_shape=()):
        action = torch.zeros(*sample_shape, *observation.shape[:-1], 1)
        return action, torch.full(action.shape[:-1], -0.5)

    def q_and_value(self, action, observation):
        value = self.value(observation)
        return (value - 1.0).expand(*action.shape[:-1], 2), value


class Varied(gym.Env):
    """Episodes of 3 to 6 steps; those of an even length are truncated. Pays its step's number."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed, self.steps = seed or 0, 0
        return self._observation(), {}

    def step(self, action):
        self.steps += 1
        length = 3 + self.seed % 4
        over, even = self.steps == length, length % 2 == 0
        return self._observation(), float(self.steps), over and not even, over and even, {}

    def _observation(self):
        return np.array([self.seed, self.steps], np.float32)


def agent_with(critic, env=Varied, target_entropy=None):
    agent = agents.make("meow", envs.make(env), gamma=GAMMA, flow_options={"blocks": 1})
    agent.critic = critic
    agent.loss.target_entropy = target_entropy
    return agent


@pytest.mark.parametrize("copies", [1, 3, 8])
@pytest.mark.parametrize("target_entropy", [None, -0.75])
def test_returns_of_every_visited_state(copies, target_entropy):
    """Terminated and truncated episodes of different lengths, by a loop from the end."""
    free = 2.0 * (target_entropy or 0.0)  # alpha times the entropy that has no bonus
    model, expected = Known(10.0, 0.25, constant=1.0), {}
    for seed in range(5, 12):
        length = 3 + seed % 4
        rest = 10.0 * seed + 0.25 * length + 1.0 if length % 2 == 0 else 0.0
        soft = plain = rest
        for step in reversed(range(length)):
            reward = step + 1
            goes_on = step < length - 1 or length % 2 == 0
            soft = reward + 2.0 * 0.5 + GAMMA * (soft - free * goes_on)
            plain = reward + GAMMA * plain
            expected[10.0 * seed + 0.25 * step + 1.0] = soft, plain
    agent = agent_with(model, target_entropy=target_entropy)
    result = diagnose(agent, envs.make(Varied, copies), episodes=7, seed=5)
    assert len(result.value) == len(expected) == 33
    found = dict(zip(result.value, result.soft_return, strict=True))
    assert found.keys() == expected.keys()
    for value, (soft, _) in expected.items():
        assert found[value] == pytest.approx(soft, rel=1e-12)
    numbers, softs = result.numbers, np.array([soft for soft, _ in expected.values()])
    values = np.array(list(expected))
    assert numbers["value"] == pytest.approx(values.mean())
    assert numbers["value_mean_head"] == pytest.approx(values.mean() + 0.5)
    assert numbers["soft_return"] == pytest.approx(softs.mean())
    assert numbers["discounted_return"] == pytest.approx(
        np.mean([plain for _, plain in expected.values()])
    )
    assert numbers["bias"] == pytest.approx((values - softs).mean())
    assert numbers["bias_in_spreads"] == pytest.approx((values - softs).mean() / softs.std())
    assert numbers["correlation"] == pytest.approx(stats.pearsonr(values, softs).statistic)
    assert (numbers["alpha"], numbers["entropy"]) == (2.0, 0.5)


def test_a_task_without_an_end_is_cut_and_goes_on_with_its_value(monkeypatch):
    """A reward of 1 and an entropy of 0.5 at a temperature of 2 for ever are worth 20."""
    monkeypatch.setattr(evaluation, "STEP_LIMIT", 30)
    result = diagnose(agent_with(Known(0.0, 0.0, constant=20.0), Count), Count, episodes=2)
    np.testing.assert_allclose(result.soft_return, np.full(60, 20.0), rtol=1e-12)
    assert result.numbers["bias"] == pytest.approx(0.0, abs=1e-9)


# Flows whose density is known


def gaussian(log_sigma, *, shift=0.0, squash=False):
    norm = flows.ActNorm(1)
    nn.init.constant_(norm.shift, shift)
    squashes = [flows.TanhSquash(1)] if squash else []
    scale = flows.StateScale(1, 2, bounds=(-5.0, 4.0), initial=log_sigma)
    for parameter in scale.parameters():
        nn.init.zeros_(parameter)
    return flows.EnergyBasedFlow(
        flows.StandardNormal(1),
        [scale, norm, *squashes],
        temperature=0.2,
        shift=flows.RewardShift(2, heads=2),
    )


def gaussian_agent(flow, *, scaled=False, **settings):
    env = envs.make(COUNT)
    agent = agents.meow(env, flow=flow, average_decay=0.0, **settings)
    if scaled:
        agent.critic = flows.NormalizedModel(flow, flows.ObservationNorm(2), flows.ReturnScale())
    return agent


def test_the_noise_of_a_gaussian(count):
    count()
    agent = gaussian_agent(gaussian(-0.7))
    result = diagnose(agent, COUNT, episodes=30)
    numbers, sigma = result.numbers, math.exp(-0.7)
    assert len(result.log_prob) == 64 * 300
    exact = stats.norm(scale=sigma).entropy()
    assert numbers["entropy"] == pytest.approx(exact, abs=4 * math.sqrt(0.5 / 64 / 300))
    assert numbers["entropy_per_entry"] == numbers["entropy"]
    assert numbers["action_std"] == pytest.approx(sigma, rel=0.02)
    assert numbers["sigma"] == pytest.approx(sigma, rel=1e-5)
    assert numbers["sigma_at_bound"] == 0.0
    for percentile in (5, 50, 95):
        # -log pi is half a chi-squared of one degree above its least
        half = stats.chi2(1).ppf(percentile / 100) / 2
        least = math.log(sigma * math.sqrt(2 * math.pi))
        assert numbers[f"own_{percentile}"] == pytest.approx(least + half, abs=0.08)
    assert "recovered" not in numbers
    assert "replay_50" not in numbers
    assert "There is no squash.\nThere is no replay." in str(result)


def test_sigma_is_that_of_observations_as_the_flow_sees_them(count):
    """It is the standard deviation of the samples there."""
    count()
    flow = gaussian(0.0)
    agent = gaussian_agent(flow, scaled=True)
    agent.critic.observations.update(torch.tensor([[0.0, 0.0], [10.0, 1.0]]))
    for parameter in flow.layers[0].parameters():
        nn.init.normal_(parameter, std=0.3)
    numbers = diagnose(agent, COUNT, episodes=30).numbers
    assert numbers["sigma"] == pytest.approx(numbers["action_std"], rel=0.02)
    assert abs(numbers["sigma"] - 1) > 0.1


def test_units_of_reward(count):
    """A scale of rewards multiplies temperature and values, and leaves the policy alone."""
    count()
    agent = gaussian_agent(gaussian(-0.7), scaled=True)
    before = diagnose(agent, COUNT, episodes=2).numbers
    agent.critic.returns.update(torch.tensor([0.0, 100.0]))  # a standard deviation of 50
    after = diagnose(agent, COUNT, episodes=2).numbers
    assert (before["reward_scale"], after["reward_scale"]) == (1.0, pytest.approx(50.0))
    assert after["alpha"] == pytest.approx(0.2 * 50)
    assert after["value"] == pytest.approx(50 * before["value"], rel=1e-5)
    assert after["entropy"] == before["entropy"]


def test_the_replay_under_the_policy(count):
    count()
    agent = gaussian_agent(gaussian(-0.7))
    actions = torch.linspace(-2.0, 2.0, 1001).unsqueeze(-1)
    replay = TensorDict(observation=torch.randn(1001, 2), action=actions, batch_size=[1001])
    result = diagnose(agent, COUNT, episodes=1, replay=replay)
    expected = stats.norm(scale=math.exp(-0.7)).logpdf(actions[:, 0].numpy())
    np.testing.assert_allclose(result.replay_log_prob, expected, atol=1e-4)
    for percentile in (5, 50, 95):
        assert result.numbers[f"replay_{percentile}"] == pytest.approx(
            np.percentile(-expected, percentile), abs=1e-4
        )
    assert "There is no replay." not in str(result)


@pytest.mark.parametrize(("log_sigma", "shift"), [(2.5, 0.0), (0.0, 6.0), (0.5, -5.5)])
def test_what_the_squash_loses_is_the_mass_beyond_its_margin(count, log_sigma, shift):
    """By quadrature of exp((Q - V) / alpha) in double precision, where actions tell all."""
    count()
    flow = gaussian(log_sigma, shift=shift, squash=True)
    result = diagnose(gaussian_agent(flow, raw_actions=False), COUNT, episodes=30).numbers
    exact = flow.double()
    zeros = torch.zeros(1, 2, dtype=torch.float64)

    def density(z):
        """Of the action, times the slope of the squash there."""
        action = torch.tanh(torch.tensor([[z]], dtype=torch.float64))
        with torch.no_grad():
            q, value = exact.q_and_value(action, zeros)
        return math.exp((q - value)[0, 0].item() / 0.2) / math.cosh(z) ** 2

    end = math.atanh(1 - 1e-5)
    mass, _ = integrate.quad(density, -end, end, epsabs=1e-6)
    assert 0.3 < mass < 0.8
    # of 64 * 300 independent samples
    assert result["recovered"] == pytest.approx(mass, abs=4 * math.sqrt(0.25 / 64 / 300))
    assert result["saturated"] == pytest.approx(1 - mass, abs=4 * math.sqrt(0.25 / 64 / 300))
    # and the curvature of the logarithm
    assert result["squash_gap"] == pytest.approx(-0.2 * math.log(mass), abs=0.01)
    assert result["squash_gap_largest"] > result["squash_gap"]
    assert result["squash_gap_share"] == 1.0
    share = stats.binom(64, mass).cdf(31)
    assert result["squash_half_lost"] == pytest.approx(share, abs=4 * math.sqrt(0.25 / 300))


def test_one_entry_of_two_is_enough_to_lose_an_action():
    """Each is beyond the margin with the probability of a standard normal's tails."""
    norm = flows.ActNorm(2)
    nn.init.constant_(norm.log_scale, 1.5)
    flow = flows.EnergyBasedFlow(
        flows.StandardNormal(2),
        [norm, flows.TanhSquash(2)],
        temperature=0.2,
        shift=flows.RewardShift(2, heads=2),
    )
    agent = agents.meow(
        envs.make(MULTIGOAL), flow=flow, normalize_observations=False, average_decay=0.0
    )
    agent.critic = agent.policy.flow
    numbers = diagnose(agent, MULTIGOAL, episodes=10).numbers
    inside = 1 - 2 * stats.norm.sf(math.atanh(1 - 1e-5) / math.exp(1.5))
    assert numbers["saturated"] == pytest.approx(1 - inside**2, abs=0.02)
    assert numbers["entropy_per_entry"] == numbers["entropy"] / 2


@pytest.mark.parametrize(("log_sigma", "shift"), [(2.5, 0.0), (0.0, 6.0), (-2.0, 20.0)])
def test_raw_actions_lose_nothing(count, log_sigma, shift):
    count()
    flow = gaussian(log_sigma, shift=shift, squash=True)
    result = diagnose(gaussian_agent(flow, raw_actions=True), COUNT, episodes=3)
    assert (result.numbers["recovered"], result.numbers["squash_gap_largest"]) == (1.0, 0.0)
    assert result.numbers["saturated"] > 0.1
    assert "squash_gap" not in " ".join(result.warnings)


def test_nothing_is_recovered_far_beyond_the_margin(count):
    count()
    agent = gaussian_agent(gaussian(-2.0, shift=20.0, squash=True), raw_actions=False)
    result = diagnose(agent, COUNT, episodes=1)
    assert (result.numbers["recovered"], result.numbers["squash_gap"]) == (0.0, math.inf)
    assert re.search(r"^squash_gap +inf ", str(result), re.MULTILINE)
    assert result.warnings[-1].endswith("squash_gap_largest is inf.")


# Warnings and refusals


def healthy(constant=21.0):
    """V rises with the steps of an episode, about as the returns do: these are 20 at its end, more
    by the value of its final observation."""
    return Known(1.0, 0.0, constant=constant)


def test_a_healthy_agent_has_no_warning(count):
    count()
    flow = gaussian(-0.7, squash=True)
    assert diagnose(agent_with(healthy(), COUNT), COUNT, episodes=2).warnings == ()
    noise = diagnose(gaussian_agent(flow), COUNT, episodes=1).warnings
    assert not [each for each in noise if "bias" not in each]


def test_warnings(count):
    count()
    (biased,) = diagnose(agent_with(healthy(60.0), COUNT), COUNT).warnings
    assert "bias_in_spreads is" in biased
    (broken, *_) = diagnose(agent_with(healthy(math.nan), COUNT), COUNT).warnings
    assert broken == "V, the soft return or log pi is not finite at 100 visited states."
    agent = agent_with(healthy(), COUNT)
    agent.loss.target_entropy = 1.1  # more than 0.5 above
    narrow = "The entropy is far below its target: entropy is 0.5, target_entropy 1.1."
    assert narrow in diagnose(agent, COUNT).warnings
    agent.loss.target_entropy = 0.9
    assert "far below" not in " ".join(diagnose(agent, COUNT).warnings)
    stuck = gaussian_agent(gaussian(-4.95))
    assert diagnose(stuck, COUNT, episodes=1).warnings[-1] == (
        "Most scales are at a bound: sigma_at_bound is 1."
    )


def test_refusals(count):
    count()
    known = r"has no soft value to diagnose; those that have one are meow and soft-q\.$"
    with pytest.raises(ValueError, match=rf"^Agent 'sac' {known}"):
        diagnose(agents.make("sac", envs.make(COUNT)), COUNT)
    agent = agent_with(healthy(), COUNT)
    for name, value in (("episodes", 0), ("seed", -1)):
        with pytest.raises(ValueError, match=rf"^{name} must be at least .*, got {value}\.$"):
            diagnose(agent, COUNT, **{name: value})
    agent.config = None
    with pytest.raises(ValueError, match=known):
        diagnose(agent, COUNT)


def test_a_diagnosis_repeats_and_leaves_torchs_generator_alone(count):
    count()
    agent = gaussian_agent(gaussian(-0.7, squash=True))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = diagnose(agent, COUNT, episodes=2, seed=3)
    assert torch.equal(torch.rand(3), expected)
    env = envs.make(COUNT, 2)  # stays open
    for _ in range(2):
        again = diagnose(agent, env, episodes=2, seed=3)
        np.testing.assert_equal(again.numbers, first.numbers)  # of which one may be nan
    assert not env.closed
    assert (diagnose(agent, COUNT, episodes=2, seed=4).log_prob != first.log_prob).all()


def test_discrete_actions():
    """The entropy of the policy at each state, in closed form."""
    agent = agents.make("soft-q", envs.make("CartPole-v1"), hidden=(16,), average_decay=0.0)
    agent.critic = model = agent.policy.flow
    result = diagnose(agent, "CartPole-v1", episodes=3)
    replay = TensorDict(
        observation=torch.randn(50, 4), action=torch.randint(2, (50,)), batch_size=[50]
    )
    with torch.no_grad():
        q, value = model.q_and_value(replay["action"], replay["observation"])
    old = diagnose(agent, "CartPole-v1", episodes=1, replay=replay).replay_log_prob
    np.testing.assert_allclose(old, ((q - value) / 0.1).mean(-1).numpy(), rtol=1e-4, atol=1e-5)
    assert 0 < result.numbers["entropy"] < math.log(2)
    assert not {"action_std", "recovered", "sigma", "target_entropy"} & result.numbers.keys()


# Transitions on disk


def test_transitions_are_read_evenly_spaced(tmp_path):
    """Of files of different lengths; the observations after the last step are none of them."""
    replay = Replay(
        1000, 2, Entry(torch.Size([1]), torch.float32), Entry(torch.Size([]), torch.int64)
    )
    number, names = 0, []
    for steps in (30, 5, 65):
        for _ in range(steps):
            numbers = torch.tensor([number, number + 1])
            following = TensorDict(
                observation=torch.full((2, 1), -1.0),
                reward=torch.zeros(2, 1),
                done=torch.ones(2, 1, dtype=torch.bool),
                terminated=torch.ones(2, 1, dtype=torch.bool),
            )
            step = {"observation": numbers[:, None].float(), "action": numbers}
            replay.add(TensorDict({**step, "next": following}, [2]))
            number += 2
        names = replay.save(tmp_path)["files"]
    assert len(names) == 3
    found = read_files([tmp_path / name for name in names], ("observation", "action"), 50)
    assert set(found.keys()) == {"observation", "action"}
    assert torch.equal(found["observation"][:, 0].long(), found["action"])
    assert 48 <= len(found) <= 53
    assert {after - before for before, after in pairwise(found["action"].tolist())} <= {2, 3, 4}


# Calibration over training


def test_first_observations_and_discounted_returns(count):
    count()
    still = Scripted(lambda observation: observation[..., :1] * 0)
    torchrl = GymWrapper(gym.wrappers.RescaleAction(gym.make(COUNT), -1.0, 1.0))
    for env in (COUNT, envs.make(COUNT, 2), torchrl):
        result = evaluate(still, env, episodes=3, gamma=GAMMA)
        np.testing.assert_allclose(result.discounted_returns, (1 - GAMMA**10) / (1 - GAMMA))
        assert result.first_observations.tolist() == [[0.0, 0.0]] * 3
        assert evaluate(still, env, episodes=3).discounted_returns.tolist() == [10.0] * 3
    begun = evaluate(still, "Pendulum-v1", episodes=3, seed=7).first_observations
    for index in range(3):
        np.testing.assert_array_equal(begun[index], plain("Pendulum-v1").reset(seed=7 + index)[0])
    with pytest.raises(ValueError, match=r"^gamma must be in \[0, 1\], got 1\.5\.$"):
        evaluate(still, COUNT, gamma=1.5)


@pytest.mark.slow
def test_metrics_of_an_agent_with_a_critic(tmp_path):
    """V of the first observations, and discounted returns, of the evaluations' own seeds."""
    folders = tmp_path / "with", tmp_path / "without"
    for folder, critic in zip(folders, (Known(1.0, 2.0, 3.0), None), strict=True):
        trainer = make_trainer("Pendulum-v1", "sac", folder=folder, settings={"gamma": GAMMA})
        trainer.agent.critic = critic
        trainer.run()
    rows, others = map(metrics, folders)
    columns = ["eval_value", "eval_discounted_return"]
    beginnings = [plain("Pendulum-v1").reset(seed=1_000_000 + index)[0] for index in range(2)]
    expected = np.mean([row @ [1.0, 2.0, 3.0] for row in beginnings])
    evaluated = [row for row in rows if row["eval_return"]]
    assert len(evaluated) == 3
    for row in evaluated:
        assert float(row["eval_value"]) == pytest.approx(expected, abs=1e-5)
    last = evaluate(trainer.agent.policy, "Pendulum-v1", episodes=2, seed=1_000_000, gamma=GAMMA)
    discounted = float(evaluated[-1]["eval_discounted_return"])
    assert discounted == pytest.approx(last.discounted_returns.mean(), rel=1e-6)
    assert discounted > float(evaluated[-1]["eval_return"])  # costs, discounted
    assert not set(columns) & set(others[0])
    # Nothing else of the run is different.
    assert [{key: row[key] for key in row if key not in columns} for row in rows] == others
    first, second = map(checkpoint, folders)
    assert [at for at in differences(first, second) if "seconds" not in at] == []


@pytest.mark.parametrize("agent", ["sac", "ppo"])
def test_agents_without_a_critic_have_no_such_columns(agent):
    assert not {"eval_value", "eval_discounted_return"} & set(make_trainer(agent=agent)._columns())
