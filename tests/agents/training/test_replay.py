"""The buffer against a list of whole transitions, and against its own account of its size."""

import resource
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from maxentflow.agents.training import Replay
from maxentflow.agents.training.simulator import Entry

from ..common import differences
from .children import in_child

KEYS = (
    "observation",
    "action",
    ("next", "observation"),
    ("next", "reward"),
    ("next", "done"),
    ("next", "terminated"),
)
FORMS = {
    "vectors": (Entry(torch.Size([3]), torch.float32), Entry(torch.Size([2]), torch.float32)),
    "images": (Entry(torch.Size([4, 5, 3]), torch.uint8), Entry(torch.Size([]), torch.int64)),
    "an index": (Entry(torch.Size([]), torch.int64), Entry(torch.Size([2, 2]), torch.float64)),
}
VECTOR, ACTION = FORMS["vectors"]


def draws(generator, entry, count):
    """Random values of every kind that a dtype has."""
    if entry.dtype.is_floating_point:
        values = generator.normal(size=(count, *entry.shape))
    else:
        info = torch.iinfo(entry.dtype)
        values = generator.integers(info.min, info.max, (count, *entry.shape), endpoint=True)
    return torch.as_tensor(values).to(entry.dtype)


def play(replay, steps, *, observation=VECTOR, action=ACTION, chance=0.3, seed=0):
    """Adds random steps that go on from those there are; gives them in their order."""
    generator = np.random.default_rng(seed)
    count = replay.num_envs
    transitions = []

    def next_before(following):
        done = following["done"].reshape(-1, *[1] * len(observation.shape))
        first = draws(generator, observation, count)
        return torch.where(done, first, following["observation"])

    if len(replay):
        before = next_before(replay[-count:]["next"])
    else:
        before = draws(generator, observation, count)
    for _ in range(steps):
        acted = draws(generator, action, count)
        reward = draws(generator, Entry(torch.Size([1]), torch.float32), count)
        final = draws(generator, observation, count)
        done = torch.as_tensor(generator.random((count, 1)) < chance)
        terminated = done & torch.as_tensor(generator.random((count, 1)) < 0.5)
        following = {"observation": final, "reward": reward, "done": done}
        step = TensorDict(
            observation=before,
            action=acted,
            action_log_prob=reward[:, 0],  # not kept
            next=TensorDict(
                **following,
                terminated=terminated,
                truncated=done & ~terminated,
                batch_size=[count],
            ),
            batch_size=[count],
        )
        replay.add(step)
        transitions += [[row[key] for key in KEYS] for row in step.clone()]
        before = next_before(step["next"])
    return transitions


