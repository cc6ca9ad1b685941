"""Figures of runs: learning curves, with the published ones, and diagnoses."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats

from maxentflow.agents.training.diagnosis import Diagnosis
from maxentflow.agents.training.run_folder import RunFolder, read_metrics

__all__ = ["diagnosis", "learning_curves", "published"]


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
    source = resources.files("maxentflow.agents.cli") / "published" / "paper_fig3_mujoco.csv"
    with source.open() as file:
        table = [row for row in csv.DictReader(file) if row["env"] == env_id]
    rows = [(row["step"], row["mean_return"]) for row in table if row["algo"] == algorithm]
    if not rows:
        return None
    order = np.array(rows, dtype=float)
    steps, returns = order[order[:, 0].argsort()].T
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
        labels: of each run; by default the agent, its flow and the settings in which the runs of
            a task differ: those of the agent, options of the flow and of the task, and settings
            of the trainer that change what is learned, such as num_envs.

    Raises:
        ValueError: a folder is not a run, or has no evaluation yet, or none at a step that the
            other seeds of its curve have.
    """
    tasks: dict[str, list[_Curve]] = defaultdict(list)
    for folder, label in zip(folders, labels or len(folders) * [None], strict=True):
        curve = _read_curve(folder, label)
        tasks[curve.env].append(curve)
    figure = Figure(figsize=(6.4 * len(tasks), 5.4), layout="constrained")
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    for axes, (env_id, curves) in zip(panels, tasks.items(), strict=True):
        for index, (label, group) in enumerate(_groups(curves).items()):
            _draw_group(axes, label, group, f"C{index}")
        last = max(int(curve.steps[-1]) for curve in curves)
        for agent in sorted({curve.agent for curve in curves}):
            if reference := published(env_id, agent):
                steps, returns = (part[reference[0] <= 1.05 * last] for part in reference)
                style = "k--" if agent == "meow" else "k:"
                axes.plot(steps, returns, style, label=f"{agent}, published")
        # Vertical limits by the curves: the interval of few seeds would dwarf them.
        heights = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines])
        margin = 0.05 * (np.ptp(heights) or 1.0)
        axes.set_ylim(heights.min() - margin, heights.max() + margin)
        axes.set(title=env_id, xlabel="environment steps", ylabel="evaluation return")
        axes.grid(alpha=0.3)
        legend = {"loc": "upper center", "frameon": False, "fontsize": "small"}
        axes.legend(bbox_to_anchor=(0.5, -0.14), **legend)
    _save(figure, path)


# Settings of a trainer that change what is learned.
_LEARNING = (
    "warmup_steps",
    "max_episode_steps",
    "num_envs",
    "utd_ratio",
    "batch_size",
    "replay_size",
)


def _read_curve(folder: RunFolder, label: str | None) -> _Curve:
    config = folder.config()
    settings = {name: config["trainer_config"].get(name) for name in _LEARNING}
    settings |= config["agent_config"]
    settings |= (settings.pop("flow_options", None) or {}) | config["env_options"]
    try:
        rows = [row for row in read_metrics(folder) if row["eval_return"]]
        steps = np.array([int(row["step"]) for row in rows])
        returns = np.array([float(row["eval_return"]) for row in rows])
    except (KeyError, ValueError) as error:
        raise ValueError(f"{folder.metrics_path} is not the metrics of a run.") from error
    if not rows:
        raise ValueError(f"{folder} has no evaluation to plot yet.")
    env, agent = str(config["env"] or "own environment"), str(config["agent"])
    said = {str(name): str(value) for name, value in settings.items()}
    return _Curve(env, agent, said, steps, returns, label)


def _groups(curves: list[_Curve]) -> dict[str, list[_Curve]]:
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
    table = np.array([curve.returns[np.isin(curve.steps, common)] for curve in group])
    mean, count = table.mean(0), len(group)
    axes.plot(common, mean, color=color, label=f"{label} ({count} seed{'s' * (count > 1)})")
    if count > 1:
        for returns in table:
            axes.plot(common, returns, color=color, alpha=0.4, linewidth=0.7)
    if count > 2:
        half = stats.t.ppf(0.975, count - 1) * table.std(0, ddof=1) / np.sqrt(count)
        axes.fill_between(common, mean - half, mean + half, color=color, alpha=0.15, linewidth=0)


# Columns of metrics.csv that share a panel of a diagnosis, and the label of its axis.
_OVER_TRAINING = (
    (("eval_value", "eval_discounted_return"), "of evaluations, from their first state"),
    (("policy_entropy", "entropy"), "entropy, nats"),
    (("alpha",), "alpha, in units of reward"),
)


def diagnosis(result: Diagnosis, folder: RunFolder, path: Path) -> None:
    """Draw V against soft returns, the run's own numbers over training, and log-probabilities.

    Args:
        result: of the run's agent.
        folder: of the run; columns that its metrics lack have no panel.
        path: where the figure goes.

    Raises:
        ValueError: the metrics cannot be read, or the figure not be written.
    """
    rows = read_metrics(folder)
    figure = Figure(figsize=(16, 9), layout="constrained")
    panels = iter(figure.subplots(2, 3).flat)
    axes = next(panels)
    finite = np.isfinite(result.value) & np.isfinite(result.soft_return)
    axes.scatter(result.soft_return[finite], result.value[finite], s=4, alpha=0.3, linewidth=0)
    if finite.any():
        middle = float(np.median(result.soft_return[finite]))
        axes.axline((middle, middle), slope=1, color="k", linestyle="--", linewidth=1)
    axes.set(xlabel="soft return", ylabel="V")
    for names, label in _OVER_TRAINING:
        curves = {
            name: [(row["step"], row[name]) for row in rows if row.get(name)] for name in names
        }
        if not any(curves.values()):
            continue
        axes = next(panels)
        for name, points in curves.items():
            if points:
                axes.plot(*np.array(points, float).T, label=name)
        axes.set(xlabel="environment steps", ylabel=label)
        axes.legend(frameon=False, fontsize="small")
    axes = next(panels)
    kinds = {"own samples": result.log_prob, "replay": result.replay_log_prob}
    drawn = {name: each[np.isfinite(each)] for name, each in kinds.items() if each is not None}
    everything = np.concatenate(list(drawn.values()))
    if len(everything):  # a few old actions may be thousands of nats away
        low, high = np.percentile(everything, [1, 99])
        bins = np.linspace(low, high, 60)
        for name, each in drawn.items():
            axes.hist(each, bins, density=True, histtype="step", label=name)
        axes.legend(frameon=False, fontsize="small")
    axes.set(xlabel="log pi", ylabel="density")
    for axes in panels:
        axes.remove()
    for axes in figure.axes:
        axes.grid(alpha=0.3)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150, format=path.suffix[1:] or "png")
    except (OSError, ValueError) as error:
        raise ValueError(f"Cannot write the figure {path}: {error}.") from error
