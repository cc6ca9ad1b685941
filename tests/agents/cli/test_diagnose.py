"""``maxentflow diagnose``: the numbers of Python, a table, a figure."""

import csv
import shutil
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest

from maxentflow import agents, envs
from maxentflow.agents import RunFolder
from maxentflow.agents.cli import figures, main
from maxentflow.agents.training.diagnosis import MEANINGS
from maxentflow.agents.training.loggers import Metrics
from maxentflow.agents.training.replay import read_files

from .tiny import PROBE, contents

GUIDE = Path(__file__).parents[3] / "docs" / "howto" / "diagnose.md"
SETTINGS = {"meow": {"flow_options": {"blocks": 1}, "twin": False}, "soft-q": {"hidden": (8,)}}


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were to be saved."""
    kept = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: kept.append(figure))
    return kept


def test_the_numbers_are_those_of_python(run, capsys):
    main(["diagnose", str(run), "--episodes", "2", "--seed", "5"])
    agent = agents.make("meow", envs.make(PROBE), **SETTINGS["meow"])
    folder = RunFolder(run)
    agent.load_state_dict(folder.load_checkpoint())
    names = ("observation", "action", "raw_action")
    replay = read_files(sorted(folder.replay_path.iterdir()), names, 10_000)
    assert len(replay) == 60
    result = agents.diagnose(agent, envs.make(PROBE, 2), episodes=2, seed=5, replay=replay)
    printed = capsys.readouterr().out
    assert printed == (
        f"{PROBE}, 40 states of 2 episodes, samples:\n{result}\nFigure: {run}/diagnose.png\n"
    )
    with (run / "diagnose.csv").open() as file:
        table = {row["name"]: float(row["value"]) for row in csv.DictReader(file)}
    np.testing.assert_equal(table, result.numbers)
    assert imageio.imread(run / "diagnose.png").shape == (1350, 2400, 4)


@pytest.mark.slow
def test_nothing_else_of_the_run_is_changed(run, tmp_path):
    before = contents(run)
    main(["diagnose", str(run), "--episodes", "1"])
    after = contents(run)
    assert after.keys() - before.keys() == {run / "diagnose.png", run / "diagnose.csv"}
    assert {path: after[path] for path in before} == before
    main(["diagnose", str(run), "--episodes", "1", "--out", str(tmp_path / "other.png")])
    assert contents(run) == after
    assert {path.name for path in tmp_path.iterdir()} == {"run", "other.png", "other.csv"}
    assert (tmp_path / "other.csv").read_text() == (run / "diagnose.csv").read_text()


@pytest.mark.slow
def test_a_run_without_its_replay(run, capsys):
    shutil.rmtree(RunFolder(run).replay_path)
    main(["diagnose", str(run), "--episodes", "1"])
    printed = capsys.readouterr().out
    assert "There is no replay." in printed
    assert "replay_50" not in printed


def test_every_number_is_in_the_guide():
    guide = GUIDE.read_text()
    assert [name for name in MEANINGS if f"`{name}`" not in guide] == []


# The figure


def result(**changes):
    numbers = np.arange(10.0)
    entries = {"value": numbers, "soft_return": numbers + 3.0, "log_prob": -numbers}
    return agents.Diagnosis({}, (), **{**entries, **changes})


def folder_with(path, *columns):
    folder = RunFolder(path)
    path.mkdir()
    metrics = Metrics(folder, ["step", *columns])
    for step in (10, 20, 30):
        evaluated = {name for name in columns if step > 10 or not name.startswith("eval_")}
        metrics.write({"step": step, **dict.fromkeys(evaluated, step / 2)})
    metrics.close()
    return folder


@pytest.mark.parametrize(
    ("columns", "panels"),
    [
        ((), []),
        (("alpha",), [{"alpha"}]),
        (
            ("eval_value", "eval_discounted_return", "entropy", "policy_entropy", "alpha"),
            [{"eval_value", "eval_discounted_return"}, {"entropy", "policy_entropy"}, {"alpha"}],
        ),
    ],
)
def test_panels_of_what_there_is(tmp_path, drawn, columns, panels):
    figures.diagnosis(result(), folder_with(tmp_path / "run", *columns), tmp_path / "x.png")
    first, *training, last = drawn[0].axes
    points = np.asarray(first.collections[0].get_offsets())
    assert points.tolist() == [[number + 3.0, number] for number in range(10)]
    (identity,) = first.lines
    assert (identity.get_xy1(), identity.get_slope()) == ((7.5, 7.5), 1)
    assert [{line.get_label() for line in axes.lines} for axes in training] == panels
    for axes in training:
        for line in axes.lines:
            steps = [20, 30] if line.get_label().startswith("eval_") else [10, 20, 30]
            assert line.get_xydata().tolist() == [[step, step / 2] for step in steps]
            assert line.get_marker() == "."  # one point alone would not be seen
    assert last.get_xlabel() == "log pi"


def test_numbers_that_are_not_finite_are_left_out(tmp_path, drawn):
    broken = np.array([np.nan, np.inf, 1.0, 2.0])
    folder = folder_with(tmp_path / "run")
    figures.diagnosis(
        result(value=broken, soft_return=np.ones(4), log_prob=broken, replay_log_prob=broken),
        folder,
        tmp_path / "x.png",
    )
    first, last = drawn[0].axes
    assert np.asarray(first.collections[0].get_offsets()).tolist() == [[1.0, 1.0], [1.0, 2.0]]
    assert len(last.patches) == 2
    nothing = np.full(10, np.nan)
    figures.diagnosis(result(value=nothing, log_prob=nothing), folder, tmp_path / "x.png")
    assert len(drawn[1].axes[0].collections[0].get_offsets()) == 0


# Refusals


def test_agents_without_a_soft_value(finished, refused):
    before = contents(finished("sac"))
    assert refused("diagnose", finished("sac")) == (
        "Agent 'sac' has no soft value to diagnose; those that have one are meow and soft-q."
    )
    assert contents(finished("sac")) == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--episodes", "0"), "episodes must be at least 1, got 0"),
        (("--episodes", "few"), "--episodes: a whole number is needed, got 'few'"),
        (("--seed", "-1"), "seed must be at least 0, got -1"),
        (("--seed", "99999999999999999999"), "seed must be below 2**32"),
        (("--out", "{run}/nowhere/x.png"), "nowhere is no folder"),
        (("--out", "{run}/config.yaml/x.png"), "config.yaml is no folder"),
        (("--out", "{run}/x.pdf"), "The figure must be a file ending in .png"),
        (("--out", "{run}"), "The figure must be a file ending in .png"),
    ],
)
def test_wrong_words_are_refused_and_nothing_is_written(run, refused, words, says):
    before = contents(run)
    assert says in refused("diagnose", run, *(word.format(run=run) for word in words))
    assert contents(run) == before


@pytest.mark.slow
def test_what_is_no_run(run, refused, tmp_path):
    assert "diagnose needs PATH" in refused("diagnose")
    assert "nowhere is not a run folder" in refused("diagnose", tmp_path / "nowhere")
    RunFolder(run).checkpoint_path.unlink()
    main(["diagnose", str(run), "--episodes", "1"])  # with the checkpoint before, without a replay
    RunFolder(run).previous_path.unlink()
    assert refused("diagnose", run) == f"{run} has no checkpoint yet."


def test_usage_and_help(capsys, help_text):
    main([])
    assert "diagnose RUN" in capsys.readouterr().out
    for option in ("--episodes", "--seed", "--out"):
        assert option in help_text("diagnose")
