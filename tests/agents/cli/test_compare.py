"""``maxentflow compare`` and ``maxentflow agents`` by what they print and write."""

import csv
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from maxentflow import agents
from maxentflow.agents import MeowConfig, RunFolder, SacConfig, TrainerConfig
from maxentflow.agents.cli import figures, main
from maxentflow.agents.cli.curves import read_curves
from maxentflow.agents.training.loggers import Metrics


@pytest.fixture
def made(tmp_path):
    """Makes run folders with evaluations that somebody thought of, a minute for each."""

    def make(*returns, env="Pendulum-v1", agent="meow", seed=0):
        folder = RunFolder(tmp_path / "runs" / f"{env}-{agent}-{seed}")
        config = {"meow": MeowConfig, "sac": SacConfig}[agent]()
        folder.create(
            SimpleNamespace(name=agent, config=config, custom=()), TrainerConfig(seed=seed), env
        )
        metrics = Metrics(folder, ["step", "seconds", "eval_return"])
        for index, value in enumerate(returns, start=1):
            metrics.write({"step": 100 * index, "seconds": 60.0 * index, "eval_return": value})
        metrics.close()
        return str(folder)

    return make


@pytest.fixture
def three(made):
    return [made(1.0, 5.0 + seed, 10.0 + seed, seed=seed) for seed in range(3)]


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_line_for_the_seeds_of_a_setting(three, made, tmp_path, capsys):
    other = [made(0.0, 2.0, 11.0, agent="sac", seed=seed) for seed in range(2)]
    out = tmp_path / "numbers.csv"
    main(["compare", *three, *other, "--threshold", "6", "--out", str(out)])
    ours, theirs = table(out)
    assert (ours["task"], ours["agent"], ours["seeds"]) == ("Pendulum-v1", "meow, additive", "3")
    assert float(ours["return"]) == 11.0
    assert float(ours["IQM"]) == 11.0
    assert 10.0 <= float(ours["low"]) < 11.0 < float(ours["high"]) <= 12.0
    assert float(ours["over training"]) == pytest.approx((1 + 2 * 6 + 11) / 4)
    assert float(ours["steps to 6"]) == 200.0  # 300, 200 and 200
    assert float(ours["minutes to 6"]) == 2.0
    assert theirs["low"] == theirs["high"] == "nan"  # of two seeds
    assert float(theirs["steps to 6"]) == 300.0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split("  ")[0] == "task"
    assert [line.split()[0] for line in printed[1:3]] == ["Pendulum-v1"] * 2
    better = "A run of sac is better than one of meow, additive with probability 0.50"
    assert f"{better} (1 task, 2 and 3 runs)." in printed
    assert printed[-2:] == [f"Numbers: {out}", f"Figure: {out.with_suffix('.png')}"]
    assert out.with_suffix(".png").stat().st_size > 10_000


def test_a_threshold_that_is_never_reached(three, tmp_path, capsys):
    out = tmp_path / "numbers.csv"
    main(["compare", *three, "--threshold", "100", "--out", str(out)])
    assert table(out)[0]["steps to 100"] == "inf"
    assert capsys.readouterr().out.splitlines()[1].split()[-2:] == ["never", "never"]


def test_tasks_that_only_one_has_do_not_count(three, made, tmp_path, capsys):
    other = made(0.0, 0.0, 0.0, env="Ant-v5", agent="sac")
    main(["compare", *three, other, "--out", str(tmp_path / "numbers.csv")])
    assert "probability" not in capsys.readouterr().out


def test_the_same_run_twice_is_refused(three, refused):
    assert "A run is given twice: " in refused("compare", three[0], three[0])
    assert "A run is given twice: " in refused("plot", three[0], f"{three[0]}/")


def test_runs_that_are_not_seeds_of_each_other(three, made, refused, tmp_path):
    copied = tmp_path / "copied"
    shutil.copytree(three[0], copied)
    says = refused("compare", *three, str(copied))
    assert says == "Two runs of meow, additive have the same seed: [0, 0, 1, 2]."


def test_a_setting_that_differs_on_one_task_is_in_the_labels_of_all(tmp_path, made):
    runs = [made(1.0, env="Ant-v5"), made(2.0, env="Pendulum-v1"), made(3.0, seed=1)]
    config = Path(runs[2]) / "config.yaml"
    config.write_text(config.read_text().replace("temperature: 0.01", "temperature: 0.5"))
    labels = {
        task: list(groups)
        for task, groups in read_curves([RunFolder(run) for run in runs]).items()
    }
    assert labels == {
        "Ant-v5": ["meow, additive, temperature 0.01"],
        "Pendulum-v1": ["meow, additive, temperature 0.01", "meow, additive, temperature 0.5"],
    }


def test_other_suffixes_are_refused(three, refused, tmp_path):
    for name in ("table.png", "v1.5"):
        assert "The table must be a file ending in .csv" in refused(
            "compare", *three, "--out", name
        )


def test_more_curves_than_can_be_told_apart_are_refused(made, tmp_path):
    folders = [RunFolder(made(1.0, seed=seed)) for seed in range(7)]
    tasks = read_curves(folders, [f"label {index}" for index in range(7)])
    with pytest.raises(ValueError, match="at most 6 curves of a task, got 7 of Pendulum-v1"):
        figures.learning_curves(tasks, tmp_path / "curves.png")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "compare needs at least one run folder"),
        (("nowhere",), "nowhere is not a run folder"),
        (("{run}", "--threshold", "high"), "high"),
    ],
)
def test_wrong_input(three, refused, words, says):
    assert says in refused("compare", *(word.format(run=three[0]) for word in words))


def test_numbers_that_cannot_be_written(three, refused, tmp_path):
    (tmp_path / "file").write_text("")
    assert "Cannot write" in refused(
        "compare", three[0], "--out", str(tmp_path / "file" / "a.csv")
    )


def test_the_agents(capsys):
    main(["agents"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(agents.registered())
    for line in lines:
        name = line.split()[0]
        summary = agents.summaries()[name]
        assert " or ".join(summary.actions) in line
        assert line.endswith(summary.about)
    assert max(map(len, lines)) < 100
    assert np.all([len(line.split("  ")) >= 3 for line in lines])


def test_what_is_said_of_an_agents_actions_is_true():
    """Each acts where its line says so, and refuses where it does not."""
    from maxentflow import envs

    from ..common import SMALL

    kinds = {"continuous": "maxentflow/MultiGoal-v0", "discrete": "CartPole-v1"}
    for name, summary in agents.summaries().items():
        for kind, task in kinds.items():
            if kind in summary.actions:
                assert agents.make(name, envs.make(task), **SMALL[name]).name == name
            else:
                with pytest.raises(ValueError, match=r"; for .* actions there are"):
                    agents.make(name, envs.make(task), **SMALL[name])
