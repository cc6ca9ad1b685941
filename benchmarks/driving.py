"""Driving over an intersection: success, collisions and speed, also in denser traffic.

    pip install "maxentflow[driving]"
    python benchmarks/driving.py run [VARIANT ...] [--seeds 0,1,2]
    python benchmarks/driving.py report        # driving/driving.png and a table

Agents learn in the traffic of maxentflow/Intersection-v0, 20,000 seconds of it. Each policy then
drives 300 episodes by its mode and 300 by samples, in that traffic and in denser traffic that it
has not seen. All have networks of the same size. Rows are added to driving/episodes.csv.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import policies
import tables
import torch
from matplotlib.figure import Figure

from maxentflow import agents
from maxentflow.agents.cli.figures import STYLES
from maxentflow.agents.training.statistics import bootstrap
from maxentflow.envs.intersection import DURATION, IntersectionEnv

HERE = Path(__file__).parent / "driving"
EPISODES_CSV = HERE / "episodes.csv"
TASK = "maxentflow/Intersection-v0"
STEPS, EPISODES, AT_ONCE = 20_000, 300, 60
SEED = 10_000  # of the first episode that is counted
TRAFFIC: dict[str, dict[str, Any]] = {
    "as in training": {},
    "denser": {"vehicles": 15, "spawn_probability": 0.8},
    "densest": {"vehicles": 20, "spawn_probability": 1.0},
}
FIXED = {"normalize_rewards": False, "target_entropy": None}
TEMPERATURES = (0.01, 0.1, 1.0)
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"MEow, temperature {a:g}": ("meow", {"temperature": a, **FIXED}) for a in TEMPERATURES},
    "MEow": ("meow", {}),
    "MEow, spline": ("meow", {"flow": "spline"}),
    "SAC": ("sac", {}),
    "TD3": ("td3", {}),
    "DDPG": ("ddpg", {}),
}
FIGURES = ("success", "collision", "speed", "return")


def run(labels: list[str], seeds: list[int]) -> None:
    torch.set_num_threads(1)
    HERE.mkdir(exist_ok=True)
    for seed in seeds:
        for label in labels:
            done = {(row["agent"], row["seed"]) for row in tables.read(EPISODES_CSV)}
            if (label, str(seed)) in done:
                continue
            name, settings = VARIANTS[label]
            (agent,) = policies.learn(partial(agents.make, name, **settings), TASK, [seed], STEPS)
            rows = [
                {"agent": label, "seed": seed, "traffic": traffic, "actions": way}
                | drive(agent, deterministic=way == "mode", **options)
                for traffic, options in TRAFFIC.items()
                for way in ("mode", "samples")
            ]
            for row in rows:
                tables.append(EPISODES_CSV, row)
                print(row, flush=True)


def drive(agent: agents.Agent, *, deterministic: bool, **options: Any) -> dict[str, Any]:
    """Shares of arrivals and collisions, mean speed and mean return of 300 episodes."""
    outcomes, speeds, returns = [], [], []
    with policies.acting(agent, deterministic=deterministic) as act:
        copies = [IntersectionEnv(**options) for _ in range(AT_ONCE)]
        for first in range(0, EPISODES, AT_ONCE):
            seen = [env.reset(seed=SEED + first + i)[0] for i, env in enumerate(copies)]
            outcome, earned = np.full(AT_ONCE, -1), np.zeros(AT_ONCE)
            running = list(range(AT_ONCE))
            for _ in range(DURATION):
                actions = act(np.stack(seen))
                for index in list(running):
                    seen[index], reward, over, _, info = copies[index].step(actions[index])
                    earned[index] += reward
                    speeds.append(info["speed"])
                    if over:
                        outcome[index] = info["outcome"]
                        running.remove(index)
            outcomes.extend(outcome)
            returns.extend(earned)
    return {
        "success": round(float(np.mean(np.equal(outcomes, 1))), 4),
        "collision": round(float(np.mean(np.equal(outcomes, 0))), 4),
        "speed": round(float(np.mean(speeds)), 3),
        "return": round(float(np.mean(returns)), 3),
    }


def report() -> None:
    rows = tables.read(EPISODES_CSV)
    print(
        "| agent | actions | traffic | seeds | success, % | collision, % | speed, m/s | return |"
    )
    print("| --- " * 8 + "|")
    groups = dict.fromkeys((row["agent"], row["actions"], row["traffic"]) for row in rows)
    for group in groups:
        found = select(rows, *group)
        numbers = {name: [float(row[name]) for row in found] for name in FIGURES}
        low, high = interval(numbers["success"])
        print(
            f"| {' | '.join(group)} | {len(found)} "
            f"| {100 * np.mean(numbers['success']):.0f} [{100 * low:.0f}, {100 * high:.0f}] "
            f"| {100 * np.mean(numbers['collision']):.0f} | {np.mean(numbers['speed']):.1f} "
            f"| {np.mean(numbers['return']):.2f} |"
        )
    draw(rows)


def select(rows: list[dict[str, Any]], agent: str, way: str, traffic: str) -> list[dict[str, Any]]:
    keys = agent, way, traffic
    return [row for row in rows if (row["agent"], row["actions"], row["traffic"]) == keys]


def interval(values: list[float]) -> tuple[float, float]:
    if len(values) == 1:
        return values[0], values[0]
    return bootstrap([np.array(values)], lambda scores: float(np.mean(scores[0])))


def draw(rows: list[dict[str, Any]]) -> None:
    """Success and collisions over the traffic, by the mode and by samples."""
    figure = Figure(figsize=(9.0, 5.6), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey="row")
    labels = [label for label in VARIANTS if any(row["agent"] == label for row in rows)]
    for line, name in zip(panels, ("success", "collision"), strict=True):
        for axes, way in zip(line, ("mode", "samples"), strict=True):
            for index, label in enumerate(labels):
                means = [
                    100 * np.mean([float(row[name]) for row in select(rows, label, way, traffic)])
                    for traffic in TRAFFIC
                ]
                style = STYLES[index % len(STYLES)]
                axes.plot(means, color=style.color, linestyle=style.line, marker=".", label=label)
            axes.set(title=f"{name}, {way}", ylabel="%")
            axes.set_xticks(range(len(TRAFFIC)), labels=list(TRAFFIC))
            axes.grid(alpha=0.3)
    handles, words = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, words, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(HERE / "driving.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("run", "report"))
    parser.add_argument("variants", nargs="*", help=", ".join(VARIANTS))
    parser.add_argument("--seeds", default="0,1,2")
    options = parser.parse_args()
    if options.command == "report":
        report()
    else:
        run(options.variants or list(VARIANTS), [int(word) for word in options.seeds.split(",")])


if __name__ == "__main__":
    main()
