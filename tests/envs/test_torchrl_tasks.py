"""Tasks of TorchRL by name: in the form that agents take, or refused in a sentence."""

import gc

import gymnasium as gym
import numpy as np
import pytest
import torch
import torchrl
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs import EnvBase
from torchrl.envs.utils import check_env_specs

from maxentflow import envs
from maxentflow.envs.tasks import create
from maxentflow.envs.torchrl_tasks import like_batched, make_batched, spaces

PENDULUM = "torchrl:Gym/Pendulum-v1"


class Device(EnvBase):
    """A simulator with copies of its own, and observations in pieces, in double precision."""

    def __init__(self, name, num_envs=1, device=None, fail=False):
        if fail:
            raise RuntimeError("the simulator is out of order. See the manual.")
        super().__init__(device=device, batch_size=[num_envs])
        shape = (num_envs,)
        self.observation_spec = Composite(
            height=Unbounded(shape, dtype=torch.float64),
            speed=Unbounded((*shape, 2), dtype=torch.float64),
            shape=shape,
        )
        self.action_spec = Bounded(-3.0, 1.0, (*shape, 2))
        self.reward_spec = Unbounded((*shape, 1))
        self.seen = []

    def _reset(self, tensordict=None, **_):
        return self._state()

    def _state(self):
        from tensordict import TensorDict

        n = self.batch_size.numel()
        return TensorDict(
            {
                "height": torch.arange(n, dtype=torch.float64),
                "speed": torch.ones(n, 2, dtype=torch.float64),
                "done": torch.zeros(n, 1, dtype=torch.bool),
                "terminated": torch.zeros(n, 1, dtype=torch.bool),
            },
            self.batch_size,
        )

    def _step(self, tensordict):
        self.seen.append(tensordict["action"].clone())
        return self._state().set("reward", torch.ones(*self.batch_size, 1))

    def _set_seed(self, seed):
        torch.manual_seed(seed)


@pytest.fixture
def device(monkeypatch):
    monkeypatch.setattr("torchrl.envs.DeviceEnv", Device, raising=False)
    return "torchrl:Device/simulated"


def test_observations_are_one_vector_and_actions_are_rescaled(device):
    env = make_batched(device, 3, seed=0)
    check_env_specs(env)
    present = env.reset()
    expected = [[i, 1.0, 1.0] for i in range(3)]
    assert present["observation"].tolist() == expected
    assert present["observation"].dtype == torch.float32
    env.step(present.set("action", torch.tensor([[-1.0, 1.0]] * 3)))
    assert env.base_env.seen[-1].tolist() == [[-3.0, 1.0]] * 3
    assert spaces(env).single_action_space == gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    assert spaces(env).single_observation_space.shape == (3,)


def test_the_steps_are_those_of_gymnasium():
    env, plain = make_batched(PENDULUM, 2), gym.make("Pendulum-v1")
    torch.manual_seed(0)
    env.set_seed(5)
    present = env.reset()
    own = present["observation"][0].clone()
    plain.reset(seed=0)
    plain.unwrapped.state = np.array([np.arctan2(own[1], own[0]), own[2]], np.float64)
    for force in (0.3, -1.0, 0.5):
        stepped = env.step(present.set("action", torch.full((2, 1), force)))["next"]
        observation, reward, *_ = plain.step(np.array([2.0 * force], np.float32))
        np.testing.assert_allclose(stepped["observation"][0], observation, atol=1e-5)
        assert float(stepped["reward"][0]) == pytest.approx(float(reward), abs=1e-5)
        present = stepped


def test_a_seed_reproduces_and_copies_differ():
    first, again, other = (
        make_batched(PENDULUM, 2, seed=seed).reset()["observation"] for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, other)


@pytest.mark.parametrize("workers", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("ends", ["closed", "forgotten"])
def test_torch_keeps_its_number_of_threads(monkeypatch, workers, ends):
    """TorchRL's own environments change it, to as many as there were when it was imported."""
    monkeypatch.setattr(torchrl, "_THREAD_POOL_INIT", 4)
    torch.set_num_threads(2)
    env = make_batched(PENDULUM, 2, workers=workers)
    assert torch.get_num_threads() == 2
    if ends == "closed":
        env.close()
    del env
    gc.collect()
    assert torch.get_num_threads() == 2


def test_discrete_actions_are_indices():
    env = make_batched("torchrl:Gym/CartPole-v1", 2)
    assert spaces(env).single_action_space == gym.spaces.Discrete(2)
    assert env.rollout(2)["action"].shape == (2, 2)


def test_more_of_an_environment(device):
    assert like_batched(make_batched(device, 3), 5).batch_size == (5,)
    assert envs.task_id(make_batched(device)) == device
    with pytest.raises(ValueError, match="it is not known how it was"):
        like_batched(Device("alone"))
    assert envs.task_id(Device("alone")) is None


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("torchrl:Nope/x", {}, "TorchRL has no NopeEnv"),
        ("torchrl:", {}, "TorchRL has no Env"),
        ("torchrl:DMControl/cheetah", {}, "needs env_name and task_name: torchrl:DMControl/env"),
        ("torchrl:Gym", {}, "needs"),
        ("torchrl:Gym/Nope-v0", {}, "cannot be made: Environment `Nope` doesn't exist"),
        ("torchrl:MJLab/Mjlab-Cartpole", {}, "pip install mjlab"),
        ("torchrl:Gym/Blackjack-v1", {}, "cannot be made: Could not run"),
        ("torchrl:Gym/FrozenLake-v1", {}, "vectors of real numbers are needed"),
        ("torchrl:Device/x", {"fail": True}, "cannot be made: the simulator is out of order"),
        (PENDULUM, {"num_envs": 0}, "num_envs must be at least 1, got 0"),
    ],
)
def test_refusals(device, task, options, message):
    with pytest.raises(ValueError, match=message):
        make_batched(task, **options)


def test_where_gymnasiums_are_needed_the_way_is_told():
    with pytest.raises(ValueError, match=r"is TorchRL's: maxentflow.envs.make_batched makes it"):
        create(PENDULUM, {})
