"""A run that is killed at any moment, and resumed, ends as if nothing had happened."""

import copy
import multiprocessing
import runpy
import shutil
import signal
from functools import partial
from pathlib import Path

import pytest
import torch

from maxentflow.agents import RunFolder

from ..common import checkpoint, comparable, differences, make_trainer, metrics, resumed
from .children import PRELOADED

# In one process: whole runs to compare with, and a server of children that has loaded torch.
pytestmark = pytest.mark.xdist_group("resume")

KILLED, INTERRUPTED, TERMINATED, HUNG_UP = -signal.SIGKILL, 130, 143, 129
LENGTHS = {
    "total_steps": 104,
    "warmup_steps": 30,
    "checkpoint_every": 40,
    "log_every": 20,
    "eval_every": 40,
    "eval_episodes": 1,
}
RUNS = {
    name: {**LENGTHS, **changes}
    for name, changes in {
        "meow": {},
        "replay wraps around": {"replay_size": 45},
        "replay is replaced": {"replay_size": 30},
        "two environments": {"num_envs": 2},
        "in workers": {"num_envs": 2, "workers": True, "utd_ratio": 0.6, "seed": 1},
        "cut": {"max_episode_steps": 6},
        "sac": {"agent": "sac"},
        "td3": {"agent": "td3"},
        "soft-q": {"agent": "soft-q"},
        "ppo": {"agent": "ppo", "warmup_steps": 0},
        "ppo in two": {"agent": "ppo", "warmup_steps": 0, "num_envs": 2},
        "Hopper": {"env_id": "Hopper-v4"},
    }.items()
}
MOMENTS = [
    # run, what it dies at, how many of it pass before, the checkpoint's step then, where one is
    ("meow", "update", 3, None),
    ("meow", "update", 15, 40),
    ("meow", "update", 55, 80),
    ("meow", "half a checkpoint", 0, None),
    ("meow", "half a checkpoint", 1, 40),
    ("meow", "checkpoint", 0, 40),
    ("meow", "checkpoint", 2, 104),
    ("meow", "half a chunk", 0, None),
    ("meow", "half a chunk", 1, 40),
    ("meow", "chunk", 0, None),
    ("meow", "chunk", 1, 40),
    ("meow", "half a row", 0, None),
    ("meow", "half a row", 3, 40),
    ("replay wraps around", "update", 55, 80),
    ("replay wraps around", "chunk", 1, 40),
    ("replay is replaced", "update", 55, 80),
    ("replay is replaced", "chunk", 1, 40),
    ("two environments", "update", 56, 80),
    ("in workers", "update", 32, 80),
    ("cut", "update", 55, 80),
    ("sac", "update", 15, 40),
    ("td3", "update", 16, 40),  # between two updates of the actor
    ("soft-q", "update", 15, 40),
    ("ppo", "update", 6, 40),
    ("ppo in two", "update", 9, 80),
    ("Hopper", "update", 55, 80),
]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Folders of runs that nothing disturbed, each made when it is first asked for."""
    folders = {}

    def get(run):
        if run not in folders:
            folders[run] = tmp_path_factory.mktemp("uninterrupted") / "run"
            end(folders[run], run)
        return folders[run]

    return get


@pytest.fixture(scope="module")
def dies():
    """Trains in a child process that ends at a moment; gives its exit code."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    script = Path(__file__).with_name("killing.py")

    def die(folder, run, moment):
        globals_ = {"folder": folder, "run": RUNS[run], "moment": moment}
        child = context.Process(target=partial(runpy.run_path, str(script), globals_))
        child.start()
        child.join(120)
        return child.exitcode

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(script.parents[3])  # children import from these tests
        yield die


def end(folder, run, **changes):
    """Begin a run, or go on with it, to its end."""
    trainer = resumed(folder, **{**RUNS[run], **changes})
    trainer.run()
    trainer.env.close()


