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

__all__ = ["COMMANDS", "made", "write", "written"]

COMMANDS = (
    *((name,) for name in EXAMPLES if name != "train"),
    *(("train", agent) for agent in BUILT_IN),
)
"""The words of each command that has a help."""
_FOLDER = Path(__file__).parent / "help"
_WIDTH = "80"


def written(words: Sequence[str]) -> str | None:
    """The help that a command line asks for, if it asks for nothing else and nothing of a user's
    own can have been registered yet."""
    *command, flag = words or [""]
    path = _path(command)
    is_known = tuple(command) in COMMANDS and path.exists()
    asks = flag in ("-h", "--help") and is_known and "torch" not in sys.modules
    return path.read_text() if asks else None


def made(command: Sequence[str]) -> str:
    """The help of a command, made of its options."""
    import torch  # noqa: F401 (so that none is read)

    from maxentflow.agents.cli import main

    printed = io.StringIO()
    width = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = _WIDTH
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            main([*command, "--help"])
    finally:
        os.environ.pop("COLUMNS")
        if width is not None:
            os.environ["COLUMNS"] = width
    lines = re.sub(r"\x1b\[[0-9;]*m", "", printed.getvalue()).splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


def write() -> None:
    """Make all of them."""
    _FOLDER.mkdir(exist_ok=True)
    for command in COMMANDS:
        _path(command).write_text(made(command))


def _path(command: Sequence[str]) -> Path:
    return _FOLDER / f"{'_'.join(command)}.txt"
