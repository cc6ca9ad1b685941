"""MEow's one setting on tasks that nobody tuned it for, beside the paper's setting and SAC.

    python benchmarks/untuned.py run                       # all runs that are missing
    python benchmarks/untuned.py run --tasks Reacher-v4 --agents meow,sac --seeds 0,1
    python benchmarks/untuned.py run --tasks InvertedDoublePendulum-v4 --agents ablations
    python benchmarks/untuned.py report                    # untuned.csv and the curves

Two runs at a time (--jobs), with a thread each. Runs are kept in runs/untuned; one that was
interrupted goes on from its last checkpoint. The report evaluates the last policy of each run on
20 episodes of its mode and 20 of its samples, writes a row for each in place of an older one, and
prints the mean and the interquartile mean (IQM) over seeds, with 95% bootstrap intervals. Rows of
runs that are on another machine stay as they are.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from maxentflow.agents import RunFolder, evaluate
from maxentflow.agents.cli import runs
from maxentflow.agents.training.run_folder import read_metrics
from maxentflow.agents.training.statistics import bootstrap, iqm

HERE = Path(__file__).parent
RUNS = Path("runs/untuned")
EPISODES = 20
AGENTS = {"meow": "meow", "paper": "meow --paper", "sac": "sac"}
# One part of the setting left out.
ABLATIONS = {
    "one flow": "meow --no-twin --heads 2",
    "temperature fixed": "meow --target-entropy None",
    "no reward scale": "meow --no-normalize-rewards",
    "no observation norm": "meow --no-normalize-observations",
    "narrow at first": "meow --initial-log-sigma -2.65",
    "reference weights": "meow --init reference",
    "no mean": "meow --mean-hidden None",
    "no layer norm in V": "meow --no-shift-norm",
    "clamped actions": "meow --no-raw-actions",
}
COMMANDS = AGENTS | ABLATIONS
# Steps, and the return that an agent which has not begun to learn stays below.
TASKS = {
    "Pendulum-v1": (10_000, -800),
    "MountainCarContinuous-v0": (30_000, 0),
    "InvertedPendulum-v4": (20_000, 200),
    "InvertedDoublePendulum-v4": (20_000, 1_000),
    "Reacher-v4": (30_000, -12),
    "Pusher-v5": (30_000, -60),
    "Swimmer-v4": (30_000, 15),
    "maxentflow/MultiGoal-v0": (30_000, -1_000),
    "BipedalWalker-v3": (150_000, -90),
    "LunarLanderContinuous-v3": (150_000, -100),
    "HalfCheetah-v4": (100_000, 500),
    "Hopper-v4": (100_000, 300),
    "Walker2d-v4": (100_000, 300),
    "Ant-v4": (100_000, 300),
    "Humanoid-v4": (100_000, 300),
}


def folder(task: str, agent: str, seed: int) -> RunFolder:
    return RunFolder(RUNS / task / agent.replace(" ", "-") / f"seed-{seed}")


def is_over(run: RunFolder, task: str) -> bool:
    if not run.metrics_path.exists():
        return False
    rows = read_metrics(run)
    return bool(rows) and int(rows[-1]["step"]) >= TASKS[task][0]


def train(task: str, agent: str, seed: int) -> None:
    run, (steps, _) = folder(task, agent, seed), TASKS[task]
    if is_over(run, task):
        return
    words = [sys.executable, "-m", "maxentflow.agents", "train"]
    if run.config_path.exists():
        words += ["--resume", str(run)]
    else:
        words += [*COMMANDS[agent].split(), "--env", task, "--seed", str(seed)]
        words += ["--run-dir", str(run), "--total-steps", str(steps)]
        words += ["--eval-every", str(max(1_000, steps // 10))]
        words += ["--warmup-steps", str(min(5_000, steps // 10))]
    ended = subprocess.run(words, capture_output=True, text=True)
    print(f"{run}: {'done' if ended.returncode == 0 else ended.stderr.strip()}", flush=True)


def row(task: str, agent: str, seed: int) -> dict[str, object]:
    run = folder(task, agent, seed)
    description = runs.read(run)
    env = runs.make_env(description, 10)
    policy = runs.trained(description, run, env).policy
    mode, samples = (
        evaluate(policy, env, episodes=EPISODES, deterministic=mode, seed=2_000_000)
        for mode in (True, False)
    )
    returns = [float(row["eval_return"]) for row in read_metrics(run) if row["eval_return"]]
    return {
        "task": task,
        "agent": agent,
        "seed": seed,
        "steps": TASKS[task][0],
        "mode": round(float(mode.returns.mean()), 2),
        "samples": round(float(samples.returns.mean()), 2),
        "has_begun": max(returns) > TASKS[task][1],
        "minutes": round(float(read_metrics(run)[-1]["seconds"]) / 60, 1),
    }


def report() -> None:
    new = [
        row(task, agent, seed)
        for task in TASKS
        for agent in COMMANDS
        for seed in range(200)
        if is_over(folder(task, agent, seed), task)
    ]
    rows = merge(HERE / "untuned.csv", new)
    merge(HERE / "untuned_curves.csv", [point for each in new for point in curve(each)])
    for task in TASKS:
        for agent in COMMANDS:
            returns = [
                float(str(r["mode"])) for r in rows if (r["task"], r["agent"]) == (task, agent)
            ]
            if returns:
                print(f"{task:26} {agent:20} {spread(returns)}")


def curve(row: dict[str, object]) -> list[dict[str, object]]:
    """The evaluations of a run, with V of their first observations where the agent has a V."""
    names = {name: row[name] for name in ("task", "agent", "seed")}
    columns = ("step", "eval_return", "eval_value", "eval_discounted_return")
    metrics = read_metrics(folder(str(row["task"]), str(row["agent"]), int(str(row["seed"]))))
    return [
        {**names, **{column: each.get(column, "")[:9] for column in columns}}
        for each in metrics
        if each["eval_return"]
    ]


def merge(path: Path, new: list[dict[str, object]]) -> list[dict[str, object]]:
    """Write rows, with those of the file that are of other runs, in the order of the tables."""
    run = lambda row: (row["task"], row["agent"], str(row["seed"]))  # noqa: E731
    replaced = {run(row) for row in new}
    with open(path) as file:
        kept = [row for row in csv.DictReader(file) if run(row) not in replaced]
    tasks, agents = list(TASKS), list(COMMANDS)
    rows = sorted(
        [*kept, *new],
        key=lambda row: (tasks.index(row["task"]), agents.index(row["agent"]), int(row["seed"])),
    )
    write(path, rows)
    return rows


def write(path: Path, rows: list[dict[str, object]]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def spread(returns: list[float]) -> str:
    """The mean and the IQM of some runs, with a bootstrap interval where there are several."""
    text = f"mean {np.mean(returns):9.1f}   IQM {iqm([returns]):9.1f}"
    if len(returns) > 2:
        low, high = bootstrap([returns], iqm)
        text += f"   [{low:.1f}, {high:.1f}]"
    return f"{text}   {len(returns)} seeds"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--agents", default=",".join(AGENTS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    if given.command == "report":
        report()
        return
    names = list(ABLATIONS) if given.agents == "ablations" else given.agents.split(",")
    with ThreadPoolExecutor(given.jobs) as pool:
        for seed in map(int, given.seeds.split(",")):
            for task in given.tasks.split(","):
                for agent in names:
                    pool.submit(train, task, agent, seed)


if __name__ == "__main__":
    main()
