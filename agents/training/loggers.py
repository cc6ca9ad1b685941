"""Rows of numbers, to ``metrics.csv`` and to a logger."""

from __future__ import annotations

import csv
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, get_args

from maxentflow.agents.training.config import Logger
from maxentflow.agents.training.files import write_atomically
from maxentflow.agents.training.run_folder import RunFolder, read_metrics

__all__ = ["Metrics", "check_logger"]

_PROJECT = "maxentflow"


def check_logger(name: Logger) -> None:
    """Refuse a logger that is not known, or whose package is not there.

    Raises:
        ValueError: which.

    Example:
        >>> check_logger("tensorboard")
    """
    if name not in get_args(Logger):
        raise ValueError(f"Unknown logger {name!r}; known: {', '.join(get_args(Logger))}.")
    if name in ("csv", "none"):
        return
    if importlib.util.find_spec(name) is None:
        raise ValueError(f"The logger {name!r} needs its package: pip install {name}.")


class Metrics:
    """Writes one row per log step to the run's folder.

    Args:
        folder: where to write.
        columns: the CSV's columns; the first is the step.
        from_step: when continuing, rows after this step are dropped.
        logger: is told every number too, by TorchRL's logger of this name.

    Raises:
        ValueError: what is there cannot be read, or the folder cannot be written to.
    """

    def __init__(
        self,
        folder: RunFolder,
        columns: Sequence[str],
        from_step: int = 0,
        logger: Logger = "tensorboard",
    ) -> None:
        self._path = folder.metrics_path
        self._columns = list(columns)
        step = self._columns[0]
        try:
            kept = [row for row in read_metrics(folder) if int(row[step]) <= from_step]
            lines = [self._columns, *([row[name] for name in self._columns] for row in kept)]
        except (KeyError, ValueError) as error:
            raise ValueError(f"{self._path} is not the metrics of this run.") from error
        steps = [row[step] for row in kept]
        if len(set(steps)) < len(steps):
            raise ValueError(f"{self._path} is not the metrics of this run: it has steps twice.")
        if from_step and not (self._path.exists() and self._path.stat().st_size):
            lost = f"{self._path} is missing or empty; it begins again after step {from_step:,}."
            print(lost, file=sys.stderr)
        text = "".join(",".join(line) + "\n" for line in lines)
        try:
            write_atomically(self._path, text.encode())
        except OSError as error:
            raise ValueError(f"Cannot write to {folder}: {error.strerror}.") from error
        try:
            self._logger = _logger(logger, folder, from_step)
        except Exception as error:  # each service raises its own
            reason = (str(error) or type(error).__name__).partition("\n")[0].removesuffix(".")
            raise ValueError(f"The logger {logger!r} cannot be used: {reason}.") from error

    def write(self, row: dict[str, float]) -> None:
        """Append a row; columns without a value stay empty."""
        cells = ["" if row.get(name) is None else str(row[name]) for name in self._columns]
        with open(self._path, "a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(cells)
        if self._logger is None:
            return
        step = int(row[self._columns[0]])
        for name, value in row.items():
            if name != self._columns[0]:
                group = "evaluation" if name.startswith("eval_") else "training"
                self._logger.log_scalar(f"{group}/{name}", float(value), step)

    def close(self) -> None:
        if self._logger is not None:
            self._logger.close()


class _Scalars(Protocol):
    """What is used of TorchRL's loggers."""

    def log_scalar(self, name: str, value: float, step: int) -> Any: ...

    def close(self) -> Any: ...


def _logger(name: Logger, folder: RunFolder, from_step: int) -> _Scalars | None:
    if name == "none":
        return None
    if name == "tensorboard":
        return _TensorBoard(folder, from_step)
    from torchrl.record.loggers import mlflow, trackio, wandb  # a second to import
    from torchrl.record.loggers.csv import CSVLogger

    project, title = os.environ.get("WANDB_PROJECT", _PROJECT), folder.path.name
    if name == "csv":
        return CSVLogger(title, log_dir=str(folder.path / "csv"))
    if name == "wandb":
        settings = {"project": project, "id": _wandb_id(folder.path), "log_env_packages": False}
        return wandb.WandbLogger(title, log_dir=str(folder.path), **settings)
    if name == "trackio":
        return trackio.TrackioLogger(title, project=project, resume="allow")
    own = f"sqlite:///{(folder.path / 'mlflow.db').resolve()}"
    return _MLflow(mlflow.MLFlowLogger(_PROJECT, os.environ.get("MLFLOW_TRACKING_URI", own)))


class _TensorBoard:
    """TensorBoard's writer; TorchRL's logger cannot drop rows after a checkpoint."""

    def __init__(self, folder: RunFolder, from_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # a second to import

        path = str(folder.tensorboard_path)
        self._writer: Any = SummaryWriter(path, purge_step=from_step + 1)

    def log_scalar(self, name: str, value: float, step: int) -> None:
        self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _MLflow:
    """TorchRL's logger, which does not end its run."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def log_scalar(self, name: str, value: float, step: int) -> None:
        self._logger.log_scalar(name, value, step)

    def close(self) -> None:
        import mlflow

        mlflow.end_run()


def _wandb_id(folder: Path) -> str | None:
    """The run that was begun in a folder, which wandb names its folder after."""
    begun = sorted(path.name for path in folder.glob("wandb/*run-*-*"))
    return begun[-1].rpartition("-")[2] if begun else None
