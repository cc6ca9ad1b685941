"""MEow with every architecture, on MultiGoal and on Pendulum-v1.

    python benchmarks/architectures.py run additive spline   # these, the runs that are missing
    python benchmarks/architectures.py run                    # all of them
    python benchmarks/architectures.py report                 # the table

Each run becomes a row of architectures.csv next to this file when it ends.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import policies
import tables
import torch

from maxentflow import agents, envs, flows
from maxentflow.agents import RunFolder
from maxentflow.agents.training.run_folder import read_metrics

RESULTS = Path(__file__).parent / "architectures.csv"
RUNS = Path("runs/benchmarks/architectures")
MULTIGOAL, PENDULUM = "maxentflow/MultiGoal-v0", "Pendulum-v1"
SEEDS = (0, 1, 2)
EPISODES = 400
COLUMNS = (
    "task",
    "flow",
    "seed",
    "steps",
    "return",
    "worst_late_return",
    "reached",
    "least_goal",
    "largest_loss",
    "stopped",
    "seconds",
    "parameters",
)
SHOWN = {
    "return": lambda value: f"{float(value):.0f}",
    "worst_late_return": lambda value: f"{float(value):.0f}",
    "reached": lambda value: f"{100 * float(value):.0f}%" if value else "",
    "least_goal": lambda value: f"{100 * float(value):.0f}%" if value else "",
    "seconds": str,
}
# Short enough to run every architecture; every other setting is that of the task's preset.
PENDULUM_LENGTH = {"total_steps": 5_000, "warmup_steps": 1_000, "eval_every": 500}


def config_of(task: str, seed: int) -> agents.TrainerConfig:
    config = replace(agents.TrainerConfig.for_task(task, paper=True), seed=seed)
    return replace(config, **PENDULUM_LENGTH) if task == PENDULUM else config


def train(task: str, flow: str, seed: int) -> dict[str, object]:
    config = config_of(task, seed)
    torch.manual_seed(seed)
    agent = agents.make("meow", envs.make(task), paper=True, flow=flow)
    folder = RunFolder(RUNS / f"{task.rpartition('/')[2]}-{flow}-{seed}-{time.time_ns()}")
    folder.create(agent, config, task)
    stopped = ""
    start = time.perf_counter()
    try:
        agents.Trainer(agent, envs.make(task), config, folder).run()
    except agents.NonFiniteError as error:
        stopped = str(error)
    seconds = time.perf_counter() - start
    rows = read_metrics(folder)
    returns = [float(row["eval_return"]) for row in rows if row["eval_return"]]
    losses = [float(row["loss"]) for row in rows if row["loss"]]
    row: dict[str, object] = {
        "task": task,
        "flow": flow,
        "seed": seed,
        "steps": int(rows[-1]["step"]),
        "return": round(float(np.mean(returns[-3:])), 1),
        "worst_late_return": round(min(returns[len(returns) // 2 :]), 1),
        "largest_loss": f"{max(losses):.3g}",
        "stopped": stopped,
        "seconds": round(seconds),
        "parameters": sum(p.numel() for p in agent.policy.flow.parameters()),
    }
    if task == MULTIGOAL:
        goals = policies.episodes(
            agent.policy, envs.MultiGoalEnv, EPISODES, outcome="goal", seed=10_000 + seed
        ).outcomes
        shares = [float((goals == goal).mean()) for goal in range(4)]
        row |= {"reached": round(sum(shares), 4), "least_goal": min(shares)}
    return row


def run(names: list[str]) -> None:
    for task in (MULTIGOAL, PENDULUM):
        for flow in names:
            for seed in SEEDS:
                key = (task, flow, str(seed))
                if key in {
                    (row["task"], row["flow"], row["seed"]) for row in tables.read(RESULTS)
                }:
                    continue
                row = train(task, flow, seed)
                tables.append(RESULTS, row, COLUMNS)
                print(row, flush=True)


def report() -> None:
    order = {name: place for place, name in enumerate(flows.registered())}
    rows = sorted(
        tables.read(RESULTS), key=lambda row: (row["task"], order[row["flow"]], row["seed"])
    )
    tables.write(RESULTS, rows, COLUMNS)
    for task in (MULTIGOAL, PENDULUM):
        own = [row for row in rows if row["task"] == task]
        shown = [column for column in SHOWN if any(row[column] for row in own)]
        print(f"\n| {' | '.join([task, *(column.replace('_', ' ') for column in shown)])} |")
        print(f"| --- |{' --- |' * len(shown)}")
        for flow in order:
            group = [row for row in own if row["flow"] == flow]
            cells = [", ".join(SHOWN[column](row[column]) for row in group) for column in shown]
            print(f"| {flow} | {' | '.join(cells)} |")


if __name__ == "__main__":
    command, *names = sys.argv[1:] or ["report"]
    if command == "run":
        run(names or list(flows.registered()))
    else:
        report()
