"""Figures: learning curves against the published ones, and the picture of MultiGoal."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import NDArray
from scipy import stats
from tensordict import TensorDict
from torchrl.envs.utils import ExplorationType, set_exploration_type

from maxentflow import envs
from maxentflow.agents.agent import Agent
from maxentflow.agents.run_folder import RunFolder, read_metrics
from maxentflow.flows import EnergyBasedFlow

__all__ = ["Rollouts", "learning_curves", "multigoal", "multigoal_rollouts", "published"]


@cache
def published(
    env_id: str, algorithm: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Steps and mean returns of Fig. 3 of Chao et al. 2024, or ``None`` where it has no curve.

    Example:
        >>> steps, returns = published("Hopper-v4", "meow")
        >>> round(float(returns[-1]), -1)
        3490.0
    """
    source = resources.files("maxentflow.agents") / "published" / "paper_fig3_mujoco.csv"
    with source.open() as file:
        rows = [
            (float(row["step"]), float(row["mean_return"]))
            for row in csv.DictReader(file)
            if row["env"] == env_id and row["algo"] == algorithm
        ]
    if not rows:
        return None
    steps, returns = np.array(sorted(rows)).T
    return steps, returns


@dataclass(frozen=True)
class _Curve:
    env: str
    agent: str
    settings: dict[str, str]
    steps: NDArray[np.int64]
    returns: NDArray[np.float64]
    label: str | None


def learning_curves(
    folders: Sequence[RunFolder], path: Path, labels: Sequence[str] | None = None
) -> None:
    """Draw the evaluations of runs over steps, one panel for each task.

    Runs of one task and label are one curve: their mean, thin lines for each and, of three and
    more, a band of the 95% confidence interval of that mean (Student's t), which of two would
    cover the panel. The published curve of the same algorithm is drawn beside them where there is
    one.

    Args:
        folders: the runs.
        path: where the figure goes.
        labels: of each run; by default the agent, its flow and the settings, other than the seed,
            in which the runs of a task differ.

    Raises:
        ValueError: a folder is not a run, or has no evaluation yet, or none at a step that the
            other seeds of its curve have.
    """
    tasks: dict[str, list[_Curve]] = defaultdict(list)
    given: Sequence[str | None] = [None] * len(folders) if labels is None else labels
    for folder, label in zip(folders, given, strict=True):
        curve = _read_curve(folder, label)
        tasks[curve.env].append(curve)
    figure = Figure(figsize=(6.4 * len(tasks), 5.4), layout="constrained")
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    for axes, (env_id, curves) in zip(panels, tasks.items(), strict=True):
        for index, (label, group) in enumerate(_groups(curves).items()):
            _draw_group(axes, label, group, f"C{index}")
        last = max(int(curve.steps[-1]) for curve in curves)
        for agent in sorted({curve.agent for curve in curves}):
            reference = published(env_id, agent)
            if reference is not None:
                shown = reference[0] <= 1.05 * last
                style = "k--" if agent == "meow" else "k:"
                axes.plot(
                    reference[0][shown], reference[1][shown], style, label=f"{agent}, published"
                )
        _fit_to_lines(axes)
        axes.set(title=env_id, xlabel="environment steps", ylabel="evaluation return")
        axes.grid(alpha=0.3)
        axes.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False, fontsize="small"
        )
    _save(figure, path)


def _fit_to_lines(axes: Axes) -> None:
    """Set the vertical limits by the curves: the interval of few seeds would dwarf them."""
    heights = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.lines])
    margin = 0.05 * (np.ptp(heights) or 1.0)
    axes.set_ylim(heights.min() - margin, heights.max() + margin)


# What two runs may differ in and still be two seeds of one thing.
_ASIDE = {
    "env",
    "seed",
    "total_steps",
    "eval_episodes",
    "eval_every",
    "log_every",
    "checkpoint_every",
    "threads",
    "device",
    "compile",
}


def _read_curve(folder: RunFolder, label: str | None) -> _Curve:
    config = folder.config()
    rows = [row for row in read_metrics(folder) if row["eval_return"]]
    if not rows:
        raise ValueError(f"{folder} has no evaluation to plot yet.")
    settings = {**config["trainer_config"], **config["agent_config"]}
    settings |= settings.pop("flow_options", {})
    return _Curve(
        env=config["trainer_config"]["env"],
        agent=config["agent"],
        settings={name: str(value) for name, value in settings.items() if name not in _ASIDE},
        steps=np.array([int(row["step"]) for row in rows]),
        returns=np.array([float(row["eval_return"]) for row in rows]),
        label=label,
    )


