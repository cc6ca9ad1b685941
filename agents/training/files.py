"""Files written atomically: a reader sees the one before or the new one, whole."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import yaml

__all__ = ["check_place", "load", "load_yaml", "save_atomically", "write_atomically"]

_YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast


def check_place(path: Path, kind: str, suffix: str = "") -> None:
    """Refuse a path that no file of a kind can have.

    Args:
        path: of the file.
        kind: what it is, for the message.
        suffix: what it must end in.

    Raises:
        ValueError: it does not, or its folder is missing.

    Example:
        >>> check_place(Path("curves.pdf"), "figure", ".png")
        Traceback (most recent call last):
        ValueError: The figure must be a file ending in .png, got curves.pdf.
    """
    if suffix and path.suffix != suffix:
        raise ValueError(f"The {kind} must be a file ending in {suffix}, got {path}.")
    if not path.parent.is_dir():
        raise ValueError(f"Cannot write the {kind} {path}: {path.parent} is no folder.")


def write_atomically(path: Path, content: bytes) -> None:
    """Write bytes."""
    with _replacing(path) as unfinished:
        unfinished.write_bytes(content)


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
            # No checksum covers the list of entries, and torch reads nothing for a folder.
            if any(entry.external_attr for entry in archive.infolist()):
                raise ValueError("an entry is not a file")
        return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch, pickle and zipfile each raise their own
        raise ValueError(f"{path} cannot be read: {error}") from error


def load_yaml(path: Path) -> Any:
    """What a YAML file holds, of numbers, strings, lists and dictionaries alone.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is no text.
        yaml.YAMLError: it is no YAML.
    """
    return yaml.load(path.read_text(), _YAML_LOADER)


def save_atomically(state: Any, path: Path, keep: Path | None = None) -> None:
    """Write tensors, numbers and strings with :func:`torch.save`, through to the disk.

    Args:
        state: what is written.
        path: the file.
        keep: a name for the file before, in place of what has it; nothing changes there until the
            new file is written.
    """
    with _replacing(path) as unfinished:
        with open(unfinished, "wb") as file:
            try:
                torch.save(state, file)
            except RuntimeError as error:  # a disk is full, and its archive cannot be ended
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            _link(path, keep)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A file to write, which takes the place of another at the end; it is gone if that fails, as
    on a full disk."""
    unfinished = path.with_suffix(".unfinished")
    try:
        yield unfinished
        os.replace(unfinished, path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise


def _link(path: Path, other: Path) -> None:
    """Give a file a second name, in place of what has that."""
    with _replacing(other) as unfinished:
        unfinished.unlink(missing_ok=True)
        try:
            os.link(path, unfinished)
        except OSError:  # a disk without links
            shutil.copyfile(path, unfinished)
