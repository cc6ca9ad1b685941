"""Command-line words as a dataclass, by tyro; a complaint is one sentence."""

from __future__ import annotations

import contextlib
import inspect
import io
import itertools
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from maxentflow.agents.cli.examples import EXAMPLES

__all__ = ["check_least", "parse", "quoted", "value_of"]

T = TypeVar("T")

_TITLES = (
    r"(Value|Parsing) error|Invalid choice|Missing argument|Required options|"
    r"Unrecognized options(?!:)|Error parsing \w[\w.-]*:"
)


def parse(
    kind: type[T],
    arguments: Sequence[str],
    command: str,
    *,
    about: str | None = None,
    examples: Sequence[str] | None = None,
    **options: Any,
) -> T:
    """An instance of a dataclass from words; its fields are options, those of nested ones too.

    Args:
        kind: the dataclass.
        arguments: the words.
        command: what comes before them.
        about: what the help says first; the docstring of the class by default.
        examples: what follows the program's name in the examples of the help; those of the command
            by default.
        options: of :func:`tyro.cli`.

    Raises:
        ValueError: the words do not fit.
        SystemExit: with code 0, after the help that they ask for.
    """
    complaint = io.StringIO()
    _check_none_is_empty(arguments)
    arguments = [_with_home(word) for word in arguments]
    prog, config = f"maxentflow {command}", (tyro.conf.OmitArgPrefixes,)
    shown = [f"  maxentflow {words}" for words in examples or EXAMPLES[command]]
    description = "\n".join([about or inspect.getdoc(kind) or "", "", "Examples:", *shown])
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                kind,
                args=arguments,
                prog=prog,
                config=config,
                description=description,
                **options,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ValueError(_one_sentence(complaint.getvalue())) from None


def _check_none_is_empty(words: Sequence[str]) -> None:
    """Refuse words of nothing or of spaces: an empty path would be the present folder."""
    for before, word in itertools.pairwise(["", *words]):
        option, equals, value = word.partition("=")
        if not value.strip() and ((equals and option.startswith("--")) or not word.strip()):
            option = option.strip() or before
            raise ValueError(f"{option if option.startswith('--') else 'A word'} is empty.")


def _with_home(word: str) -> str:
    """A word, or what an option is set to by an equals sign, with a home folder for ``~`` or
    ``~user``."""
    option, equals, value = word.partition("=")
    if not (equals and option.startswith("--")):
        option, equals, value = "", "", word
    user, slash, _ = value.partition("/")
    if not (slash and user.startswith("~")):
        return word
    path = os.path.expanduser(value)
    if path == value:
        raise ValueError(f"There is no home folder {user}, of {value}.")
    return f"{option}{equals}{path}"


def check_least(options: Any, **least: int) -> None:
    """Refuse numbers of an option class that are too small, and seeds that gymnasium refuses.

    Args:
        options: its fields may be ``None``.
        least: the smallest value of each.

    Raises:
        ValueError: naming the first that is out of range.
    """
    for name, bound in least.items():
        value = getattr(options, name)
        if value is not None and value < bound:
            raise ValueError(f"{name} must be at least {bound}, got {value}.")
    if options.seed >= 2**32:
        raise ValueError(f"seed must be below 2**32, got {options.seed}.")


def quoted(path: Path) -> str:
    """A path as a word of a shell's command line, and never as an option.

    Example:
        >>> print(quoted(Path("my runs")), quoted(Path("-runs")))
        'my runs' ./-runs
    """
    return shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))


def value_of(flag: str, arguments: Sequence[str]) -> str | None:
    """What an option is given, the last time if it is there several times.

    Example:
        >>> value_of("--env", ["--env", "Ant-v5", "--env=Hopper-v5"])
        'Hopper-v5'
    """
    values = re.findall(rf"^{flag}[=\n](.*)", "\n".join(arguments), re.MULTILINE)
    return values[-1] if values else None


def _one_sentence(box: str) -> str:
    """tyro's complaint without its box, its colours and its advice."""
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m|-{3,}|[╭╮╰╯─│┌┐└┘]", " ", box).split())
    text = re.split(r" For full helptext| Argument helptext| Arguments similar to", text)[0]
    text = re.sub(rf"^(({_TITLES})\s+)+", "", text)
    if "Failed to parse key-value pairs" in text:
        text = (
            f"{text.partition(':')[0]}: names and values in turn are needed, such as gravity 9.81"
        )
    if text.startswith("Missing from "):
        command, _, missing = text.removeprefix("Missing from maxentflow ").partition(": ")
        names = re.findall(r"(?:^|\(required\) )(\S+)", missing)
        text = f"{command} needs {' and '.join(names)}; maxentflow {command} --help tells more."
    text = text.replace("invalid literal for int() with base 10:", "a whole number is needed, got")
    text = text.replace("could not convert string to float:", "a number is needed, got")
    return re.sub(r" Perhaps you meant: (--[\w-]+).*", r". Did you mean \1?", text)
