"""Where steps go and batches come from: schedules, rollouts, and TorchRL's own buffers."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torchrl.data
from tensordict import TensorDict
from torchrl.data import (
    LazyMemmapStorage,
    LazyTensorStorage,
    TensorDictPrioritizedReplayBuffer,
    TensorDictReplayBuffer,
)
from torchrl.data.replay_buffers.samplers import prioritized as samplers
from torchrl.envs.transforms import MultiStepTransform

from maxentflow.agents import Rollout
from maxentflow.agents.training import ReplayBuffer, RolloutBuffer
from maxentflow.agents.training.experience import UpdateSchedule

from ..common import checkpoint, comparable, differences, make_trainer, resumed

QUIET = {"eval_every": 0, "checkpoint_every": 0}
WARMUP, BATCH = 40, 16


def over(buffer):
    return ReplayBuffer(buffer, BATCH, UpdateSchedule(WARMUP, 1.0))


class SumTree:
    """TorchRL's compiled segment tree in plain tensors: releases of torch it lags have none."""

    empty, reduce = 0.0, torch.sum

    def __init__(self, capacity):
        self.values = torch.full((capacity,), self.empty)

    def __getitem__(self, index):
        return self.values[index]

    def __setitem__(self, index, value):
        self.values[index] = torch.as_tensor(value, dtype=self.values.dtype)

    def query(self, start, end):
        return type(self).reduce(self.values[start:end]).item()

    def scan_lower_bound(self, mass):
        return torch.searchsorted(self.values.cumsum(0), torch.as_tensor(mass).float())


class MinTree(SumTree):
    empty, reduce = float("inf"), torch.min


@pytest.fixture
def trees(monkeypatch):
    for precision in ("Fp32", "Fp64"):
        monkeypatch.setattr(samplers, f"SumSegmentTree{precision}", SumTree)
        monkeypatch.setattr(samplers, f"MinSegmentTree{precision}", MinTree)


def uniform(storage=LazyTensorStorage):
    return TensorDictReplayBuffer(storage=storage(500), batch_size=BATCH)


def test_a_plain_buffer_of_torchrl_has_no_priorities():
    plain = torchrl.data.ReplayBuffer(storage=LazyTensorStorage(500), batch_size=BATCH)
    experience = ReplayBuffer(plain, BATCH, UpdateSchedule(0, 1.0))
    for _ in range(3):
        experience.add(TensorDict(observation=torch.zeros(BATCH, 3), batch_size=[BATCH]))
        assert len(list(experience.batches())) == BATCH


def prioritized():
    return TensorDictPrioritizedReplayBuffer(
        alpha=0.7, beta=0.9, storage=LazyTensorStorage(500), batch_size=BATCH
    )


def n_step():
    schedule = UpdateSchedule(WARMUP, 1.0)
    return ReplayBuffer(uniform(), BATCH, schedule, n_step=MultiStepTransform(3, gamma=0.5))


BUFFERS = {"uniform": uniform, "on disk": lambda: uniform(LazyMemmapStorage)}


# Schedules


@pytest.mark.parametrize(("ratio", "steps", "due"), [(0.25, 1, [0, 0, 0, 1]), (3.0, 2, [6, 6])])
def test_updates_for_each_step(ratio, steps, due):
    schedule = UpdateSchedule(warmup_steps=0, utd_ratio=ratio)
    assert [schedule.due(steps, ready=True) for _ in due] == due


def test_nothing_is_owed_for_the_warm_up_or_for_too_few_transitions():
    schedule = UpdateSchedule(warmup_steps=4, utd_ratio=1.0)
    assert [schedule.due(2, ready=step > 2) for step in range(5)] == [0, 0, 0, 2, 2]


def test_tenths_add_up():
    schedule = UpdateSchedule(warmup_steps=0, utd_ratio=0.1)
    assert sum(schedule.due(1, ready=True) for _ in range(1_000)) == 100


# Rollouts


