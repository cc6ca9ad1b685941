"""Two paths on a grid: values and shares against the exact ones, and what happens when one closes.

    python benchmarks/two_paths_grid.py run
    python benchmarks/two_paths_grid.py report     # two_paths_grid/*.png and a table

Soft Q-learning at three temperatures and double DQN learn with both paths open, with tunnels of
three lengths, five seeds. The first is compared with soft value iteration on the
exact model. Where the paths are of equal length, the one that an agent prefers is then blocked in
its middle, from the start or from the fourth step of an episode on, and the agent acts without
learning; then it learns on, with 100 updates at a time. Rows are added to the CSVs in
two_paths_grid/.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import plan_b
import policies
import tables
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.special import logsumexp

from maxentflow import agents
from maxentflow.agents.cli.figures import STYLES
from maxentflow.envs import TwoPathsGridEnv

HERE = Path(__file__).parent / "two_paths_grid"
VALUES, PLAN_B = HERE / "values.csv", HERE / "plan_b.csv"
TASK = "maxentflow/TwoPathsGrid-v0"
TEMPERATURES = (0.1, 0.3, 0.6)
DETOURS = (0, 1, 2)
SEEDS = range(5)
STEPS, GAMMA = 20_000, 0.99
WARMUP = 5_000  # a random walk has to come to every cell
EPISODES = 1_600
SETTINGS = {"gamma": GAMMA, "hidden": (64, 64)}


# The exact solution


def solve(env: TwoPathsGridEnv, alpha: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Soft values ``(cells,)`` and policy ``(cells, 4)``, by soft value iteration."""
    transition, reward = env.model()
    value = np.zeros(len(transition))
    while True:
        q = reward + GAMMA * transition @ value
        new = alpha * logsumexp(q / alpha, axis=1)
        new[env.goal] = 0.0
        if np.abs(new - value).max() < 1e-12:
            return value, np.exp((q - value[:, None]) / alpha)
        value = new


def share_of_bridge(env: TwoPathsGridEnv, policy: NDArray[Any]) -> float:
    """Probability that an episode of a policy reaches the goal over the bridge."""
    transition, _ = env.model()
    steps = np.einsum("sa,sat->st", policy, transition)
    before = np.array([cell for cell in range(len(steps)) if cell != env.goal])
    bridge = np.array([env.path_of(cell) == 0 for cell in before])
    reaching = np.linalg.solve(
        np.eye(len(before)) - steps[np.ix_(before, before)],
        steps[before, env.goal] * bridge,
    )
    return float(reaching[before == env.start][0])


# Learning


@torch.no_grad()
def values(agent: agents.Agent, alpha: float, seed: int, detour: int) -> dict[str, Any]:
    """Learned values, and shares of sampled episodes, beside the exact ones."""
    env = TwoPathsGridEnv(detour=detour)
    exact, policy = solve(env, alpha)
    learned = policies.value(agent, np.eye(len(exact), dtype=np.float32))
    error = np.abs(learned - exact)[np.arange(len(exact)) != env.goal]
    found = policies.episodes(
        agent,
        partial(TwoPathsGridEnv, detour=detour),
        EPISODES,
        outcome="path",
        seed=EPISODES * seed,
    )
    return {
        "temperature": alpha,
        "detour": detour,
        "seed": seed,
        "largest_error_of_v": round(float(error.max()), 4),
        "mean_error_of_v": round(float(error.mean()), 4),
        "share_of_bridge": round(float((found.outcomes == 0).mean()), 4),
        "exact_share_of_bridge": round(share_of_bridge(env, policy), 4),
    }


def run() -> None:
    torch.set_num_threads(1)
    HERE.mkdir(exist_ok=True)
    done = {(row["temperature"], row["detour"]) for row in tables.read(VALUES)}
    for alpha in TEMPERATURES:
        make = partial(agents.make, "soft-q", temperature=alpha, **SETTINGS)
        for detour in DETOURS:
            if (str(alpha), str(detour)) in done:
                continue
            learned = policies.learn(make, TASK, SEEDS, STEPS, WARMUP, detour=detour)
            rows = [
                values(agent, alpha, s, detour) for s, agent in zip(SEEDS, learned, strict=True)
            ]
            print(*rows, sep="\n", flush=True)
            if not detour:  # which changes the agents
                note_plan_b(f"soft-q, {alpha}", learned)
            for row in rows:
                tables.append(VALUES, row)
    if not any(row["agent"] == "dqn" for row in tables.read(PLAN_B)):
        note_plan_b(
            "dqn",
            policies.learn(partial(agents.make, "dqn", **SETTINGS), TASK, SEEDS, STEPS, WARMUP),
        )


def note_plan_b(label: str, learned: list[agents.Agent]) -> None:
    for seed, agent in zip(SEEDS, learned, strict=True):
        for row in plan_b.rows(agent, label, seed, TASK, TwoPathsGridEnv, late=4):
            tables.append(PLAN_B, row)


# The report


def report() -> None:
    rows = tables.read(VALUES)
    print("temperature, detour: largest error of V, share of the bridge, exact")
    for alpha in TEMPERATURES:
        for detour in DETOURS:
            found = [
                row
                for row in rows
                if (float(row["temperature"]), int(row["detour"])) == (alpha, detour)
            ]
            errors = [float(row["largest_error_of_v"]) for row in found]
            shares = [float(row["share_of_bridge"]) for row in found]
            print(
                f"{alpha}, {detour}: {max(errors):.3f}, {min(shares):.3f} to {max(shares):.3f}, "
                f"{float(found[0]['exact_share_of_bridge']):.3f}"
            )
    draw_shares(rows)
    plan_b.report(tables.read(PLAN_B), HERE / "plan_b.png")


def draw_shares(rows: list[dict[str, Any]]) -> None:
    """Exact shares over the temperature as lines, learned ones as points."""
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.subplots()
    grid = np.linspace(0.05, 0.65, 61)
    for style, detour in zip(STYLES, DETOURS, strict=False):
        env = TwoPathsGridEnv(detour=detour)
        exact = [share_of_bridge(env, solve(env, alpha)[1]) for alpha in grid]
        label = f"tunnel {2 * detour} steps longer" if detour else "paths of equal length"
        axes.plot(grid, exact, color=style.color, linestyle=style.line, label=f"{label}, exact")
        found = [row for row in rows if int(row["detour"]) == detour]
        axes.plot(
            [float(row["temperature"]) for row in found],
            [float(row["share_of_bridge"]) for row in found],
            "o",
            color=style.color,
            markersize=4,
        )
    axes.set(xlabel="temperature", ylabel="episodes over the bridge", ylim=(0.4, 1.03))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize="small")
    figure.savefig(HERE / "shares.png", dpi=120)


if __name__ == "__main__":
    if sys.argv[1:] == ["run"]:
        run()
    else:
        report()