def step_of_checkpoint(folder):
    """The step of the last checkpoint, if there is one, which is to lie within an episode."""
    if not (folder / "checkpoints" / "latest.pt").exists():
        return None
    state = checkpoint(folder)
    assert any(length > 0 for length in state["statistics"]["lengths"])
    return state["step"]


def final_state(folder, run):
    """What the last checkpoint holds, with what lies in the files that it names."""
    trainer = make_trainer(**RUNS[run])
    state = comparable(checkpoint(folder))
    experience = trainer.experience
    if "files" in state["experience"]:
        names = set(state["experience"]["files"])
        before = RunFolder(folder).load_checkpoint(previous=True)
        names |= set(before["experience"]["files"] if before else ())
        assert {path.name for path in (folder / "checkpoints" / "replay").iterdir()} == names
        experience.load(state["experience"], folder / "checkpoints" / "replay")
        state["experience"] = experience.state_dict()
    trainer.env.close()
    return state


def assert_same_run(folder, reference, run):
    assert metrics(folder) == metrics(reference)
    assert not differences(final_state(folder, run), final_state(reference, run))


@pytest.mark.parametrize(("run", "what", "passing", "step"), MOMENTS)
@pytest.mark.quick_for("soft-q")
def test_killed_and_resumed(tmp_path, dies, uninterrupted, run, what, passing, step):
    folder = tmp_path / "run"
    assert dies(folder, run, (what, passing)) == KILLED
    assert step_of_checkpoint(folder) == step
    if step != 104:
        end(folder, run)
    assert_same_run(folder, uninterrupted(run), run)


@pytest.mark.slow
def test_killed_again_and_again(tmp_path, dies, uninterrupted):
    folder = tmp_path / "run"
    assert dies(folder, "meow", ("update", 15)) == KILLED
    assert dies(folder, "meow", ("half a row", 1)) == KILLED
    assert dies(folder, "meow", ("half a checkpoint", 0)) == KILLED
    assert dies(folder, "meow", ("chunk", 0)) == KILLED
    assert step_of_checkpoint(folder) == 40
    assert dies(folder, "meow", ("update", 45)) == KILLED
    assert step_of_checkpoint(folder) == 80
    end(folder, "meow")
    assert_same_run(folder, uninterrupted("meow"), "meow")


@pytest.mark.parametrize(
    ("what", "passing", "code", "step"),
    [
        ("Ctrl-C", 55, INTERRUPTED, 86),  # that step is finished
        ("Ctrl-C in a log", 2, INTERRUPTED, 60),  # where no checkpoint is due
        ("Ctrl-C twice", 55, INTERRUPTED, 80),  # at once
        ("SIGTERM", 55, TERMINATED, 86),
        ("SIGHUP", 55, HUNG_UP, 86),
        ("SIGTERM from timeout(1)", 55, TERMINATED, 86),
        ("SIGTERM twice", 55, TERMINATED, 80),
        ("Ctrl-C, then SIGTERM", 55, TERMINATED, 80),
    ],
)
@pytest.mark.quick_for("SIGTERM-55-143-86", "SIGHUP-55-129-86")
def test_stopped_by_a_signal_and_resumed(tmp_path, dies, uninterrupted, what, passing, code, step):
    folder = tmp_path / "run"
    assert dies(folder, "meow", (what, passing)) == code
    assert step_of_checkpoint(folder) == step
    end(folder, "meow")
    assert_same_run(folder, uninterrupted("meow"), "meow")


@pytest.mark.slow
def test_a_run_made_longer(tmp_path, uninterrupted):
    """Most of a run, ending where an evaluation is due anyway, and the rest are the run."""
    folder = tmp_path / "run"
    end(folder, "meow", total_steps=80)
    end(folder, "meow")
    assert_same_run(folder, uninterrupted("meow"), "meow")


