"""Two paths on a grid: values and shares against the exact ones, and what happens when one closes.

    python benchmarks/two_paths_grid.py run [SEED ...]
    python benchmarks/two_paths_grid.py report     # two_paths_grid/*.png and a table

Soft Q-learning at three temperatures and double DQN learn with both paths open, with tunnels of
three lengths. The first is compared with soft value iteration on the exact model. Where the paths
are of equal length, the one that an agent prefers is then blocked in its middle, from the start or
from the fourth step of an episode on, and the agent acts without learning; then it learns on, with
100 updates at a time. Rows are added to two_paths_grid/values.csv and plan_b.csv.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import policies
import tables
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.special import logsumexp

from maxentflow import agents, envs
from maxentflow.agents.cli.figures import STYLES
from maxentflow.agents.training.statistics import bootstrap
from maxentflow.envs import TwoPathsGridEnv

HERE = Path(__file__).parent / "two_paths_grid"
VALUES, PLAN_B = HERE / "values.csv", HERE / "plan_b.csv"
TASK = "maxentflow/TwoPathsGrid-v0"
TEMPERATURES = (0.1, 0.3, 0.6)
DETOURS = (0, 1, 2)
SEEDS = range(5)
STEPS, GAMMA = 20_000, 0.99
EPISODES, LIMIT = 400, 100
RELEARNING = 1_000
SIZE = {"hidden": (64, 64)}
NAMES = ("bridge", "tunnel")


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


def learn(name: str, seed: int, detour: int, **settings: Any) -> agents.Agent:
    torch.manual_seed(seed)
    env = envs.make(TASK, detour=detour)
    agent = agents.make(name, env, gamma=GAMMA, **SIZE, **settings)
    go_on(agent, env, STEPS, seed, warmup_steps=1_000)
    return agent


def go_on(agent: agents.Agent, env: Any, steps: int, seed: int, warmup_steps: int = 0) -> None:
    """Learn from steps in an environment, with a replay that has nothing else."""
    config = agents.TrainerConfig(
        total_steps=steps,
        warmup_steps=warmup_steps,
        batch_size=128,
        eval_every=0,
        checkpoint_every=0,
        seed=seed,
    )
    agents.Trainer(agent, env, config, progress=False).run()


@torch.no_grad()
def values(agent: agents.Agent, alpha: float, seed: int, detour: int) -> dict[str, Any]:
    """Learned values, and shares of sampled episodes, beside the exact ones."""
    env = TwoPathsGridEnv(detour=detour)
    exact, policy = solve(env, alpha)
    learned = policies.value(agent, np.eye(len(exact), dtype=np.float32))
    error = np.abs(learned - exact)[np.arange(len(exact)) != env.goal]
    found = policies.episodes(
        agent.policy, partial(TwoPathsGridEnv, detour=detour), 4 * EPISODES, outcome="path"
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


def arriving(agent: agents.Agent, deterministic: bool, **blocked: Any) -> float:
    """Share of episodes that reach the goal within the task's limit."""
    found = policies.episodes(
        agent.policy,
        partial(TwoPathsGridEnv, **blocked),
        1 if deterministic else EPISODES,  # its episodes are all alike
        outcome="path",
        deterministic=deterministic,
        max_steps=LIMIT,
    )
    return float((found.outcomes >= 0).mean())


def plan_b(agent: agents.Agent, label: str, seed: int) -> list[dict[str, Any]]:
    """What is left of an agent when the path that it prefers is blocked."""
    found = policies.episodes(
        agent.policy, TwoPathsGridEnv, EPISODES, outcome="path", max_steps=LIMIT
    )
    over_bridge = float((found.outcomes == 0).mean())
    preferred = NAMES[over_bridge < 0.5]
    rows = []

    def note(closed: str, updates: int, **how: Any) -> None:
        row = {"agent": label, "seed": seed, "preferred": preferred, "blocked": closed}
        shares = {way: arriving(agent, way == "mode", **how) for way in ("mode", "samples")}
        rows.append({**row, "updates": updates, **shares})

    note("nothing", 0)
    note("from the fourth step", 0, blocked=preferred, blocked_from=4)
    note("from the start", 0, blocked=preferred)
    env = envs.make(TASK, blocked=preferred)
    for updates in range(100, RELEARNING + 1, 100):
        go_on(agent, env, 100 + 127, seed + updates)  # 127 before the first batch is there
        note("from the start", updates, blocked=preferred)
    return rows


def run(seeds: list[int]) -> None:
    torch.set_num_threads(1)
    done = {(row["temperature"], row["detour"], row["seed"]) for row in tables.read(VALUES)}
    moved = {(row["agent"], row["seed"]) for row in tables.read(PLAN_B)}
    HERE.mkdir(exist_ok=True)
    for seed in seeds:
        for alpha in TEMPERATURES:
            for detour in DETOURS:
                label = f"soft-q, {alpha}"
                if (str(alpha), str(detour), str(seed)) in done and (
                    detour or (label, str(seed)) in moved
                ):
                    continue
                agent = learn("soft-q", seed, detour, temperature=alpha)
                row = values(agent, alpha, seed, detour)
                tables.append(VALUES, row)
                print(row, flush=True)
                if not detour:
                    for each in plan_b(agent, label, seed):
                        tables.append(PLAN_B, each)
        if ("dqn", str(seed)) not in moved:
            for each in plan_b(learn("dqn", seed, 0), "dqn", seed):
                tables.append(PLAN_B, each)
        print(f"seed {seed} is done", flush=True)


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
    rows = tables.read(PLAN_B)
    for label in dict.fromkeys(row["agent"] for row in rows):
        for blocked in ("nothing", "from the fourth step", "from the start"):
            found = [
                row
                for row in rows
                if (row["agent"], row["blocked"], row["updates"]) == (label, blocked, "0")
            ]
            for way in ("mode", "samples"):
                shares = [float(row[way]) for row in found]
                low, high = bootstrap([shares], lambda scores: float(np.mean(scores[0])))
                print(
                    f"{label:12} {blocked:22} {way:8} {np.mean(shares):.2f} "
                    f"[{low:.2f}, {high:.2f}] of {len(shares)} seeds"
                )
    draw_plan_b(rows)


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


def draw_plan_b(rows: list[dict[str, Any]]) -> None:
    """Share of episodes that arrive while an agent learns on, with its path blocked."""
    figure = Figure(figsize=(8.4, 3.4), layout="constrained")
    for axes, way in zip(figure.subplots(1, 2, sharey=True), ("mode", "samples"), strict=True):
        for style, label in zip(STYLES, dict.fromkeys(row["agent"] for row in rows), strict=False):
            found = [
                row for row in rows if (row["agent"], row["blocked"]) == (label, "from the start")
            ]
            updates = sorted({int(row["updates"]) for row in found})
            means = [
                np.mean([float(row[way]) for row in found if int(row["updates"]) == count])
                for count in updates
            ]
            axes.plot(updates, means, color=style.color, linestyle=style.line, label=label)
        axes.set(title=f"{way} of the policy", xlabel="updates after the preferred path closed")
        axes.grid(alpha=0.3)
    figure.axes[0].set(ylabel="episodes that arrive")
    figure.axes[1].legend(frameon=False, fontsize="small")
    figure.savefig(HERE / "plan_b.png", dpi=120)


if __name__ == "__main__":
    command, *given = sys.argv[1:] or ["report"]
    if command == "run":
        run([int(seed) for seed in given] or list(SEEDS))
    else:
        report()