def play(buffer, steps, num_envs=2):
    """Steps whose observation is their number."""
    for step in range(steps):
        number = torch.arange(num_envs) + step * num_envs
        buffer.add(TensorDict(observation=number.float()[:, None], batch_size=[num_envs]))
        yield [batch["observation"].flatten().tolist() for batch in buffer.batches()]


def test_a_rollout_is_used_for_whole_epochs_and_gone():
    buffer = RolloutBuffer(Rollout(steps=7, epochs=3, minibatch_size=3), num_envs=2)
    for batches in list(play(buffer, 4)) + list(play(buffer, 4)):
        if not batches:
            continue
        assert [len(batch) for batch in batches] == [3] * 6
        epochs = [batches[i] + batches[i + 1] for i in range(0, 6, 2)]
        for epoch in epochs:  # two of the eight are left over, not always the same
            assert len(set(epoch)) == 6
            assert set(epoch) <= set(map(float, range(8)))
        assert len({tuple(epoch) for epoch in epochs}) == 3
        assert set().union(*epochs) == set(map(float, range(8)))
    assert [len(batches) for batches in play(buffer, 8)] == [0, 0, 0, 6, 0, 0, 0, 6]


def test_an_estimator_sees_the_rollout_in_time():
    seen = []

    def estimate(data):
        seen.append(data["observation"].squeeze(-1).tolist())
        return data.set("advantage", 10 * data["observation"])

    buffer = RolloutBuffer(Rollout(6, 1, 2, estimate), num_envs=2)
    for step in range(3):
        number = torch.tensor([[step], [step + 10.0]])
        buffer.add(TensorDict(observation=number, batch_size=[2]))
        batches = list(buffer.batches())
    assert seen == [[[0.0, 1.0, 2.0], [10.0, 11.0, 12.0]]]
    for batch in batches:
        assert torch.equal(batch["advantage"], 10 * batch["observation"])


def test_a_rollout_goes_on_from_its_state():
    first, second = (RolloutBuffer(Rollout(8, 2, 4), num_envs=2) for _ in range(2))
    list(play(first, 3))
    second.load_state_dict(first.state_dict())
    drawn = []
    for buffer in (first, second):
        torch.manual_seed(1)
        drawn.append(next(play(buffer, 1)))
    assert len(drawn[0]) == 4
    assert drawn[0] == drawn[1]


def test_advantages_by_hand():
    """Of a run of PPO with an episode that ends in the rollout (Schulman et al. 2016, eq. 16)."""
    trainer = make_trainer(agent="ppo", max_episode_steps=11, total_steps=32, **QUIET)
    agent, seen = trainer.agent, []
    gamma, lam = agent.config.gamma, agent.config.gae_lambda
    estimator = agent.rollout.estimator
    agent.rollout.estimator = lambda data: (seen.append(estimator(data)), seen[-1])[1]
    critic = estimator.value_network
    weights = {key: entry.clone() for key, entry in critic.state_dict().items()}
    trainer.run()
    critic.load_state_dict(weights)
    ((data,),) = seen
    with torch.no_grad():
        value = critic(data["observation"]).flatten()
        following = critic(data["next", "observation"]).flatten()
    reward, done = data["next", "reward"].flatten(), data["next", "done"].flatten()
    assert done.nonzero().flatten().tolist() == [10, 21]
    expected = torch.zeros(32)
    for step in reversed(range(32)):
        delta = reward[step] + gamma * following[step] - value[step]  # none is terminal
        further = 0.0 if step == 31 or done[step] else expected[step + 1]
        expected[step] = delta + gamma * lam * further
    torch.testing.assert_close(data["advantage"].flatten(), expected, rtol=1e-4, atol=1e-4)


# TorchRL's buffers


