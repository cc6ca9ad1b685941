"""``maxentflow plot``: learning curves of runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from maxentflow.agents.cli import figures
from maxentflow.agents.cli.curves import evaluated, read_curves
from maxentflow.agents.cli.parsing import parse
from maxentflow.agents.training import RunFolder
from maxentflow.agents.training.files import check_place

__all__ = ["run"]


@dataclass
class _Plot:
    """Draw the evaluations of runs; those that differ by seed alone become one curve."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders."""
    out: Path = Path("curves.png")
    """Where to write the figure."""


def run(arguments: list[str]) -> None:
    """Draw a figure and say where it is."""
    options = parse(_Plot, arguments, "plot")
    if not options.runs:
        raise ValueError("plot needs at least one run folder.")
    check_place(options.out, "figure")
    folders = evaluated([RunFolder(path) for path in options.runs])
    figures.learning_curves(read_curves(folders), options.out)
    print(f"Figure: {options.out}")
