"""``maxentflow robustness`` by what it prints and writes."""

import csv

import imageio.v2 as imageio
import numpy as np
import pytest

from maxentflow import agents, envs
from maxentflow.agents import RunFolder
from maxentflow.agents.cli import main
from maxentflow.agents.cli.robustness import _numbers

TASK = "InvertedPendulum-v5"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Runs of two agents, and a second seed of one."""
    folder = tmp_path_factory.mktemp("robustness")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("maxentflow.agents.cli.train.conclude", lambda *_: None)
        for agent, seed in (("sac", 0), ("sac", 1), ("td3", 0)):
            main(
                f"train {agent} --env {TASK} --seed {seed} --hidden 8 --total-steps 40 "
                "--warmup-steps 20 --batch-size 8 --eval-every 0 "
                f"--run-dir {folder / f'{agent}-{seed}'}".split()
            )
    return [str(path) for path in sorted(folder.iterdir())]


def test_a_table_and_a_figure(trained, tmp_path, capsys):
    out = tmp_path / "figure.png"
    flags = ["--perturb", "gravity", "0.5:2:4", "--episodes", "2", "--seed", "3"]
    main(["robustness", *trained, *flags, "--out", str(out)])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"{TASK}, mode: mean return by gravity"
    assert [line.partition(":")[0] for line in printed[1:3]] == ["sac", "td3"]
    assert printed[3:] == [f"Numbers: {out.with_suffix('.csv')}", f"Figure: {out}"]
    with out.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["agent"], row["seed"]) for row in rows[::4]] == [
        ("sac", "0"),
        ("sac", "1"),
        ("td3", "0"),
    ]
    assert [float(row["value"]) for row in rows[:4]] == [0.5, 1.0, 1.5, 2.0]
    agent = agents.make("sac", envs.make(TASK), hidden=(8,))
    agent.load_state_dict(RunFolder(trained[1]).load_checkpoint())
    expected = agents.robustness(agent.policy, TASK, "gravity", [1.5], episodes=2, seed=3)
    row = next(row for row in rows if (row["seed"], row["value"]) == ("1", "1.5"))
    assert float(row["mean_return"]) == pytest.approx(expected.returns.mean(), abs=0.01)
    assert float(row["undisturbed"]) == pytest.approx(expected.undisturbed.mean(), abs=0.01)
    assert len(np.unique(imageio.imread(out).reshape(-1, 4), axis=0)) > 20


@pytest.mark.slow
def test_samples(trained, tmp_path, capsys):
    flags = ["--perturb", "mass", "1,2", "--episodes", "1", "--stochastic"]
    main(["robustness", trained[0], *flags, "--out", str(tmp_path / "figure.png")])
    assert capsys.readouterr().out.startswith(f"{TASK}, samples: mean return by mass")


def test_values():
    assert _numbers("0.5:2:4") == [0.5, 1.0, 1.5, 2.0]
    assert _numbers("0.5,1") == [0.5, 1.0]


@pytest.mark.parametrize(
    ("perturb", "more", "says"),
    [
        (("gravity", "much"), (), "first:last:count or numbers with commas"),
        (("gravity", "1:2"), (), "first:last:count or numbers with commas"),
        (("gravity", "1:2:0"), (), "first:last:count or numbers with commas"),
        (("gravity", "nan"), (), "first:last:count or numbers with commas"),
        (("gravity", "2,1"), (), "Values must increase"),
        (("wind", "1"), (), "nothing called 'wind'"),
        (("gravity", "99"), (), "gravity must be between 0 and 10"),
        (("gravity", "1"), ("--episodes", "0"), "episodes must be at least 1, got 0"),
        (("gravity", "1"), ("--seed", "-1"), "seed must be at least 0, got -1"),
        (("gravity", "1"), ("--seed", str(2**70)), "seed must be below 2**32"),
        (
            ("gravity", "1"),
            ("--out", "figure.pdf"),
            "must be a file ending in .png, got figure.pdf",
        ),
        (("gravity", "1"), ("--out", "nowhere/a.png"), "nowhere is no folder"),
    ],
)
def test_what_is_refused(trained, refused, perturb, more, says):
    assert says in refused("robustness", trained[0], "--perturb", *perturb, *more)


def test_runs_of_several_tasks_and_none_are_refused(trained, refused, tmp_path, monkeypatch):
    monkeypatch.setattr("maxentflow.agents.cli.train.conclude", lambda *_: None)
    other = tmp_path / "other"
    main(
        "train sac --env Pendulum-v1 --hidden 8 --total-steps 40 --warmup-steps 20 --batch-size 8 "
        f"--eval-every 20 --eval-episodes 1 --run-dir {other}".split()
    )
    assert refused("robustness", "--perturb", "mass", "1") == (
        "robustness needs at least one run folder."
    )
    said = refused("robustness", trained[0], str(other), "--perturb", "mass", "1")
    assert said == f"The runs are of several tasks: {TASK}, Pendulum-v1."
    said = refused("robustness", str(other), "--perturb", "mass", "1")
    assert said == "Perturbed needs a task of MuJoCo, got Pendulum-v1."
