"""Figures by the numbers that they draw."""

from pathlib import Path
from types import SimpleNamespace

import imageio.v2 as imageio
import numpy as np
import pytest
from matplotlib.collections import FillBetweenPolyCollection
from scipy import stats

from maxentflow.agents import MeowConfig, RunFolder, SacConfig, TrainerConfig
from maxentflow.agents.cli import figures, main
from maxentflow.agents.cli.curves import read_curves
from maxentflow.agents.training.loggers import Metrics

from .tiny import MULTIGOAL

# Chao et al. 2024, figure 3: means of the last three points, rounded to tens
LAST = {
    "Hopper-v4": (3490, 3410, 3190, 1640, 1000, 2680),
    "HalfCheetah-v4": (11310, 12340, 11520, 12590, 5730, 6740),
    "Walker2d-v4": (5530, 5490, 4290, 2330, 3340, 3170),
    "Ant-v4": (6540, 6030, 5880, 530, 1620, 3570),
    "Humanoid-v4": (6850, 6430, 80, 160, 880, 4750),
}
LEARNING = Path(__file__).parents[3] / "benchmarks" / "learning"
ALGORITHMS = ("meow", "sac", "td3", "ddpg", "ppo", "sql")
EARLY = [
    ("HalfCheetah-v4", 90_000, 5760),
    ("Hopper-v4", 300_000, 3050),
    ("Walker2d-v4", 320_000, 2530),
]


def draw(folders, path, labels=None):
    figures.learning_curves(read_curves(folders, labels), path)


@pytest.mark.parametrize("env_id", LAST)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_published_curves(env_id, algorithm):
    steps, returns = figures.published(env_id, algorithm)
    expected = LAST[env_id][ALGORITHMS.index(algorithm)]
    assert abs(returns[-3:].mean() - expected) < 10
    assert (np.diff(steps) > 0).all()
    length = TrainerConfig.for_task(env_id).total_steps
    assert 0.95 * length <= steps[-1] <= length


@pytest.mark.parametrize(("env_id", "step", "expected"), EARLY)
def test_the_published_curves_early_on(env_id, step, expected):
    returns = np.interp(step, *figures.published(env_id, "meow"))
    # Read off the figure to about 1% of the axis, which ends at the best algorithm's return.
    assert abs(returns - expected) <= 0.01 * max(LAST[env_id])


@pytest.mark.parametrize(
    ("env_id", "algorithm"),
    [("Hopper-v5", "meow"), ("Hopper-v4", "dqn"), (MULTIGOAL, "meow"), ("Hopper", "meow")],
)
def test_what_was_not_published(env_id, algorithm):
    assert figures.published(env_id, algorithm) is None


