"""A replay's extra entries: kept with their transitions, saved and loaded with them."""

import pytest
import torch
from tensordict import TensorDict

from maxentflow.agents.training import Replay
from maxentflow.agents.training.simulator import Entry

from ..common import differences

VECTOR = Entry(torch.Size([3]), torch.float32)
ACTION = Entry(torch.Size([2]), torch.float32)
EXTRA = {
    "raw_action": ((2,), torch.float32),
    "log_prob": ((), torch.float64),
    "image": ((2, 3), torch.uint8),
    "choice": ((1,), torch.int64),
}


def make(capacity=9, num_envs=1, extra=tuple(EXTRA)):
    return Replay(capacity * num_envs, num_envs, VECTOR, ACTION, extra)


def of_number(number, shape, dtype, salt):
    """Entries that tell which transition they are of, modulo 251."""
    value = (number * 7 + salt) % 251
    tail = torch.arange(torch.Size(shape).numel()).reshape(shape) % 2
    return (value.reshape(-1, *[1] * len(shape)) + tail).to(dtype)


def numbered(first, num_envs, *, ends=5, extra=EXTRA):
    """A step whose every entry is a function of the transitions' numbers."""
    number = torch.arange(first, first + num_envs)
    done = (number % ends == ends - 1)[:, None]
    following = TensorDict(
        observation=of_number(number + num_envs, (3,), torch.float32, 1),
        reward=number[:, None].float(),
        done=done,
        terminated=done,
        truncated=torch.zeros_like(done),
        batch_size=[num_envs],
    )
    return TensorDict(
        observation=of_number(number, (3,), torch.float32, 1),
        action=of_number(number, (2,), torch.float32, 2),
        **{
            name: of_number(number, *form, salt)
            for salt, (name, form) in enumerate(extra.items(), start=3)
        },
        next=following,
        batch_size=[num_envs],
    )


def play(replay, steps, **options):
    for _ in range(steps):
        replay.add(numbered(replay.added, replay.num_envs, **options))


def assert_right(batch, extra=EXTRA):
    """Every entry is that of its transition, which the reward numbers."""
    number = batch["next", "reward"][:, 0].long()
    assert torch.equal(batch["observation"], of_number(number, (3,), torch.float32, 1))
    assert torch.equal(batch["action"], of_number(number, (2,), torch.float32, 2))
    for salt, (name, (shape, dtype)) in enumerate(extra.items(), start=3):
        assert batch[name].dtype == dtype
        assert torch.equal(batch[name], of_number(number, shape, dtype, salt)), name


def assert_holds(replay, last, count):
    """The latest transitions, in their order."""
    assert len(replay) == count
    kept = replay[:]
    assert kept["next", "reward"][:, 0].tolist() == list(range(last - count, last))
    assert_right(kept)


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("steps", [1, 8, 9, 10, 19, 100])
def test_they_stay_with_their_transitions_wherever_these_are(num_envs, steps):
    replay = make(num_envs=num_envs)
    play(replay, steps)
    assert_holds(replay, steps * num_envs, min(steps, 9) * num_envs)
    batch = replay.sample(64)
    assert set(batch.keys()) == {"observation", "action", "next", *EXTRA}
    assert_right(batch)
    assert_right(replay[torch.tensor([0, len(replay) - 1, 0])])


def test_draws_are_the_same_with_and_without_them():
    one, other = make(), make(extra=())
    for replay in (one, other):
        play(replay, 30)
    torch.manual_seed(0)
    batch, after = one.sample(16), torch.rand(1)
    torch.manual_seed(0)
    expected = other.sample(16)
    assert set(expected.keys()) == {"observation", "action", "next"}
    assert torch.equal(after, torch.rand(1))
    for key in expected.keys(True, True):
        assert torch.equal(batch[key], expected[key])


def test_a_later_step_does_not_change_what_was_drawn():
    replay = make()
    play(replay, 12)
    batch = replay.sample(16)
    before = batch.clone()
    play(replay, 12)
    assert (batch == before).all()


