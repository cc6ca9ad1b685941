"""What a sweep is of, as a YAML file says it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from maxentflow.agents.settings import Count, check
from maxentflow.agents.training.description import Description, described, settings
from maxentflow.agents.training.files import load_yaml

__all__ = ["Range", "Spec"]


@dataclass(frozen=True)
class Range:
    """Numbers between two bounds; whole ones if both bounds are.

    Attributes:
        low: the lower bound.
        high: the upper bound, which belongs to it.
        log: whether their logarithms are spread evenly.

    Raises:
        ValueError: the bounds are not finite and in order, or not positive where ``log`` is set.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not -math.inf < self.low < self.high < math.inf:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}.")
        if self.log and self.low <= 0:
            raise ValueError(f"low must be positive on a log scale, got {self.low}.")

    @property
    def is_whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)


@dataclass
class Spec:
    """Runs of one agent on one task that differ in some settings.

    Attributes:
        agent: a registered name.
        env: the task.
        settings: of agent and trainer, as options of ``maxentflow train`` name them; the rest has
            its defaults.
        search: the settings that differ: by name, a list of values or ``low`` and ``high`` of a
            range, with ``log: true`` for a logarithmic scale.
        algorithm: ``"grid"`` takes all combinations, ``"random"`` draws, ``"optuna"`` draws where
            earlier trials were good (tree-structured Parzen estimator).
        trials: how many to draw; a grid has as many as it has.
        seeds: each combination is trained with each; Optuna takes one.
        early_stopping: stop trials that are worse than others at the same step (asynchronous
            successive halving, arXiv:1810.05934).
        grace_steps: a trial is not stopped before.
        reduction_factor: one in so many goes on at each rung; a rung is as many times later than
            the one before.
        paper: begin from the settings of the algorithm's paper.

    Raises:
        ValueError: something is unknown, of another type or out of range, also at the ends of a
            range.

    Example:
        >>> spec = Spec(
        ...     agent="sac",
        ...     env="Pendulum-v1",
        ...     settings={"total_steps": 20_000},
        ...     search={"tau": [0.005, 0.01], "batch_size": [64, 256]},
        ...     algorithm="grid",
        ... )
        >>> [trial.trainer_config.batch_size for trial in map(spec.description, spec.grid())]
        [64, 256, 64, 256]
    """

    agent: str
    env: str
    search: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    algorithm: Literal["grid", "random", "optuna"] = "random"
    trials: Count = 16
    seeds: list[int] = field(default_factory=lambda: [0])
    early_stopping: bool = False
    grace_steps: Count | None = None
    reduction_factor: Count = 3
    paper: bool = False

    def __post_init__(self) -> None:
        check(self)
        self.settings = _named(self.settings)
        self.search = {name: _choices(name, by) for name, by in _named(self.search).items()}
        if not self.search:
            raise ValueError("search names no setting.")
        if not self.seeds:
            raise ValueError("seeds must name at least one.")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds names a seed twice: {self.seeds}.")
        if twice := self.settings.keys() & self.search.keys():
            raise ValueError(f"{min(twice)} stands in settings and in search.")
        if "seed" in {*self.settings, *self.search}:
            raise ValueError("Give seeds, a list, in place of the setting seed.")
        ranges = [name for name, by in self.search.items() if isinstance(by, Range)]
        if self.algorithm == "grid" and ranges:
            raise ValueError(f"A grid needs a list of values of {ranges[0]}, not a range.")
        if self.algorithm == "optuna" and len(self.seeds) > 1:
            raise ValueError(f"Optuna takes one seed, got {self.seeds}.")
        if self.reduction_factor < 2:
            raise ValueError(f"reduction_factor must be at least 2, got {self.reduction_factor}.")
        for combination in self._corners():
            config = self.description(combination).trainer_config
        if not config.eval_every:
            raise ValueError("A sweep compares evaluations: eval_every must not be 0.")
        if self.early_stopping and (self.grace_steps or 1) > config.total_steps:
            raise ValueError(
                f"grace_steps must be at most total_steps ({config.total_steps}), got "
                f"{self.grace_steps}."
            )

    @classmethod
    def read(cls, path: Path) -> Spec:
        """A specification from a YAML file.

        Raises:
            ValueError: it cannot be read, or something in it does not fit.
        """
        try:
            content = load_yaml(path)
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is no YAML file.") from error
        if not isinstance(content, dict):
            raise ValueError(f"{path} is not a sweep's specification.")
        missing = [name for name in ("agent", "env", "search") if name not in content]
        if missing:
            raise ValueError(f"{path} lacks {', '.join(missing)}.")
        try:
            return cls(**settings(cls, content))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def description(self, combination: Mapping[str, Any]) -> Description:
        """The run of a combination of settings.

        Raises:
            ValueError: a setting is unknown, of another type or out of range.
        """
        entries = {**self.settings, **combination}
        return described(self.agent, self.env, entries, paper=self.paper)

    def grid(self) -> Iterator[dict[str, Any]]:
        """All combinations of listed values."""
        values = [by if isinstance(by, list) else [by.low, by.high] for by in self.search.values()]
        for combination in itertools.product(*values):
            yield dict(zip(self.search, combination, strict=True))

    def _corners(self) -> Iterator[dict[str, Any]]:
        """Combinations in which each value, and each end of a range, is there once."""
        first = next(self.grid())
        for name, by in self.search.items():
            for value in by if isinstance(by, list) else [by.low, by.high]:
                yield {**first, name: value}


def _named(entries: Mapping[Any, Any]) -> dict[str, Any]:
    """Settings by their names in Python, where the shell has hyphens."""
    named = {str(name).replace("-", "_"): _number(value) for name, value in entries.items()}
    if isinstance(named.get("compile"), bool):  # as YAML reads on and off
        named["compile"] = "on" if named["compile"] else "off"
    return named


def _choices(name: str, by: Any) -> list[Any] | Range:
    """The values of a setting, or their range."""
    if isinstance(by, list) and by:
        values = [_number(value) for value in by]
        if any(value in values[:index] for index, value in enumerate(values)):
            raise ValueError(f"search names a value of {name} twice: {values}.")
        return values
    if isinstance(by, Range):
        return by
    if not isinstance(by, dict) or not by.keys() <= {"low", "high", "log"} or len(by) < 2:
        raise ValueError(f"search needs of {name} a list of values, or low and high, got {by!r}.")
    try:
        return Range(**{key: _number(value) for key, value in by.items()})
    except (ValueError, TypeError) as error:
        reason = error if isinstance(error, ValueError) else "low and high must be numbers."
        raise ValueError(f"The range of {name}: {reason}") from None


def _number(value: Any) -> Any:
    """1e-4 as the number that everybody takes it for; in YAML it is a string."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value
