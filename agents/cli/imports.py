"""``--import MODULE``: modules of a user's own that register flows, agents or tasks.

Only the standard library is imported here.
"""

from __future__ import annotations

import importlib
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise

__all__ = ["named", "take", "words"]

named: list[str] = []
"""Modules that the present command line names."""


def words() -> str:
    """The present command line's ``--import``s, for a command that is told to be run after it."""
    return "".join(f" --import {shlex.quote(name)}" for name in named)


def take(arguments: Sequence[str]) -> list[str]:
    """Import what ``--import`` names, and the module of ``--env MODULE:TASK``, from the present
    folder too; give the words but for ``--import``.

    Raises:
        ValueError: a name is missing, or a module cannot be imported.
    """
    named.clear()
    rest = []
    words = iter(arguments)
    for word in words:
        flag, equals, name = word.partition("=")
        if flag != "--import":
            rest.append(word)
            continue
        name = name if equals else next(words, "")
        if not all(part.isidentifier() for part in name.split(".")):
            got = f", got {name!r}" if name else ""
            raise ValueError(f"--import needs the name of a module, such as my_flows{got}.")
        named.append(name)
    for word, following in pairwise([*rest, ""]):
        flag, equals, task = word.partition("=")
        module, colon, _ = (task if equals else following).partition(":")
        own = flag == "--env" and colon and module.isidentifier() and module != "torchrl"
        if own and module not in named:
            named.append(module)
    for name in named:
        _import(name)
    return rest


def _import(name: str) -> None:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        importlib.import_module(name)
    except Exception as error:  # a module may raise anything
        reason = next(_lines(error), type(error).__name__)
        raise ValueError(f"Module {name!r} cannot be imported: {reason}.") from error


def _lines(error: Exception) -> Iterator[str]:
    return (line.strip().removesuffix(".") for line in str(error).splitlines() if line.strip())
