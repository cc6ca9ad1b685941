"""The buffer against a list of whole transitions, and against its own account of its size."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from maxentflow.agents.replay import Replay

KEYS = (
    "observation",
    "action",
    ("next", "observation"),
    ("next", "reward"),
    ("next", "done"),
    ("next", "terminated"),
)


def play(replay, steps, *, obs_dim=3, action_dim=2, chance=0.3, seed=0):
    """Adds random steps; gives the transitions in the order in which they happened."""
    generator = np.random.default_rng(seed)
    count = replay.num_envs
    transitions = []
    before = generator.normal(size=(count, obs_dim)).astype(np.float32)
    replay.start(before)
    for _ in range(steps):
        action = generator.uniform(-1, 1, (count, action_dim)).astype(np.float32)
        reward = generator.normal(size=count).astype(np.float32)
        final = generator.normal(size=(count, obs_dim)).astype(np.float32)
        ended = generator.random(count) < chance
        terminated = ended & (generator.random(count) < 0.5)
        following = final.copy()
        following[ended] = generator.normal(size=(ended.sum(), obs_dim))
        replay.add(action, reward, terminated, ended, final, following)
        for i in range(count):
            transitions.append(
                (before[i], action[i], final[i], reward[i : i + 1], ended[i : i + 1],
                 terminated[i : i + 1])
            )  # fmt: skip
        before = following
    return transitions


def assert_holds(replay, transitions):
    assert len(replay) == len(transitions)
    kept = replay[:]
    for key, expected in zip(KEYS, zip(*transitions, strict=True), strict=True):
        np.testing.assert_array_equal(kept[key].numpy(), np.stack(expected), str(key))
        assert kept[key].dtype == torch.from_numpy(np.stack(expected)).dtype


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("steps", [1, 6, 7, 8, 15, 100])
@pytest.mark.parametrize("chance", [0.0, 0.3, 1.0])
def test_holds_the_latest_transitions(num_envs, steps, chance):
    replay = Replay(7 * num_envs, num_envs, 3, 2)
    transitions = play(replay, steps, chance=chance)
    assert_holds(replay, transitions[-7 * num_envs :])


def test_capacity_is_rounded_up_to_whole_steps():
    replay = Replay(10, 4, 3, 2)
    assert_holds(replay, play(replay, 20)[-12:])


def test_room_for_last_observations_grows_and_is_used_again():
    replay = Replay(200, 1, 3, 2)
    assert_holds(replay, play(replay, 200, chance=1.0))
    full = replay.nbytes
    assert_holds(replay, play(replay, 1_000, chance=1.0, seed=1)[-200:])
    assert replay.nbytes == full  # 256 of them serve 200 transitions for ever


@pytest.mark.parametrize("steps", [3, 9, 40])
@pytest.mark.parametrize("num_envs", [1, 2])
def test_a_state_goes_on_as_the_original(steps, num_envs):
    replay, other = (Replay(9 * num_envs, num_envs, 3, 2) for _ in range(2))
    play(replay, steps)
    state = replay.state_dict()
    play(other, 30, chance=1.0, seed=5)  # whatever it held before
    other.load_state_dict(state)
    torch.manual_seed(3)
    batch = replay.sample(64)
    torch.manual_seed(3)
    again = other.sample(64)
    assert all(torch.equal(batch[key], again[key]) for key in KEYS)
    for seed in range(3):
        play(replay, 5, seed=seed)
        play(other, 5, seed=seed)
    assert all(torch.equal(replay[:][key], other[:][key]) for key in KEYS)
    first, second = replay.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(torch.as_tensor(first[k]), torch.as_tensor(second[k])) for k in first)


def test_a_blank_is_a_sample_of_zeros():
    replay = Replay(50, 2, 3, 2)
    play(replay, 20)
    blank, sample = replay.blank(8), replay.sample(8)
    for key in KEYS:
        assert blank[key].shape == sample[key].shape
        assert blank[key].dtype == sample[key].dtype
        assert not blank[key].any()


def test_draws_are_uniform():
    replay = Replay(50, 1, 1, 1)
    play(replay, 80, obs_dim=1, action_dim=1)
    drawn = replay.sample(100_000)["observation"][:, 0]
    _, counts = torch.unique(drawn, return_counts=True)
    expected = 2_000.0
    assert len(counts) == 50
    # chi-square with 49 degrees of freedom: 85.4 is passed once in a thousand
    assert ((counts - expected) ** 2 / expected).sum() < 85.4


def test_draws_are_torchs_own():
    """As many numbers of the generator, and the same, as TorchRL's buffer takes."""
    replay = Replay(50, 1, 3, 2)
    play(replay, 30)
    torch.manual_seed(1)
    batch, after = replay.sample(16), torch.rand(1)
    torch.manual_seed(1)
    index = torch.randint(0, 30, (16,))
    assert torch.equal(batch["observation"], replay[:]["observation"][index])
    assert torch.equal(after, torch.rand(1))


def test_size_beside_one_copy_of_the_data():
    """A million steps of Humanoid, whose episodes last at least 20 steps."""
    steps, obs_dim, action_dim = 1_000_000, 376, 17
    replay = Replay(steps, 1, obs_dim, action_dim)
    copy = steps * (4 * obs_dim + 4 * action_dim + 4 + 2)
    ends = steps // 20 * 4 * obs_dim
    assert replay.nbytes + ends < 1.06 * copy


RESIDENT = """
import numpy as np, torch
from maxentflow.agents.replay import Replay

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

replay = Replay(10, 1, 1000, 10)
before = resident()
replay = Replay(1_000_000, 1, 1000, 10)
reserved = resident()
observation, no = np.zeros((1, 1000), np.float32), np.zeros(1, bool)
for _ in range(20_000):
    replay.add(np.zeros((1, 10)), np.zeros(1), no, no, observation, observation)
print(reserved - before, resident() - reserved)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_taken_as_it_fills():
    result = subprocess.run(
        [sys.executable, "-c", RESIDENT], capture_output=True, text=True, check=True
    )
    reserved, filled = map(int, result.stdout.split())
    assert reserved < 2**20  # of four gigabytes
    assert 20_000 * 4040 < filled < 1.1 * 20_000 * 4040


@pytest.mark.parametrize("name", ["capacity", "num_envs", "obs_dim", "action_dim"])
def test_sizes_must_be_positive(name):
    sizes = {"capacity": 5, "num_envs": 1, "obs_dim": 3, "action_dim": 2, name: 0}
    with pytest.raises(ValueError, match=rf"^{name} must be at least 1, got 0\.$"):
        Replay(**sizes)


@pytest.mark.parametrize("sizes", [(4, 1, 3, 2), (20, 2, 3, 2), (20, 1, 4, 2), (20, 1, 3, 1)])
def test_states_of_other_sizes_are_refused(sizes):
    replay = Replay(20, 1, 3, 2)
    play(replay, 9)
    with pytest.raises(ValueError, match=r"A replay of 9 transitions .* does not fit"):
        Replay(*sizes).load_state_dict(replay.state_dict())