def _groups(curves: list[_Curve]) -> dict[str, list[_Curve]]:
    """Runs of one task by their labels."""
    groups: dict[str, list[_Curve]] = defaultdict(list)
    for curve in curves:
        rivals = [other.settings for other in curves if other.agent == curve.agent]
        differing = [
            f"{name} {value}"
            for name, value in curve.settings.items()
            if name != "flow" and any(rival.get(name) != value for rival in rivals)
        ]
        flow = [curve.settings["flow"]] if "flow" in curve.settings else []
        label = curve.label or ", ".join([curve.agent, *flow, *differing])
        groups[label].append(curve)
    return groups


def _draw_group(axes: Axes, label: str, group: list[_Curve], color: str) -> None:
    common = sorted(set.intersection(*(set(curve.steps.tolist()) for curve in group)))
    if not common:
        raise ValueError(f"The {len(group)} runs of {label} have no evaluation at the same step.")
    table = np.array(
        [
            [curve.returns[np.flatnonzero(curve.steps == step)[0]] for step in common]
            for curve in group
        ]
    )
    mean, count = table.mean(0), len(group)
    axes.plot(common, mean, color=color, label=f"{label} ({count} seed{'s' * (count > 1)})")
    if count > 1:
        for returns in table:
            axes.plot(common, returns, color=color, alpha=0.4, linewidth=0.7)
    if count > 2:
        half = stats.t.ppf(0.975, count - 1) * table.std(0, ddof=1) / np.sqrt(count)
        axes.fill_between(common, mean - half, mean + half, color=color, alpha=0.15, linewidth=0)


@dataclass(frozen=True)
class Rollouts:
    """Episodes of MultiGoal: each path ``(steps + 1, 2)``, and the goal reached or -1."""

    paths: list[NDArray[np.float64]]
    goals: NDArray[np.int64]


def multigoal_rollouts(agent: Agent, episodes: int, seed: int = 0) -> Rollouts:
    """Sampled episodes from the start of MultiGoal, to a goal or for 1,000 steps."""
    env = envs.make("maxentflow/MultiGoal-v0", episodes, max_episode_steps=1_000)
    paths: list[list[NDArray[np.float64]]] = [[] for _ in range(episodes)]
    goals = np.full(episodes, -1, dtype=np.int64)
    alive = np.ones(episodes, dtype=bool)
    exploration = set_exploration_type(ExplorationType.RANDOM)
    device = _device(agent)
    with torch.random.fork_rng(), torch.no_grad(), exploration:
        torch.manual_seed(seed)
        observation, _ = env.reset(seed=seed)
        for path, start in zip(paths, observation, strict=True):
            path.append(start.copy())
        while alive.any():
            seen = torch.from_numpy(observation).to(device)
            batch = TensorDict(observation=seen, batch_size=[episodes])
            action = agent.policy(batch)["action"].cpu().numpy()
            observation, _, terminated, truncated, info = env.step(action)
            ended = terminated | truncated
            for index in np.flatnonzero(alive):
                end = ended[index]
                last = info["final_obs"][index] if end else observation[index]
                paths[index].append(np.array(last))
                if end:
                    goals[index] = info["final_info"]["goal"][index]
            alive &= ~ended
    env.close()
    return Rollouts([np.array(path) for path in paths], goals)


def multigoal(agent: Agent, path: Path, episodes: int = 100) -> Rollouts:
    """Draw sampled trajectories, over the contour of the soft value where the agent has one.

    Returns:
        The episodes drawn.
    """
    rollouts = multigoal_rollouts(agent, episodes)
    figure = Figure(figsize=(5.2, 4.4), layout="constrained")
    axes = figure.subplots()
    flow = getattr(agent.policy, "flow", None)
    if isinstance(flow, EnergyBasedFlow):
        grid = torch.linspace(-7, 7, 141)
        x, y = torch.meshgrid(grid, grid, indexing="xy")
        with torch.no_grad():
            points = torch.stack([x, y], dim=-1).to(_device(agent))
            value = flow.value(points).amin(-1).cpu()
        contour = axes.contourf(x.numpy(), y.numpy(), value.numpy(), levels=24, cmap="viridis")
        figure.colorbar(contour, ax=axes, label="soft value V(s)")
    for trajectory in rollouts.paths:
        axes.plot(trajectory[:, 0], trajectory[:, 1], color="white", alpha=0.45, linewidth=0.7)
    for goal in envs.GOALS:
        axes.add_patch(Circle((goal[0], goal[1]), 1.0, fill=False, color="tab:red", linewidth=1.5))
    axes.set(xlim=(-7, 7), ylim=(-7, 7), aspect="equal", xlabel="x", ylabel="y")
    axes.set_title(f"MultiGoal: {episodes} sampled episodes")
    if not isinstance(flow, EnergyBasedFlow):
        axes.set_facecolor("0.3")
    _save(figure, path)
    return rollouts


def _device(agent: Agent) -> torch.device:
    return next(agent.policy.parameters(), torch.empty(0)).device


def _save(figure: Figure, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise ValueError(f"Cannot write the figure {path}: {error}.") from error
