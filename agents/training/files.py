"""Files written atomically: a reader sees the one before or the new one, whole."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import torch

__all__ = ["load", "save_atomically", "write_atomically"]


def write_atomically(path: Path, content: bytes) -> None:
    """Write bytes."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)


def load(path: Path) -> Any:
    """Read what :func:`save_atomically` wrote, to the CPU. Nothing in it is executed, and a bit
    that has flipped is found by the checksums in the file.

    Raises:
        ValueError: it cannot be read, or is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                raise ValueError("a checksum differs")
        return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch, pickle and zipfile each raise their own
        raise ValueError(f"{path} cannot be read: {error}") from error


def save_atomically(state: Any, path: Path) -> None:
    """Write tensors, numbers and strings with :func:`torch.save`, through to the disk."""
    unfinished = path.with_suffix(".unfinished")
    with open(unfinished, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)
