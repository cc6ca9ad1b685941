"""A run that is killed at any moment, and resumed, ends as if nothing had happened."""

import multiprocessing
import runpy
import signal
from functools import partial
from pathlib import Path

import pytest

from maxentflow.agents import cli

from .common import checkpoint, differences, metrics, without_figures, words

KILLED, INTERRUPTED = -signal.SIGKILL, 130
RUNS = {
    "meow": {},
    "replay wraps around": {"replay_size": 45},
    "two environments": {"num_envs": 2},
    "in workers": {"num_envs": 2, "workers": True, "utd_ratio": 0.6, "seed": 1},
    "sac": {"agent": "sac"},
    "Hopper": {"env": "Hopper-v4"},
    "compiled": {"compile": "on"},
}
MOMENTS = [
    # run, what it dies at, how many of it pass before, the checkpoint's step then, where one is
    ("meow", "update", 3, None),
    ("meow", "update", 25, 45),
    ("meow", "update", 75, 90),
    ("meow", "half a checkpoint", 0, None),
    ("meow", "half a checkpoint", 1, 45),
    ("meow", "checkpoint", 0, 45),
    ("meow", "checkpoint", 3, 150),
    ("meow", "half a row", 0, None),
    ("meow", "half a row", 3, 45),
    ("replay wraps around", "update", 70, 90),
    ("two environments", "update", 80, 90),
    ("in workers", "update", 50, 90),
    ("sac", "update", 25, 45),
    ("Hopper", "update", 75, 90),
    pytest.param("compiled", "update", 25, 45, marks=pytest.mark.xdist_group("compile")),
]
KEPT = ("loss", "optimizer", "replay", "torch_generator", "environments", "step", "updates")


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    without_figures(monkeypatch)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Folders of runs that nothing disturbed, each made when it is first asked for."""
    folders = {}

    def get(run):
        if run not in folders:
            folders[run] = tmp_path_factory.mktemp("uninterrupted") / "run"
            with pytest.MonkeyPatch.context() as patch:
                without_figures(patch)
                cli.main(words(folders[run], **RUNS[run]))
        return folders[run]

    return get


@pytest.fixture(scope="module")
def dies():
    """Runs a command line in a child process that ends at a moment; gives its exit code."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["maxentflow.agents.cli"])
    script = str(Path(__file__).with_name("killing.py"))

    def run(arguments, moment):
        globals_ = {"arguments": arguments, "moment": moment}
        child = context.Process(target=partial(runpy.run_path, script, globals_))
        child.start()
        child.join(120)
        return child.exitcode

    return run


def step_of_checkpoint(folder):
    """The step of the last checkpoint, if there is one, which is to lie within an episode."""
    if not (folder / "checkpoints" / "latest.pt").exists():
        return None
    state = checkpoint(folder)
    assert any(length > 0 for length in state["lengths"])
    return state["step"]


def assert_same_run(folder, reference):
    assert metrics(folder) == metrics(reference)
    state, expected = checkpoint(folder), checkpoint(reference)
    for key in KEPT:
        assert not differences(state[key], expected[key], key)
    del state["seconds"], expected["seconds"]
    assert not differences(state, expected)


@pytest.mark.parametrize(("run", "what", "passing", "step"), MOMENTS)
def test_killed_and_resumed(tmp_path, dies, uninterrupted, run, what, passing, step):
    folder = tmp_path / "run"
    assert dies(words(folder, **RUNS[run]), (what, passing)) == KILLED
    assert step_of_checkpoint(folder) == step
    if step != 150:
        cli.main(["train", "--resume", str(folder)])
    assert_same_run(folder, uninterrupted(run))


def test_killed_again_and_again(tmp_path, dies, uninterrupted):
    folder = tmp_path / "run"
    resume = ["train", "--resume", str(folder)]
    assert dies(words(folder), ("update", 25)) == KILLED
    assert dies(resume, ("half a row", 1)) == KILLED
    assert dies(resume, ("half a checkpoint", 0)) == KILLED
    assert step_of_checkpoint(folder) == 45
    assert dies(resume, ("update", 65)) == KILLED
    assert step_of_checkpoint(folder) == 90
    cli.main(resume)
    assert_same_run(folder, uninterrupted("meow"))


@pytest.mark.parametrize(
    ("moment", "steps"),
    [
        (("interrupted update", 77), (117, 118)),  # that step undone, or finished
        (("interrupted log", 2), (60,)),  # where no checkpoint is due
    ],
)
def test_interrupted_from_the_keyboard_and_resumed(tmp_path, dies, uninterrupted, moment, steps):
    folder = tmp_path / "run"
    assert dies(words(folder), moment) == INTERRUPTED
    assert step_of_checkpoint(folder) in steps
    cli.main(["train", "--resume", str(folder)])
    assert_same_run(folder, uninterrupted("meow"))


def test_a_run_made_longer(tmp_path, uninterrupted):
    """Most of a run, ending where an evaluation is due anyway, and the rest are the run."""
    folder = tmp_path / "run"
    cli.main(words(folder, total_steps=120))
    cli.main(["train", "meow", "--resume", str(folder), "--total-steps", "150"])
    assert_same_run(folder, uninterrupted("meow"))


def test_the_comparison_sees_one_bit(uninterrupted):
    state, other = checkpoint(uninterrupted("meow")), checkpoint(uninterrupted("meow"))
    assert not differences(state, other)
    other["torch_generator"][7] ^= 1
    assert differences(state, other) == ["state/torch_generator"]


def test_workers_change_nothing(tmp_path, uninterrupted):
    run = {**RUNS["in workers"], "workers": False}
    cli.main(words(tmp_path / "run", **{k: v for k, v in run.items() if v is not False}))
    assert_same_run(tmp_path / "run", uninterrupted("in workers"))
