"""Settings of agents and runs: dataclasses whose annotations say what values are accepted."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple, Self, get_args, get_type_hints

from maxentflow.agents.presets import preset

__all__ = [
    "AgentConfig",
    "Count",
    "Fraction",
    "FractionBelowOne",
    "NotNegative",
    "Positive",
    "PositiveFraction",
    "Widths",
    "check",
]


class Accepts(NamedTuple):
    """In an annotation: which values a setting accepts, and how to say it."""

    test: Callable[[Any], bool]
    rule: str


Positive = Annotated[float, Accepts(lambda x: 0 < x < math.inf, "positive and finite")]
Fraction = Annotated[float, Accepts(lambda x: 0 <= x <= 1, "in [0, 1]")]
PositiveFraction = Annotated[float, Accepts(lambda x: 0 < x <= 1, "in (0, 1]")]
FractionBelowOne = Annotated[float, Accepts(lambda x: 0 <= x < 1, "in [0, 1)")]
Count = Annotated[int, Accepts(lambda x: 1 <= x < math.inf, "at least 1")]
NotNegative = Annotated[int, Accepts(lambda x: 0 <= x < math.inf, "at least 0")]
Widths = Annotated[
    tuple[int, ...], Accepts(lambda x: min(x, default=1) >= 1, "widths of at least 1")
]


def check(settings: Any) -> None:
    """Refuse a dataclass with a value that the annotation of its field does not accept.

    ``None`` passes.

    Raises:
        ValueError: naming the first such field.

    Example:
        >>> check(AgentConfig(gamma=0.9))
        >>> AgentConfig(gamma=2.0)
        Traceback (most recent call last):
        ValueError: gamma must be in [0, 1], got 2.0.
    """
    for name, hint in get_type_hints(type(settings), include_extras=True).items():
        value = getattr(settings, name)
        for part in (hint, *get_args(hint)):  # of X | None, X
            for note in getattr(part, "__metadata__", ()):
                if isinstance(note, Accepts) and value is not None and not note.test(value):
                    raise ValueError(f"{name} must be {note.rule}, got {value}.")


@dataclass
class AgentConfig:
    """Base of the settings of agents.

    Example:
        >>> @dataclass
        ... class MyConfig(AgentConfig):
        ...     tau: PositiveFraction = 0.005
        >>> MyConfig.for_task("maxentflow/MultiGoal-v0")
        MyConfig(gamma=0.9, tau=0.005)
    """

    training: ClassVar[Mapping[str, Any]] = {}
    """Fields of TrainerConfig whose defaults the algorithm chooses, such as num_envs."""

    gamma: Fraction = 0.99
    """Discount factor."""

    def __post_init__(self) -> None:
        check(self)

    @classmethod
    def for_task(cls, env_id: str | None) -> Self:
        """The usual settings, with the task's discount."""
        return cls(gamma=preset(env_id).gamma)
