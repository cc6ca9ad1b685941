"""Environments as the loop sees them: gymnasium's and TorchRL's, whoever has made them."""

import warnings
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from scipy import stats
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs import EnvBase, GymWrapper, SerialEnv, StepCounter, TransformedEnv

from maxentflow import agents, envs
from maxentflow.agents import NonFiniteError, RunFolder, Trainer, TrainerConfig
from maxentflow.agents.training.simulator import simulator

from ..common import MULTIGOAL, SMALL, Count, differences, plain

RUN = {
    "total_steps": 60,
    "warmup_steps": 40,
    "batch_size": 16,
    "replay_size": 500,
    "checkpoint_every": 0,
    "eval_every": 0,
    "eval_episodes": 2,
    "log_every": 20,
}


def train(env, made_for=None, agent="meow", folder=None, eval_env=None, **changes):
    """A run in an environment, of an agent made for one of gymnasium's."""
    torch.manual_seed(0)
    made = agents.make(agent, made_for or env, **SMALL[agent])
    copies = env.batch_size.numel() if isinstance(env, EnvBase) else env.num_envs
    config = TrainerConfig(**{**RUN, "num_envs": copies, **changes})
    trainer = Trainer(made, env, config, folder, eval_env=eval_env, progress=False)
    trainer.run()
    return trainer


# Gymnasium's


