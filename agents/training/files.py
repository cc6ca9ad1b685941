"""Files written atomically: a reader sees the one before or the new one, whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

__all__ = ["save_atomically", "write_atomically"]


def write_atomically(path: Path, content: bytes) -> None:
    """Write bytes."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)


def save_atomically(state: Any, path: Path) -> None:
    """Write tensors, numbers and strings with :func:`torch.save`, through to the disk."""
    unfinished = path.with_suffix(".unfinished")
    with open(unfinished, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)
