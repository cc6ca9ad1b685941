"""Settings of agents and runs: dataclasses whose annotations say what values are accepted."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import cache
from types import UnionType
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    Self,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import numpy as np

from maxentflow.agents.presets import preset

__all__ = [
    "AgentConfig",
    "Count",
    "Finite",
    "Fraction",
    "FractionBelowOne",
    "NotNegative",
    "NotNegativeNumber",
    "Positive",
    "PositiveFraction",
    "Temperature",
    "Threads",
    "Widths",
    "check",
    "typed",
]


class Accepts(NamedTuple):
    """In an annotation: which values a setting accepts, and how to say it."""

    test: Callable[[Any], bool]
    rule: str

    def takes(self, value: Any) -> bool:
        """Whether a value passes; one of another type does not."""
        try:
            return self.test(value)
        except (TypeError, ValueError, RuntimeError, OverflowError):  # the middle two of arrays
            return False


Positive = Annotated[float, Accepts(lambda x: 0 < x < math.inf, "positive and finite")]
Temperature = Annotated[float, Accepts(lambda x: 1e-6 <= x <= 1e6, "in [1e-6, 1e6]")]
"""Beyond these, single precision knows either the return or the entropy alone."""
Fraction = Annotated[float, Accepts(lambda x: 0 <= x <= 1, "in [0, 1]")]
PositiveFraction = Annotated[float, Accepts(lambda x: 0 < x <= 1, "in (0, 1]")]
FractionBelowOne = Annotated[float, Accepts(lambda x: 0 <= x < 1, "in [0, 1)")]
Count = Annotated[int, Accepts(lambda x: 1 <= x < math.inf, "at least 1")]
Threads = Annotated[int, Accepts(lambda x: 1 <= x <= 1024, "between 1 and 1024")]
Finite = Annotated[float, Accepts(math.isfinite, "finite")]
NotNegativeNumber = Annotated[float, Accepts(lambda x: 0 <= x < math.inf, "at least 0, finite")]
NotNegative = Annotated[int, Accepts(lambda x: 0 <= x < math.inf, "at least 0")]
Widths = Annotated[
    tuple[int, ...],
    Accepts(lambda x: all(1 <= width < 10**9 for width in x), "widths of at least 1, below 10^9"),
]


def check(settings: Any) -> None:
    """Refuse a dataclass with a value that the annotation of its field does not accept.

    A field without a rule has the one that a class it derives from gives it. Numbers of NumPy are
    made Python's, and lists tuples where the annotation says so.

    Raises:
        ValueError: naming the first such field.

    Example:
        >>> check(AgentConfig(gamma=0.9))
        >>> AgentConfig(gamma=2.0)
        Traceback (most recent call last):
        ValueError: gamma must be in [0, 1], got 2.0.
    """
    rules = _rules(cast(Hashable, type(settings)))  # mypy denies that classes are
    for name in (entry.name for entry in fields(settings)):
        if name in rules and hasattr(settings, name):
            value, hint = getattr(settings, name), rules[name]
            if value is None and type(None) in get_args(hint):
                continue
            for rule in _accepts(hint):
                if not rule.takes(value):
                    raise ValueError(f"{name} must be {rule.rule}, got {value}.")
    hints = _hints(cast(Hashable, type(settings)))
    for name in (entry.name for entry in fields(settings)):
        if name in hints and hasattr(settings, name):
            setattr(settings, name, typed(name, getattr(settings, name), hints[name]))


def typed(name: str, value: Any, hint: Any) -> Any:
    """A setting's value as its type hint has it, with lists as tuples where it says so.

    Raises:
        ValueError: it is of another type.

    Example:
        >>> typed("hidden", [64, 64], tuple[int, ...])
        (64, 64)
    """
    try:
        return _typed(value, hint)
    except TypeError:
        said = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
        raise ValueError(f"{name} must be {said}, got {value!r}.") from None


def _typed(value: Any, hint: Any) -> Any:
    """A value as its type hint has it; TypeError if it is of another type."""
    origin, inner = get_origin(hint) or hint, get_args(hint)
    if isinstance(value, np.generic):
        value = value.item()
    if origin in (Union, UnionType):
        for one in inner:
            with suppress(TypeError):
                return _typed(value, one)
        raise TypeError
    if origin is Literal:
        if value in inner:
            return value
        raise TypeError
    if origin in (list, tuple) and isinstance(value, list | tuple):
        hints = inner if origin is tuple and ... not in inner else inner[:1] * len(value)
        if inner and len(hints) != len(value):
            raise TypeError
        return origin(map(_typed, value, hints) if inner else value)
    if origin is dict and inner and isinstance(value, dict):
        return {_typed(key, inner[0]): _typed(entry, inner[1]) for key, entry in value.items()}
    is_class = isinstance(origin, type) and origin is not Any  # unlike NewType and type variables
    if not is_class or _fits(value, origin):
        return value
    raise TypeError


def _fits(value: Any, kind: type) -> bool:
    if isinstance(value, bool) or kind is bool:
        return kind in (bool, object) and isinstance(value, kind)
    try:
        return isinstance(value, (int, float) if kind is float else kind)
    except TypeError:  # of a protocol or a TypedDict, which cannot be asked
        return True


@cache
def _hints(kind: type) -> dict[str, Any]:
    """The type hint of each field, or none where a class in a function has some unknown."""
    try:
        return get_type_hints(kind)
    except NameError:
        return {}


@cache
def _rules(kind: type) -> dict[str, Any]:
    """The hint of each field that has a rule."""
    found: dict[str, Any] = {}
    for owner in reversed(kind.__mro__):
        try:
            hints = get_type_hints(owner, include_extras=True)
        except NameError:  # of a class in a function, which names what is known there only
            continue
        found |= {name: hint for name, hint in hints.items() if any(_accepts(hint))}
    return found


def _accepts(hint: Any) -> Iterator[Accepts]:
    """The rules in a type hint, also in those of a union."""
    if get_origin(hint) is Annotated:
        yield from (note for note in hint.__metadata__ if isinstance(note, Accepts))
        yield from _accepts(hint.__origin__)
    elif get_origin(hint) in (Union, UnionType):
        for part in get_args(hint):
            yield from _accepts(part)


@dataclass
class AgentConfig:
    """Base of the settings of agents.

    Example:
        >>> @dataclass
        ... class MyConfig(AgentConfig):
        ...     tau: PositiveFraction = 0.005
        >>> MyConfig.for_task("maxentflow/MultiGoal-v0")
        MyConfig(gamma=0.9, normalize_observations=False, tau=0.005)
    """

    training: ClassVar[Mapping[str, Any]] = {}
    """Fields of TrainerConfig whose defaults the algorithm chooses, such as num_envs."""

    standardizes: ClassVar[bool] = False
    """Whether the algorithm standardises observations itself, where the setting asks for it."""

    gamma: Fraction = field(default=0.99, kw_only=True)
    """Discount factor."""
    normalize_observations: bool = field(default=False, kw_only=True)
    """Standardise observations by the running mean and variance of what was seen."""

    def __post_init__(self) -> None:
        check(self)

    @classmethod
    def for_task(cls, env_id: str | None) -> Self:
        """The usual settings, with the task's discount."""
        return cls(gamma=preset(env_id).gamma)
