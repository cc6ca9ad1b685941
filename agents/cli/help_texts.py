"""The helps of commands as files: to make one of its options imports torch, for seconds.

``make help-texts`` writes them anew after a change of an option, and a test compares. Only the
standard library is imported here.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from maxentflow.agents.cli.examples import EXAMPLES
from maxentflow.agents.names import BUILT_IN

__all__ = ["COMMANDS", "made", "printed", "write", "written"]

COMMANDS = (
    *((name,) for name in EXAMPLES if name != "train"),
    *(("train", agent) for agent in BUILT_IN),
)
"""The words of each command that has a help."""
_FOLDER = Path(__file__).parent / "help"
_COLUMNS = 80


def written(words: Sequence[str]) -> str | None:
    """The help that a command line asks for, if it asks for nothing else and nothing of a user's
    own can have been registered yet."""
    *command, flag = words or [""]
    if flag not in ("-h", "--help") or tuple(command) not in COMMANDS or "torch" in sys.modules:
        return None
    path = _path(command)
    return path.read_text() if path.exists() else None


def printed(words: Sequence[str], columns: int) -> str:
    """What the program prints for these words on a terminal so wide, without colours."""
    from maxentflow.agents.cli import main

    output = io.StringIO()
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(columns)
    try:
        with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
            main(words)
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    return re.sub(r"\x1b\[[0-9;]*m", "", output.getvalue())


def made(command: Sequence[str]) -> str:
    """The help of a command, made of its options."""
    import torch  # noqa: F401 (so that none is read)

    lines = printed([*command, "--help"], _COLUMNS).splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


def write() -> None:
    """Make all of them."""
    _FOLDER.mkdir(exist_ok=True)
    for command in COMMANDS:
        _path(command).write_text(made(command))


def _path(command: Sequence[str]) -> Path:
    return _FOLDER / f"{'_'.join(command)}.txt"