@pytest.mark.parametrize(
    ("agent", "form"), [("meow", "uniform"), ("td3", "uniform"), ("td3", "on disk")]
)
@pytest.mark.slow
def test_a_buffer_of_torchrl_is_as_good_as_ours(agent, form):
    """The same transitions, the same draws, the same weights."""
    run = {"agent": agent, "total_steps": 60, **QUIET}
    ours, theirs = (
        make_trainer(**run),
        make_trainer(**run, experience=over(BUFFERS[form]())),
    )
    for trainer in (ours, theirs):
        trainer.run()
    kept, expected = theirs.experience.buffer[:], ours.experience.buffer[:]
    for key in expected.keys(True, True):
        torch.testing.assert_close(kept[key], expected[key], rtol=0, atol=0)
    assert ours.updates == theirs.updates == 20
    assert not differences(ours.agent.state_dict(), theirs.agent.state_dict())


@pytest.mark.parametrize("num_envs", [1, 2])
@pytest.mark.parametrize("agent", ["meow", "td3"])
@pytest.mark.quick_for("td3-1", "meow-2")
def test_priorities_follow_the_errors_and_weights_reach_the_loss(trees, agent, num_envs):
    run = {"agent": agent, "num_envs": num_envs, "total_steps": 60, **QUIET}
    trainer = make_trainer(**run, experience=over(prioritized()))
    buffer, seen = trainer.experience.buffer, []
    update = trainer.agent.update

    def learn(batch):
        before = batch["priority_weight"].clone()
        tree = buffer.sampler._sum_tree.values.clone()
        report = update(batch)
        seen.append((batch["index"].flatten(), batch["td_error"], before, tree))
        return report

    trainer.agent.update = learn
    trainer.run()
    assert len(seen) == 20
    for (index, error, _, _), (_, _, weight, tree) in pairwise(seen):
        # Two of the same index have two errors, of other noise or another mask.
        once = (index[:, None] == index).sum(-1) == 1
        expected = (error[once] + 1e-8) ** 0.7
        torch.testing.assert_close(tree[index[once]], expected, rtol=1e-4, atol=1e-7)
        assert weight.max() <= 1
        assert weight.std() > 0
    # The loss counts them.
    batch = buffer.sample()
    torch.manual_seed(0)
    weighted = trainer.agent.loss(batch.clone())
    torch.manual_seed(0)
    plain = trainer.agent.loss(batch.exclude("priority_weight"))
    name = trainer.agent.steps[0].losses[0]
    assert weighted[name] != plain[name]


@pytest.mark.parametrize(
    ("agent", "num_envs"), [("meow", 1), ("td3", 1), ("td3", 2), ("soft-q", 2)]
)
@pytest.mark.quick_for("td3")
def test_n_steps_by_hand(agent, num_envs):
    """Sums of three discounted rewards, up to an episode's end, with the observation after."""
    run = {"agent": agent, "num_envs": num_envs, "total_steps": 60, **QUIET}
    if agent != "soft-q":  # whose task ends by itself
        run |= {"max_episode_steps": 7, "env_id": "Pendulum-v1"}
    single = make_trainer(**run)
    single.run()
    trainer = make_trainer(**run, experience=n_step())
    trainer.run()
    assert trainer.updates == 20
    kept = trainer.experience.buffer[:]
    one = single.experience.buffer[:][:WARMUP]  # from there on actions differ
    for env in range(num_envs):
        own, found = one[env::num_envs], kept[env::num_envs]
        done = own["next", "done"].flatten()
        for row in range(len(own) - 3):
            last, total = row, own["next", "reward"][row].clone()
            while last < row + 2 and not done[last]:
                last += 1
                total += 0.5 ** (last - row) * own["next", "reward"][last]
            torch.testing.assert_close(found["next", "reward"][row], total)
            assert torch.equal(found["observation"][row], own["observation"][row])
            assert torch.equal(found["action"][row], own["action"][row])
            after = own["next", "observation"][last]
            assert torch.equal(found["next", "observation"][row], after)
            for name in ("done", "terminated"):
                assert found["next", name][row] == own["next", name][last]
        assert done[:-3].any()
    # Discounted by as many steps in the target.
    batch = kept[:8].exclude("index")
    torch.manual_seed(0)
    report = trainer.agent.loss(batch.clone())
    torch.manual_seed(0)
    other = trainer.agent.loss(batch.exclude("steps_to_next_obs"))
    key = trainer.agent.steps[0].losses[0]
    assert report[key] != other[key]


