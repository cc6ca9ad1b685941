"""``maxentflow runs``: the runs in a folder, and how each stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from maxentflow.agents.cli.parsing import parse
from maxentflow.agents.training.run_folder import RunFolder, read_metrics

__all__ = ["COLUMNS", "line_of", "run", "state_of", "steps_of"]

COLUMNS = "run", "task", "agent", "seed", "steps", "of", "return", "state"
"""Of the list of runs."""


@dataclass
class _Runs:
    """List runs: task, agent, seed, steps, the return of the last evaluation, and the state."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional] = (Path("runs"),)
    """Folders with runs, at any depth."""


def run(arguments: list[str]) -> None:
    """Print a line for each run."""
    options = parse(_Runs, arguments, "runs")
    found = []
    for folder in options.folders:
        if not folder.expanduser().is_dir():
            raise ValueError(f"There is no folder {folder}.")
        found += sorted(path.parent for path in folder.expanduser().rglob("config.yaml"))
    if not found:
        raise ValueError(f"There are no runs in {', '.join(map(str, options.folders))}.")
    lines = [COLUMNS, *(line_of(RunFolder(path)) for path in found)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(map(str.ljust, line, widths)).rstrip())


def line_of(folder: RunFolder) -> Sequence[str]:
    """What :data:`COLUMNS` say of a run."""
    try:
        content, rows = folder.config(), read_metrics(folder)
        trainer = content["trainer_config"]
        returns = [row["eval_return"] for row in rows if row.get("eval_return")]
        return (
            str(folder),
            str(content["env"] or "-"),
            str(content["agent"]),
            str(trainer["seed"]),
            f"{steps_of(folder):,}",
            f"{trainer['total_steps']:,}",
            f"{float(returns[-1]):.4g}" if returns else "-",
            state_of(folder),
        )
    except (KeyError, ValueError, TypeError):
        return (str(folder), *["-"] * (len(COLUMNS) - 2), "damaged")


def state_of(folder: RunFolder) -> str:
    """``"running"``, ``"complete"``, ``"stopped"`` or ``"not begun"``.

    Raises:
        ValueError: the run's files cannot be read.
    """
    if folder.is_locked():
        return "running"
    steps = steps_of(folder)
    if not steps:  # a run that a signal stopped before its first row has a checkpoint
        return "stopped" if folder.checkpoint_path.exists() else "not begun"
    over = steps >= folder.config()["trainer_config"]["total_steps"]
    return "complete" if over else "stopped"


def steps_of(folder: RunFolder) -> int:
    """Steps at the last row of the metrics; 0 without any.

    Raises:
        ValueError: the metrics cannot be read.
    """
    rows = read_metrics(folder)
    try:
        return int(rows[-1]["step"]) if rows else 0
    except (KeyError, ValueError) as error:
        raise ValueError(f"{folder.metrics_path} is not the metrics of a run.") from error
