"""Plain values, as YAML has them, as what a dataclass's annotations ask for."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

__all__ = ["converted", "settings"]


def settings(kind: type, entries: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a dataclass by name, with lists as tuples where its annotations say so.

    Args:
        kind: the dataclass.
        entries: some of its fields.

    Raises:
        ValueError: an entry is no field of it, or its value is of another type.

    Example:
        >>> from maxentflow.agents import MeowConfig
        >>> settings(MeowConfig, {"heads": 1, "log_sigma": [-2.0, 0.0]})
        {'heads': 1, 'log_sigma': (-2.0, 0.0)}
        >>> settings(MeowConfig, {"heads": None})
        Traceback (most recent call last):
        ValueError: heads must be int, got None.
    """
    hints = get_type_hints(kind)
    known = [field.name for field in dataclasses.fields(kind)]
    taken = {}
    for name, value in entries.items():
        if name not in known:
            raise ValueError(f"there is no setting {name!r}; known: {', '.join(known)}.")
        try:
            taken[name] = converted(value, hints[name])
        except TypeError:
            raise ValueError(f"{name} must be {_said(hints[name])}, got {value!r}.") from None
    return taken


def converted(value: Any, hint: Any) -> Any:
    """A plain value as its type hint has it; an integer passes for a float.

    Raises:
        TypeError: it is of another type.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _first(value, arguments)
    if origin is Literal and value in arguments:
        return value
    if origin is tuple and isinstance(value, list):
        if len(arguments) == 2 and arguments[1] is ...:
            arguments = (arguments[0],) * len(value)
        if len(arguments) == len(value):
            return tuple(converted(*pair) for pair in zip(value, arguments, strict=True))
    if origin is list and isinstance(value, list):
        return [converted(entry, arguments[0]) for entry in value]
    if origin is dict and isinstance(value, dict):
        return {
            converted(key, arguments[0]): converted(entry, arguments[1])
            for key, entry in value.items()
        }
    if hint in (None, types.NoneType) and value is None:
        return None
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint is int and isinstance(value, bool):
        raise TypeError
    if isinstance(hint, type) and isinstance(value, hint):
        return value
    raise TypeError


def _first(value: Any, hints: tuple[Any, ...]) -> Any:
    for hint in hints:
        try:
            return converted(value, hint)
        except TypeError:
            continue
    raise TypeError


def _said(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
