"""Rows of numbers, to ``metrics.csv`` and to TensorBoard."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from typing import Any

from maxentflow.agents.training.files import write_atomically
from maxentflow.agents.training.run_folder import RunFolder, read_metrics

__all__ = ["Metrics"]


class Metrics:
    """Writes one row per log step to the run's folder.

    Args:
        folder: where to write.
        columns: the CSV's columns; the first is the step.
        from_step: when continuing, rows after this step are dropped.

    Raises:
        ValueError: what is there cannot be read, or the folder cannot be written to.
    """

    def __init__(self, folder: RunFolder, columns: Sequence[str], from_step: int = 0) -> None:
        self._path = folder.metrics_path
        self._columns = list(columns)
        step = self._columns[0]
        try:
            kept = [row for row in read_metrics(folder) if int(row[step]) <= from_step]
            lines = [self._columns, *([row[name] for name in self._columns] for row in kept)]
        except (KeyError, ValueError) as error:
            raise ValueError(f"{self._path} is not the metrics of this run.") from error
        text = "".join(",".join(line) + "\n" for line in lines)
        try:
            write_atomically(self._path, text.encode())
            self._tensorboard = _summary_writer(folder, from_step)
        except OSError as error:
            raise ValueError(f"Cannot write to {folder}: {error.strerror}.") from error

    def write(self, row: dict[str, float]) -> None:
        """Append a row; columns without a value stay empty."""
        cells = ["" if row.get(name) is None else str(row[name]) for name in self._columns]
        with open(self._path, "a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(cells)
        step = int(row[self._columns[0]])
        for name, value in row.items():
            if name != self._columns[0]:
                group = "evaluation" if name.startswith("eval_") else "training"
                self._tensorboard.add_scalar(f"{group}/{name}", value, step)

    def close(self) -> None:
        self._tensorboard.close()


def _summary_writer(folder: RunFolder, from_step: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter  # a second to import

    return SummaryWriter(str(folder.tensorboard_path), purge_step=from_step + 1)
