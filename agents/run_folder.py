"""A run's folder: configuration, metrics, checkpoints."""

from __future__ import annotations

import csv
import dataclasses
import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.utils.tensorboard import SummaryWriter

__all__ = ["Metrics", "RunFolder"]

_PACKAGES = ("maxentflow", "torch", "torchrl", "tensordict", "normflows", "gymnasium", "mujoco")


class RunFolder:
    """Paths of a run, and reading and writing what lies there.

    ``config.yaml`` holds all that is needed to repeat the run, versions included; ``metrics.csv``
    one row per log step; ``tensorboard/`` the same for TensorBoard; ``checkpoints/latest.pt`` the
    complete state; ``figures/`` pictures.

    Args:
        path: the folder; :meth:`create` makes it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.config_path = self.path / "config.yaml"
        self.metrics_path = self.path / "metrics.csv"
        self.checkpoint_path = self.path / "checkpoints" / "latest.pt"
        self.tensorboard_path = self.path / "tensorboard"
        self.figures_path = self.path / "figures"

    def __str__(self) -> str:
        return str(self.path)

    def create(self, agent: str, agent_config: Any, trainer_config: Any) -> None:
        """Make the folder and write its configuration.

        Raises:
            ValueError: there is a run already, or the folder cannot be made.
        """
        if self.config_path.exists():
            raise ValueError(
                f"{self.path} holds a run already; continue it with --resume {self.path}, "
                "or choose another --run-dir."
            )
        try:
            self.checkpoint_path.parent.mkdir(parents=True, exist_ok=True)
            self.figures_path.mkdir(exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"Cannot make the run folder {self.path}: {error.strerror}."
            ) from error
        content = {
            "agent": agent,
            "agent_config": _plain(dataclasses.asdict(agent_config)),
            "trainer_config": _plain(dataclasses.asdict(trainer_config)),
            "versions": {
                "python": platform.python_version(),
                **{name: importlib.metadata.version(name) for name in _PACKAGES},
            },
        }
        _write_atomically(self.config_path, yaml.safe_dump(content, sort_keys=False).encode())

    def config(self) -> dict[str, Any]:
        """The configuration as written.

        Raises:
            ValueError: no run here, or its configuration cannot be read.
        """
        if not self.config_path.exists():
            raise ValueError(f"{self.path} is not a run folder: it has no config.yaml.")
        try:
            content = yaml.safe_load(self.config_path.read_text())
            return {key: content[key] for key in ("agent", "agent_config", "trainer_config")}
        except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError) as error:
            raise ValueError(f"{self.config_path} is not a run's configuration.") from error

    def save_checkpoint(self, state: dict[str, Any], name: str = "latest.pt") -> Path:
        """Write a checkpoint atomically: a reader sees the one before or this one, whole."""
        path = self.checkpoint_path.with_name(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        with open(unfinished, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
        return path

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The latest checkpoint, or ``None`` if the run has not come to one.

        Raises:
            ValueError: it cannot be read.
        """
        if not self.checkpoint_path.exists():
            return None
        try:
            state = torch.load(self.checkpoint_path, weights_only=True, map_location="cpu")
            return {"agent": state["agent"], **state}
        except Exception as error:  # torch, pickle and zipfile each raise their own
            raise ValueError(
                f"{self.checkpoint_path} is not a readable checkpoint of maxentflow."
            ) from error


class Metrics:
    """Rows of numbers, to ``metrics.csv`` and to TensorBoard.

    Args:
        folder: where to write.
        columns: the CSV's columns; the first is the step.
        from_step: when continuing, rows after this step are dropped.
    """

    def __init__(self, folder: RunFolder, columns: Sequence[str], from_step: int = 0) -> None:
        self._path = folder.metrics_path
        self._columns = list(columns)
        kept = [row for row in read_metrics(folder) if int(row[self._columns[0]]) <= from_step]
        lines = [self._columns, *([row[name] for name in self._columns] for row in kept)]
        text = "".join(",".join(line) + "\n" for line in lines)
        _write_atomically(self._path, text.encode())
        self._tensorboard = SummaryWriter(str(folder.tensorboard_path), purge_step=from_step + 1)

    def write(self, row: dict[str, float]) -> None:
        """Append a row; columns without a value stay empty."""
        cells = [_cell(row.get(name)) for name in self._columns]
        with open(self._path, "a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(cells)
        step = int(row[self._columns[0]])
        for name, value in row.items():
            if name != self._columns[0]:
                group = "evaluation" if name.startswith("eval_") else "training"
                self._tensorboard.add_scalar(f"{group}/{name}", value, step)

    def close(self) -> None:
        self._tensorboard.close()


def read_metrics(folder: RunFolder) -> list[dict[str, str]]:
    """The whole rows of ``metrics.csv``; a last line cut short is left out."""
    if not folder.metrics_path.exists():
        return []
    text = folder.metrics_path.read_text()
    lines = text[: text.rfind("\n") + 1].splitlines()
    rows = list(csv.reader(lines))
    return [dict(zip(rows[0], row, strict=True)) for row in rows[1:] if len(row) == len(rows[0])]


def _cell(value: float | None) -> str:
    return "" if value is None else str(value)


def _plain(value: Any) -> Any:
    """Tuples as lists, which is all that YAML's safe form lacks."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def _write_atomically(path: Path, content: bytes) -> None:
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)