def test_n_steps_elsewhere_are_refused():
    transform = MultiStepTransform(3, gamma=0.5)
    storage = LazyTensorStorage(500)
    with pytest.raises(ValueError, match=r"MultiStepTransform as n_step, not as the buffer's"):
        over(TensorDictReplayBuffer(storage=storage, transform=transform))
    replay = make_trainer(**QUIET).experience.buffer
    with pytest.raises(ValueError, match=r"n_step needs a buffer of TorchRL, got our replay"):
        ReplayBuffer(replay, BATCH, UpdateSchedule(WARMUP, 1.0), n_step=transform)


@pytest.mark.parametrize(
    ("agent", "form"),
    [
        *(("td3", form) for form in ("uniform", "on disk", "prioritized", "n steps")),
        ("meow", "prioritized"),
    ],
)
@pytest.mark.quick_for("td3-prioritized")
def test_a_buffer_of_torchrl_resumes_exactly(tmp_path, trees, agent, form):
    """From a checkpoint within an episode; the last two are kept."""
    buffers = {**BUFFERS, "prioritized": prioritized}
    make = n_step if form == "n steps" else lambda: over(buffers[form]())
    run = {"agent": agent, "num_envs": 2, "log_every": 50, "eval_every": 0, "warmup_steps": 40}
    whole = make_trainer(folder=tmp_path / "whole", total_steps=80, **run, experience=make())
    whole.run()
    part = make_trainer(folder=tmp_path / "part", total_steps=60, **run, experience=make())
    part.run()
    assert len(list((tmp_path / "part" / "checkpoints" / "replay").iterdir())) == 2
    other = resumed(tmp_path / "part", total_steps=80, **run, experience=make())
    assert other.step == 60
    other.run()
    state, expected = (checkpoint(tmp_path / name) for name in ("part", "whole"))
    for state_ in (state, expected):
        del state_["experience"], state_["statistics"]["finished"]
    assert not differences(comparable(state), comparable(expected))
    kept, wanted = (t.experience.buffer[:].exclude("index") for t in (other, whole))
    assert not differences(kept.to_dict(), wanted.to_dict())


@pytest.mark.parametrize("form", ["uniform", "on disk", "prioritized", "n steps"])
@pytest.mark.quick_for("on disk")
def test_a_state_with_a_buffer_of_torchrl_is_gone_back_to(trees, form):
    buffers = {**BUFFERS, "prioritized": prioritized}
    make = n_step if form == "n steps" else lambda: over(buffers[form]())
    trainer = make_trainer(num_envs=2, total_steps=60, **QUIET, experience=make())
    trainer.run()
    state = trainer.state()
    trainer.config.total_steps = 80
    ends = []
    for _ in range(2):
        trainer.run()
        ends.append(comparable(trainer.state()))
        del ends[-1]["experience"]
        trainer.restore(state)
    assert not differences(*ends)
    assert trainer.step == 60


def test_the_first_step_decides_what_a_buffer_of_torchrl_keeps():
    """Log-probabilities too, where the behaviour wrote them from the first step on."""
    with_warmup = make_trainer(total_steps=50, **QUIET, experience=over(uniform()))
    with_warmup.run()
    assert "action_log_prob" not in with_warmup.experience.buffer[:].keys()  # noqa: SIM118
    experience = ReplayBuffer(uniform(), BATCH, UpdateSchedule(0, 1.0))
    without = make_trainer(total_steps=50, warmup_steps=0, **QUIET, experience=experience)
    without.run()
    kept = without.experience.buffer[:]
    assert kept["action_log_prob"].shape == (50,)
    assert np.ptp(kept["action_log_prob"].numpy()) > 0
    assert ("next", "truncated") in kept.keys(True)
