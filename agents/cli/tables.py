"""Write tables as CSV files."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["write_table"]


def write_table(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write rows of the same columns, the folder included.

    Args:
        rows: at least one.
        path: of the file, which is replaced.

    Raises:
        ValueError: it cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "numbers.csv")
        ...     write_table([{"seed": 0, "return": 1.5}], path)
        ...     path.read_text()
        'seed,return\\n0,1.5\\n'
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise ValueError(f"Cannot write {path}: {error.strerror or error}.") from error
