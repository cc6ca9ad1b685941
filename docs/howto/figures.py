"""The figure of debugging.md: a healthy training of MEow on HalfCheetah-v4, and three sick ones.

    python docs/howto/figures.py train hot    # also: fast, cold; a few minutes each
    python docs/howto/figures.py              # draws debugging.png

``train`` keeps its runs in runs/docs and writes the columns that the figure needs to
docs/howto/sick-NAME.csv. The healthy runs are those of benchmarks/learning.
"""

import csv
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

HERE = Path(__file__).parent
HEALTHY = HERE.parents[1] / "benchmarks" / "learning"
RUNS = Path("runs/docs")
STEPS, SHOWN = 25_000, 50_000  # of the sick runs; of the healthy ones
SICK = {
    "hot": ("temperature 25 instead of 0.25", ["--temperature", "25"]),
    "cold": ("temperature 0.0025 instead of 0.25", ["--temperature", "0.0025"]),
    "fast": ("learning rate 0.1 instead of 0.001", ["--learning-rate", "0.1"]),
}
PANELS = {
    "eval_return": "evaluation return",
    "td_error": "td_error",
    "entropy": "entropy (nats)",
    "q": "q",
    "value": "value",
    "loss": "loss",
}
LOGARITHMIC = ("td_error", "entropy", "loss")
UNIFORM = 6 * np.log(2)  # the entropy of random actions in [-1, 1]^6
COLORS = {"hot": "#D55E00", "cold": "#0072B2", "fast": "#CC79A7"}
HEALTHY_COLOR = "#009E73"


def train(name: str) -> None:
    from maxentflow.agents.cli import main

    folder = RUNS / name
    command = ["train", "meow", "--paper", "--env", "HalfCheetah-v4", "--total-steps", str(STEPS)]
    main([*command, "--eval-every", "5000", "--run-dir", str(folder), *SICK[name][1]])
    rows = read(folder / "metrics.csv")
    columns = ["step", *PANELS]
    with open(HERE / f"sick-{name}.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([[shortened(row[column]) for column in columns] for row in rows])


def shortened(cell: str) -> str:
    return cell if cell == "" or cell.isdigit() else f"{float(cell):.6g}"


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def curve(rows: list[dict[str, str]], column: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of the rows that have a value, as far as the figure goes."""
    kept = [row for row in rows if row[column] and int(row["step"]) <= SHOWN]
    steps, values = ([float(row[name]) for row in kept] for name in ("step", column))
    return np.array(steps), np.array(values)


def draw() -> None:
    seeds = sorted(HEALTHY.glob("HalfCheetah-v4-meow-one-graph-*/metrics.csv"))
    healthy = [read(path) for path in seeds]
    sick = {name: read(HERE / f"sick-{name}.csv") for name in SICK}
    figure, panels = plt.subplots(2, 3, figsize=(9.6, 5.4), layout="constrained")
    for axes, (column, title) in zip(panels.flat, PANELS.items(), strict=True):
        curves = [curve(rows, column) for rows in healthy]
        values = np.array([each for _, each in curves])
        steps = curves[0][0] / 1e3
        label = f"healthy, mean and range of {len(healthy)} seeds"
        axes.plot(steps, values.mean(0), color=HEALTHY_COLOR, linewidth=2, label=label)
        axes.fill_between(
            steps, values.min(0), values.max(0), color=HEALTHY_COLOR, alpha=0.25, linewidth=0
        )
        for name, rows in sick.items():
            steps, values = curve(rows, column)
            axes.plot(steps / 1e3, values, color=COLORS[name], linewidth=1.3, label=SICK[name][0])
        if column in LOGARITHMIC:
            axes.set_yscale("log")
        elif column in ("q", "value"):
            axes.set_yscale("symlog", linthresh=10)
        if column == "entropy":
            axes.axhline(UNIFORM, color="black", linestyle=":")
            axes.text(0.98, 0.3, "dotted: uniform policy", transform=axes.transAxes, ha="right")
        axes.set(title=title, xlabel="environment steps (thousands)")
        axes.grid(alpha=0.3)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(HERE / "debugging.png", dpi=100)


if __name__ == "__main__":
    if sys.argv[1:2] == ["train"]:
        train(sys.argv[2])
    else:
        draw()