def assert_holds(replay, transitions):
    assert len(replay) == len(transitions)
    kept = replay[:]
    for key, expected in zip(KEYS, zip(*transitions, strict=True), strict=True):
        torch.testing.assert_close(kept[key], torch.stack(expected), rtol=0, atol=0)


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("steps", [1, 6, 7, 8, 15, 100])
@pytest.mark.parametrize("chance", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.quick_for("0.3-8", "0.3-100", "1.0-15")
def test_holds_the_latest_transitions(num_envs, steps, chance, form):
    observation, action = FORMS[form]
    replay = Replay(7 * num_envs, num_envs, observation, action)
    transitions = play(replay, steps, chance=chance, observation=observation, action=action)
    assert_holds(replay, transitions[-7 * num_envs :])


def test_capacity_is_rounded_up_to_whole_steps():
    replay = Replay(10, 4, VECTOR, ACTION)
    assert_holds(replay, play(replay, 20)[-12:])


def test_room_for_last_observations_grows_and_is_used_again():
    replay = Replay(200, 1, VECTOR, ACTION)
    assert_holds(replay, play(replay, 200, chance=1.0))
    full = replay.nbytes
    assert_holds(replay, play(replay, 1_000, chance=1.0, seed=1)[-200:])
    assert replay.nbytes == full  # 256 of them serve 200 transitions for ever


@pytest.mark.parametrize("steps", [3, 9, 40])
@pytest.mark.parametrize("num_envs", [1, 2])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.quick_for("40")
def test_a_state_goes_on_as_the_original(saved, steps, num_envs, form):
    forms = dict(zip(("observation", "action"), FORMS[form], strict=True))
    replay, other = (Replay(9 * num_envs, num_envs, **forms) for _ in range(2))
    play(replay, steps, **forms)
    play(other, 30, chance=1.0, seed=5, **forms)  # whatever it held before
    saved(replay, other)
    torch.manual_seed(3)
    batch = replay.sample(64)
    torch.manual_seed(3)
    again = other.sample(64)
    assert all(torch.equal(batch[key], again[key]) for key in KEYS)
    for seed in range(3):
        play(replay, 5, seed=seed, **forms)
        play(other, 5, seed=seed, **forms)
    assert all(torch.equal(replay[:][key], other[:][key]) for key in KEYS)
    assert not differences(replay.state_dict(), other.state_dict())


@pytest.mark.parametrize("num_envs", [1, 2])
@pytest.mark.parametrize("capacity", [5, 9, 30, 1_000])
@pytest.mark.quick_for("30", "-1")
def test_files_hold_each_transition_once(tmp_path, num_envs, capacity):
    """Saved every few steps, loaded at any time; also replays that wrap around meanwhile."""
    replay = Replay(capacity * num_envs, num_envs, VECTOR, ACTION)
    written, transitions = {}, []
    for seed, steps in enumerate([3, 4, 4, 0, 7, 1, 12, 4, 3]):
        transitions += play(replay, steps, seed=seed)
        names = replay.save(tmp_path)["files"]
        for path in tmp_path.iterdir():
            # Never written again, so what was once there stays.
            assert written.setdefault(path.name, path.stat().st_mtime_ns) == (
                path.stat().st_mtime_ns
            )
        other = Replay(capacity * num_envs, num_envs, VECTOR, ACTION)
        other.load({"files": names}, tmp_path)
        assert_holds(other, transitions[-capacity * num_envs :])
        # No more files are needed than hold what is kept, and a bit of one.
        kept = [torch.load(tmp_path / name) for name in names]
        surplus = sum(len(chunk["reward"]) for chunk in kept) - len(replay)
        assert surplus < max(len(kept[0]["reward"]), 1)
    rows = sum(len(torch.load(tmp_path / name)["reward"]) for name in written)
    assert rows <= len(transitions)
    if capacity > 12:
        assert rows == len(transitions)


def test_a_loaded_replay_goes_on_with_its_files(tmp_path):
    """It adds a file to those that are there, over one that an earlier life has left."""
    replay = Replay(50, 1, VECTOR, ACTION)
    transitions = play(replay, 20)
    names = replay.save(tmp_path)["files"]
    lost = Replay(50, 1, VECTOR, ACTION)
    lost.load({"files": names}, tmp_path)
    play(lost, 10, seed=1)
    lost.save(tmp_path)  # and died before its checkpoint named the file
    other = Replay(50, 1, VECTOR, ACTION)
    other.load({"files": names}, tmp_path)
    transitions += play(other, 10, seed=2)
    again = Replay(50, 1, VECTOR, ACTION)
    again.load(other.save(tmp_path), tmp_path)
    assert_holds(again, transitions)
    assert len(list(tmp_path.iterdir())) == 2


def test_files_with_a_gap_are_refused(tmp_path):
    replay = Replay(50, 1, VECTOR, ACTION)
    for _ in range(3):
        play(replay, 5)
        names = replay.save(tmp_path)["files"]
    with pytest.raises(ValueError, match="replay has a gap"):
        replay.load({"files": [names[0], names[2]]}, tmp_path)


def test_draws_are_uniform():
    replay = Replay(50, 1, VECTOR, ACTION)
    play(replay, 80)
    drawn = replay.sample(100_000)["observation"][:, 0]
    _, counts = torch.unique(drawn, return_counts=True)
    expected = 2_000.0
    assert len(counts) == 50
    # chi-square with 49 degrees of freedom: 85.4 is passed once in a thousand
    assert ((counts - expected) ** 2 / expected).sum() < 85.4


def test_draws_are_torchs_own():
    """As many numbers of the generator, and the same, as TorchRL's buffer takes."""
    replay = Replay(50, 1, VECTOR, ACTION)
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
    replay = Replay(
        steps,
        1,
        Entry(torch.Size([obs_dim]), torch.float32),
        Entry(torch.Size([action_dim]), torch.float32),
    )
    copy = steps * (4 * obs_dim + 4 * action_dim + 4 + 2)
    ends = steps // 20 * 4 * obs_dim
    assert replay.nbytes + ends < 1.06 * copy


RESIDENT = """
import torch
from tensordict import TensorDict
from maxentflow.agents.training import Replay
from maxentflow.agents.training.simulator import Entry

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

def replay(capacity):
    vector = Entry(torch.Size([1000]), torch.float32)
    return Replay(capacity, 1, vector, Entry(torch.Size([10]), torch.float32))

no = torch.zeros(1, 1, dtype=torch.bool)
observation = torch.zeros(1, 1000)
following = dict(observation=observation, reward=torch.zeros(1, 1), done=no, terminated=no)
step = TensorDict(observation=observation, action=torch.zeros(1, 10), next=following)
small = replay(10)
small.add(step)
before = resident()
large = replay(1_000_000)
reserved = resident()
for _ in range(20_000):
    large.add(step)
print(reserved - before, resident() - reserved)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.slow
def test_memory_is_taken_as_it_fills():
    result = subprocess.run(
        [sys.executable, "-c", RESIDENT], capture_output=True, text=True, check=True
    )
    reserved, filled = map(int, result.stdout.split())
    assert reserved < 2**20  # of four gigabytes
    assert 20_000 * 4040 < filled < 1.1 * 20_000 * 4040


@pytest.mark.parametrize("name", ["capacity", "num_envs"])
def test_sizes_must_be_positive(name):
    sizes = {"capacity": 5, "num_envs": 1, name: 0}
    with pytest.raises(ValueError, match=rf"^{name} must be at least 1, got 0\.$"):
        Replay(**sizes, observation=VECTOR, action=ACTION)


def test_more_than_the_memory_is_refused():
    with pytest.raises(ValueError, match=r"^There is not enough memory for a replay of 10{14} "):
        Replay(10**14, 1, VECTOR, ACTION)


@pytest.mark.parametrize(
    "other",
    [
        {"num_envs": 2},
        {"observation": ACTION},
        {"action": VECTOR},
        {"action": FORMS["images"][1]},
        {"action": Entry(ACTION.shape, torch.int64)},
    ],
)
def test_states_of_other_sizes_are_refused(saved, other):
    replay = Replay(20, 1, VECTOR, ACTION)
    play(replay, 9)
    sizes = {"num_envs": 1, "observation": VECTOR, "action": ACTION, **other}
    other = Replay(20, **sizes)
    with pytest.raises(ValueError, match=r"A replay of 9 transitions .* does not fit"):
        saved(replay, other)
    assert len(other) == 0


def test_a_smaller_replay_takes_the_newest(saved):
    replay, other = Replay(20, 1, VECTOR, ACTION), Replay(7, 1, VECTOR, ACTION)
    transitions = play(replay, 18)
    saved(replay, other)
    assert_holds(other, transitions[-7:])


def test_a_replay_on_disk_is_the_one_in_memory(tmp_path):
    """Also where it overwrites, and its files end with it."""
    generator = np.random.default_rng(3)
    pair = [Replay(20, 2, VECTOR, ACTION), Replay(20, 2, VECTOR, ACTION, folder=tmp_path)]
    for _ in range(35):
        step = {"observation": draws(generator, VECTOR, 2), "action": draws(generator, ACTION, 2)}
        following = {
            "observation": draws(generator, VECTOR, 2),
            "reward": torch.as_tensor(generator.normal(size=(2, 1)), dtype=torch.float32),
            "done": torch.as_tensor(generator.random((2, 1)) < 0.3),
            "terminated": torch.as_tensor(generator.random((2, 1)) < 0.2),
        }
        for replay in pair:
            replay.add(TensorDict({**step, "next": TensorDict(following, [2])}, [2]))
    memory, disk = pair
    for key in KEYS:
        assert torch.equal(memory[:][key], disk[:][key])
    assert list(tmp_path.iterdir()) == []


def refusal_of_a_small_disk(folder):
    """What is said of a replay that is too large, by a limit of the size of files."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    entry = Entry(torch.Size([3]), torch.float32)
    with pytest.raises(ValueError, match="cannot be made") as refused:
        Replay(10_000, 1, entry, entry, folder=folder)
    return str(refused.value)


@pytest.mark.xdist_group("resume")  # which has a server of children
def test_a_replay_that_the_disk_has_no_room_for_is_refused(tmp_path):
    """Writing to it through a map would kill the process."""
    said = in_child(refusal_of_a_small_disk, tmp_path)
    assert said.startswith("A replay of 10000 transitions cannot be made in")
    assert said.endswith(": File too large.")


def test_a_replay_on_disk_is_on_the_cpu(tmp_path):
    with pytest.raises(ValueError, match="is read by the CPU, got device meta"):
        Replay(10, 1, VECTOR, ACTION, device="meta", folder=tmp_path)
