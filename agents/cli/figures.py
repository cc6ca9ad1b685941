"""Figures of runs: learning curves, with the published ones, and diagnoses."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from maxentflow.agents.cli.curves import Group
from maxentflow.agents.training.diagnosis import Diagnosis
from maxentflow.agents.training.disturbances import Robustness
from maxentflow.agents.training.run_folder import RunFolder, read_metrics
from maxentflow.agents.training.statistics import mean_band

__all__ = [
    "STYLES",
    "Style",
    "diagnosis",
    "learning_curves",
    "metrics",
    "published",
    "robustness",
]


class Style(NamedTuple):
    """How a curve is drawn."""

    color: str
    line: Any


STYLES = (
    Style("#0072B2", "-"),
    Style("#D55E00", "--"),
    Style("#009E73", "-."),
    Style("#CC79A7", ":"),
    Style("#E69F00", (0, (5, 1))),
    Style("#56B4E9", (0, (3, 1, 1, 1, 1, 1))),
)
"""Six, told apart by readers in grey and by those who do not see all colours (Okabe and Ito)."""

_COLUMNS = 3
_FEW = 20  # points; each is marked


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


def learning_curves(tasks: Mapping[str, Mapping[str, Group]], path: Path) -> None:
    """Draw the evaluations of runs over steps, one panel for each task.

    A group is one curve: the mean of its runs, thin lines for each and, of three and more, a band
    of the 95% bootstrap interval of that mean. Curves differ in colour and in the kind of line,
    for readers in grey. The published curve of the same algorithm is drawn beside them where
    there is one.

    Args:
        tasks: groups by task and label, from
            :func:`~maxentflow.agents.cli.curves.read_curves`.
        path: where the figure goes.

    Raises:
        ValueError: a task has more than six groups, or the figure cannot be written.
    """
    labels = list(dict.fromkeys(label for groups in tasks.values() for label in groups))
    columns = min(_COLUMNS, len(tasks))
    lines = -(-len(tasks) // columns)
    figure = Figure(figsize=(6.4 * columns, 5.4 * lines), layout="constrained")
    panels = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes in panels[len(tasks) :]:
        axes.remove()
    for axes, (env_id, groups) in zip(panels, tasks.items(), strict=False):
        if len(groups) > len(STYLES):
            raise ValueError(
                f"A figure shows at most {len(STYLES)} curves of a task, got {len(groups)} of "
                f"{env_id}: {'; '.join(groups)}."
            )
        # A label looks the same in every panel, as far as the styles suffice.
        places = labels if len(labels) <= len(STYLES) else list(groups)
        for label, group in groups.items():
            _draw_lines(axes, label, group.steps, group.returns, STYLES[places.index(label)])
        curves = [curve for group in groups.values() for curve in group.curves]
        last = max(int(curve.steps[-1]) for curve in curves)
        for agent in sorted({curve.agent for curve in curves}):
            if reference := published(env_id, agent):
                steps, returns = (part[reference[0] <= 1.05 * last] for part in reference)
                line = "k--" if agent == "meow" else "k:"
                if len(steps) > 1:
                    axes.plot(steps, returns, line, label=f"{agent}, published")
        # Vertical limits by the curves: the interval of few seeds would dwarf them.
        heights = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines])
        margin = 0.05 * (np.ptp(heights) or 1.0)
        axes.set_ylim(heights.min() - margin, heights.max() + margin)
        axes.set(title=env_id, xlabel="environment steps", ylabel="evaluation return")
        axes.grid(alpha=0.3)
        legend = {"loc": "upper center", "frameon": False, "fontsize": "small"}
        axes.legend(bbox_to_anchor=(0.5, -0.14), **legend)
    _save(figure, path)


def _draw_lines(
    axes: Axes, label: str, x: NDArray[Any], returns: NDArray[np.float64], style: Style
) -> None:
    """The mean over seeds of returns ``(seeds, n)``, each seed, and the mean's interval."""
    count = len(returns)
    label = f"{label} ({count} seed{'s' * (count > 1)})"
    marker = "o" if len(x) == 1 else ""  # a line of one point is not to be seen
    look: dict[str, Any] = {"color": style.color, "marker": marker}
    axes.plot(x, returns.mean(0), linestyle=style.line, label=label, **look)
    if count > 1:
        axes.plot(x, returns.T, alpha=0.4, linewidth=0.7, **look)
    if count > 2:
        axes.fill_between(x, *mean_band(returns), color=style.color, alpha=0.15, linewidth=0)


def metrics(rows: Sequence[Mapping[str, float]], columns: Sequence[str], path: Path) -> None:
    """Draw columns of a run's metrics over its steps, a small panel for each.

    Args:
        rows: with ``"step"``; numbers that are missing are left out.
        columns: which.
        path: where the figure goes.
    """
    lines = -(-len(columns) // _COLUMNS)
    figure = Figure(figsize=(9.6, 2.2 * lines), layout="constrained")
    panels = list(figure.subplots(lines, _COLUMNS, squeeze=False, sharex=True).flat)
    for axes in panels[len(columns) :]:
        axes.remove()
    for axes, name in zip(panels, columns, strict=False):
        points = [(row["step"], row[name]) for row in rows if name in row]
        _draw_points(axes, points, color=STYLES[0].color, linewidth=1)
        axes.set_title(name, fontsize="small")
        axes.tick_params(labelsize="x-small")
        axes.grid(alpha=0.3)
    _save(figure, path)


def robustness(
    results: Mapping[str, Sequence[Robustness]], env_id: str, neutral: float, path: Path
) -> None:
    """Draw returns over the size of a disturbance: the mean of the seeds of each agent, with thin
    lines for each and, of three and more, a band of the 95% bootstrap interval of that mean.

    Args:
        results: of each seed, by label; at most six labels.
        env_id: the task, for the title.
        neutral: the value that changes nothing, for a line.
        path: where the figure goes.

    Raises:
        ValueError: the figure cannot be written.
    """
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axes = figure.subplots()
    for style, (label, seeds) in zip(STYLES, results.items(), strict=False):
        values = seeds[0].values
        _draw_lines(axes, label, values, np.array([each.returns.mean(1) for each in seeds]), style)
    quantity = next(iter(results.values()))[0].quantity
    axes.axvline(neutral, color="k", linestyle=":", linewidth=1)
    axes.set(title=env_id, xlabel=quantity.replace("_", " "), ylabel="return")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize="small")
    _save(figure, path)


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
                _draw_points(axes, points, label=name)
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


def _draw_points(axes: Axes, points: Sequence[tuple[Any, Any]], **look: Any) -> None:
    """A line through pairs of numbers, each marked where they are few: one alone has no line."""
    marker = "." if len(points) < _FEW else ""
    axes.plot(*np.array(points, float).T, marker=marker, **look)


def _save(figure: Figure, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150, format=path.suffix[1:] or "png")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"Cannot write the figure {path}: {reason}.") from error