@pytest.mark.parametrize("steps", [0, 3, 9, 40])
@pytest.mark.parametrize("num_envs", [1, 2])
@pytest.mark.parametrize("before", [0, 30])
@pytest.mark.quick_for("40")
def test_a_state_goes_on_as_the_original(saved, steps, num_envs, before):
    """In a new replay, and in one that held something else; also before the first step."""
    replay, other = make(num_envs=num_envs), make(num_envs=num_envs)
    play(replay, steps)
    play(other, before, ends=2)
    saved(replay, other)
    for each in (replay, other):
        play(each, 5)
    kept = min(steps + 5, 9) * num_envs
    for each in (replay, other):
        assert_holds(each, (steps + 5) * num_envs, kept)
    assert not differences(replay.state_dict(), other.state_dict())


@pytest.mark.parametrize("capacity", [5, 9, 1_000])
def test_files_hold_each_of_them_once(tmp_path, capacity):
    """Saved every few steps and loaded at any time; also replays that wrap around meanwhile."""
    replay = make(capacity)
    for steps in (3, 4, 4, 0, 7, 1, 12, 4, 3):
        play(replay, steps)
        names = replay.save(tmp_path)["files"]
        other = make(capacity)
        other.load({"files": names}, tmp_path)
        assert_holds(other, replay.added, len(replay))
        chunks = [torch.load(tmp_path / name, weights_only=True) for name in names]
        for chunk in chunks:
            assert {len(chunk[name]) for name in EXTRA} == {len(chunk["reward"])}


def test_a_chunk_holds_those_of_its_transitions():
    replay = make()
    play(replay, 15)
    chunk = replay.chunk(11)
    assert chunk["reward"][:, 0].tolist() == [11, 12, 13, 14]
    for salt, (name, form) in enumerate(EXTRA.items(), start=3):
        assert torch.equal(chunk[name], of_number(torch.arange(11, 15), *form, salt))


def test_a_smaller_replay_takes_the_newest(saved):
    replay, other = make(20), make(7)
    play(replay, 18)
    saved(replay, other)
    assert_holds(other, 18, 7)


def test_a_replay_that_keeps_fewer_takes_what_it_keeps(saved):
    replay, other = make(), make(extra=("log_prob",))
    play(replay, 15)
    saved(replay, other)
    assert set(other[:].keys()) == {"observation", "action", "next", "log_prob"}
    assert torch.equal(other[:]["log_prob"], replay[:]["log_prob"])


def test_a_state_without_them_is_refused(saved):
    replay, other = make(extra=("log_prob",)), make()
    play(replay, 5)
    play(other, 3)
    with pytest.raises(ValueError, match=r"A replay of 5 transitions .* does not fit"):
        saved(replay, other)
    assert_holds(other, 3, 3)


@pytest.mark.parametrize("form", [((3,), torch.float64), ((), torch.float32)])
def test_a_state_in_another_form_is_refused(saved, form):
    replay, other = make(extra=("log_prob",)), make(extra=("log_prob",))
    play(replay, 5, extra={"log_prob": form})
    play(other, 3, extra={"log_prob": EXTRA["log_prob"]})
    with pytest.raises(ValueError, match=r"A replay of 5 transitions .* does not fit"):
        saved(replay, other)
    assert len(other) == 3


def test_a_step_without_one_is_refused_and_changes_nothing():
    replay = make()
    play(replay, 4)
    with pytest.raises(KeyError, match="image"):
        replay.add(numbered(4, 1).exclude("image"))
    assert_holds(replay, 4, 4)
    play(replay, 9)
    assert_holds(replay, 13, 9)


def test_bytes_are_counted_once_the_first_step_has_shown_their_form():
    plain, replay = make(extra=()), make()
    for each in (plain, replay):
        play(each, 1)
    rows = 9 + 1
    assert replay.nbytes - plain.nbytes == rows * (2 * 4 + 8 + 6 + 8)