def test_the_comparison_sees_one_bit(uninterrupted):
    state, other = (final_state(uninterrupted("meow"), "meow") for _ in range(2))
    assert not differences(state, other)
    other["random_state"][0][7] ^= 1
    assert differences(state, other) == ["state/random_state/0"]


@pytest.mark.slow
def test_workers_change_nothing(tmp_path, uninterrupted):
    end(tmp_path / "run", "in workers", workers=False)
    assert_same_run(tmp_path / "run", uninterrupted("in workers"), "in workers")


@pytest.mark.parametrize("run", ["meow", "in workers", "td3", "ppo in two"])
@pytest.mark.quick_for("meow", "ppo")
def test_a_state_in_memory_is_gone_back_to(run):
    """Also by a trainer that has gone on since, and without touching the state."""
    trainer = make_trainer(**{**RUNS[run], "total_steps": 66, "eval_every": 0})
    trainer.run()
    state = trainer.state()
    trainer.config.total_steps = 80
    ends = []
    for _ in range(2):
        trainer.run()
        ends.append(comparable(trainer.state()))
        trainer.restore(state)
    trainer.env.close()
    assert not differences(ends[0], ends[1])
    assert differences(ends[0], comparable(state))


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """The folder of a short run."""
    folder = tmp_path_factory.mktemp("short") / "run"
    end(folder, "meow", **SHORT)
    return folder


SHORT = {"total_steps": 50, "eval_every": 0, "checkpoint_every": 25}


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "half", "bit"])
def test_a_damaged_part_of_the_replay_is_refused(tmp_path, short, damage):
    folder = shutil.copytree(short, tmp_path / "run")
    _, last = sorted((folder / "checkpoints" / "replay").iterdir())
    content = {
        "empty": b"",
        "text": b"not a replay\n" * 100,
        "half": last.read_bytes()[: last.stat().st_size // 2],
        "bit": flipped(last.read_bytes(), last.stat().st_size // 2),
    }
    if damage == "missing":
        last.unlink()
    else:
        last.write_bytes(content[damage])
    with pytest.raises(ValueError, match=rf"{last.name} is not a readable part of a replay"):
        resumed(folder, **SHORT)


def flipped(content, place):
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def keys(state, path=()):
    for key, entry in state.items():
        yield (*path, key)
        if isinstance(entry, dict) and key not in ("policy", "behavior", "loss"):
            yield from keys(entry, (*path, key))


NOT_NEEDED = ("report", "settings", "best_return")  # the last is missing in older checkpoints


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("step", "junk"),
        ("step", -5),
        ("seconds", "junk"),
        ("best_return", "junk"),
        ("example", "junk"),
        ("random_state", ["junk", []]),
        ("random_state", [torch.zeros(3, dtype=torch.uint8), []]),
        ("random_state", []),
    ],
)
def test_a_checkpoint_with_something_else_in_an_entry_is_refused(tmp_path, short, name, value):
    trainer = make_trainer(folder=tmp_path / "other", **SHORT)
    shutil.copytree(short / "checkpoints", tmp_path / "other" / "checkpoints", dirs_exist_ok=True)
    with pytest.raises(ValueError, match="checkpoint"):
        trainer.restore({**checkpoint(short), name: value})


def test_a_checkpoint_that_lacks_an_entry_is_refused(tmp_path, short):
    trainer = make_trainer(folder=tmp_path / "other", **SHORT)
    state = checkpoint(short)
    missing = [path for path in keys(state) if path[0] not in NOT_NEEDED]
    assert len(missing) > 20
    shutil.copytree(short / "checkpoints", tmp_path / "other" / "checkpoints", dirs_exist_ok=True)
    for path in missing:
        damaged = copy.deepcopy(state)
        part = damaged
        for key in path[:-1]:
            part = part[key]
        del part[path[-1]]
        with pytest.raises(ValueError, match=r"checkpoint"):
            trainer.restore(damaged)
    trainer.restore(state)
    assert trainer.step == 50
