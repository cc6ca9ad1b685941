"""Two paths around a block: who keeps both, and what happens when one closes.

    python benchmarks/two_paths.py run [AGENT ...]
    python benchmarks/two_paths.py report          # two_paths/*.png and a table

Every agent learns with both paths open and its default settings, five seeds. The
path that it prefers is then blocked in its middle, from the start or from the fourth step of an
episode on, and the agent acts without learning; then it learns on, with 100 updates at a time.
Rows are added to two_paths/plan_b.csv; trajectories of the first seed are drawn.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import plan_b
import policies
import tables
import torch
from matplotlib.figure import Figure

from maxentflow import agents
from maxentflow.envs import Rollouts, TwoPathsEnv
from maxentflow.envs.two_paths import draw

HERE = Path(__file__).parent / "two_paths"
PLAN_B = HERE / "plan_b.csv"
TASK = "maxentflow/TwoPaths-v0"
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "MEow": ("meow", {}),
    "SAC": ("sac", {}),
    "TD3": ("td3", {}),
    "DDPG": ("ddpg", {}),
    "MEow, --paper": ("meow", {"paper": True}),
    "MEow, spline": ("meow", {"flow": "spline"}),
}
SEEDS = range(5)
STEPS, LATE, SHOWN = 15_000, 4, 60


def run(labels: list[str]) -> None:
    torch.set_num_threads(1)
    HERE.mkdir(exist_ok=True)
    done = {row["agent"] for row in tables.read(PLAN_B)}
    for label in labels:
        if label in done:
            continue
        name, settings = VARIANTS[label]
        learned = policies.learn(partial(agents.make, name, **settings), TASK, SEEDS, STEPS)
        draw_paths(learned[0], label)
        for seed, agent in zip(SEEDS, learned, strict=True):
            rows = plan_b.rows(agent, label, seed, TASK, TwoPathsEnv, LATE)
            for row in rows:
                tables.append(PLAN_B, row)
            print(label, seed, rows[0], rows[1], rows[2], rows[-1], sep="\n  ", flush=True)


def draw_paths(agent: agents.Agent, label: str) -> None:
    """Sampled episodes with both paths open, and with either blocked."""
    figure = Figure(figsize=(11.4, 2.9), layout="constrained")
    for axes, blocked in zip(
        figure.subplots(1, 3, sharey=True), (None, "bridge", "tunnel"), strict=True
    ):
        make = partial(TwoPathsEnv, blocked=blocked)
        found: Rollouts = policies.episodes(agent, make, SHOWN, outcome="path", max_steps=60)
        axes.set(facecolor="0.35", xlim=(-6, 6), ylim=(-4, 4), aspect="equal")
        draw(axes, found, make())
        arrived = (found.outcomes >= 0).mean()
        axes.set(title=f"{label}: {blocked or 'nothing'} blocked, {arrived:.0%} arrive")
    name = label.lower().replace(",", "").replace("--", "").replace(" ", "-")
    figure.savefig(HERE / f"{name}.png", dpi=100)


if __name__ == "__main__":
    command, *given = sys.argv[1:] or ["report"]
    if command == "run":
        run(given or list(VARIANTS))
    else:
        plan_b.report(tables.read(PLAN_B), HERE / "plan_b.png")
