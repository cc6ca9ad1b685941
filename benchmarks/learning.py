"""Learning curves on MuJoCo, against the published ones.

    python benchmarks/learning.py train HalfCheetah-v4 meow 0     # one run, or the rest of it
    python benchmarks/learning.py report                          # tables and figures of all runs

Runs are kept in runs/benchmarks; report copies their metrics and configurations into learning/
next to this file, draws the figures there and writes summary.csv.
"""

import csv
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from maxentflow.agents import RunFolder, figures
from maxentflow.agents.cli import main as maxentflow
from maxentflow.agents.run_folder import read_metrics

RESULTS = Path(__file__).parent / "learning"
RUNS = Path("runs/benchmarks")


class Goal(NamedTuple):
    """What the mean of the last evaluations of each seed is held against."""

    steps: int
    seeds: tuple[int, ...]
    last: int
    must_reach: float


GOALS = {
    ("HalfCheetah-v4", "meow"): Goal(100_000, (0, 1), 3, 5_200),
    ("Hopper-v4", "meow"): Goal(300_000, (0, 1), 5, 2_400),
    ("HalfCheetah-v4", "sac"): Goal(100_000, (0,), 3, 4_000),
}


def train(env: str, agent: str, seed: int) -> None:
    folder = RUNS / f"{env}-{agent}-{seed}"
    if (folder / "config.yaml").exists():
        maxentflow(["train", "--resume", str(folder)])
        return
    steps = GOALS[env, agent].steps
    options = {"--env": env, "--seed": seed, "--total-steps": steps, "--run-dir": folder}
    flat = [str(word) for pair in options.items() for word in pair]
    maxentflow(["train", agent, *flat])


def report() -> None:
    RESULTS.mkdir(exist_ok=True)
    rows, folders = [], []
    for (env, agent), goal in GOALS.items():
        for seed in goal.seeds:
            name = f"{env}-{agent}-{seed}"
            source, folder = RunFolder(RUNS / name), RunFolder(RESULTS / name)
            if source.metrics_path.exists():
                folder.path.mkdir(exist_ok=True)
                shutil.copy(source.metrics_path, folder.metrics_path)
                shutil.copy(source.config_path, folder.config_path)
            if folder.metrics_path.exists():
                folders.append((env, folder))
                rows.append(summary(env, agent, seed, goal, folder))
    with open(RESULTS / "summary.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for env in dict(folders):
        figures.learning_curves(
            [folder for task, folder in folders if task == env], RESULTS / f"{env}.png"
        )
    print((RESULTS / "summary.csv").read_text(), end="")


def summary(env: str, agent: str, seed: int, goal: Goal, folder: RunFolder) -> dict[str, object]:
    rows = [row for row in read_metrics(folder) if row["eval_return"]]
    returns = [float(row["eval_return"]) for row in rows]
    mean = float(np.mean(returns[-goal.last :]))
    steps = int(rows[-1]["step"])
    return {
        "env": env,
        "agent": agent,
        "seed": seed,
        "steps": steps,
        "mean_of_last": goal.last,
        "mean_return": round(mean, 1),
        "must_reach": goal.must_reach,
        "reached": steps >= goal.steps and mean >= goal.must_reach,
        "hours": round(float(rows[-1]["seconds"]) / 3600, 2),
    }


if __name__ == "__main__":
    command, *arguments = sys.argv[1:] or ["report"]
    if command == "train":
        train(arguments[0], arguments[1], int(arguments[2]))
    else:
        report()
