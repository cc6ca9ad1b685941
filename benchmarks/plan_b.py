"""What is left of an agent when the path that it prefers is blocked, and how it learns on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import policies
from matplotlib.figure import Figure

from maxentflow import agents, envs
from maxentflow.agents.cli.figures import STYLES
from maxentflow.agents.training.statistics import bootstrap
from maxentflow.envs.arguments import PATHS

__all__ = ["report", "rows"]

EPISODES = 200
RELEARNING, AT_A_TIME = 1_000, 100


def rows(
    agent: agents.Agent, label: str, seed: int, task: str, kind: type[gym.Env[Any, Any]], late: int
) -> list[dict[str, Any]]:
    """Shares of episodes that arrive, of the policy's mode and of its samples.

    Args:
        agent: learned with both paths open.
        label: what to call it.
        seed: of its run.
        task: its gymnasium id.
        kind: the task's class.
        late: the step of an episode after which a path is blocked in its middle.
    """
    limit = gym.spec(task).max_episode_steps
    act = partial(policies.episodes, agent, outcome="path", max_steps=limit, seed=EPISODES * seed)
    over_bridge = float((act(kind, EPISODES).outcomes == 0).mean())
    preferred = PATHS[over_bridge < 0.5]
    found = []

    def note(closed: str, updates: int, **how: Any) -> None:
        shares = {
            way: float(
                (
                    act(partial(kind, **how), EPISODES, deterministic=way == "mode").outcomes >= 0
                ).mean()
            )
            for way in ("mode", "samples")
        }
        row = {"agent": label, "seed": seed, "over_bridge": over_bridge, "blocked": closed}
        found.append({**row, "updates": updates, **shares})

    note("nothing", 0)
    note(f"after {late} steps", 0, blocked=preferred, blocked_from=late)
    note("at first", 0, blocked=preferred)
    env = envs.make(task, blocked=preferred)
    for updates in range(AT_A_TIME, RELEARNING + 1, AT_A_TIME):
        # A new replay: before there is a first batch, nothing is learned.
        policies.trainer(agent, env, AT_A_TIME + policies.BATCH - 1, seed + updates).run()
        note("at first", updates, blocked=preferred)
    return found


def report(table: Sequence[dict[str, Any]], path: Path) -> None:
    """Print means over seeds with intervals, and draw what is learned after the path closed."""
    labels = list(dict.fromkeys(row["agent"] for row in table))
    for label in labels:
        for blocked in dict.fromkeys(row["blocked"] for row in table):
            found = [
                row
                for row in table
                if (row["agent"], row["blocked"], row["updates"]) == (label, blocked, "0")
            ]
            words = f"{label:20} blocked {blocked:16}"
            for way in ("mode", "samples"):
                shares = [float(row[way]) for row in found]
                low, high = bootstrap([shares], lambda scores: float(np.mean(scores[0])))
                words += f"{way} {np.mean(shares):.2f} [{low:.2f}, {high:.2f}]   "
            print(f"{words}{len(found)} seeds")
    figure = Figure(figsize=(8.8, 3.6), layout="constrained")
    for axes, way in zip(figure.subplots(1, 2, sharey=True), ("mode", "samples"), strict=True):
        for style, label in zip(STYLES, labels, strict=False):
            found = [row for row in table if (row["agent"], row["blocked"]) == (label, "at first")]
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
    figure.savefig(path, dpi=120)