def test_random_discrete_actions_are_uniform():
    env = SyncVectorEnv([FromThree] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    steps = simulator(env)
    drawn = torch.cat([steps.random_action(steps.reset(0))["action"] for _ in range(1_000)])
    assert drawn.dtype == torch.int64
    values, counts = drawn.unique(return_counts=True)
    assert values.tolist() == [3, 4, 5, 6]
    assert stats.chisquare(counts.numpy()).pvalue > 0.01


def test_random_actions_of_other_boxes_are_uniform_within_their_bounds():
    env = SyncVectorEnv([Shares] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    steps = simulator(env)
    drawn = torch.cat([steps.random_action(steps.reset(0))["action"] for _ in range(1_000)])
    for column, (low, high) in zip(drawn.T, [(0, 1), (-2, 6)], strict=True):
        test = stats.kstest(column.numpy(), stats.uniform(low, high - low).cdf)
        assert test.pvalue > 0.01


class FromThree(gym.Env):
    observation_space = gym.spaces.Box(0, 255, (2, 2, 3), np.uint8)
    action_space = gym.spaces.Discrete(4, start=3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.sum = 0
        return self.picture(), {}

    def step(self, action):
        assert 3 <= action <= 6
        self.sum += int(action)
        return self.picture(), 1.0, self.sum > 20, False, {}

    def picture(self):
        return np.full((2, 2, 3), self.sum, np.uint8)


class Shares(FromThree):
    action_space = gym.spaces.Box(np.float32([0, -2]), np.float32([1, 6]))


def test_pictures_and_final_observations_reach_the_replay():
    """Of a task that counts its actions up, in its pictures; SB3's monitor has the same."""
    env = envs.make(FromThree, 2)
    steps = simulator(env)
    replay = agents.training.Replay(100, 2, steps.observation, steps.action)
    observation = steps.reset(0)
    sums = [0, 0]
    for _ in range(30):
        acted = steps.random_action(observation)
        assert acted["observation"].flatten(1)[:, 0].tolist() == sums
        steps.send(acted)
        transitions, observation = steps.receive()
        replay.add(transitions)
        for index, action in enumerate(transitions["action"].tolist()):
            sums[index] += action
            final = transitions["next"][index]
            assert (final["observation"] == sums[index]).all()
            ended = sums[index] > 20
            assert final["done"].item() == final["terminated"].item() == ended
            assert not final["truncated"]
            sums[index] = 0 if ended else sums[index]
    kept = replay[:]
    assert kept["observation"].dtype == torch.uint8
    change = kept["next", "observation"][:, 0, 0, 0].int() - kept["observation"][:, 0, 0, 0].int()
    assert torch.equal(change.long(), kept["action"])


def test_environments_with_another_reset_are_refused():
    for mode in (AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED):
        env = gym.make_vec("Pendulum-v1", 2, vector_kwargs={"autoreset_mode": mode})
        with pytest.raises(ValueError, match=rf"autoreset mode is {mode.name}, SAME_STEP is"):
            train(env, envs.make("Pendulum-v1"))


def test_gymnasiums_own_vector_environments_are_taken():
    """The same run as in ours, evaluations included."""
    kwargs = {"vector_kwargs": {"autoreset_mode": AutoresetMode.SAME_STEP}}
    env = gym.make_vec("CartPole-v1", 2, vectorization_mode="sync", **kwargs)
    theirs = train(env, agent="soft-q", eval_every=30)
    ours = train(envs.make("CartPole-v1", 2), agent="soft-q", eval_every=30)
    kept, expected = (t.experience.buffer[:].to_dict() for t in (theirs, ours))
    assert not differences(kept, expected)
    assert not differences(theirs.agent.state_dict(), ours.agent.state_dict())
    assert theirs.evaluate().returns.tolist() == ours.evaluate().returns.tolist()


def test_environments_that_cannot_be_saved_are_refused_with_a_folder_at_once(tmp_path):
    kwargs = {"vector_kwargs": {"autoreset_mode": AutoresetMode.SAME_STEP}}
    env = gym.make_vec("CartPole-v1", 2, vectorization_mode="sync", **kwargs)
    with pytest.raises(ValueError, match=r"The state of this environment cannot be saved"):
        train(env, agent="soft-q", folder=RunFolder(tmp_path))


def folder_of(path, agent, **changes):
    folder = RunFolder(path)
    config = TrainerConfig(**{**RUN, "num_envs": 2, **changes})
    folder.create(agents.make(agent, envs.make("Pendulum-v1"), **SMALL[agent]), config, TORCHRL)
    return folder


TORCHRL = "torchrl:Gym/Pendulum-v1"


def test_a_run_in_torchrl_is_resumed_with_new_episodes(tmp_path):
    """What was in progress is truncated in the replay, not joined to what comes after."""
    settings = {"agent": "td3", "total_steps": 60, "checkpoint_every": 30}
    folder = folder_of(tmp_path, **settings)
    train(envs.make_batched(TORCHRL, 2), folder=folder, **settings)
    kept = folder.load_checkpoint()
    torch.manual_seed(0)
    env = envs.make_batched(TORCHRL, 2)
    agent = agents.make("td3", env, **SMALL["td3"])
    config = TrainerConfig(**{**RUN, "num_envs": 2, "total_steps": 70})
    trainer = Trainer(agent, env, config, folder, progress=False)
    trainer.restore(kept)
    assert trainer.step == 60
    trainer.run()
    data = trainer.experience.buffer[:]
    following = data["next"]
    assert following["done"][:, 0].nonzero()[:, 0].tolist() == [58, 59]
    assert not following["terminated"].any()
    joined = (following["observation"][58:60] == data["observation"][60:62]).all()
    assert not joined
    # Elsewhere each step goes on from the one before, in its own copy.
    for first, last in ((0, 58), (60, 68)):
        after = data["observation"][first + 2 : last + 2]
        assert torch.equal(following["observation"][first:last], after)

    folder = trainer.folder
    again = Trainer(agent, env, config, folder, progress=False)
    again.restore(folder.load_checkpoint())
    assert not differences(again.experience.buffer[:60].to_dict(), data[:60].to_dict())


def test_random_actions_without_bounds_are_taken_between_their_ends():
    env = Batched(4)
    env.action_spec = Unbounded((4, 1))
    steps = simulator(env)
    drawn = torch.cat([steps.random_action(steps.reset(0))["action"] for _ in range(500)])
    assert stats.kstest(drawn[:, 0].numpy(), "uniform", (-1, 2)).pvalue > 1e-3


def test_a_rollout_in_torchrl_is_cut_where_it_is_resumed(tmp_path):
    settings = {"agent": "ppo", "total_steps": 60, "warmup_steps": 0}
    folder = folder_of(tmp_path, **settings)
    train(envs.make_batched(TORCHRL, 2), folder=folder, **settings)
    env = envs.make_batched(TORCHRL, 2)
    agent = agents.make("ppo", env, **SMALL["ppo"])
    config = TrainerConfig(**{**RUN, "num_envs": 2, "total_steps": 62, "warmup_steps": 0})
    trainer = Trainer(agent, env, config, folder, progress=False)
    trainer.restore(folder.load_checkpoint())
    steps = trainer.experience.state_dict()["steps"]
    if steps:
        assert steps[-1]["next"]["truncated"].all()
        assert steps[-1]["next"]["done"].all()
        assert not any(step["next"]["done"].any() for step in steps[:-1])
    trainer.run()
    assert trainer.step == 62


@pytest.mark.slow
def test_evaluations_in_torchrl_agree_with_gymnasiums():
    torch.manual_seed(0)
    env = envs.make_batched("torchrl:Gym/CartPole-v1", 3)
    agent = agents.make("soft-q", env, hidden=(8,))
    result = agents.evaluate(agent.policy, env, episodes=30, seed=0, gamma=0.9)
    expected = agents.evaluate(agent.policy, "CartPole-v1", episodes=30, seed=0, gamma=0.9)
    assert result.cut == 0
    np.testing.assert_array_equal(result.returns, result.lengths)  # a reward of 1 for each step
    discounted = (1 - 0.9**result.lengths) / (1 - 0.9)
    np.testing.assert_allclose(result.discounted_returns, discounted, rtol=1e-6)
    assert result.first_observations.shape == (30, 4)
    assert len(np.unique(result.first_observations[:, 0])) == 30
    assert stats.ks_2samp(result.returns, expected.returns).pvalue > 1e-3


@pytest.mark.parametrize("form", ["id", "function", "keyword arguments"])
@pytest.mark.quick_for("id")
def test_evaluation_is_in_the_environment_that_was_given(form):
    """With its keyword arguments, which are what its returns depend on."""
    task, options = {
        "id": ("Hopper-v4", {}),
        "function": (partial(gym.make, "Hopper-v4", forward_reward_weight=3.0), {}),
        "keyword arguments": ("Hopper-v4", {"forward_reward_weight": 3.0}),
    }[form]
    trainer = train(envs.make(task, 2, **options), warmup_steps=60)
    trainer = Trainer(
        trainer.agent, trainer.env, TrainerConfig(num_envs=2, eval_episodes=2), progress=False
    )
    found = trainer.evaluate().returns
    expected = agents.evaluate(
        trainer.agent.policy,
        partial(gym.make, "Hopper-v4", forward_reward_weight=1.0 if form == "id" else 3.0),
        episodes=2,
        seed=1_000_000,
    )
    assert found.tolist() == expected.returns.tolist()


@pytest.mark.slow
def test_one_environment_is_taken_with_another_to_evaluate_in():
    env = envs.make(gym.make("Pendulum-v1"))
    with pytest.raises(ValueError, match=r"More of this environment cannot be made.*eval_env"):
        train(env, eval_every=30)
    trainer = train(env, eval_every=30, eval_env=envs.make("Pendulum-v1", 2))
    by_id = train(envs.make("Pendulum-v1"), eval_every=30)
    assert not differences(trainer.agent.state_dict(), by_id.agent.state_dict())
    assert trainer.evaluate().returns.tolist() == by_id.evaluate().returns.tolist()


def test_a_trainer_without_environments_to_evaluate_in_says_so():
    trainer = train(envs.make(gym.make("Pendulum-v1")), total_steps=1)
    with pytest.raises(ValueError, match=r"nothing to evaluate in: give the trainer eval_env"):
        trainer.evaluate()


@pytest.mark.parametrize("env", ["Pendulum-v1", gym.make("Pendulum-v1"), None])
def test_what_is_no_environment_of_several_is_refused(env):
    made = agents.make("meow", envs.make("Pendulum-v1"), **SMALL["meow"])
    with pytest.raises(ValueError, match=r"vector environment of envs\.make or a TorchRL env"):
        Trainer(made, env, TrainerConfig(eval_every=0))


# TorchRL's


@pytest.fixture
def torchrl_env():
    """Makes environments, and closes them: TorchRL's batched ones set threads when they go."""
    made = []

    def make(copies, task="Pendulum-v1"):
        single = partial(envs.make_torchrl, task)
        made.append(single() if copies == 1 else SerialEnv(copies, single))
        return made[-1]

    yield make
    for env in made:
        env.close()


@pytest.mark.parametrize(
    ("agent", "task", "copies"),
    [
        ("meow", "Pendulum-v1", 2),  # whose evaluations take long
        *(("td3", MULTIGOAL, copies) for copies in (1, 2)),
        *(("soft-q", "CartPole-v1", copies) for copies in (1, 2)),
    ],
)
@pytest.mark.quick_for("MultiGoal-v0-2", "CartPole-v1-1")
def test_a_torchrl_environment_is_trained_in(torchrl_env, agent, task, copies):
    """What is stored is what gymnasium's task does from where each episode begins."""
    env = torchrl_env(copies, task)
    other = envs.make(task, copies)
    trainer = train(
        env, other, agent, eval_every=30, eval_env=envs.make_torchrl(task), total_steps=80
    )
    assert (trainer.step, trainer.updates) == (80, 40)
    data = trainer.experience.buffer[:]
    for index in range(copies):
        own = data[index::copies]
        done = own["next", "done"].flatten()
        going_on = (~done[:-1]).nonzero().flatten()
        after, before = own["next", "observation"][going_on], own["observation"][going_on + 1]
        assert torch.equal(after, before)
        assert task != "CartPole-v1" or done.any()
        if task == "Pendulum-v1":
            single = plain(task)
            single.reset()
            x, y, speed = own["observation"][0].tolist()
            single.unwrapped.state = np.array([np.arctan2(y, x), speed])
            for row in own:
                observation, reward, *_ = single.step(row["action"].numpy())
                np.testing.assert_allclose(row["next", "observation"], observation, atol=1e-3)
                assert row["next", "reward"].item() == pytest.approx(reward, abs=1e-3)
    assert trainer.evaluate().lengths.shape == (2,)


def test_an_on_policy_agent_learns_in_a_torchrl_environment(torchrl_env):
    trainer = train(
        torchrl_env(2, "CartPole-v1"),
        envs.make("CartPole-v1", 2),
        "ppo",
        warmup_steps=0,
        total_steps=64,
    )
    assert trainer.updates == 8  # two rollouts of 32, two epochs of two minibatches each


def test_ends_of_torchrls_episodes():
    """Truncated by its own StepCounter; the final observation is stored, the reset one is next."""
    env = TransformedEnv(envs.make_torchrl("Pendulum-v1"), StepCounter(7))
    trainer = train(env, envs.make("Pendulum-v1"))
    data = trainer.experience.buffer[:]
    done = data["next", "done"].flatten()
    assert done.nonzero().flatten().tolist() == list(range(6, 60, 7))
    assert not data["next", "terminated"].any()
    assert trainer.episodes == 8
    for end in range(6, 59, 7):
        assert (data["next", "observation"][end] != data["observation"][end + 1]).any()


def test_a_run_in_torchrl_is_a_function_of_its_seed(torchrl_env):
    first, again, other = (
        train(torchrl_env(2), envs.make("Pendulum-v1", 2), seed=seed) for seed in (0, 0, 1)
    )
    assert not differences(first.agent.state_dict(), again.agent.state_dict())
    kept = [trainer.experience.buffer[:].to_dict() for trainer in (first, again, other)]
    assert not differences(kept[0], kept[1])
    assert differences(kept[0], kept[2])


@pytest.mark.parametrize("spoilt", ["observation", "reward"])
def test_a_torchrl_environment_that_is_not_finite_stops_the_run(spoilt):
    env = GymWrapper(gym.wrappers.RescaleAction(Count(spoilt=spoilt, at=45), -1.0, 1.0))
    with pytest.raises(NonFiniteError, match=rf"^Stopped after 44 steps: {spoilt} is nan\.$"):
        train(env, envs.make(Count))


def test_a_reward_beyond_single_precision_is_told_without_a_warning(count):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(NonFiniteError, match=r"^Stopped after 44 steps: reward is inf\.$"):
            train(envs.make(count(spoilt="reward", value=1e300, at=45)))


def test_settings_that_do_not_fit_torchrl_are_refused():
    env, made_for = envs.make_torchrl("Pendulum-v1"), envs.make("Pendulum-v1")
    with pytest.raises(ValueError, match=r"max_episode_steps is for gymnasium's .* StepCounter"):
        train(env, made_for, max_episode_steps=5)
    with pytest.raises(
        ValueError, match=r"More of this environment cannot be made, .* \(eval_env\)"
    ):
        train(env, made_for, eval_every=30)
    with pytest.raises(ValueError, match=r"has 1 copies, the configuration says num_envs=2"):
        train(env, made_for, num_envs=2)


class Batched(EnvBase):
    """Points on lines in one batch, as simulators on a device have them."""

    def __init__(self, copies):
        super().__init__(batch_size=[copies])
        self.observation_spec = Composite(observation=Unbounded((copies, 3)), shape=(copies,))
        self.action_spec = Bounded(-1.0, 1.0, (copies, 1))
        self.reward_spec = Unbounded((copies, 1))

    def _reset(self, tensordict):
        fresh = torch.rand(*self.batch_size, 3, generator=self.generator)
        if tensordict is not None and "_reset" in tensordict.keys():  # noqa: SIM118
            fresh = torch.where(tensordict["_reset"], fresh, self.position)
        self.position = fresh
        return self.observed()

    def _step(self, tensordict):
        self.position = self.position + tensordict["action"]
        data = self.observed()
        outside = (self.position.abs() > 2).any(-1, keepdim=True)
        return data.update(
            {"reward": -self.position.abs()[:, :1], "terminated": outside, "done": outside}
        )

    def observed(self):
        return self.full_done_spec.zero().update({"observation": self.position.clone()})

    def _set_seed(self, seed):
        self.generator = torch.Generator().manual_seed(seed)


def test_a_simulator_of_many_at_once():
    env = Batched(8)
    trainer = train(
        env, envs.make("Pendulum-v1"), total_steps=160, warmup_steps=80, utd_ratio=0.25
    )
    assert (trainer.step, trainer.updates) == (160, 20)
    data = trainer.experience.buffer[:]
    moved = data["observation"] + data["action"]
    torch.testing.assert_close(data["next", "observation"], moved, rtol=0, atol=0)
    outside = (moved.abs() > 2).any(-1, keepdim=True)
    assert torch.equal(data["next", "terminated"], outside)
    assert outside.any()
    torch.testing.assert_close(data["next", "reward"], -moved.abs()[:, :1], rtol=0, atol=0)
    assert trainer.episodes == outside.sum()
