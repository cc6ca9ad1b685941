"""``maxentflow compare``: runs beside each other, as a table, a CSV and a figure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from maxentflow.agents.cli import figures
from maxentflow.agents.cli.curves import Group, evaluated, read_curves
from maxentflow.agents.cli.parsing import parse
from maxentflow.agents.cli.tables import write_table
from maxentflow.agents.training import RunFolder
from maxentflow.agents.training.files import check_place
from maxentflow.agents.training.statistics import (
    area_under_curve,
    bootstrap,
    iqm,
    probability_of_improvement,
    steps_to,
)

__all__ = ["rows", "run"]


@dataclass
class _Compare:
    """Compare runs: those that differ by seed alone are one line."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders."""
    threshold: float | None = None
    """Show the steps and the minutes to this return too, the median over seeds."""
    out: Path = Path("compare.csv")
    """Where to write the numbers; the figure goes beside it as a .png file."""


def run(arguments: list[str]) -> None:
    """Print a table, write it, and draw the curves."""
    options = parse(_Compare, arguments, "compare")
    if not options.runs:
        raise ValueError("compare needs at least one run folder.")
    if options.threshold is not None and not math.isfinite(options.threshold):
        raise ValueError(f"threshold must be finite, got {options.threshold}.")
    out = options.out if options.out.suffix else options.out.with_suffix(".csv")
    check_place(out, "table", ".csv")
    tasks = read_curves(evaluated([RunFolder(path) for path in options.runs]))
    table = rows(tasks, options.threshold)
    print(_as_text(table))
    for line in _improvements(tasks):
        print(line)
    write_table(table, out)
    print(f"Numbers: {out}")
    if max(map(len, tasks.values())) > len(figures.STYLES):
        print(f"No figure: a task has more than {len(figures.STYLES)} curves.")
        return
    figures.learning_curves(tasks, out.with_suffix(".png"))
    print(f"Figure: {out.with_suffix('.png')}")


def rows(
    tasks: dict[str, dict[str, Group]], threshold: float | None = None
) -> list[dict[str, Any]]:
    """A row for each task and label: the last return that all seeds have, with the mean, its
    interval and the IQM over seeds, and the mean return over training."""
    table = []
    for task, groups in tasks.items():
        for label, group in groups.items():
            last = group.returns[:, -1]
            low, high = bootstrap([last], lambda scores: float(np.asarray(scores[0]).mean()))
            row = {
                "task": task,
                "agent": label,
                "seeds": len(group.curves),
                "steps": int(group.steps[-1]),
                "return": float(last.mean()),
                "low": low,
                "high": high,
                "IQM": iqm([last]),
                "over training": float(
                    np.mean([area_under_curve(group.steps, each) for each in group.returns])
                ),
            }
            if threshold is not None:
                reached = [steps_to(each.steps, each.returns, threshold) for each in group.curves]
                times = [steps_to(each.seconds, each.returns, threshold) for each in group.curves]
                row[f"steps to {threshold:g}"] = float(np.median(reached))
                row[f"minutes to {threshold:g}"] = float(np.median(times)) / 60
            table.append(row)
    return table


def _improvements(tasks: dict[str, dict[str, Group]]) -> list[str]:
    """How often each label's runs are better than the first's, over the tasks that both have."""
    labels = list(dict.fromkeys(label for groups in tasks.values() for label in groups))
    first, lines = labels[0], []
    for label in labels[1:]:
        shared = [groups for groups in tasks.values() if first in groups and label in groups]
        if shared:
            last = [[groups[name].returns[:, -1] for groups in shared] for name in (label, first)]
            share = probability_of_improvement(*last)
            counts = " and ".join(str(sum(map(len, runs))) for runs in last)
            lines.append(
                f"A run of {label} is better than one of {first} with probability {share:.2f} "
                f"({len(shared)} task{'s' * (len(shared) > 1)}, {counts} runs)."
            )
    return lines


def _as_text(table: list[dict[str, Any]]) -> str:
    """The rows with aligned columns; an interval is one column."""
    shown = [
        {
            **{name: each[name] for name in ("task", "agent", "seeds", "steps")},
            "return": _number(each["return"]),
            "95% interval": ""
            if math.isnan(each["low"])
            else f"[{_number(each['low'])}, {_number(each['high'])}]",
            **{name: _number(each[name]) for name in list(each)[7:]},
        }
        for each in table
    ]
    cells = [list(shown[0]), *([str(cell) for cell in each.values()] for each in shown)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index < 2 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )


def _number(value: float) -> str:
    if math.isinf(value):
        return "never"
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"
