"""CSVs of results."""

from __future__ import annotations

import csv
import fcntl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["append", "read", "replace", "write"]


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> None:
    """Write rows, at least one; the first names the columns, unless they are given."""
    path.parent.mkdir(exist_ok=True)
    unfinished = path.with_suffix(".unfinished")  # what is there stays, should writing fail
    with unfinished.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns or list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    unfinished.replace(path)


def replace(path: Path, new: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> None:
    """Write rows in place of those that have the same entries under some keys."""
    found = {tuple(str(row[key]) for key in keys) for row in new}
    kept = [row for row in read(path) if tuple(row[key] for key in keys) not in found]
    write(path, [*kept, *new])


def append(path: Path, row: Mapping[str, Any], columns: Sequence[str] = ()) -> None:
    """Add a row to a file, which other processes may add to at the same time."""
    with path.open("a", newline="") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        writer = csv.DictWriter(file, columns or list(row), lineterminator="\n")
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow(row)