class Runs:
    """Makes run folders with evaluations that somebody thought of."""

    def __init__(self, path):
        self.path = path

    def __call__(
        self,
        *returns,
        env="Pendulum-v1",
        env_kwargs=None,
        agent="meow",
        every=100,
        training=None,
        **settings,
    ):
        count = len(list(self.path.iterdir()))
        folder = RunFolder(self.path / f"run{count}")
        config = {"meow": MeowConfig, "sac": SacConfig}[agent](**settings)
        made = SimpleNamespace(name=agent, config=config, custom=())
        folder.create(made, TrainerConfig(seed=count, **(training or {})), env, env_kwargs)
        metrics = Metrics(folder, ["step", "eval_return", "train_return"])
        for index, value in enumerate(returns):
            metrics.write({"step": every * index + every // 2, "train_return": -1.0})
            metrics.write({"step": every * (index + 1), "eval_return": value})
        metrics.close()
        return folder


@pytest.fixture
def runs(tmp_path):
    (tmp_path / "runs").mkdir()
    return Runs(tmp_path / "runs")


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were to be saved."""
    kept = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: kept.append(figure))
    return kept


def lines(axes):
    """Label, steps and returns of the lines that the legend names."""
    return {
        line.get_label(): (line.get_xdata(), line.get_ydata())
        for line in axes.lines
        if not line.get_label().startswith("_")
    }


def bands(axes):
    return [part for part in axes.collections if isinstance(part, FillBetweenPolyCollection)]


def test_one_run(runs, drawn, tmp_path):
    draw([runs(1.0, 4.0, 2.0)], tmp_path / "curves.png")
    (axes,) = drawn[0].axes
    assert axes.get_title() == "Pendulum-v1"
    ((label, (steps, returns)),) = lines(axes).items()
    assert label == "meow, additive (1 seed)"
    assert list(steps) == [100, 200, 300]
    assert list(returns) == [1.0, 4.0, 2.0]
    assert not bands(axes)


@pytest.mark.parametrize("count", [3, 5, 10, 11, 40])
def test_the_band_is_the_bootstrap_interval_of_the_mean(runs, drawn, tmp_path, count):
    table = np.random.default_rng(0).normal(size=(count, 4)).round(3)
    draw([runs(*row) for row in table.tolist()], tmp_path / "curves.png")
    (axes,) = drawn[0].axes
    ((label, (steps, mean)),) = lines(axes).items()
    assert label == f"meow, additive ({count} seeds)"
    np.testing.assert_allclose(mean, table.mean(0), rtol=1e-12)
    thin = [list(line.get_ydata()) for line in axes.lines if line.get_label().startswith("_")]
    assert thin == table.tolist()
    (band,) = bands(axes)
    outline = band.get_paths()[0].vertices
    theirs = stats.bootstrap(
        (table,), np.mean, n_resamples=20_000, method="percentile", rng=1, axis=0
    )
    interval = theirs.confidence_interval
    chance = 0.06 * (interval.high - interval.low).max()  # of two random sets of resamples
    for step, low, high in zip(steps, *interval, strict=True):
        at = outline[outline[:, 0] == step][:, 1]
        np.testing.assert_allclose([at.min(), at.max()], [low, high], rtol=0, atol=chance)


def test_two_seeds_have_no_band(runs, drawn, tmp_path):
    draw([runs(1.0, 4.0), runs(3.0, 5.0)], tmp_path / "curves.png")
    (axes,) = drawn[0].axes
    assert not bands(axes)
    assert len(axes.lines) == 3


def test_labels_of_ones_own(runs, drawn, tmp_path):
    folders = [runs(1.0), runs(2.0, tau=0.5), runs(6.0, tau=0.1)]
    draw(folders, tmp_path / "curves.png", ["one", "other", "other"])
    curves = lines(drawn[0].axes[0])
    assert {label: list(returns) for label, (_, returns) in curves.items()} == {
        "one (1 seed)": [1.0],
        "other (2 seeds)": [4.0],
    }


def test_steps_that_all_seeds_have(runs, drawn, tmp_path):
    draw([runs(1.0, 4.0, 2.0), runs(3.0, 5.0)], tmp_path / "curves.png")
    ((_, (steps, mean)),) = lines(drawn[0].axes[0]).items()
    assert list(steps) == [100, 200]
    assert list(mean) == [2.0, 4.5]


def test_options_of_a_flow_are_settings_of_their_own(runs, drawn, tmp_path):
    folders = [runs(1.0, 2.0, flow_options=options) for options in ({}, {"blocks": 3})]
    draw(folders, tmp_path / "curves.png")
    assert list(lines(drawn[0].axes[0])) == [
        "meow, additive (1 seed)",
        "meow, additive, blocks 3 (1 seed)",
    ]


@pytest.mark.parametrize(
    "other",
    [
        {"agent": "sac"},
        {"flow": "affine"},
        {"temperature": 0.5},
        {"learning_rate": 1e-4},
        {"flow_options": {"blocks": 1}},
        {"env_kwargs": {"g": 9.0}},
        {"training": {"num_envs": 8}},
        {"training": {"utd_ratio": 0.5}},
    ],
)
def test_runs_that_differ_in_more_than_their_seed_are_curves_of_their_own(
    runs, drawn, tmp_path, other
):
    folders = [runs(1.0, 2.0), runs(3.0, 4.0), runs(7.0, 9.0, **other)]
    draw(folders, tmp_path / "curves.png")
    means = [list(returns) for _, returns in lines(drawn[0].axes[0]).values()]
    assert means == [[2.0, 3.0], [7.0, 9.0]]


@pytest.mark.parametrize(
    "training", [{"total_steps": 5_000}, {"threads": 2}, {"eval_episodes": 5}, {"workers": True}]
)
def test_runs_that_learn_the_same_are_one_curve(runs, drawn, tmp_path, training):
    folders = [runs(1.0, 2.0), runs(3.0, 4.0, training=training)]
    draw(folders, tmp_path / "curves.png")
    assert list(lines(drawn[0].axes[0])) == ["meow, additive (2 seeds)"]


def test_a_panel_for_each_task(runs, drawn, tmp_path):
    folders = [runs(1.0), runs(2.0, env="Ant-v5"), runs(3.0)]
    draw(folders, tmp_path / "curves.png")
    assert [axes.get_title() for axes in drawn[0].axes] == ["Pendulum-v1", "Ant-v5"]
    assert [list(lines(axes)) for axes in drawn[0].axes] == [
        ["meow, additive (2 seeds)"],
        ["meow, additive (1 seed)"],
    ]


def test_a_label_looks_the_same_in_every_panel_and_panels_wrap(runs, drawn, tmp_path):
    one = [runs(1.0, env=f"Task{index}-v0", agent="meow") for index in range(4)]
    other = [runs(2.0, env=f"Task{index}-v0", agent="sac") for index in range(1, 4)]
    draw([other[0], *one, *other[1:]], tmp_path / "curves.png", ["b", *"aaaa", *"bb"])
    panels = {axes.get_title(): axes for axes in drawn[0].axes}
    assert len(panels) == 4
    colors = {
        line.get_label(): {line.get_color()} for axes in panels.values() for line in axes.lines
    }
    for axes in panels.values():
        for line in axes.lines:
            colors[line.get_label()].add(line.get_color())
    assert {label: len(found) for label, found in colors.items()} == {
        "a (1 seed)": 1,
        "b (1 seed)": 1,
    }
    rows = {axes.get_subplotspec().rowspan.start for axes in panels.values()}
    assert rows == {0, 1}


@pytest.mark.parametrize("agent", ["meow", "sac"])
def test_the_published_curve_beside_v4_tasks_alone(runs, drawn, tmp_path, agent):
    made = [
        runs(1.0, 2.0, env=env, agent=agent, every=100_000) for env in ("Hopper-v4", "Hopper-v5")
    ]
    draw(made, tmp_path / "curves.png")
    old, new = drawn[0].axes
    steps, returns = lines(old)[f"{agent}, published"]
    all_steps, all_returns = figures.published("Hopper-v4", agent)
    np.testing.assert_array_equal(returns, all_returns[: len(steps)])
    assert steps[-1] <= 1.05 * 200_000 < all_steps[len(steps)]
    assert len(lines(new)) == 1


def test_a_picture_is_written(runs, tmp_path):
    path = tmp_path / "new" / "curves.png"
    draw([runs(1.0, 4.0), runs(2.0, 3.0)], path)
    picture = imageio.imread(path)
    assert picture.shape == (810, 960, 4)
    assert len(np.unique(picture.reshape(-1, 4), axis=0)) > 20


def test_a_run_without_evaluations(runs, tmp_path):
    with pytest.raises(ValueError, match="run1 has no evaluation yet"):
        draw([runs(1.0), runs()], tmp_path / "curves.png")
    with pytest.raises(ValueError, match="nowhere is not a run folder"):
        draw([RunFolder(tmp_path / "nowhere")], tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_runs_without_evaluations_are_left_out(runs, tmp_path, capsys):
    out = tmp_path / "curves.png"
    have, have_not = runs(1.0, 4.0), runs()
    main(["plot", str(have), str(have_not), "--out", str(out)])
    printed = capsys.readouterr()
    assert printed.err == f"{have_not} has no evaluation yet, and is left out.\n"
    assert out.exists()
    with pytest.raises(SystemExit, match="2"):
        main(["plot", str(have_not), "--out", str(out)])
    assert "has no evaluation yet" in capsys.readouterr().err


def test_a_single_evaluation_is_seen(runs, tmp_path, drawn):
    draw([runs(2.0)], tmp_path / "curves.png")
    (line, *_) = drawn[0].axes[0].lines
    assert (line.get_marker(), line.get_ydata().tolist()) == ("o", [2.0])


def test_a_published_curve_that_begins_later_is_not_in_the_legend(runs, tmp_path, drawn):
    draw([runs(2.0, env="Hopper-v4", every=1)], tmp_path / "curves.png")
    assert list(lines(drawn[0].axes[0])) == ["meow, additive (1 seed)"]


def test_seeds_without_a_step_in_common(runs, tmp_path):
    with pytest.raises(ValueError, match=r"2 runs of meow.* no evaluation at the same step"):
        draw([runs(1.0), runs(2.0, every=150)], tmp_path / "curves.png")


def test_a_figure_that_cannot_be_written(runs, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"Cannot write the figure .*curves\.png"):
        draw([runs(1.0)], tmp_path / "file" / "curves.png")
    with pytest.raises(ValueError, match=r"Cannot write the figure .*curves\.nonsense"):
        draw([runs(1.0)], tmp_path / "curves.nonsense")


# The command


def test_plot(run, capsys, monkeypatch):
    monkeypatch.chdir(run.parent)
    main(["plot", str(run), "--out", "drawn.png"])
    assert capsys.readouterr().out == "Figure: drawn.png\n"
    assert imageio.imread(run.parent / "drawn.png").shape == (810, 960, 4)


def test_the_committed_runs_can_be_drawn(drawn, capsys):
    everything = [path.parent for path in LEARNING.glob("*/config.yaml")]
    assert len(everything) > 20
    # The same settings with other forms of the update have the same seeds.
    forms = "-batched-", "-one-graph-", "-newest-"
    committed = sorted(path for path in everything if not any(f in path.name for f in forms))
    main(["plot", *map(str, committed), "--out", "never-written.png"])
    titles = {axes.get_title(): len(lines(axes)) for axes in drawn[0].axes}
    assert titles.keys() >= {"HalfCheetah-v4", "Hopper-v4"}
    assert min(titles["HalfCheetah-v4"], titles["Hopper-v4"]) > 1
