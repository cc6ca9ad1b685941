"""Learning curves of the algorithm pages, from the committed runs of benchmarks/learning.

python docs/algorithms/figures.py
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from numpy.typing import NDArray
from PIL import Image

from maxentflow.agents.cli.figures import published
from maxentflow.agents.training.statistics import mean_band

FOLDER = Path(__file__).parent
RUNS = FOLDER.parent.parent / "benchmarks" / "learning"
BLUE, ORANGE = "#0072B2", "#D55E00"

plt.rcParams.update(
    {"figure.dpi": 100, "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
)


class Curve(NamedTuple):
    """Runs of one experiment of benchmarks/learning.py."""

    experiment: str
    label: str
    color: str = BLUE


class Panel(NamedTuple):
    """The curves of one task, with the published curve of an algorithm where there is one."""

    task: str
    curves: tuple[Curve, ...]
    algorithm: str | None = None
    threshold: float | None = None


FIGURES = {
    "meow": (
        Panel(
            "HalfCheetah-v4",
            (
                Curve("HalfCheetah-v4-meow-one-graph", "MEow"),
                Curve("HalfCheetah-v4-meow-affine", "MEow, affine coupling", ORANGE),
            ),
            "meow",
        ),
        Panel("Hopper-v4", (Curve("Hopper-v4-meow-one-graph", "MEow"),), "meow"),
    ),
    "sac": (Panel("HalfCheetah-v4", (Curve("HalfCheetah-v4-sac", "SAC"),), "sac"),),
    "ddpg": (Panel("Pendulum-v1", (Curve("Pendulum-v1-ddpg", "DDPG"),), threshold=-200),),
    "flow_sac": (
        Panel("Pendulum-v1", (Curve("Pendulum-v1-flow-sac", "SAC with a flow"),), threshold=-200),
    ),
    "dqn": (Panel("CartPole-v1", (Curve("CartPole-v1-dqn", "double DQN"),), threshold=475),),
    "discrete_sac": (
        Panel("CartPole-v1", (Curve("CartPole-v1-discrete-sac", "discrete SAC"),), threshold=475),
    ),
    "td3": (Panel("Pendulum-v1", (Curve("Pendulum-v1-td3", "TD3"),), threshold=-200),),
    "soft_q": (
        Panel("CartPole-v1", (Curve("CartPole-v1-soft-q", "soft Q-learning"),), threshold=475),
    ),
    "ppo": (
        Panel("Pendulum-v1", (Curve("Pendulum-v1-ppo", "PPO"),), threshold=-200),
        Panel("CartPole-v1", (Curve("CartPole-v1-ppo", "PPO"),), threshold=475),
    ),
}


def evaluations(experiment: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Steps, and the returns of each seed, ``(seeds, evaluations)``."""
    folders = sorted(RUNS.glob(f"{experiment}-[0-9]"))
    if not folders:
        raise ValueError(f"{RUNS} has no run of {experiment}.")
    seeds = []
    for folder in folders:
        with (folder / "metrics.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if row["eval_return"]]
        seeds.append([(float(row["step"]), float(row["eval_return"])) for row in rows])
    table = np.array(seeds)
    return table[0, :, 0], table[:, :, 1]


def draw(axes: Axes, panel: Panel) -> None:
    """The mean of the seeds, each seed, and the interval of the mean from three seeds on."""
    last = 0.0
    for curve in panel.curves:
        steps, returns = evaluations(curve.experiment)
        last = max(last, steps[-1])
        count = len(returns)
        seeds = f"{count} seed{'s' * (count > 1)}"
        axes.plot(steps, returns.mean(0), color=curve.color, label=f"{curve.label}, {seeds}")
        if count > 1:
            axes.plot(steps, returns.T, color=curve.color, alpha=0.35, lw=0.7)
        if count > 2:
            axes.fill_between(steps, *mean_band(returns), color=curve.color, alpha=0.15, lw=0)
    if panel.algorithm is not None:
        reference = published(panel.task, panel.algorithm)
        assert reference is not None
        steps, returns = (part[reference[0] <= 1.05 * last] for part in reference)
        axes.plot(steps, returns, "k--", label="published")
    heights = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines])
    margin = 0.05 * np.ptp(heights)  # by the curves: the interval of few seeds would dwarf them
    axes.set_ylim(heights.min() - margin, heights.max() + margin)
    if panel.threshold is not None:
        axes.axhline(panel.threshold, color="0.5", ls=":", label="solved")
    axes.set(title=panel.task, xlabel="environment steps", ylabel="evaluation return")
    axes.ticklabel_format(axis="x", style="sci", scilimits=(3, 3), useMathText=True)
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def main() -> None:
    for name, panels in FIGURES.items():
        size = (4.2 * len(panels), 3.2)
        figure, row = plt.subplots(
            1, len(panels), figsize=size, layout="constrained", squeeze=False
        )
        for axes, panel in zip(row[0], panels, strict=True):
            draw(axes, panel)
        figure.savefig(FOLDER / f"{name}.png")
        with Image.open(FOLDER / f"{name}.png") as image:
            small = image.convert("RGB").quantize(128)
        small.save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
