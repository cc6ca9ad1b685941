"""Evaluations of runs, those that differ by seed alone together."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maxentflow.agents.training.config import LEARNING_SETTINGS
from maxentflow.agents.training.run_folder import RunFolder, read_metrics
from maxentflow.agents.training.statistics import on_common_steps

__all__ = [
    "Curve",
    "Group",
    "by_label",
    "check_once",
    "evaluated",
    "group",
    "is_evaluated",
    "read_curves",
    "shortened",
]


@dataclass(frozen=True)
class Curve:
    """The evaluations of a run.

    Attributes:
        env: the task.
        agent: the algorithm.
        seed: of the run.
        settings: what may tell it from other runs.
        steps: environment steps, shape ``(n,)``.
        returns: of the evaluations there, shape ``(n,)``.
        seconds: the time to each, shape ``(n,)``; nan where it is not known.
        label: given for it.
        folder: of the run, where there is one.
    """

    env: str
    agent: str
    seed: int
    settings: dict[str, str]
    steps: NDArray[np.int64]
    returns: NDArray[np.float64]
    seconds: NDArray[np.float64]
    label: str | None
    folder: RunFolder | None = None


@dataclass(frozen=True)
class Group:
    """Runs that differ by seed alone.

    Attributes:
        curves: of each run, with all its evaluations.
        steps: environment steps that all of them have, shape ``(n,)``.
        returns: of each run there, shape ``(runs, n)``.
    """

    curves: list[Curve]
    steps: NDArray[np.int64]
    returns: NDArray[np.float64]


def group(label: str, curves: list[Curve]) -> Group:
    """Runs as one group.

    Args:
        label: what to call them.
        curves: of each run.

    Raises:
        ValueError: one has no evaluation, or they have no step in common.
    """
    for curve in curves:
        if not len(curve.steps):
            raise ValueError(f"{curve.folder} has no evaluation yet.")
    try:
        steps, returns = on_common_steps([(curve.steps, curve.returns) for curve in curves])
    except ValueError:
        raise ValueError(
            f"The {len(curves)} runs of {label} have no evaluation at the same step."
        ) from None
    return Group(curves, steps, returns)


def evaluated(folders: Sequence[RunFolder]) -> list[RunFolder]:
    """The runs that have an evaluation; one line on standard error for each other.

    Raises:
        ValueError: none has, or one is no run.
    """
    for folder in folders:
        folder.config()
    having = [folder for folder in folders if is_evaluated(folder)]
    if not having:
        raise ValueError(f"{folders[0]} has no evaluation yet.")
    for folder in folders:
        if folder not in having:
            print(f"{folder} has no evaluation yet, and is left out.", file=sys.stderr)
    return having


def is_evaluated(folder: RunFolder) -> bool:
    """Whether a run has an evaluation; so it is said to be where its table lacks the column, which
    is refused by who reads the numbers.

    Raises:
        ValueError: the file is no table.
    """
    return any(row.get("eval_return", "none") for row in read_metrics(folder))


def check_once(folders: Sequence[RunFolder]) -> None:
    """Refuse a run that is given twice.

    Raises:
        ValueError: naming its folder.
    """
    paths = [folder.path.resolve() for folder in folders]
    twice = [str(path) for path in dict.fromkeys(paths) if paths.count(path) > 1]
    if twice:
        raise ValueError(f"A run is given twice: {', '.join(twice)}.")


def read_curves(
    folders: Sequence[RunFolder], labels: Sequence[str] | None = None
) -> dict[str, dict[str, Group]]:
    """The evaluations of runs, by task and label.

    Args:
        folders: the runs.
        labels: of each run, as in :func:`by_label`.

    Raises:
        ValueError: as in :func:`by_label`, or a run has no evaluation yet, or the runs of a label
            have no step in common.
    """
    return {
        env: {label: group(label, found) for label, found in labelled.items()}
        for env, labelled in by_label(folders, labels).items()
    }


def by_label(
    folders: Sequence[RunFolder], labels: Sequence[str] | None = None
) -> dict[str, dict[str, list[Curve]]]:
    """Runs by task and label, those that differ by seed alone together.

    Args:
        folders: the runs.
        labels: of each run; by default the agent, its flow and the settings in which its runs of
            some task differ: those of the agent, options of the flow and of the task, and settings
            of the trainer that change what is learned, such as num_envs.

    Raises:
        ValueError: a folder is not a run or is given twice, or the runs of a label share a seed.
    """
    check_once(folders)
    curves: dict[str, list[Curve]] = defaultdict(list)
    for folder, label in zip(folders, labels or len(folders) * [None], strict=True):
        curve = _read(folder, label)
        curves[curve.env].append(curve)
    shown = _differing(curves.values())
    tasks = {env: _labelled(of_task, shown) for env, of_task in curves.items()}
    for groups in tasks.values():
        for label, found in groups.items():
            seeds = [curve.seed for curve in found]
            if len(set(seeds)) < len(seeds):
                raise ValueError(f"Two runs of {label} have the same seed: {sorted(seeds)}.")
    return tasks


def _read(folder: RunFolder, label: str | None) -> Curve:
    config = folder.config()
    try:
        settings = {name: config["trainer_config"].get(name) for name in LEARNING_SETTINGS}
        settings |= config["agent_config"] | {"custom": config["custom"]}
        settings |= (settings.pop("flow_options", None) or {}) | config["env_kwargs"]
        said = {str(name): str(value) for name, value in settings.items()}
        env, agent = str(config["env"] or "own environment"), str(config["agent"])
        seed = int(config["trainer_config"]["seed"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{folder.config_path} is not a run's configuration.") from error
    try:
        rows = [row for row in read_metrics(folder) if row["eval_return"]]
        steps = np.array([int(row["step"]) for row in rows])
        returns = np.array([float(row["eval_return"]) for row in rows])
        seconds = np.array([float(row.get("seconds") or "nan") for row in rows])
    except (KeyError, ValueError) as error:
        raise ValueError(f"{folder.metrics_path} is not the metrics of a run.") from error
    if not np.isfinite(returns).all() or len(set(steps.tolist())) < len(steps):
        raise ValueError(f"{folder.metrics_path} has returns that are not finite, or steps twice.")
    return Curve(env, agent, seed, said, steps, returns, seconds, label, folder)


def _differing(tasks: Iterable[list[Curve]]) -> dict[str, list[str]]:
    """For each agent, the settings in which its runs of a task differ."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for curves in tasks:
        for curve in curves:
            rivals = [other.settings for other in curves if other.agent == curve.agent]
            for name, value in curve.settings.items():
                if name != "flow" and any(rival.get(name) != value for rival in rivals):
                    found[curve.agent][name] = None
    return {agent: list(names) for agent, names in found.items()}


def _labelled(curves: list[Curve], shown: dict[str, list[str]]) -> dict[str, list[Curve]]:
    whole = _with_settings(curves, shown, str)
    short = _with_settings(curves, shown, shortened)
    return short if len(short) == len(whole) else whole


def _with_settings(
    curves: list[Curve], shown: dict[str, list[str]], said: Callable[[str], str]
) -> dict[str, list[Curve]]:
    found: dict[str, list[Curve]] = defaultdict(list)
    for curve in curves:
        settings = [
            f"{name} {said(curve.settings[name])}"
            for name in shown.get(curve.agent, ())
            if name in curve.settings
        ]
        flow = [curve.settings["flow"]] if "flow" in curve.settings else []
        found[curve.label or ", ".join([curve.agent, *flow, *settings])].append(curve)
    return dict(found)


def shortened(value: str) -> str:
    """A number of many digits, as a search draws them, with four."""
    try:
        return value if len(value) < 8 else f"{float(value):.4g}"
    except ValueError:
        return value
